"""A module that prints when it is imported."""

import sys

sys.stdout.write("imported\n")


class Printer:
    """Says where its module is."""

    def name(self) -> str:
        return __name__
