"""Loggers of classes that libraries or programs have made: how they travel."""

from __future__ import annotations

import logging
from typing import Any

#: Their own way of travelling, by name alone, finds a logger of the right class in any process.
_USUAL = (logging.Logger, logging.RootLogger)


def is_special(kind: type) -> bool:
    """Whether objects of a class are loggers that another process does not make by itself."""
    return issubclass(kind, logging.Logger) and kind not in _USUAL


def reduce_logger(logger: logging.Logger) -> Any:
    """Reduce a logger to its name and its class."""
    return _find_logger, (type(logger), logger.name)


def _find_logger(kind: type[logging.Logger], name: str) -> logging.Logger:
    """Return the logger of a name, made of a class if there is none."""
    manager = logging.root.manager
    with logging._lock:  # type: ignore[attr-defined]  # another thread must not make a logger of this class meanwhile
        before = manager.loggerClass
        manager.loggerClass = kind
        try:
            return logging.getLogger(name)
        finally:
            manager.loggerClass = before
