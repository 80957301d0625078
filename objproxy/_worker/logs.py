"""Log records and warnings of a worker go home: one handler at the root, one frame a record, tagged with the worker."""

from __future__ import annotations

import logging
import pickle
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


def send_records_home(channel: wire.WorkerChannel, worker: Worker, levels: dict[str, int]) -> None:
    """Replace every handler of this process by one that sends to the parent, at the parent's levels."""
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).handlers.clear()
    logging.root.handlers = [HomewardHandler(channel, worker)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
