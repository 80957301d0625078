"""Options of a call for libraries that run their users' calls on a pool: `label`, `advice`, `max_tasks_per_worker`."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from faulty import Victim
from objproxy import ArgumentPickleError, PoisonTaskError, ProxyPool, ResultPickleError, TaskTimeoutError, WorkerDiedError
from targets import Model
from ways import MakePool, Way

ADVICE = "Ask the library"


def users_function() -> None:
    """Stand for the function of a user."""


class UsersClass:
    def __call__(self) -> None:
        """Stand for an object that is called."""


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("their call", "their call"),
        (users_function, "users_function"),
        (functools.partial(users_function), "users_function"),
        (UsersClass(), "UsersClass"),
        (UsersClass, "UsersClass"),
    ],
)
def test_a_note_names_the_label(way: Way, label: Any, name: str) -> None:
    with ProxyPool(Model, worker_count=1, **way.options) as pool:
        fail = pool.raise_at.options(label=label)
        ways = (
            lambda: fail(1, 1),
            lambda: fail.map([1], [1]),
            lambda: [*fail.imap([1], [1])],
            lambda: fail.submit(1, 1).result(),
        )
        for call in ways:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - any of its own
                call()
            assert f" by '{name}'" in " ".join(caught.value.__notes__)


def test_errors_of_lost_workers_give_the_advice() -> None:
    with ProxyPool(Victim, worker_count=1, backend="process") as pool:
        obey = pool.obey.options(label="their call", advice=ADVICE)
        for call in (lambda: obey.map(["os._exit(3)"]), lambda: obey.submit("os._exit(3)").result()):
            with pytest.raises(WorkerDiedError, match=rf"(?s)running their call.*{ADVICE}") as caught:
                call()
            assert "options(" not in str(caught.value)
            assert caught.value.method == "their call"
        with pytest.raises(PoisonTaskError, match="each of its 2 attempts"):
            obey.options(retries=1).map(["os._exit(3)"])


def test_the_error_of_a_time_limit_gives_the_advice(gates: Any) -> None:
    gate = gates("gate")
    with ProxyPool(Model, worker_count=1, backend="process") as pool:
        wait = pool.wait_at.options(label="their call", advice=ADVICE, timeout=0.05)
        with pytest.raises(TaskTimeoutError, match=rf"(?s)their call, item 0, ran longer.*{ADVICE}"):
            wait.map([gate])


def test_errors_of_pickling_name_the_label() -> None:
    with ProxyPool(Victim, worker_count=1, backend="process") as pool:
        obey = pool.obey.options(label="their call")
        for call in (
            lambda: obey(threading.Lock()),
            lambda: obey.map([threading.Lock()]),
            lambda: obey.submit(threading.Lock()),
        ):
            with pytest.raises(ArgumentPickleError, match="'their call'"):
                call()
    with (
        ProxyPool(Model, worker_count=1, backend="process") as models,
        pytest.raises(ResultPickleError, match="the result of 'their call'"),
    ):
        models.return_unpicklable.options(label="their call").map([0])


@pytest.mark.parametrize("options", [{"label": 3}, {"advice": 3}, {"max_tasks_per_worker": "3"}])
def test_wrong_types_are_refused(shared_pool: ProxyPool[Model], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        shared_pool.score.options(**options)


def test_a_call_may_limit_the_life_of_workers(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=1)
    pool.score.map(range(5))
    assert pool.workers[0].generation == 0
    pool.score.options(max_tasks_per_worker=8).map(range(3))  # those of before count
    pool.wait_ready()
    assert pool.workers[0].generation == 1
    pool.score.options(max_tasks_per_worker=100).map(range(10))
    assert pool.workers[0].generation == 1
    pool.score.map(range(200))  # the limit was that of the call
    assert pool.workers[0].generation == 1
    pool.score.options(max_tasks_per_worker=2).map(range(3))  # it has run more: one item, then two on the next
    pool.wait_ready()
    assert pool.workers[0].generation == 3
