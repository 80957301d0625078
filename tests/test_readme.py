"""The README is true: its code prints what it shows, and its two commands are where tools look for them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import objproxy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in FENCED.findall(README) if found == language]


def run(code, directory):
    script = directory / "readme.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_first_example_prints_what_the_readme_shows(tmp_path):
    assert run(blocks("python")[0], tmp_path) == blocks("text")[0]


def test_first_example_has_ten_lines():
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_tour_prints_what_the_readme_shows(tmp_path):
    assert run("\n".join(blocks("python")[1:]), tmp_path) == "".join(blocks("text")[1:])


def test_each_command_stands_alone_before_the_first_code():
    before_code = README.split("```python")[0]
    assert FENCED.findall(before_code) == [("bash", command) for command in blocks("bash")]
    assert [len(command.splitlines()) for command in blocks("bash")] == [1, 1]
    assert all(command.startswith("pip install ") for command in blocks("bash"))


def test_every_public_name_is_told():
    told = README + "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    assert [name for name in objproxy.__all__ if not re.search(rf"\b{name}\b", told)] == []


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
