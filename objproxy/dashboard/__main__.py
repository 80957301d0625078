"""``python -m objproxy.dashboard`` is the command ``objproxy dashboard``."""

import sys

from objproxy.dashboard.command import main

if __name__ == "__main__":
    main(["dashboard", *sys.argv[1:]])
