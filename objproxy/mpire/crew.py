"""The workers of a `WorkerPool` as they come and go: which call starts them, which ends them, and what is left of them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Generator
from typing import Any

from objproxy.handling import block
from objproxy.insights import Insights
from objproxy.mpire.checks import Functions, MapParams, PoolParams
from objproxy.mpire.maps import MapRun
from objproxy.mpire.session import Session

logger = logging.getLogger("objproxy.mpire")


class Crew:
    """Starts workers when a call needs them, and ends them when nobody does.

    Parameters
    ----------
    params : PoolParams
        What workers start with.

    Attributes
    ----------
    has_changed : bool
        Whether the parameters have changed since the workers were started.
    """

    def __init__(self, params: PoolParams) -> None:
        self.has_changed = False
        self._params = params
        self._session: Session | None = None
        self._last: Session | None = None  # whose results and insights are still of interest
        self._functions: Functions | None = None  # whose worker_exit is for workers that end from now on
        self._running: MapParams | None = None
        self._running_name = ""
        self._lock = threading.RLock()  # several threads may start workers, or a map

    @property
    def exit_results(self) -> list[Any]:
        """What ``worker_exit`` returned in the workers that were started last."""
        return [] if self._last is None else self._last.exit_results

    def insights(self) -> Insights | None:
        """Return where the time of the workers went that were started last; None unless that was asked for."""
        return None if self._last is None or not self._params.enable_insights else self._last.insights()

    def insights_dict(self) -> dict[str, Any]:
        """Return the same as MPIRE's users know it."""
        return {} if self._last is None or not self._params.enable_insights else self._last.insights_dict()

    @block
    def running_map(self, name: str, functions: Functions, params: MapParams) -> Generator[MapRun, None, None]:
        """Have workers for a map in this block, and end them after it unless they are to stay.

        Left by an exception, the workers are ended at once: nothing of a failed map goes on.
        """
        with self._lock:
            if self._running is not None:
                raise RuntimeError(f"Cannot call {name!r} while another {self._running_name!r} is running")
            self._running, self._running_name = params, name
        session: Session | None = None
        try:
            session = self._obtain(functions, params.worker_lifespan)
            with session.carrying(functions) as handle:
                yield MapRun(session, handle, functions, params, is_pinned=self._params.order_tasks)
            if not self._params.keep_alive:
                self._end(session, functions)
        except GeneratorExit:  # the results are not wanted any more
            if not self._params.keep_alive:
                self._drop(session)
            raise
        except BaseException:
            self._drop(session)
            raise
        finally:
            if self._running is params:
                self._running = None

    def obtain_for_apply(self, functions: Functions) -> Session:
        """Return workers for a single task."""
        session = self._session
        if session is not None and not self.has_changed and session.is_usable:
            return session
        return self._obtain(functions, None, is_apply=True)

    def _obtain(self, functions: Functions, lifespan: int | None, *, is_apply: bool = False) -> Session:
        """Return workers for a call: those that are there, if they will do, else new ones."""
        with self._lock:
            if self._session is not None and not self._session.is_usable:
                self._drop(self._session)
            session = self._session
            if session is not None and self.has_changed:
                logger.warning("WorkerPool parameters changed while keep_alive=True. Restarting workers.")
                self._end(session, self._functions or functions)
                session = None
            self.has_changed = False
            if session is None:
                session = self._last = self._session = Session(self._params, functions, lifespan)
                self._functions = functions
            elif not is_apply:
                session.live_for(lifespan)
                self._warn_of_changes(functions)
                self._functions = functions
            return session

    def _warn_of_changes(self, functions: Functions) -> None:
        before = self._functions
        if before is not None and (before.worker_init, before.worker_exit) != (functions.worker_init, functions.worker_exit):
            warnings.warn(
                "worker_init or worker_exit changed while the workers are kept alive: the new worker_init is for workers that "
                "start later, the new worker_exit for workers that end later",
                RuntimeWarning,
                stacklevel=6,
            )

    def finish(self, *, keep_alive: bool) -> None:
        """Wait for all tasks; end the workers, unless they are to stay."""
        session = self._session
        if session is None:
            return
        if keep_alive:
            session.wait_for_tasks()
        else:
            assert self._functions is not None
            self._end(session, self._functions)

    def leave(self) -> None:
        """End the workers: politely if they have nothing to do, else now."""
        if self._running is None and self._session is not None and self._session.is_idle and self._session.is_usable:
            self.finish(keep_alive=False)
        else:
            self.terminate()

    def terminate(self) -> None:
        """End the workers now."""
        self._drop(self._session)
        self._running = None

    def _end(self, session: Session, functions: Functions) -> None:
        """End workers when they are done; if they were ended meanwhile, that was it."""
        if self._session is session:
            try:
                session.close(functions)
            finally:
                self._session = None

    def _drop(self, session: Session | None) -> None:
        if session is not None and self._session is session:
            self._session = None
            if session.is_owned:
                session.kill()
