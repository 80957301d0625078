"""A real browser for tests: headless Chromium, spoken to over two pipes in its own protocol, with nothing else installed.

Chromium's ``--remote-debugging-pipe`` reads commands from descriptor 3 and writes answers and events to descriptor 4: JSON,
each message ended by a zero byte (https://chromedevtools.github.io/devtools-protocol/). It ends when the pipe does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE_SECONDS = 120.0  # the first start of a browser reads hundreds of megabytes

_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--mute-audio",
)


def find_browser() -> str | None:
    """Return the command of a Chromium, or None; the variable OBJPROXY_BROWSER names one that is not on the path."""
    named = os.environ.get("OBJPROXY_BROWSER")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser answers a command, or a script of the page, with an error."""


class Browser:
    """A browser process; `page` opens pages.

    Parameters
    ----------
    command : str
        From `find_browser`.
    profile : Path
        An empty directory.
    """

    def __init__(self, command: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses to be run by root
        # The shell leaves at once: the browser is nobody's child then, and its own processes come and go as they like.
        line = f'"$@" 3<&{to_browser} 4>&{from_browser} </dev/null >/dev/null 2>&1 &'
        arguments = [command, *_FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
        subprocess.run(["bash", "-c", line, "bash", *arguments], pass_fds=(to_browser, from_browser), check=True)
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = 0
        self._buffer = b""
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)

    def call(self, method: str, session: str | None = None, /, **params: Any) -> Any:
        """Have a command carried out; return its result."""
        self._numbers += 1
        number = self._numbers
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self._read(deadline)
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']}")
            else:
                return answer["result"]
        raise TimeoutError(f"the browser has not answered {method}")

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser is silent")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise BrowserError("the browser has ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    @contextlib.contextmanager
    def page(self, url: str, *, size: tuple[int, int] = (1400, 1000), scheme: str = "light") -> Iterator[Page]:
        """Open a page in a session of its own, with no cookie of another."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            page.resize(*size)
            page.prefer(scheme)
            page.call("Page.navigate", url=url)
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        """End the browser, and wait until its end of the pipe is closed."""
        with contextlib.suppress(BrowserError, TimeoutError, OSError):
            self.call("Browser.close")
        os.close(self._out)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0] and os.read(self._in, 1 << 16):
            pass
        os.close(self._in)


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, /, **params: Any) -> Any:
        """Have a command carried out for this page."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout: float = _PATIENCE_SECONDS) -> Any:
        """Wait until an expression is true; return its value. A page that is just loading is asked again."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(BrowserError):
                value = self.evaluate(expression)
                if value:
                    return value
            time.sleep(0.02)
        raise TimeoutError(f"never true: {expression}; the page says: {self.text()[:2000]}")

    def text(self) -> str:
        """Return what is to be read on the page."""
        return str(self.evaluate("document.body.innerText"))

    def problems(self) -> Sequence[str]:
        """Return what the page's console has: errors of scripts, refused contents."""
        self.evaluate("0")  # what was written before this has arrived then
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [
            json.dumps(event["params"])
            for event in self._browser.events
            if event.get("method") in kinds and event.get("sessionId") == self._session
        ]

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window, in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Let the user prefer a "light" or a "dark" page."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path | str, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page, to a PNG file."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(picture["data"]))
