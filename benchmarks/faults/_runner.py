"""Run cells: each in a program of its own, which is watched, killed when it hangs, and of which nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._rounds import ROOT
from benchmarks.faults._faults import Fault, reason_not_to

_PROGRAM = "from benchmarks.faults._cell import main; main()"

#: In the environment of a cell's program and of all that comes of it, so that it is found whoever is its parent by then.
_MARK = "OBJPROXY_FAULTS"

#: Seconds until a program has imported what it needs and opened its pool; one library takes five for the latter.
_START_SECONDS = 40.0

#: Seconds after which processes are counted whose program was killed, and, after Ctrl-C, those that are left.
_ORPHAN_SECONDS = 5.0
_CTRL_C_ORPHAN_SECONDS = 1.5


@dataclass
class Watch:
    """A cell's program, and what it has told so far."""

    process: subprocess.Popen[bytes]
    folder: str
    mark: str
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Read what the program has told."""
        with contextlib.suppress(FileNotFoundError):
            lines = Path(self.folder, "events.jsonl").read_text(encoding="utf-8").splitlines()
            events = [json.loads(line) for line in lines]
            if len(events) > len(self.events):
                self.last = time.monotonic()
            self.events = {event["event"]: event for event in events}

    def wait(self, limit: float, until: str = "") -> bool:
        """Wait for an event, or for the program's end; False if nothing was told for `limit` seconds."""
        while True:
            has_ended = self.process.poll() is not None
            self.look()
            if until in self.events or has_ended:
                return True
            allowed = limit if "begin" in self.events else _START_SECONDS
            if time.monotonic() - self.last > allowed:
                return False
            time.sleep(0.005)

    def pids(self) -> list[int]:
        """Return the processes that came of this cell and live; a zombie has no environment any more."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in Path("/proc", entry, "environ").read_bytes():
                        found.append(int(entry))
        return found

    def end(self) -> None:
        """Kill everything that came of this cell."""
        for _ in range(3):  # a process that was just forking
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def run_cell(fault: Fault, library: str, limit: float) -> dict[str, Any]:
    """Let a fault happen to a library once.

    Parameters
    ----------
    fault : Fault
        What goes wrong.
    library : str
        To whom.
    limit : float
        Seconds without any news after which it counts as hanging.

    Returns
    -------
    dict
        ``status``: "told", "hangs", "not offered", "not importable" or "ended"; the other keys depend on it.
    """
    reason = reason_not_to(library, fault)
    if reason is not None:
        return {"status": "not offered", "text": reason}
    with tempfile.TemporaryDirectory(prefix="objproxy-faults-") as folder:
        watch = _start(folder, fault, library)
        try:
            measure = {"parent": _watch_orphans, "ctrl_c": _watch_ctrl_c, "no_close": _watch_exit}.get(fault.way, _watch_told)
            cell = measure(watch, limit)
        finally:
            watch.end()
        if "not importable" in watch.events:
            return {"status": "not importable", "text": watch.events["not importable"]["text"]}
        if cell["status"] == "ended":
            log = Path(folder, "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            cell["text"] = log[-1][:200] if log else f"exit code {watch.process.returncode}"
        return cell


def _start(folder: str, fault: Fault, library: str) -> Watch:
    mark = f"{_MARK}={uuid.uuid4().hex}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with Path(folder, "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, folder, fault.name, library],
            cwd=ROOT,
            env={**kept, "PYTHONPATH": os.pathsep.join(paths), **dict([mark.split("=")])},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # What was started in the background has SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    return Watch(process, folder, mark)


def _watch_told(watch: Watch, limit: float) -> dict[str, Any]:
    """Watch until the caller knows, and further until the program has ended."""
    has_ended = watch.wait(limit, until="never")
    told = watch.events.get("told")
    if told is None:
        return {"status": "ended" if has_ended else "hangs"}
    cell = {"status": "told", **{key: value for key, value in told.items() if key not in ("event", "at")}}
    if "freed" in watch.events:
        cell["is_freed"] = watch.events["freed"]["is_free"]
    if "next" in watch.events:
        cell["next"] = watch.events["next"]["outcome"]
    elif not has_ended:
        cell["next"] = "hangs" if "closed" not in watch.events else ""
    cell["exit_hangs"] = not has_ended and ("next" in watch.events or "closed" in watch.events)
    return cell


def _watch_orphans(watch: Watch, limit: float) -> dict[str, Any]:
    """Kill the program when it is ready, and count what lives on."""
    if not watch.wait(limit, until="ready") or "ready" not in watch.events:
        return {"status": "ended"}
    n_before = len(watch.pids()) - 1
    watch.process.kill()
    watch.process.wait()
    killed_at = time.monotonic()
    while watch.pids() and time.monotonic() - killed_at < _ORPHAN_SECONDS:
        time.sleep(0.02)
    return {"status": "told", "alive": len(watch.pids()), "of": n_before, "seconds": time.monotonic() - killed_at}


def _watch_ctrl_c(watch: Watch, limit: float) -> dict[str, Any]:
    """Interrupt the program's process group, as a terminal does, up to twice."""
    if not watch.wait(limit, until="ready") or "ready" not in watch.events:
        return {"status": "ended"}
    for attempt in (1, 2):
        interrupted_at = time.monotonic()
        os.killpg(watch.process.pid, signal.SIGINT)
        try:
            watch.process.wait(limit)
        except subprocess.TimeoutExpired:
            continue
        seconds = time.monotonic() - interrupted_at
        while watch.pids() and time.monotonic() - interrupted_at - seconds < _CTRL_C_ORPHAN_SECONDS:
            time.sleep(0.02)
        return {"status": "told", "seconds": seconds, "attempts": attempt, "alive": len(watch.pids())}
    return {"status": "hangs"}


def _watch_exit(watch: Watch, limit: float) -> dict[str, Any]:
    """Watch how long a program takes to end."""
    if not watch.wait(limit, until="end") or "end" not in watch.events:
        return {"status": "ended"}
    try:
        watch.process.wait(limit)
    except subprocess.TimeoutExpired:
        return {"status": "hangs"}
    return {"status": "told", "seconds": time.monotonic() - watch.events["end"]["at"]}
