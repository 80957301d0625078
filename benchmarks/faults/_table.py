"""The table: cells in words, and the page of the documentation that shows them."""

from __future__ import annotations

from typing import Any

from benchmarks.faults._faults import FAULTS, Fault
from benchmarks.faults._systems import N_WORKERS

#: Distributions whose versions the table tells.
_SHOWN = frozenset({"loky", "mpire", "mtasklite", "objectproxypool", "objproxy", "ompr", "pebble", "workercontext"})

#: By fault, then by library.
Cells = dict[str, dict[str, dict[str, Any]]]


def describe(fault: Fault, cell: dict[str, Any] | None) -> str:
    """Return a cell in a few words: what the caller learned, after how many seconds, and what was wrong afterwards."""
    if cell is None:
        return ""
    status = cell["status"]
    if status == "hangs":
        return "**hangs**"
    if status != "told":
        return {"not offered": f"({cell.get('text')})", "not importable": "(not importable)"}.get(status, "**ended**")
    if fault.way == "parent":
        return f"**{cell['alive']}** of {cell['of']}" if cell["alive"] else "0"
    if fault.way == "lazy":
        return f"{cell['count']:,}"
    if fault.way == "leftovers":
        return str(cell["text"])
    return ", ".join([_told(cell), *_afterwards(cell)])


def _told(cell: dict[str, Any]) -> str:
    outcome = str(cell.get("outcome", ""))
    if outcome.endswith(("as a result", "no error")):
        outcome = f"*{outcome}*"
    elif outcome and outcome != "ok":
        outcome = f"`{outcome}`"
    seconds = cell.get("seconds")
    shown = "" if seconds is None else f"{seconds:.3f}" if seconds < 0.0995 else f"{seconds:.2f}"
    return f"{outcome} {shown}".strip()


def _afterwards(cell: dict[str, Any]) -> list[str]:
    notes = []
    if cell.get("n_silent"):
        notes.append(f"**hangs in {cell['n_silent']} of {cell['n_programs']} runs**")
    if cell.get("attempts", 1) > 1:
        notes.append("**only after the second**")
    if cell.get("alive"):
        notes.append(f"**{cell['alive']} left**")
    if cell.get("is_freed") is False:
        notes.append("**worker stays busy**")
    follows = cell.get("next", "")
    if follows == "hangs":
        notes.append("**next call hangs**")
    elif follows not in ("", "ok"):
        notes.append("pool dead")
    if cell.get("exit_hangs") and follows != "hangs":
        notes.append("**exit hangs**")
    return notes


def format_table(cells: Cells, libraries: list[str]) -> str:
    """Return the table in Markdown: a row for each fault, a column for each library."""
    lines = [f"| fault | {' | '.join(libraries)} |", f"| --- |{' --- |' * len(libraries)}"]
    for name, fault in FAULTS.items():
        row = cells.get(name, {})
        if row:
            lines.append(f"| {fault.text} | {' | '.join(describe(fault, row.get(library)) for library in libraries)} |")
    return "\n".join(lines)


def format_page_part(document: dict[str, Any], libraries: list[str]) -> str:
    """Return the generated part of the page."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if name in _SHOWN)
    facts = (
        f"Measured {machine['time'][:10]} on {machine['usable_cpus']} processors ({machine['processor']}, "
        f"{machine['system']}), Python {machine['python']}; {versions}. "
        f"Pools of {N_WORKERS} workers; hangs: no news for {document['limit']:g} s."
    )
    return f"{facts}\n\n{format_table(document['cells'], libraries)}"
