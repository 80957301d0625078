"""Classes whose objects process tasks in the tests of `objproxy.ompr`, as OMPR's users write them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from objproxy import current_worker
from objproxy.ompr import RunningWorker, RunningWorkerFolder
from targets import Gate, poll_until


class Worker(RunningWorker):
    """Does what a task says; its constructor does not call that of the base."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def process(self, x: Any = None, do: str = "multiply", **kwargs: Any) -> Any:
        return getattr(self, do)(x, **kwargs)

    def multiply(self, x: int) -> int:
        return self.factor * x

    def echo(self, x: Any) -> Any:
        return x

    def fail(self, x: Any) -> None:
        raise ValueError(f"bad {x}")

    def leave(self, x: Any) -> None:
        raise SystemExit(x)

    def die(self, _x: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_softly(self, _x: Any) -> None:
        os._exit(5)

    def hang(self, _x: Any) -> None:
        """Run for ever, and swallow whatever is raised meanwhile."""
        while True:
            try:
                poll_until(lambda: False, 600.0)
            except BaseException:
                continue

    def hang_in_c(self, _x: Any) -> int:
        return sum(range(10**15))

    def wait(self, x: Any, gate: Gate, started: Gate | None = None) -> Any:
        if started is not None:
            started.open()
        gate.wait()
        return x

    def counts(self, _x: Any) -> tuple[int, int]:
        return self.n_task_ok, self.n_task_crashed

    def identity(self, x: Any) -> tuple[Any, int, int]:
        """Return what is given, the object's age in tasks, and its process."""
        return x, self.n_task_ok, os.getpid()

    def first_try_fails(self, x: Any, path: Path, how: str) -> Any:
        if not path.exists():
            path.touch()
            getattr(self, how)(x)
        return x

    def unpicklable(self, _x: Any) -> Any:
        return threading.Lock()


class Slow(RunningWorker):
    """Calls the base's constructor, and takes a device as most do."""

    def __init__(self, device: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device = device

    def process(self) -> Any:
        return self.device


class KeywordOnly(RunningWorker):
    def __init__(self, *, devices: Any = "none given") -> None:
        self.devices = devices

    def process(self) -> Any:
        return self.devices


class Plain:
    """No subclass of anything."""

    def __init__(self, start: int) -> None:
        self.total = start

    def process(self, x: int) -> int:
        self.total += x
        return self.total


class Logging(RunningWorker):
    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def process(self, text: str) -> str:
        self.logger.warning("said %s", text)
        return self.logger.name


class BadInit(RunningWorker):
    def __init__(self) -> None:
        raise OSError("no model here")

    def process(self) -> None: ...


class BadSecondInit(RunningWorker):
    """Can be made once in each worker."""

    def __init__(self) -> None:
        if current_worker().generation:
            raise OSError("the model is gone")

    def process(self, x: int) -> int:
        return x


class DeadlySecondInit(BadSecondInit):
    """Can be made once in each worker; the second time its process is lost."""

    def __init__(self) -> None:
        if current_worker().generation:
            os._exit(7)


class Closing(RunningWorker):
    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self) -> None: ...

    def close(self) -> None:
        self.path.touch()


class Upper(RunningWorkerFolder):
    def process(self, file_source_path: str, file_target_path: str, **kwargs: Any) -> None:
        text = Path(file_source_path).read_text()
        if "bad" in text:
            raise ValueError(f"bad file {file_source_path}")
        Path(file_target_path).write_text(text.upper() + kwargs.get("tail", ""))
