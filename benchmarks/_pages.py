"""Parts of the documentation's pages that scripts write, each between two marks."""

from __future__ import annotations

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """Return the lines between which the part of that name stands."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_part(page: Path, name: str, text: str) -> None:
    """Replace a part of a page.

    Parameters
    ----------
    page : Path
        A Markdown file.
    name : str
        The part's name.
    text : str
        What stands there from now on.

    Raises
    ------
    ValueError
        The page has no such marks.
    """
    begin, end = marks(name)
    head, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{page} has no lines {begin!r} and {end!r} between which the part could stand")
    page.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")
