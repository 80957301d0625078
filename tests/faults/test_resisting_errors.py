"""Exceptions that resist handling, and values that fail where they are rebuilt: the error of their task alone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from objproxy import (
    ArgumentPickleError,
    PoolBrokenError,
    ProxyPool,
    RemoteError,
    RemoteTraceback,
    ResultPickleError,
    WorkerInitError,
    handling,
)
from objproxy.observing import Observer
from resisting import (
    RESISTING,
    FrozenError,
    FrozenReducedError,
    FrozenSlotsError,
    NoTracebackError,
    OddNotesError,
    Resistant,
    Resisting,
    TextRaisesError,
)
from targets import PATIENCE_SECONDS
from ways import MakePool, Way, some


def _caught(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def _ways_to_fail(pool: ProxyPool[Any], how: str) -> dict[str, Callable[[], Any]]:
    return {
        "broadcast": lambda: pool.fail(how),
        "rounds": lambda: pool.fail([how] * 3, map_args=True, synchronize=True),
        "map": lambda: pool.fail.map([how] * 3),
        "imap": lambda: next(pool.fail.imap([how] * 3)),
        "submit": lambda: pool.fail.submit(how).result(PATIENCE_SECONDS),
        "instance": lambda: pool[1].fail(how),
    }


def test_an_error_that_resists_is_its_tasks_error_by_every_verb(make_pool: MakePool) -> None:
    """C22: itself, with what it takes, or a `RemoteError`; no worker is blamed, nothing else is lost.

    Mutation: `add_note` that calls the exception's own; `set_cause` that assigns.
    """
    pool = make_pool(Resisting)
    for how, make in RESISTING.items():
        kinds = (type(make()), RemoteError)
        for verb, call in _ways_to_fail(pool, how).items():
            error = _caught(call)
            assert type(error) in kinds, (how, verb)
            assert isinstance(handling.cause_of(error), RemoteTraceback), (how, verb)
    assert pool.echo.map(range(3)) == [0, 1, 2]
    assert {worker.generation for worker in pool.workers} == {0}


def test_an_error_that_resists_costs_no_other_result(make_pool: MakePool) -> None:
    """C22: where errors are returned or skipped, everything else is there."""
    pool = make_pool(Resisting)
    for how, make in RESISTING.items():
        kinds = (type(make()), RemoteError)
        method = pool.fail_at.options(on_error="return")
        for results in (method.map(range(4), [how] * 4), list(method.imap(range(4), [how] * 4))):
            assert [results[0], *results[2:]] == [0, 2, 3]
            assert type(results[1]) in kinds, how
        assert {type(result) for result in pool.fail.options(return_exceptions=True)(how)} <= {*kinds}, how
        assert pool.fail_at.options(on_error="skip").map(range(4), [how] * 4) == [0, 2, 3]
        with pool.fail.stream(on_error="return") as stream:
            stream.put([how])
            assert type(stream.get(PATIENCE_SECONDS)) in kinds, how
    assert {worker.generation for worker in pool.workers} == {0}


def test_an_awaited_error_that_resists_is_its_tasks_error(make_pool: MakePool) -> None:
    """C22: also what asyncio refuses (`StopIteration`) or takes for the program's own end (`SystemExit`).

    Mutation: ``asyncio.wrap_future``: `StopIteration` is awaited for ever, before Python 3.12.
    """
    pool = make_pool(Resisting)

    async def use() -> None:
        for how, make in {**RESISTING, "StopIteration": StopIteration, "SystemExit": SystemExit}.items():
            kinds = (type(make()), RemoteError, *((RuntimeError,) if how == "StopIteration" else ()))
            with pytest.raises(kinds):
                await pool.fail.aio(how)
            with pytest.raises(kinds):
                await pool[1].fail.aio(how)
            got = [result async for result in pool.fail_at.options(on_error="return").aimap(range(3), [how] * 3)]
            assert [got[0], got[2]] == [0, 2]
            assert type(got[1]) in kinds

    asyncio.run(use())
    assert {worker.generation for worker in pool.workers} == {0}


def test_what_a_frozen_error_takes_it_gets(make_pool: MakePool) -> None:
    """C22: a cause, the notes, and its own type and fields, also without a pickle of its own."""
    pool = make_pool(Resisting)
    for kind in (FrozenError, FrozenReducedError, FrozenSlotsError):
        error = _caught(lambda kind=kind: pool.fail(kind.__name__))
        assert type(error) is kind
        assert error.key == "x"  # type: ignore[attr-defined]
        assert "raised on worker 0 (device cpu) by method 'fail'" in error.__notes__[0]
        assert error.__notes__[1].startswith(f"worker 1 failed too: {kind.__name__}: ")
        assert "in fail" in handling.cause_of(error).text  # type: ignore[union-attr]


def test_an_error_that_takes_no_note_is_raised_without(make_pool: MakePool) -> None:
    """C22: it stays as it is."""
    pool = make_pool(Resisting)
    error = _caught(lambda: pool.fail("OddNotesError"))
    assert type(error) is OddNotesError
    assert error.__notes__ == 5  # type: ignore[comparison-overlap]
    assert type(_caught(lambda: pool.fail("NoTracebackError"))) is NoTracebackError


def test_retries_look_at_errors_that_resist(make_pool: MakePool) -> None:
    """C22: a class that does not tell what it is does not match."""
    pool = make_pool(Resisting)
    for how in ("ClassLiesError", "FalseError", "TextExitsError"):
        method = pool.fail.options(retries=1, retry_on=(LookupError, RemoteError), on_error="return")
        assert type(method.map([how])[0]) in (type(RESISTING[how]()), RemoteError)
    assert pool.echo.map(range(3)) == [0, 1, 2]


def test_failures_that_resist_are_observed_and_timed(way: Way) -> None:
    """C22: a dashboard shows what can be shown."""
    with Observer() as observer, ProxyPool(Resisting, worker_count=1, timeline=True, **way.options) as pool:
        for how in RESISTING:
            assert len(pool.fail.options(on_error="return").map([how])) == 1
        seen = sum((view.n_failed for view in observer.look()), 0)
        assert seen == len(RESISTING)
        pool.insights()


def test_a_constructor_may_raise_what_resists(way: Way) -> None:
    """A17: the pool is not made, and no thread or process is left waiting."""
    for how, make in some(way, RESISTING):
        error = _caught(lambda how=how: ProxyPool(Resisting, worker_count=2, init_args=(how,), **way.options))
        assert type(error) is WorkerInitError, how
        assert "its constructor raised" in str(error)
        assert type(error.__cause__) in (type(make()), RemoteError), how


BUILT_IN = ["ValueError", "SystemExit", "KeyboardInterrupt", "RecursionError", "MemoryError", "EOFError", "StopIteration"]


def test_generators_properties_and_ends_may_raise_what_resists(way: Way) -> None:
    """C22: as methods do."""
    for how, make in some(way, RESISTING):
        kinds = (type(make()), RemoteError)
        pool = ProxyPool(Resistant, worker_count=1, init_args=(how,), **way.options)
        rows = pool[0].rows()
        assert next(rows) == 1
        for call in (lambda rows=rows: next(rows), lambda pool=pool: pool.size, lambda pool=pool: pool[0].size, pool.close):
            assert type(_caught(call)) in kinds, how


@pytest.mark.processes
def test_a_value_that_fails_where_it_is_rebuilt_is_its_tasks_error(make_pool: MakePool) -> None:
    """D6: whatever rebuilding it raises, the items beside it have their results and the worker lives.

    Mutation: a message made with ``f"{exc}"``.
    """
    pool = make_pool(Resisting)
    method = pool.give.options(on_error="return")
    for how in [*BUILT_IN, "TextExitsError", "FrozenError", "FalseError", "ClassLiesError", "NamelessError"]:
        items = [None, how, None]
        for results in (method.map(items), method.options(chunksize=3).map(items), list(method.imap(items))):
            assert [results[0], results[2]] == ["fine", "fine"]
            assert type(results[1]) is ResultPickleError
            assert handling.short_name(results[1].__cause__) == how
        assert type(_caught(lambda how=how: pool[0].give(how))) is ResultPickleError
        assert type(_caught(lambda how=how: pool.give.submit(how).result(PATIENCE_SECONDS))) is ResultPickleError
    assert {worker.generation for worker in pool.workers} == {0}


@pytest.mark.processes
def test_an_error_that_cannot_be_rebuilt_here_has_a_stand_in_with_its_name(make_pool: MakePool) -> None:
    """C23: its type and text are known though it cannot be rebuilt."""
    pool = make_pool(Resisting)
    for how in ("RebuiltElsewhereError", "ExitsElsewhereError"):
        error = _caught(lambda how=how: pool[0].fail(how))
        assert type(error) is RemoteError
        assert error.type_name == f"resisting.{how}"
        assert "elsewhere" in error.message
        assert "in fail" in error.remote_traceback


@pytest.mark.processes
def test_reports_and_records_that_cannot_be_rebuilt_here_harm_nobody(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """D11: the report is dropped; a record comes with plain values."""
    reports: list[Any] = []
    with ProxyPool(Resisting, worker_count=1, on_progress=lambda *report: reports.append(report), **way.options) as pool:
        with caplog.at_level(logging.WARNING):
            assert pool.report.map(range(3)) == [0, 1, 2]
        assert [record.odd for record in caplog.records if record.name == "resisting"] == [0, 1, 2]  # type: ignore[attr-defined]
        assert "cannot be rebuilt here" in caplog.text
        assert pool.workers[0].generation == 0


@pytest.mark.processes
def test_an_argument_whose_pickling_raises_what_resists_is_the_callers_error(make_pool: MakePool) -> None:
    """B10: `ArgumentPickleError`, though neither the cause nor a key on the way to it has a text."""
    # Since Python 3.14 the pickler itself asks for the text of the key, and raises what that raises.
    asks_for_keys = sys.version_info >= (3, 14)
    error = _caught(lambda: make_pool(Resisting).echo([Unsent()] if asks_for_keys else {Key(): Unsent()}))
    assert isinstance(error, ArgumentPickleError)
    assert "TextRaisesError" in str(error)
    assert asks_for_keys or "(cannot be shown: SystemExit)" in error.path


class Key:
    """A key without a text."""

    def __repr__(self) -> str:
        raise SystemExit(2)


class Unsent:
    """Cannot be pickled, and does not say why."""

    def __reduce__(self) -> Any:
        raise TextRaisesError


def test_a_pool_that_broke_of_what_has_no_text_says_so(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """E10: the engine's failure may be an error of the user's."""
    pool = make_pool(Resisting)
    monkeypatch.setattr(pool._core.backend, "wait", lambda _timeout: RESISTING["FrozenError"]() and _throw())
    with pytest.raises(TextRaisesError):
        pool.echo(1)
    monkeypatch.undo()
    with pytest.raises(PoolBrokenError, match="cannot be shown"):
        pool.echo(1)


def _throw() -> Any:
    raise TextRaisesError
