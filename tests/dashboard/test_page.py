"""The page in a real browser: two pools that run and one that fails, texts that would like to be scripts, a lost connection."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import objproxy
from browser import Browser, Page, find_browser
from dashboard_client import digest, hello, publish
from objproxy import ProxyPool
from objproxy.dashboard.control import _end_server, _start_server, make_url
from targets import Gate

COMMAND = find_browser()

pytestmark = pytest.mark.skipif(
    COMMAND is None,
    reason="no Chromium: apt-get install chromium, or name one in OBJPROXY_BROWSER, to test the dashboard's page",
)

EVIL = "<img src=x onerror=\"document.title='gotcha'\"><script>document.title='gotcha'</script>"


class Work:
    def __init__(self, gate: str) -> None:
        self.gate = gate

    def step(self, x: int) -> int:
        if x >= 30:
            Gate(self.gate).wait()
        return x

    def parse(self, x: int) -> int:
        if x % 3 == 1:
            raise ValueError(f"line {x}: {EVIL}")
        if x >= 30:
            Gate(self.gate).wait()
        return x


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give one browser to all tests of the module."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        assert COMMAND is not None
        browser = Browser(COMMAND, Path(profile))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, port: int) -> Iterator[Page]:
    with browser.page(make_url(port)) as page:
        page.wait_for("document.querySelector('#connection').textContent === 'Live'")
        yield page


def pool_script(name: str, script: str) -> str:
    """Return a script about the card of a pool, there `pool`; false while there is none."""
    return (
        f"(() => {{ const pool = [...document.querySelectorAll('.pool')].find((card) => "
        f"card.querySelector('h3').textContent === {name!r}); return Boolean(pool) && ({script}); }})()"
    )


def test_two_pools_that_run_and_one_that_fails(page: Page, port: int, gates: type[Gate]) -> None:
    gate = gates("go")
    objproxy.connect_to_dashboard(port)
    with (
        ProxyPool(Work, worker_count=2, init_args=(str(gate.path),), name="lattices") as good,
        ProxyPool(Work, worker_count=2, init_args=(str(gate.path),), name="parsers") as bad,
    ):
        steps = good.step.options(timeout=600).imap(range(40))
        parsed = bad.parse.options(on_error="return", timeout=600).imap(range(40))
        assert [next(steps) for _ in range(30)] == list(range(30))
        assert len([next(parsed) for _ in range(30)]) == 30

        bar = page.wait_for(
            pool_script("lattices", "pool.querySelector('.bar[aria-valuenow=\"30\"]')?.getAttribute('aria-valuemax')")
        )
        assert bar == "40"
        states = pool_script(
            "lattices", "[...pool.querySelectorAll('tbody[data-part=workers] .chip')].map((c) => c.textContent)"
        )
        page.wait_for(f"{states}.join() === 'busy,busy'")
        pids = page.evaluate(pool_script("lattices", "[...pool.querySelectorAll('td.mono')].map((cell) => cell.textContent)"))
        assert pids == [str(worker.pid) for worker in good.workers]
        page.wait_for(pool_script("parsers", "pool.querySelector('.badge').textContent === '10 failures'"))
        page.wait_for(pool_script("parsers", "pool.querySelectorAll('.failure').length === 10"))
        assert page.evaluate(pool_script("lattices", "pool.querySelector('.badge').hidden"))
        assert page.evaluate("document.querySelector('#n-running').textContent") == "2"
        page.wait_for("document.querySelector('#n-busy').textContent === '4 / 4'")
        assert page.evaluate("document.querySelector('#n-failed').textContent") == "10"
        trace = page.evaluate(pool_script("parsers", "pool.querySelector('.failure pre').textContent"))
        assert "raise ValueError" in trace
        is_drawn = "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].some((byte) => byte > 60 && byte < 250)"
        page.wait_for(pool_script("lattices", f"(() => {{ const c = pool.querySelector('canvas'); return {is_drawn}; }})()"))
        gate.open()
        assert (len(list(steps)), len(list(parsed))) == (10, 10)
    page.wait_for(pool_script("lattices", "pool.querySelector('.chip').textContent === 'ended' && !pool.open"))
    page.wait_for(pool_script("parsers", "pool.querySelector('.chip').textContent === 'ended' && pool.open"))
    page.wait_for("document.querySelector('#n-running').textContent === '0'")
    objproxy.shutdown_dashboard()
    assert page.problems() == []


def test_texts_stay_texts(page: Page, port: int) -> None:
    worker = {"id": 0, "pid": 1, "device": EVIL, "generation": 0, "state": EVIL, "n_tasks": 1, "rss": 1, "method": EVIL}
    worker |= {"running": 1.0, "busy": 1.0, "parts": dict.fromkeys(("start_up", "init", "waiting", "working", "exit"), 1.0)}
    call = {"id": 1, "method": EVIL, "done": 1, "total": 2, "began": 1.0, "ended": None, "error": "", "rate": 1.0, "left": 1.0}
    failure = {
        "number": 1,
        "at": 1.0,
        "method": EVIL,
        "item": EVIL,
        "worker": EVIL,
        "error": EVIL,
        "text": EVIL,
        "traceback": EVIL,
    }
    everything = digest(
        **dict.fromkeys(("name", "kind", "backend", "phase", "why"), EVIL),
        **{"n_workers": 1, "n_failed": 1, "workers": [worker], "failures": [failure], "failing": {EVIL: 1}},
        calls=[call, {**call, "id": 2, "ended": 2.0, "error": EVIL}],
        slowest=[{"seconds": 1.0, "method": EVIL, "item": EVIL, "worker": EVIL, "arguments": EVIL}],
        methods=[{"method": EVIL, "n_tasks": 1, "seconds": 1.0}],
        spans=[[0, "call", EVIL, 0.1, 0.5, 1, 1.0]],
    )
    about = hello(1)
    about["program"] |= dict.fromkeys(("name", "host", "python", "n_cpus"), EVIL)
    with publish(port, about, {"op": "pool", "pool": everything}):
        page.wait_for("[...document.querySelectorAll('h3')].some((name) => name.textContent.includes('onerror'))")
        page.wait_for("document.querySelector('.failure pre')?.textContent.includes('onerror')")
        assert page.evaluate("document.querySelectorAll('.program img, .program script, body > script').length") == 0
        assert "gotcha" not in page.evaluate("document.title")
    assert page.problems() == []


def test_a_pool_of_a_program_that_is_gone_is_shown_as_lost(page: Page, port: int) -> None:
    with publish(port, hello(2), {"op": "pool", "pool": digest(name="stray")}):
        page.wait_for(pool_script("stray", "pool.querySelector('.chip').textContent === 'open'"))
    page.wait_for(pool_script("stray", "pool.querySelector('.chip').textContent === 'lost'"))


def test_an_address_that_was_used_shows_how_to_get_another(browser: Browser, port: int) -> None:
    url = make_url(port)
    for text in ("Live", f"objproxy dashboard --url {port}"):
        with browser.page(url) as page:
            page.wait_for(f"document.body.innerText.includes({text!r})")
            page.wait_for(f"location.search === {'' if text == 'Live' else url[url.index('?') :]!r}")


def test_a_link_on_another_site_leads_in(browser: Browser, port: int) -> None:
    """The cookie is not sent with what another site has begun, so the page has to go on by itself."""
    with browser.page("data:text/html,<a href='" + make_url(port) + "'>notebook</a>") as page:
        page.wait_for("document.querySelector('a') !== null")
        page.evaluate("document.querySelector('a').click()")
        page.wait_for("document.querySelector('#connection')?.textContent === 'Live'")


def test_it_is_dark_for_those_who_like_it_dark_and_fits_a_narrow_window(page: Page, port: int) -> None:
    with publish(port, hello(3), {"op": "pool", "pool": digest(name="x" * 120, kind="y" * 120, n_failed=3)}):
        page.wait_for("document.querySelector('.pool') !== null")
        colour = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(colour)
        page.prefer("dark")
        assert page.wait_for(f"{colour} !== {light!r} && {colour}") != light
        page.resize(400, 800)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_it_says_when_the_connection_is_lost_and_finds_back(browser: Browser) -> None:
    server, details = _start_server([0])
    with browser.page(details.url) as page:
        page.wait_for("document.querySelector('#connection').textContent === 'Live'")
        _end_server(server)
        page.wait_for("document.querySelector('#connection').textContent.includes('Connection lost')")
        assert page.evaluate("document.body.classList.contains('lost')")
        server, _ = _start_server([details.port])
        page.wait_for("document.querySelector('#connection').textContent.includes('Not let in')")
        page.call("Page.navigate", url=make_url(details.port))
        page.wait_for("document.querySelector('#connection')?.textContent === 'Live'")
    _end_server(server)
