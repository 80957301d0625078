"""An endless stream through a pool: the parent's memory stays where it is.

A generator that never ends makes records of one kilobyte. Each worker keeps a live object that compresses them and
counts what it has seen. `imap` pulls at most `buffersize` records ahead of the loop that takes the results, so
nothing piles up, however long it runs. The table shows the memory of this process (RSS, from /proc) as the items go
by.

    python examples/endless_stream.py
    python examples/endless_stream.py --items 1000000 --buffersize 500

"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from objproxy import ProxyPool

RECORD_BYTES = 1024
MEGABYTE = 1024**2


class Compressor:
    """Compresses records and remembers how much went in and out.

    Parameters
    ----------
    level : int
        Effort, 1 to 9.
    """

    def __init__(self, level: int) -> None:
        self.level = level
        self.bytes_in = 0
        self.bytes_out = 0

    def compress(self, record: bytes) -> bytes:
        """Return the record, compressed."""
        packed = zlib.compress(record, self.level)
        self.bytes_in += len(record)
        self.bytes_out += len(packed)
        return packed


class Records(Iterator[bytes]):
    """Records without end: half random, half repetition. It counts how many were pulled."""

    def __init__(self, seed: int) -> None:
        self.n_pulled = 0
        self._random = random.Random(seed)

    def __next__(self) -> bytes:
        """Return the next record."""
        self.n_pulled += 1
        return self._random.randbytes(RECORD_BYTES // 2) * 2


def resident_megabytes() -> float:
    """Return the memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="An endless stream through a pool, with flat memory")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--items", type=int, default=50_000, help="results after which it ends (default: 50000)")
    parser.add_argument("--buffersize", type=int, default=256, help="most records on their way (default: 256)")
    parser.add_argument("--rows", type=int, default=10, help="rows of the table (default: 10)")
    options = parser.parse_args(argv)

    records = Records(seed=1)
    every = max(1, options.items // options.rows)
    print("    items   items/s   pulled ahead    sent   RSS")
    n_bytes = 0
    start, first, peak = time.perf_counter(), 0.0, 0.0
    with ProxyPool(Compressor, worker_count=options.workers, init_args=(1,)) as pool:
        results = pool.compress.options(buffersize=options.buffersize).imap(records)
        for n_items, packed in enumerate(itertools.islice(results, options.items), 1):
            n_bytes += len(packed)
            if n_items % every == 0:
                rate, ahead = n_items / (time.perf_counter() - start), records.n_pulled - n_items
                sent, rss = records.n_pulled * RECORD_BYTES / MEGABYTE, resident_megabytes()
                first, peak = first or rss, max(peak, rss)
                print(f"{n_items:>9} {rate:>9.0f} {ahead:>14} {sent:>4.0f} MB {rss:>3.0f} MB", flush=True)
        results.close()
        print(f"compressed to {n_bytes / (options.items * RECORD_BYTES):.0%}; memory grew by {peak - first:.1f} MB")
        print(f"read by each worker: {', '.join(f'{count / MEGABYTE:.1f} MB' for count in pool.bytes_in)}")


if __name__ == "__main__":
    main()
