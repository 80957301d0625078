"""Classes whose workers meet a library that installs a logger class, and a logger class of the caller's."""

from __future__ import annotations

import importlib
import logging
from typing import Any

#: A library that makes its logger of a class of its own when it is imported.
LIBRARY = """
import logging
class Shouter(logging.getLoggerClass()):
    def shout(self, text):
        self.info(text.upper())
logging.setLoggerClass(Shouter)
log = logging.getLogger("shouting_library")
logging.setLoggerClass(logging.Logger)
"""


class Speaker:
    """Logs through a library that is imported when the object is made."""

    def __init__(self) -> None:
        self.library = importlib.import_module("shouting_library")

    def shout(self, text: str) -> str:
        self.library.log.shout(text)
        return type(self.library.log).__name__

    def kind(self, logger: Any) -> str:
        return type(logger).__name__


class Quiet:
    """Logs under names of its own."""

    def log(self, name: str, level: int, text: str) -> None:
        logging.getLogger(name).log(level, text)

    def level(self, name: str) -> int:
        return logging.getLogger(name).level

    def names(self) -> list[str]:
        return list(logging.root.manager.loggerDict)
