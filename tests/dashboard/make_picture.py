"""Makes the picture of the documentation, ``docs/dashboard.png``: the example's pools in a real browser.

    python tests/dashboard/make_picture.py
    python tests/dashboard/make_picture.py --scheme dark --size 420x900 --output narrow.png

It needs Chromium, and ``pip install -e ".[test]"``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser, find_browser  # noqa: E402  (it lies with the tests)


def take(seconds: float, size: tuple[int, int], scheme: str, output: Path) -> None:
    """Run the example, and take a picture after so many seconds."""
    command = find_browser()
    if command is None:
        sys.exit("this needs Chromium: apt-get install chromium, or name one in OBJPROXY_BROWSER")
    line = [sys.executable, str(ROOT / "examples" / "watch_pools.py"), "--seconds", "3600"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as program, tempfile.TemporaryDirectory() as profile:
        assert program.stdout is not None
        found = re.search(r"http\S+", program.stdout.readline())
        browser = Browser(command, Path(profile))
        try:
            if found is None:
                sys.exit("the example has not told its address")
            with browser.page(found[0], size=size, scheme=scheme) as page:
                page.wait_for("document.querySelectorAll('.failure').length > 3")
                time.sleep(seconds)
                page.screenshot(output)
        finally:
            browser.close()
            program.kill()


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the pools run first (default: %(default)g)")
    parser.add_argument("--size", default="1240x1130", help="of the window, in pixels (default: %(default)s)")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "dashboard.png")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    take(given.seconds, (width, height), given.scheme, given.output)


if __name__ == "__main__":
    main()
