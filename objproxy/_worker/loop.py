"""The loop of a worker process: read a frame, do what it says, answer; until the parent says stop or is gone."""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import sys
import threading
import time
from typing import Any

from objproxy._worker import boot as booting
from objproxy._worker import context, platform, wire
from objproxy._worker.chunk import ChunkRunner
from objproxy._worker.execute import Host
from objproxy._worker.journal import Journal
from objproxy._worker.outcome import encode_error, type_name
from objproxy.errors import ResultPickleError


class WorkerLoop:
    """Serves one object on one channel.

    Parameters
    ----------
    channel : WorkerChannel
        To the parent.
    journal : Journal
        What is left behind if this process dies.
    host : Host
        The object.
    max_rss : int or None
        Bytes of memory above which this process asks to be replaced.
    """

    def __init__(self, channel: wire.WorkerChannel, journal: Journal, host: Host, max_rss: int | None) -> None:
        self._max_rss = max_rss
        self._channel = channel
        self._journal = journal
        self._host = host
        self._chunks = ChunkRunner(host, channel, journal)
        self._item_base: tuple[int, int] | None = None
        host.worker._locate_item = self._locate_item

    def run(self) -> None:
        """Serve until the parent says stop."""
        while True:
            kind, body = self._channel.receive()
            if kind == wire.CALL:
                self._serve(body)
                if self._max_rss is not None:
                    self._watch_memory(self._max_rss)
            elif kind == wire.STOP:
                return

    def _watch_memory(self, max_rss: int) -> None:
        """Ask for a replacement, once, when this process has grown too large."""
        if (platform.resident_bytes() or 0) > max_rss:
            self._max_rss = None
            self._channel.send(wire.OUTGROWN)

    def _serve(self, body: bytes) -> None:
        seq, call_number, start, count = wire.CALL_HEAD.unpack_from(body)
        self._journal.begin(seq)
        began = time.perf_counter()
        try:
            operation = wire.Operation(*pickle.loads(memoryview(body)[wire.CALL_HEAD.size :]))
        except BaseException as exc:  # whatever the user's __setstate__ raises is the error of its items
            self._answer(seq, began, wire.ERRORS, encode_error(exc), count)
            return

        del body  # may be large, and the call may take long
        self._item_base = (call_number, start) if call_number else None
        if operation.verb == "map":
            self._chunks.run(seq, operation, count)
        else:
            self._answer(seq, began, *self._perform(operation))
        self._item_base = None

    def _answer(self, seq: int, began: float, lane: int, data: bytes, count: int = 1) -> None:
        head = wire.REPLY_HEAD.pack(seq, True, int((time.perf_counter() - began) * 1e9))
        self._channel.send(wire.REPLY, head, wire.SEGMENT_HEAD.pack(lane, count, len(data)), data)

    def _perform(self, operation: wire.Operation) -> tuple[int, bytes]:
        """Carry one operation out; return the lane and the bytes of its outcome."""
        try:
            value = self._host.perform(operation)
        except BaseException as exc:  # SystemExit and KeyboardInterrupt too are the call's error; the worker lives
            return wire.ERRORS, encode_error(exc)
        try:
            return wire.PICKLES, wire.dumps(value)
        except BaseException as exc:
            worker_id = self._host.worker.worker_id
            error = ResultPickleError(worker_id, operation.name, type_name(value), str(exc))
            return wire.ERRORS, encode_error(error)

    def _locate_item(self) -> tuple[int, int] | None:
        if self._item_base is None:
            return None
        call_number, start = self._item_base
        return call_number, start + self._journal.done


def run_worker(channel_fd: int, journal_fd: int) -> None:
    """Be a worker process: boot from the first frame, serve, leave. Never returns.

    Parameters
    ----------
    channel_fd : int
        The worker's end of its channel.
    journal_fd : int
        Shared memory for its journal.
    """
    faulthandler.enable()
    channel = wire.WorkerChannel(channel_fd, threading.Lock())
    journal = Journal(journal_fd)
    os.close(journal_fd)
    status = 0
    try:
        booted = _boot(channel)
        if booted is not None:
            host, boot = booted
            WorkerLoop(channel, journal, host, boot.max_rss).run()
            host.finish()
    except wire.ChannelClosedError:
        status = 1
    except BaseException:  # the object's own close() raised: say so, and leave all the same
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        leave(status)


def _boot(channel: wire.WorkerChannel) -> tuple[Host, booting.Boot] | None:
    """Bring the worker up and tell the parent; None if the constructor failed."""
    kind, body = channel.receive()
    if kind != wire.BOOT:
        return None
    boot: booting.Boot = pickle.loads(body)
    try:
        booting.apply_environment(boot)
        worker = make_worker(boot, channel)
        _send_logs_home(channel, worker, boot.log_levels)
        host, ready = booting.build_host(boot, worker)
    except BaseException as exc:
        channel.send(wire.INIT_FAILED, encode_error(exc))
        return None

    channel.send(wire.READY, pickle.dumps(ready))
    return host, boot


def make_worker(boot: booting.Boot, channel: wire.WorkerChannel) -> context.Worker:
    """Make the answer to ``current_worker()`` and install it."""

    def on_progress(done: int, total: int | None) -> None:
        channel.send(wire.PROGRESS, pickle.dumps((done, total)))

    worker = context.Worker(
        boot.worker_id,
        boot.n_workers,
        device=pickle.loads(boot.device),
        generation=boot.generation,
        pool_name=boot.pool_name,
        entropy=boot.entropy,
        on_progress=on_progress,
    )
    context.enter_worker(worker, whole_process=True)
    return worker


def _send_logs_home(channel: wire.WorkerChannel, worker: context.Worker, levels: dict[str, int]) -> None:
    from objproxy._worker.logs import send_records_home

    send_records_home(channel, worker, levels)


def leave(status: int) -> Any:
    """End this process as an interpreter would, as far as the user can see, without the parent's leftovers."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # a broken pipe, an exit function that raises: nobody is left to be told
        status = status or 1
    finally:
        os._exit(status)
