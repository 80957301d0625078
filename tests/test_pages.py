"""The pages of the documentation are true: their code prints what they show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["insights.md", "mpire.md"])
def test_a_page_prints_what_it_shows(page, tmp_path):
    blocks = FENCED.findall((DOCS / page).read_text(encoding="utf-8"))
    script = tmp_path / "page.py"
    script.write_text("\n".join(text for language, text in blocks if language == "python"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "".join(text for language, text in blocks if language == "text")
