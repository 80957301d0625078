"""Progress bars: every style, every kind of input, every end; and reports from inside a task."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from objproxy import ProxyPool
from objproxy._worker import context
from objproxy.progress import Progress, Reports, _describe_rate
from optional import need, needs
from targets import Gate, Model

STYLES = ("std", "rich")

of_each_style = pytest.mark.parametrize("style", ["std", pytest.param("rich", marks=needs("rich"))])


@pytest.fixture(scope="module")
def pool() -> Iterator[ProxyPool[Model]]:
    with ProxyPool(Model, worker_count=2) as made:
        yield made


def score(pool: ProxyPool[Model], verb: str, items: Any, **options: Any) -> int:
    """Score items with one of the verbs; return how many results there were."""
    method: Any = pool.score.options(**options)
    if verb == "call":
        return len(method.options(map_args=True)(items))
    return len(list(getattr(method, verb)(items)))


@pytest.mark.parametrize("verb", ["call", "map", "imap", "imap_unordered"])
@of_each_style
@pytest.mark.parametrize("chunksize", [1, 7, 1000])
@pytest.mark.parametrize("is_sized", [True, False])
def test_the_last_count_is_that_of_the_items(
    pool: ProxyPool[Model], verb: str, style: str, chunksize: int, is_sized: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    items = range(30) if is_sized else (x for x in range(30))
    assert score(pool, verb, items, progress_bar=style, chunksize=chunksize) == 30
    shown = "".join(capfd.readouterr())
    assert re.search(r"30/30" if is_sized else r"30(it|/\?)", shown)


@of_each_style
@pytest.mark.parametrize("n_items", [3, 200])
def test_a_bar_shows_percentage_and_rate(
    pool: ProxyPool[Model], style: str, n_items: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert score(pool, "map", range(n_items), progress_bar=style, chunksize=1) == n_items
    shown = "".join(capfd.readouterr())
    assert re.search(r"100%.*" + rf"{n_items}/{n_items}.*\d(it/s|s/it)", shown, re.DOTALL)


@pytest.mark.parametrize(("n_done", "seconds", "text"), [(0, 0.0, "?it/s"), (5, 2.0, "2.50it/s"), (1, 4.0, "4.00s/it")])
def test_the_rate_is_written_as_tqdm_does(n_done: int, seconds: float, text: str) -> None:
    assert _describe_rate(SimpleNamespace(finished_speed=None, speed=None, completed=n_done, elapsed=seconds)) == text


def test_the_number_of_items_may_change(capfd: pytest.CaptureFixture[str]) -> None:
    """A pool may be resized between the making of a bar and a broadcast."""
    need("rich")
    seen: list[tuple[int, int | None]] = []
    for style in (*STYLES, lambda *count: seen.append(count)):
        with Progress(style, 3, "changing") as progress:
            progress.expect(2)
            progress.update(2)
    assert "".join(capfd.readouterr()).count("2/2") >= 2
    assert seen == [(2, 2)]


@of_each_style
@pytest.mark.parametrize("items", [[], iter([])], ids=["sized", "unsized"])
def test_a_bar_of_nothing_ends(pool: ProxyPool[Model], style: str, items: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert score(pool, "map", items, progress_bar={"style": style, "desc": "empty"}) == 0
    assert "empty" in "".join(capfd.readouterr())


@of_each_style
def test_a_failing_map_closes_its_bar_and_says_so(
    pool: ProxyPool[Model], style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="item 3"):
        pool.raise_at.options(progress_bar=style).map(range(6), itertools.repeat(3))
    assert "failed: ValueError" in "".join(capfd.readouterr())


@of_each_style
def test_an_interrupted_map_closes_its_bar_and_says_so(style: str, capfd: pytest.CaptureFixture[str]) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    with ProxyPool(Model, worker_count=1) as own, pytest.raises(KeyboardInterrupt):
        own.score.options(progress_bar=style).map(items())
    assert "interrupted" in "".join(capfd.readouterr())


@of_each_style
def test_a_dropped_iterator_closes_its_bar(pool: ProxyPool[Model], style: str, capfd: pytest.CaptureFixture[str]) -> None:
    results = pool.score.options(progress_bar=style).imap(range(10_000))
    next(results)
    results.close()
    assert "/10000" in "".join(capfd.readouterr())


@of_each_style
def test_a_broadcast_has_a_bar(pool: ProxyPool[Model], style: str, capfd: pytest.CaptureFixture[str]) -> None:
    pool.score.options(progress_bar=style)(1)
    assert "2/2" in "".join(capfd.readouterr())


def test_several_bars_share_one_terminal(pool: ProxyPool[Model], capfd: pytest.CaptureFixture[str]) -> None:
    need("rich")
    for style in STYLES:
        outer = pool.score.options(progress_bar={"style": style, "desc": "outer"}).imap(range(3))
        for _ in outer:
            pool.score.options(progress_bar={"style": style, "desc": "inner"}).map(range(5))
        shown = "".join(capfd.readouterr())
        assert "outer" in shown
        assert "inner" in shown


def test_a_position_is_passed_on(pool: ProxyPool[Model], capfd: pytest.CaptureFixture[str]) -> None:
    pool.score.options(progress_bar={"position": 2, "leave": False}).map(range(5))
    assert "\n\n" in capfd.readouterr().err  # tqdm goes down to its line


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ("fancy", ValueError, "no style 'fancy'"),
        ({"style": "fancy"}, ValueError, "no style 'fancy'"),
        (5, TypeError, "progress_bar=5"),
    ],
)
def test_bars_that_do_not_exist(pool: ProxyPool[Model], wanted: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pool.score.options(progress_bar=wanted)


@pytest.mark.parametrize(("style", "module"), [("rich", "rich.progress"), ("notebook", "ipywidgets")])
def test_what_draws_may_be_missing(pool: ProxyPool[Model], style: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'objproxy\[progress\]'"):
        pool.score.options(progress_bar=style).map([1])
    assert pool._core.reports.running == {}  # a call that has not begun is not seen as one that runs
    assert pool.score.map([1])


@needs("ipywidgets")
def test_widgets_of_a_notebook(pool: ProxyPool[Model], capsys: pytest.CaptureFixture[str]) -> None:
    bars: list[Any] = []
    from tqdm.notebook import tqdm

    class Watched(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.notebook.tqdm", Watched)
        pool.score.options(progress_bar="notebook").map(range(30))
    assert [(bar.n, bar.total) for bar in bars] == [(30, 30)]


def test_rich_is_told_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rich` takes 20 us to note a count: told of each of 10,000 items a second, it would take a fifth of the time."""
    rich = need("rich.progress", "rich")
    told: list[float] = []
    advance = rich.progress.Progress.advance
    monkeypatch.setattr(rich.progress.Progress, "advance", lambda self, task, n: (told.append(n), advance(self, task, n)))
    with Progress("rich", 5000, "many") as progress:
        for _ in range(5000):
            progress.update(1)
    assert sum(told) == 5000
    assert len(told) < 100


