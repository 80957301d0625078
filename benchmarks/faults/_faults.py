"""The faults, in the order of the table, and what a library must have so that they can happen to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Parameters
    ----------
    name : str
        For the command line and the file of results.
    text : str
        For the table.
    way : str
        How it is measured: a function of `benchmarks.faults._cell`.
    kind : str
        What the task, or the constructor, does (`benchmarks.faults._tasks`).
    """

    name: str
    text: str
    way: str
    kind: str = ""


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("raise", "plain `ValueError` (control)", "task", "raise"),
        Fault("kill", "`kill -9` in mid-task", "task", "kill"),
        Fault("leave", "`os._exit(1)` in a task", "task", "leave"),
        Fault("segfault", "segmentation fault in a task", "task", "segfault"),
        Fault("exit", "`sys.exit(3)` in a task", "task", "exit"),
        Fault("interrupt", "`KeyboardInterrupt` raised in a task", "task", "interrupt"),
        Fault("unpicklable", "result that does not pickle", "task", "unpicklable"),
        Fault("required", "exception whose `__init__` needs arguments", "task", "required"),
        Fault("mid_send", "worker dies with half of its result sent", "task", "mid_send"),
        Fault("idle_kill", "both idle workers killed, then a call", "idle"),
        Fault("limit_sleep", "limit of 1 s, the task sleeps", "limit", "sleep"),
        Fault("limit_swallow", "limit of 1 s, the task swallows exceptions", "limit", "swallow"),
        Fault("limit_spin", "limit of 1 s, the task is in C code", "limit", "spin"),
        Fault("init_raise", "constructor raises", "constructor", "raise"),
        Fault("init_leave", "constructor does `os._exit(1)`", "constructor", "leave"),
        Fault("init_sleep", "constructor hangs (limit of 1 s where there is one)", "constructor", "sleep"),
        Fault("parent_idle", "caller killed, workers idle: processes alive after 5 s", "parent", "idle"),
        Fault("parent_busy", "caller killed, workers busy: processes alive after 5 s", "parent", "busy"),
        Fault("ctrl_c", "one Ctrl-C: seconds until the program has ended", "ctrl_c"),
        Fault("no_close", "program ends without closing the pool: seconds", "no_close"),
        Fault("lazy", "lazy input of 20,000: items pulled 1 s after the first result", "lazy"),
        Fault("leftovers", "eight pools more: descriptors, threads", "leftovers"),
    )
}

_NO_CONSTRUCTOR = "no constructor"
_NO_LIMIT = "no such limit"
_NONE_IDLE = "no idle workers"

#: What a library does not have, by library and way of measuring.
NOT_OFFERED = {
    ("workercontext", "constructor"): _NO_CONSTRUCTOR,
    ("objectproxypool", "limit"): _NO_LIMIT,
    ("mtasklite", "limit"): _NO_LIMIT,
    ("workercontext", "limit"): _NO_LIMIT,
    ("mtasklite", "idle"): _NONE_IDLE,
    ("mtasklite", "parent idle"): _NONE_IDLE,
    ("ompr", "lazy"): "lists only",
    ("ompr, rerun_crashed=False", "lazy"): "lists only",
    ("workercontext", "lazy"): "lists only",
}


def reason_not_to(library: str, fault: Fault) -> str | None:
    """Return why a fault cannot happen to a library, or None if it can."""
    way = f"parent {fault.kind}" if fault.way == "parent" else fault.way
    return NOT_OFFERED.get((library, way))
