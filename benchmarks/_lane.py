"""One measurement of one contender, in an interpreter of its own.

A contender that hangs can be killed, one that leaves threads or caches behind disturbs no other, and all begin alike.
Nothing is imported before the measurement that a contender may import itself: else its own imports would look too
cheap.
"""

from __future__ import annotations

import importlib
import sys
import time


class WrongResultError(Exception):
    """A contender's answers are not the right ones; its time is worth nothing."""


def check(is_right: bool, what: object = "") -> None:
    """Raise `WrongResultError` if a contender's results are wrong."""
    if not is_right:
        raise WrongResultError(f"wrong results {str(what)[:200]}")


def main() -> None:
    """Call a function and write what it returns as JSON; argv: path, ``module:function``, and ``key=value`` pairs."""
    path, address, *pairs = sys.argv[1:]
    module_name, function_name = address.split(":")
    arguments = dict(_parse(pair) for pair in pairs)
    began = time.perf_counter()
    try:
        outcome = getattr(importlib.import_module(module_name), function_name)(**arguments)
        values, facts = outcome if isinstance(outcome, tuple) else (outcome, {})
        report = {"status": "ok", "values": values, "facts": facts}
    except (ImportError, SyntaxError) as error:
        report = {"status": "not importable", "message": f"{type(error).__name__}: {error}"}
    except WrongResultError as error:
        report = {"status": "wrong", "message": str(error)}
    report["lane_seconds"] = time.perf_counter() - began
    import json  # after the measurement: see the module's docstring

    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file)


def _parse(pair: str) -> tuple[str, int | str]:
    key, _, text = pair.partition("=")
    return key, int(text) if text.isdecimal() else text
