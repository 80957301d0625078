"""The program's side of logging: its levels go to workers, and their records come to its handlers.

No logger is made here. A library may install a logger class of its own when it is imported (astropy does), and finds the wrong
logger if one was made under its name before.
"""

from __future__ import annotations

import logging
from typing import Any

from objproxy._worker.logger_class import is_special, reduce_logger
from objproxy._worker.parcel import reducers


def find_levels() -> dict[str, int]:
    """Return the levels that were set in this process, by the names of the loggers; "" is the root.

    The classes of the loggers are noted: a logger of such a class arrives in a worker as one of its class.
    """
    levels = {"": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            _register(type(logger))
            if logger.level != logging.NOTSET:
                levels[name] = logger.level
    return levels


def _register(kind: type[logging.Logger]) -> None:
    """Have loggers of a class arrive as loggers of that class, also in a process that has none of that name."""
    if is_special(kind) and kind not in reducers:
        reducers[kind] = lambda logger, _packing: reduce_logger(logger)


def handle_record(fields: dict[str, Any]) -> None:
    """Give a log record of a worker to the handlers of the same logger here, or of the logger that would be its parent."""
    name = fields["name"]
    known = logging.root if name == logging.root.name else logging.root.manager.loggerDict.get(name)
    if isinstance(known, logging.Logger):
        if known.isEnabledFor(fields["levelno"]):
            known.handle(logging.makeLogRecord(fields))
        return
    parent = _find_parent(name)
    if fields["levelno"] >= max(parent.getEffectiveLevel(), logging.root.manager.disable + 1):
        parent.callHandlers(logging.makeLogRecord(fields))


def _find_parent(name: str) -> logging.Logger:
    """Return the nearest logger above a name that was made already."""
    while name:
        name = name.rpartition(".")[0]
        found = logging.root.manager.loggerDict.get(name)
        if isinstance(found, logging.Logger):
            return found
    return logging.root
