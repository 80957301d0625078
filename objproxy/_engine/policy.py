"""What a caller asked for."""

from __future__ import annotations

from typing import NamedTuple


class Policy(NamedTuple):
    """What a caller asked for; shared by all calls with the same options.

    Attributes
    ----------
    timeout : float or None
        Seconds for one item; then each batch holds one item.
    retries : int
        How often an item may be tried again.
    retry_on : tuple of type
        Which errors are worth another try.
    priority : int
        Larger goes first.
    max_tasks : int or None
        Items after which a worker that runs this call is replaced; None leaves that to the pool.
    label : str
        The name of the call in errors; "" for that of the method.
    advice : str
        What the error of a lost worker recommends; "" for the options of this library.
    concurrency : int
        How many tasks a worker may run at once while it runs one of this call; each batch then holds one item. 0 for one after
        another.
    """

    timeout: float | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()
    priority: int = 0
    max_tasks: int | None = None
    label: str = ""
    advice: str = ""
    concurrency: int = 0


PLAIN = Policy()
