"""Log what the rules of a pool find worth a warning, on the logger ``"objproxy"``."""

from __future__ import annotations

import logging

from objproxy._engine import messages as m
from objproxy._engine.failures import END_STEPS
from objproxy.handling import traceback_of

_logger = logging.getLogger("objproxy")

Told = m.Warn | m.WarnOfEnd | m.TellEndFailed


def tell(action: Told) -> None:
    """Log one warning; handlers are code of the user's."""
    worker_id = action.worker_id
    extra = {"worker_id": worker_id}
    if isinstance(action, m.Warn):
        text = "worker %d has been silent for %.3g s: it runs %s, item %d; pool.dump_stacks() shows where it stands"
        _logger.warning(text, worker_id, action.seconds, action.method, action.item, extra=extra)
    elif isinstance(action, m.WarnOfEnd):
        text = "worker %d was asked to end and is still there: %s for %.3g s%s%s%s"
        _logger.warning(text, worker_id, END_STEPS[action.step], action.seconds, *_describe(action), extra=extra)
    else:
        error = action.error
        text = "the end of worker %d, which was recycled or has left the pool, has failed"
        _logger.warning(text, worker_id, exc_info=(type(error), error, traceback_of(error)), extra=extra)


def _describe(action: m.WarnOfEnd) -> tuple[str, str, str]:
    """Return what its process does, what becomes of it, and where its threads stand."""
    activity = "" if action.activity is None else f" (its process is {action.activity})"
    end = "; it is killed" if action.is_killed else "; close() waits for it, close(timeout=...) and kill() do not"
    return activity, end, f"\n{action.stack.rstrip()}" if action.stack else ""