# ---- reports -----------------------------------------------------------------------------------------------------------


class Steps:
    def work(self, reports: list[tuple[int, int | None]], gate: str) -> None:
        from objproxy import report_progress

        for done, total in reports:
            report_progress(done, total)
        Gate(gate).wait()


Make = Callable[[str], Gate]


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_the_latest_report_arrives_though_many_were_made(backend: str, gates: Make) -> None:
    gate, told = gates("go"), []

    def note(worker_id: int, done: int, total: int | None) -> None:
        told.append((worker_id, done, total))
        if done == 999:
            gate.open()

    with ProxyPool(Steps, worker_count=1, backend=backend, on_progress=note) as pool:
        pool.work.options(timeout=None)([(done, 5000) for done in range(1000)], str(gate.path))
    assert told[0] == (0, 0, 5000)
    assert told[-1] == (0, 999, 5000)
    assert len(told) < 20


def test_a_bar_shows_reports(gates: Make, capfd: pytest.CaptureFixture[str]) -> None:
    gate = gates("go")
    gate.open()
    with ProxyPool(Steps, worker_count=1) as pool:
        for style in STYLES:
            pool.work.options(progress_bar={"style": style, "mininterval": 0, "ncols": 100}).map(
                [[(3, 7)]], itertools.repeat(str(gate.path))
            )
    assert "worker 0: 3/7" in "".join(capfd.readouterr())


def test_reports_of_several_workers_stand_side_by_side() -> None:
    told: list[Any] = []
    reports = Reports(lambda *report: told.append(report))
    reports(0, 1, 2)  # nobody looks
    shown: list[str] = []
    bar = Progress(lambda *_: None, 2, "")
    bar.show_report = shown.append  # type: ignore[method-assign]
    reports.bars.add(bar)
    reports(1, 5, None)
    reports(0, 1, 2)
    reports(1, 9, 9)
    reports(0, 2, 2)
    assert shown == ["worker 1: 5", "worker 0: 1/2, worker 1: 5", "worker 0: 1/2", ""]
    assert len(told) == 5


class HeldTimer:
    """A timer whose time comes when the test says so."""

    made: ClassVar[list[HeldTimer]] = []

    def __init__(self, seconds: float, fire: Callable[[], None]) -> None:
        self.seconds = seconds
        self.fire = fire
        self.made.append(self)

    def start(self) -> None: ...


def test_reports_that_come_too_soon_are_replaced_by_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten a second: the first at once, the latest when its time has come, the last at once."""
    sent: list[tuple[int, int | None]] = []
    monkeypatch.setattr(context.time, "monotonic", lambda: 7.0)
    monkeypatch.setattr(context.threading, "Timer", HeldTimer)
    reports = context._Reports(lambda *report: sent.append(report))
    for done in range(1, 51):
        reports.tell(done, 100)
    (timer,) = HeldTimer.made
    assert (sent, timer.seconds) == ([(1, 100)], pytest.approx(0.1))
    timer.fire()
    reports.tell(100, 100)
    assert sent == [(1, 100), (50, 100), (100, 100)]
