"""A script whose classes use what classes and modules have: caches, dispatch, locks, weak references, hooks of their bases.

``python script_of_classes.py START_METHOD`` makes a pool of each and prints those that fail.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import dataclasses
import enum
import functools
import itertools
import logging
import queue
import random
import re
import struct
import sys
import threading
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from objproxy import ProxyPool

LOCK, REENTRANT, CONDITION, EVENT = threading.Lock(), threading.RLock(), threading.Condition(), threading.Event()
SEMAPHORE, BOUNDED, BARRIER = threading.Semaphore(2), threading.BoundedSemaphore(2), threading.Barrier(1)
LOCAL = threading.local()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=7)
BARE_VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("bare_variable")
QUEUE: queue.Queue[int] = queue.Queue()
SIMPLE_QUEUE: queue.SimpleQueue[int] = queue.SimpleQueue()
WEAK_VALUES: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
WEAK_KEYS: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
WEAK_SET: weakref.WeakSet[Any] = weakref.WeakSet()
LOGGER, PATTERN, LAYOUT, NUMBERS = logging.getLogger("script"), re.compile("a+"), struct.Struct("<I"), itertools.count(5, 2)
INPUT, OUTPUT, ERRORS = sys.stdin, sys.stdout, sys.stderr
RANDOM = random.Random(3)
CHECKED: list[Any] = []


def check(made: Any) -> Any:
    """Have a pool made of a class or factory; its `double` shall double."""
    CHECKED.append(made)
    return made


class Thing:
    """Can be referred to weakly."""


THING = Thing()
REFERENCE = weakref.ref(THING)


# ---- caches and dispatch ----------------------------------------------------------------------------------------------


@check
class CachedMethods:
    @functools.lru_cache(maxsize=3)  # noqa: B019
    def double(self, x: int) -> int:
        assert (self.once(x), self.twice(x)) == (x, 2 * x)
        return 2 * x

    @staticmethod
    @functools.cache
    def once(x: int) -> int:
        return x

    @classmethod
    @functools.lru_cache
    def twice(cls, x: int) -> int:
        return 2 * x


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


fibonacci.note = "of the function"  # type: ignore[attr-defined]


@check
class CachedFunction:
    def double(self, x: int) -> int:
        assert fibonacci(80) == 23416728348467685
        assert fibonacci.note == "of the function"  # type: ignore[attr-defined]
        assert fibonacci.cache_info().hits > 10
        fibonacci.cache_clear()
        return 2 * x


@functools.singledispatch
def size(_value: Any) -> int:
    return 0


@size.register
def _(value: int) -> int:
    return 2 * value


@size.register(list)
def _(value: list[Any]) -> int:
    return len(value)


@check
class DispatchedFunction:
    def double(self, x: int) -> int:
        assert (size([1]), size("a")) == (1, 0)
        return size(x)


@check
class DispatchedMethod:
    @functools.singledispatchmethod
    def double(self, _x: Any) -> Any:
        raise TypeError

    @double.register
    def _(self, x: int) -> int:
        return 2 * x

    @double.register(str)
    @classmethod
    def _(cls, x: str) -> str:
        return x + x


@check
class CachedProperty:
    @functools.cached_property
    def factor(self) -> int:
        return 2

    def double(self, x: int) -> int:
        return self.factor * x


@check
class PartialMethod:
    def multiply(self, factor: int, x: int) -> int:
        return factor * x

    double = functools.partialmethod(multiply, 2)


# ---- what each process makes for itself --------------------------------------------------------------------------------


@check
class Locks:
    lock = threading.Lock()
    by_name: ClassVar = {"a": threading.RLock()}

    def double(self, x: int) -> int:
        with LOCK, REENTRANT, SEMAPHORE, BOUNDED, self.lock, self.by_name["a"], CONDITION:
            CONDITION.notify_all()
        EVENT.set()
        assert EVENT.wait(1)
        EVENT.clear()
        BARRIER.wait(1)
        LOCAL.value = x
        return 2 * int(LOCAL.value)


@check
class Variables:
    def double(self, x: int) -> int:
        assert VARIABLE.get() == 7
        assert BARE_VARIABLE.get(None) is None
        token = VARIABLE.set(2)
        try:
            return VARIABLE.get() * x
        finally:
            VARIABLE.reset(token)


@check
class Queues:
    def double(self, x: int) -> int:
        QUEUE.put(x)
        SIMPLE_QUEUE.put(QUEUE.get())
        return 2 * SIMPLE_QUEUE.get()


@check
class WeakReferences:
    def double(self, x: int) -> int:
        thing = Thing()
        WEAK_VALUES["a"] = thing
        WEAK_KEYS[thing] = 1
        WEAK_SET.add(thing)
        assert (len(WEAK_VALUES), len(WEAK_KEYS), len(WEAK_SET)) == (1, 1, 1)
        assert REFERENCE() is THING
        return 2 * x


@check
class Odds:
    def double(self, x: int) -> int:
        LOGGER.debug("x")
        assert PATTERN.match("aa")
        assert (len(LAYOUT.pack(1)), next(NUMBERS) % 2, INPUT is sys.stdin) == (4, 1, True)
        OUTPUT.write("")
        ERRORS.write("")
        RANDOM.random()
        return 2 * x


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.condition = threading.Condition(self.lock)


HOLDER = Holder()


@check
class GlobalInstance:
    def double(self, x: int) -> int:
        with HOLDER.condition:
            assert HOLDER.lock.locked()
        return 2 * x


class OwnLocal(threading.local):
    def __init__(self) -> None:
        self.factor = 2


OWN_LOCAL = OwnLocal()


@check
class SubclassOfLocal:
    def double(self, x: int) -> int:
        return OWN_LOCAL.factor * x


# ---- kinds of classes --------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    GREEN = 2

    @functools.cached_property
    def lock(self) -> Any:
        return LOCK


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Frozen:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Initialised:
    a: int
    factor: dataclasses.InitVar[int] = 2
    c: ClassVar[int] = 3

    def __post_init__(self, factor: int) -> None:
        self.a *= factor


class Pair(typing.NamedTuple):
    a: int
    b: int = 2


class Typed(typing.TypedDict, total=False):
    a: int


@typing.runtime_checkable
class Doubles(typing.Protocol):
    def double(self, x: int) -> int: ...


T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, x: T) -> None:
        self.x = x


@check
class Kinds(Doubles):
    def double(self, x: int) -> int:
        assert Colour(1) is Colour.RED
        assert Colour.GREEN.lock is LOCK
        assert Flags.A | Flags.B == 3
        assert (Frozen(1) < Frozen(2), Initialised(3).a, Pair(1).b, Typed(a=1), Box[int](3).x) == (True, 6, 2, {"a": 1}, 3)
        assert isinstance(self, Doubles)
        with contextlib.suppress(dataclasses.FrozenInstanceError):
            Frozen(1).a = 3  # type: ignore[misc]
            raise AssertionError
        return 2 * x


class Shape(abc.ABC):
    @abc.abstractmethod
    def double(self, x: int) -> int: ...


@Shape.register
class Virtual:
    pass


@check
class Concrete(Shape):
    __slots__ = ("factor",)

    def __init__(self) -> None:
        super().__init__()
        self.factor = 2

    def double(self, x: int) -> int:
        assert isinstance(Virtual(), Shape)
        with contextlib.suppress(TypeError):
            Shape()  # type: ignore[abstract]
            raise AssertionError
        return self.factor * x


class Meta(type):
    """Looks at the body of each class, and keeps account of them."""

    made: ClassVar[list[str]] = []

    def __new__(cls, name: str, bases: Any, body: dict[str, Any], *, key: str = "") -> Any:
        body["key"] = key or name
        assert body["required"]
        cls.made.append(name)
        return super().__new__(cls, name, bases, body)

    def __init__(cls, name: str, bases: Any, body: dict[str, Any], key: str = "") -> None:
        super().__init__(name, bases, body)

    def __call__(cls, *args: Any) -> Any:
        made = super().__call__(*args)
        made.factor = 2
        return made


@check
class OfMeta(metaclass=Meta, key="k"):
    required = True

    def double(self, x: int) -> int:
        assert (self.key, Meta.made) == ("k", ["OfMeta"])  # type: ignore[attr-defined]
        return self.factor * x  # type: ignore[attr-defined,no-any-return]


class Plugin:
    known: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, *, name: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        assert name not in Plugin.known
        Plugin.known[name] = cls


class First(Plugin, name="first"):
    pass


@check
class Second(Plugin, name="second"):
    def double(self, x: int) -> int:
        assert list(Plugin.known) == ["first", "second"]
        assert Plugin.known["second"] is type(self)

        class Third(Plugin, name="third"):
            pass

        assert Plugin.known.pop("third") is Third
        return 2 * x


class Descriptor:
    name = ""

    def __set_name__(self, _owner: Any, name: str) -> None:
        assert not self.name
        self.name = name

    def __get__(self, instance: Any, _owner: Any = None) -> Any:
        return self if instance is None else 2


@check
class Described:
    factor = Descriptor()

    def double(self, x: int) -> int:
        assert type(self).factor.name == "factor"
        return int(self.factor) * x


# ---- functions within functions ------------------------------------------------------------------------------------------


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    calls, lock = [], threading.Lock()

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        with lock:
            calls.append(1)
            return function(*args)

    return wrapper


@check
class Decorated:
    class Inner:
        class Innermost:
            factor = 2

    @guarded
    def double(self, x: int) -> int:
        return self.Inner.Innermost.factor * x


@contextlib.contextmanager
def locked() -> Iterator[int]:
    with LOCK:
        yield 2


@check
class WithinFunctions:
    def double(self, x: int) -> int:
        with locked() as factor:
            return sum((lambda y: sum([size(y) for _ in range(1)]))(factor * each // 2) for each in [x])


def make_class() -> Any:
    lock = threading.Lock()

    class Local:
        def double(self, x: int, _own: Any = threading.Lock()) -> int:  # noqa: B008
            with lock, _own:
                return 2 * x

        @property
        def lock(self) -> Any:
            return LOCK

    return Local


check(make_class())


@check
def factory() -> Any:
    with LOCK:
        return CachedProperty()


bad = []
for made in CHECKED:
    try:
        with ProxyPool(made, worker_count=1, start_method=sys.argv[1]) as pool:
            assert pool.double.map([1, 2]) == [2, 4]
    except BaseException as error:
        bad.append(f"{made.__name__}: {type(error).__name__}: {error}")
print(len(CHECKED), "classes;", "failed:", bad)  # noqa: T201
