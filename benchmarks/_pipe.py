"""A process at the other end of two pipes: what a call costs at the least."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forked(serve: Callable[[int, int], None]) -> Iterator[tuple[int, int]]:
    """Run ``serve(there_read, back_write)``, which ends its process, in a fork; give the ends to write to and to read from."""
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there_write)
        serve(there_read, back_write)
    os.close(there_read)
    os.close(back_write)
    try:
        yield there_write, back_read
    finally:
        os.close(there_write)
        os.waitpid(pid, 0)
        os.close(back_read)
