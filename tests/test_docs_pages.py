"""The pages of the documentation are true: the blocks of each are one program, which prints what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANCHOR = re.compile(r"\]\(#([^)]+)\)")
LINK = re.compile(r"\]\(([^)#:]+)\)")

#: Pages that are programs, and what each says on the error stream.
PAGES = {
    "dashboard.md": "",
    "data.md": "",
    "insights.md": "",
    "migrating.md": "",
    "mpire.md": "",
    "mtasklite.md": "",
    "ompr.md": "the runner exits with results that were not returned; tasks that run are ended\n",
    "workercontext.md": "",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    blocks = FENCED.findall((DOCS / name).read_text(encoding="utf-8"))
    code = "\n".join(text for language, text in blocks if language == "python")
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(text for language, text in blocks if language == "text")
    assert done.stderr == PAGES[name]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_anchor_of_a_page_is_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line[:1] == "#"
    }
    assert set(ANCHOR.findall(text)) <= headings
