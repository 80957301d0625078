"""Loggers of the program and of workers: levels are set when a logger appears, and no logger is made beforehand."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logger_targets import LIBRARY, Quiet, Speaker
from objproxy import ProxyPool
from objproxy.loggers import find_levels, handle_record
from optional import needs


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write the library down and find it on the path; forget it, and its logger, at the end."""
    (tmp_path / "shouting_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "shouting_library"
    sys.modules.pop("shouting_library", None)
    logging.root.manager.loggerDict.pop("shouting_library", None)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_a_library_that_installs_a_logger_class_works_in_workers(library: str, start_method: Any, caplog: Any) -> None:
    importlib.import_module(library).log.setLevel(logging.INFO)
    with ProxyPool(Speaker, worker_count=1, start_method=start_method) as pool:
        assert pool[0].shout("hello") == "Shouter"
        assert [record.getMessage() for record in caplog.records if record.name == library] == ["HELLO"]
        assert pool[0].kind(logging.getLogger(library)) == "Shouter"


def test_a_library_that_only_workers_have_loaded_can_be_loaded_by_the_program_later(library: str, caplog: Any) -> None:
    with ProxyPool(Speaker, worker_count=1) as pool, caplog.at_level(logging.INFO):
        pool[0].shout("hello")
    assert library not in logging.root.manager.loggerDict
    assert hasattr(importlib.import_module(library).log, "shout")


def test_a_level_is_set_when_the_logger_appears_and_holds_for_children(caplog: Any) -> None:
    with caplog.at_level(25, logger="levelled.parent"), ProxyPool(Quiet, worker_count=1) as pool:
        worker: Any = pool[0]
        assert "levelled.parent" not in worker.names()
        worker.log("levelled.parent.child", 24, "too low")
        worker.log("levelled.parent.child", 25, "high enough before")
        assert worker.level("levelled.parent") == 25
        assert worker.level("levelled.parent.child") == logging.NOTSET
        worker.log("levelled.parent.child", 24, "too low")
        worker.log("levelled.parent.child", 25, "high enough")
    texts = [record.getMessage() for record in caplog.records if record.name == "levelled.parent.child"]
    assert texts == ["high enough before", "high enough"]


def test_a_logger_that_does_not_propagate_still_sends_its_records_home() -> None:
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger("alone")
    logger.propagate, logger.handlers = False, [Keeper()]
    try:
        with ProxyPool(Quiet, worker_count=1, start_method="fork") as pool:
            pool[0].log("alone", logging.WARNING, "heard")
    finally:
        logging.root.manager.loggerDict.pop("alone")
    assert [record.getMessage() for record in records] == ["heard"]


def test_a_record_of_a_logger_that_is_not_made_obeys_the_next_one_above(caplog: Any) -> None:
    fields = {"name": "above.not_made.below", "levelno": logging.INFO, "msg": "text", "args": None}
    with caplog.at_level(logging.WARNING, logger="above"):
        handle_record(fields)
    assert not caplog.records
    with caplog.at_level(logging.INFO, logger="above"):
        handle_record(fields)
        logging.disable(logging.INFO)
        try:
            handle_record(fields)
        finally:
            logging.disable(logging.NOTSET)
    assert [record.name for record in caplog.records] == ["above.not_made.below"]
    assert "above.not_made.below" not in logging.root.manager.loggerDict


def test_levels_are_those_that_were_set() -> None:
    logging.getLogger("levels.set").setLevel(7)
    logging.getLogger("levels.unset")
    levels = find_levels()
    assert levels["levels.set"] == 7
    assert levels[""] == logging.root.level
    assert "levels.unset" not in levels
    logging.root.manager.loggerDict.pop("levels.set")


class OfAstropy:
    """Imports astropy when it is made."""

    def __init__(self) -> None:
        self.log = importlib.import_module("astropy").log

    def kind(self) -> str:
        return type(self.log).__name__


@needs("astropy")
def test_astropy_works_in_workers_of_a_program_that_has_loaded_it() -> None:
    importlib.import_module("astropy")
    with ProxyPool(OfAstropy, worker_count=1) as pool:
        assert pool[0].kind() == "AstropyLogger"
