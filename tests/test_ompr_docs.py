"""The page on OMPR tells everything."""

from __future__ import annotations

import inspect
from pathlib import Path

from objproxy.ompr import OMPRunner
from objproxy.ompr.spellings import NEWEST

PAGE = (Path(__file__).parents[1] / "docs" / "ompr.md").read_text(encoding="utf-8")


def test_every_option_and_every_spelling_is_told() -> None:
    options = [name for name in inspect.signature(OMPRunner).parameters if name != "rww_init_sync"]
    assert [name for name in (*options, *NEWEST) if f"`{name}`" not in PAGE] == []
