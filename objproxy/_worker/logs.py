"""Log records and warnings of a worker go home: one handler at the root, one frame a record, tagged with the worker."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from typing import Any

from objproxy._worker import forking, wire
from objproxy._worker.context import Worker, worker_of_thread
from objproxy.handling import format_error, repr_of

#: Types of the values of a record that travel as they are.
_PLAIN = frozenset({str, int, float, bool, type(None)})

#: Whether the factory of records has been wrapped; it stays so, since others may have wrapped it since.
_is_tagging = False


class HomewardHandler(logging.Handler):
    """Sends each record to the parent, where the handlers of the same logger get it."""

    def __init__(self, channel: wire.WorkerChannel, worker: Worker) -> None:
        super().__init__()
        self._channel = channel
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record`, as text where it would not pickle."""
        if forking.is_child:  # as in a program that has not set up logging
            if record.levelno >= logging.WARNING and logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        try:
            self._channel.send(wire.LOG, pickle.dumps(_portable(record, self._worker), 5))
        except wire.ChannelClosedError:
            return  # nobody is left to be told
        except Exception:
            self.handleError(record)


def _portable(record: logging.LogRecord, worker: Worker) -> dict[str, Any]:
    """Return the record's fields with its text made, so that nothing in it needs the worker's modules."""
    fields = {str(name): value for name, value in record.__dict__.items()}
    if record.exc_info:
        fields["exc_text"] = record.exc_text or _format(record.exc_info)
    fields.update(msg=record.getMessage(), args=None, exc_info=None)
    fields.update(worker_id=worker.worker_id, device=str(worker.device or "cpu"), generation=worker.generation)
    return {name: value if type(value) in _PLAIN else _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> str | int | float:
    """Return a value that needs no class of the user's to be rebuilt."""
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else repr_of(value, str)


def _format(exc_info: Any) -> str:
    """Return the traceback of what was logged, as `logging.Formatter` shows it."""
    _kind, error, trace = exc_info
    return format_error(error, trace).rstrip("\n") if error is not None else str(None)


def tag_records() -> None:
    """See that records made by workers in this process, which are threads or the caller itself, name their worker too."""
    global _is_tagging
    if _is_tagging:
        return
    _is_tagging = True
    make_record = logging.getLogRecordFactory()

    def make_tagged(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        worker = worker_of_thread()
        if worker is not None:
            record.worker_id, record.generation = worker.worker_id, worker.generation
            record.device = str(worker.device or "cpu")
        return record

    logging.setLogRecordFactory(make_tagged)


class _LevelledLoggers(dict[str, Any]):
    """The loggers of this process by name; one gets the level that the program has set when it is entered.

    Loggers are not made beforehand: a library that installs a logger class when it is imported makes its own. Until it does,
    the loggers below that name have the level themselves.

    Parameters
    ----------
    loggers : mapping
        Those that are made already.
    levels : dict
        Levels of those that may come.
    """

    def __init__(self, loggers: Mapping[str, Any], levels: dict[str, int]) -> None:
        super().__init__(loggers)
        self._levels = levels
        self._below: dict[str, list[logging.Logger]] = {}  # loggers that have the level of one that is not made

    def __setitem__(self, name: str, logger: Any) -> None:
        if isinstance(logger, logging.Logger):
            # Not by setLevel(), which may do more in a class that is not ready yet. Nothing is cached of a new logger.
            if name in self._levels:
                logger.level = self._levels.pop(name)
                for below in self._below.pop(name, ()):
                    if below.level == logger.level:
                        below.setLevel(logging.NOTSET)
            elif logger.level == logging.NOTSET:
                self._take_level_of_above(name, logger)
        super().__setitem__(name, logger)

    def _take_level_of_above(self, name: str, logger: logging.Logger) -> None:
        above = name
        while above := above.rpartition(".")[0]:
            if above in self._levels:
                logger.level = self._levels[above]
                self._below.setdefault(above, []).append(logger)
                return
            if isinstance(self.get(above), logging.Logger):
                return


def send_records_home(channel: wire.WorkerChannel, worker: Worker, levels: dict[str, int]) -> None:
    """Replace every handler of this process by one that sends to the parent, at the parent's levels."""
    logging.captureWarnings(True)
    handler, manager = HomewardHandler(channel, worker), logging.root.manager
    levels = dict(levels)
    logging.root.handlers = [handler]
    logging.root.setLevel(levels.pop("", logging.WARNING))
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            logger.handlers[:] = [] if logger.propagate else [handler]
            if name in levels:
                logger.setLevel(levels.pop(name))
    manager.loggerDict = _LevelledLoggers(manager.loggerDict, levels)
