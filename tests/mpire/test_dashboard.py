"""MPIRE's names for the dashboard, with what they return and raise."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest

import mpire_targets as targets
from dashboard_client import Client
from objproxy.mpire import WorkerPool, dashboard
from optional import need

need("starlette", "uvicorn")


@pytest.fixture(autouse=True)
def runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tempfile.mkdtemp(prefix="op-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", path)
    yield
    dashboard.shutdown_dashboard()
    shutil.rmtree(path)


def test_it_is_started_as_mpires_is_and_shows_a_map() -> None:
    details = dashboard.start_dashboard([0, 0])
    assert (details["manager_host"], details["manager_port_nr"]) == ("127.0.0.1", details["dashboard_port_nr"])
    with pytest.raises(RuntimeError, match="has a dashboard already"):
        dashboard.start_dashboard()
    with pytest.raises(RuntimeError, match="is connected to the dashboard on port"):
        dashboard.connect_to_dashboard(details["manager_port_nr"])
    client = Client(details["dashboard_port_nr"]).enter(details["dashboard_url"])
    with WorkerPool(2) as pool:
        assert pool.map(targets.square, range(10), progress_bar=True, progress_bar_style="dashboard") == [
            x * x for x in range(10)
        ]
        found = client.wait_for(
            lambda news: [shown for p in news["programs"] for shown in p["pools"] if shown["n_tasks"] >= 10]
        )
    assert (found[0]["name"], len(found[0]["workers"])) == ("square", 2)
    dashboard.shutdown_dashboard()
    dashboard.shutdown_dashboard()
    with pytest.raises(ConnectionRefusedError):
        dashboard.connect_to_dashboard(details["manager_port_nr"], "localhost")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OSError, match="expected two ports at least"):
        dashboard.start_dashboard(range(8080, 8081))
    with pytest.raises(ValueError, match=r"manager_host='example\.org': a dashboard shows the programs of its own machine"):
        dashboard.connect_to_dashboard(8080, "example.org")


def test_the_stack_level_is_kept() -> None:
    assert dashboard.get_stacklevel() == 1
    dashboard.set_stacklevel(3)
    assert dashboard.get_stacklevel() == 3
    dashboard.set_stacklevel(1)


@pytest.mark.parametrize(
    "use",
    [
        dashboard.start_dashboard,
        lambda: dashboard.connect_to_dashboard(8080),
        dashboard.shutdown_dashboard,
        dashboard.get_stacklevel,
        lambda: dashboard.set_stacklevel(2),
    ],
)
def test_without_the_framework_there_is_none(use: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(NotImplementedError, match="Install the dashboard dependencies to enable the dashboard"):
            use()  # type: ignore[operator]
