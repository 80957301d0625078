"""What uses objects of multiprocessing in a worker."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import shared_memory
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from objproxy import ProxyPool


def add_to(queue: Any, value: int) -> None:
    queue.put(value)


class Sharer:
    """Uses what the program shares through multiprocessing."""

    def __init__(self, shared: Any = None) -> None:
        self.shared = shared

    def note(self, key: Any) -> int:
        self.shared[key] = True
        return len(self.shared)

    def add(self, queue: Any, value: int) -> None:
        queue.put(value)

    def say(self, address: Any, text: str) -> None:
        with Client(address, authkey=multiprocessing.current_process().authkey) as connection:
            connection.send(text)

    def process(self) -> tuple[str, bool]:
        return multiprocessing.current_process().name, multiprocessing.current_process().daemon

    def visible(self) -> tuple[list[str], list[bytes]]:
        """Return the environment of this process, and the command lines of it and of all above."""
        pid, lines = os.getpid(), []
        while pid > 1:
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return [*os.environ, *os.environ.values()], lines

    def increase(self, memory: shared_memory.SharedMemory) -> int:
        assert memory.buf is not None
        memory.buf[0] += 1
        return memory.buf[0]

    def increase_named(self, name: str) -> int:
        memory = shared_memory.SharedMemory(name)
        try:
            return self.increase(memory)
        finally:
            memory.close()

    def total(self, numbers: Any) -> int:
        return sum(numbers)

    def use_children(self) -> list[Any]:
        """Return what a child and a pool of multiprocessing give, made here."""
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        child = context.Process(target=add_to, args=(queue, 5))
        child.start()
        found = queue.get()
        child.join()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return [found, *pool.map(abs, [-1, -2])]

    def note_in_a_pool_of_its_own(self, key: Any) -> int:
        with ProxyPool(Sharer, worker_count=1, init_args=(self.shared,)) as pool:
            inner: Any = pool[0]
            return int(inner.note(key))
