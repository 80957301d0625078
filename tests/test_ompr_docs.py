"""The page on OMPR is true: its code prints what it shows."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from objproxy.ompr import OMPRunner
from objproxy.ompr.spellings import NEWEST

PAGE = (Path(__file__).parents[1] / "docs" / "ompr.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> str:
    return "\n".join(text for found, text in FENCED.findall(PAGE) if found == language)


def test_the_code_prints_what_the_page_shows(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(blocks("python"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks("text").replace("\n\n", "\n")
    assert done.stderr.strip() == "the runner exits with results that were not returned; tasks that run are ended"


def test_every_option_and_every_spelling_is_told() -> None:
    options = [name for name in inspect.signature(OMPRunner).parameters if name != "rww_init_sync"]
    assert [name for name in (*options, *NEWEST) if f"`{name}`" not in PAGE] == []
