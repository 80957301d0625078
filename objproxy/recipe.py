"""How the object of each worker is made: class, arguments, device, seeds, environment."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objproxy._pickle_path import find_culprit
from objproxy._pickled_modules import find_modules
from objproxy._worker import reducers, wire
from objproxy._worker.boot import Boot
from objproxy._worker.context import worker_spawn_key
from objproxy._worker.heritage import find_heritage
from objproxy._worker.lineage import find_depth
from objproxy._worker.shared_values import pack_registry
from objproxy.devices import Device, constructor_value
from objproxy.errors import ArgumentPickleError, SharedMemoryFullError
from objproxy.handling import describe
from objproxy.loggers import find_levels
from objproxy.signatures import ClassInfo

_N_SEED_WORDS = 8


class PoolRecipe:
    """Makes the boot message of every worker of one pool.

    Parameters
    ----------
    info : ClassInfo
        The class.
    name : str
        Name of the pool.
    devices : sequence of Device or None
        Device of each worker, used round robin.
    arguments : sequence of tuple
        (args, kwargs) for each worker; one entry stands for all.
    seed : int or None
        Root of the random streams.
    cpu_ids : sequence of tuple of int, or None
        Processors for each worker; one entry stands for all.
    n_threads : int or None
        Threads of numerical libraries in a worker.
    is_masked : bool
        Whether a worker with a CUDA device sees only that one.
    on_restart : str
        What a replaced worker starts from: "fresh", "replay" or "snapshot".
    max_rss : int or None
        Bytes of memory above which a worker is replaced.
    """

    def __init__(
        self,
        info: ClassInfo,
        *,
        name: str,
        devices: Sequence[Device | None],
        n_workers: int,
        arguments: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
        seed: Any = None,
        cpu_ids: Sequence[tuple[int, ...]] | None = None,
        n_threads: int | None = None,
        is_masked: bool = True,
        on_restart: str = "fresh",
        max_rss: int | None = None,
    ) -> None:
        self.info = info
        self.name = name
        self.n_workers = n_workers
        self.depth = find_depth() + 1
        self.entropy: Any = int.from_bytes(os.urandom(16), "little") if seed is None else seed
        self.snapshots: dict[int, bytes] = {}
        # What each worker has carried out of the broadcasts that its successors carry out again, as the back end encoded it.
        self.replays: defaultdict[int, list[Any]] = defaultdict(list)
        self._devices = devices
        self._arguments = arguments
        self._has_seed = seed is not None
        self._cpu_ids = cpu_ids
        self._n_threads = n_threads
        self._is_masked = is_masked
        self._on_restart = on_restart
        self._max_rss = max_rss
        self._factory: bytes | None = None
        self._registered: dict[tuple[str, str], bytes] | None = None
        self._packed: dict[tuple[int, str | None], Any] = {}
        self._pack: Callable[[Any], Any] = wire.dumps

    @property
    def modules(self) -> list[str]:
        """Modules that every worker will load."""
        inherited = [] if find_heritage() is None else ["multiprocessing.process"]
        return [*inherited, "numpy.random"] if self._has_seed else inherited

    def argument_modules(self) -> list[str]:
        """Return the modules that the constructor's arguments need, as far as it is told by the names in them."""
        streams = [getattr(packed, "stream", packed) for packed in list(self._packed.values())]
        found = dict.fromkeys(name for stream in streams if isinstance(stream, bytes) for name in find_modules(stream))
        return [name for name in found if name in sys.modules and name != "__main__"]

    @property
    def is_of_factory(self) -> bool:
        """Whether a function makes the objects, and not a class."""
        return self.info.cls is None

    @property
    def factory(self) -> bytes:
        """The pickled class."""
        if self._factory is None:
            self._factory = _pack(wire.dumps, self.info.name, self.info.factory, self._name_factory())
        return self._factory

    @property
    def registered(self) -> dict[tuple[str, str], bytes]:
        """What `register_buffers` was given, pickled."""
        if self._registered is None:
            self._registered = reducers.announce(self._pack_registered)
        return self._registered

    def _pack_registered(self, pair: tuple[type, Any]) -> bytes:
        packed: bytes = _pack(wire.dumps, self.info.name, pair, f"what was registered for {pair[0].__qualname__}")
        return packed

    @functools.cached_property
    def shared_types(self) -> tuple[tuple[str, str, Any], ...]:
        """The types whose objects cross once."""
        return pack_registry(lambda name, version: _pack(wire.dumps, self.info.name, version, f"the version of {name}"))

    def _name_factory(self) -> str:
        """Return what an error calls the class."""
        factory = self.info.factory
        name = getattr(factory, "__qualname__", type(factory).__qualname__)
        return f"{'class' if isinstance(factory, type) else 'factory'} {name}"

    def pack_with(self, pack: Callable[[Any], Any]) -> None:
        """Say how arguments travel."""
        self._pack = pack

    def check(self, n_workers: int) -> None:
        """Pickle everything for so many workers now, so that what cannot be sent is told before any process starts."""
        _ = self.factory, self.registered, self.shared_types
        for worker_id in range(n_workers):
            self._packed_arguments(worker_id)

    def join(self, worker_id: int) -> None:
        """Note that a worker joins a pool that has run for a while: it begins with what the first has carried out.

        A worker of that number that has left is nothing to it.
        """
        self.snapshots.pop(worker_id, None)
        self.replays[worker_id] = list(self.replays[0])

    def forget(self) -> None:
        """Let go of everything large: no worker will be made any more."""
        self._packed.clear()
        self.replays.clear()
        self.snapshots.clear()

    def device(self, worker_id: int) -> Device | None:
        """Return the device of a worker."""
        return self._devices[worker_id % len(self._devices)]

    def describe_device(self, worker_id: int) -> str | None:
        """Return the device of a worker as text; None for a CPU worker."""
        device = self.device(worker_id)
        return None if device is None else str(device)

    def arguments(self, worker_id: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the constructor's arguments, with the device filled in where it asks for one."""
        given = self._arguments
        if len(given) > 1 and worker_id >= len(given):
            raise ValueError(f"init_args_each has arguments for {len(given)} workers, there are none for worker {worker_id}")
        args, kwargs = given[worker_id] if len(given) > 1 else given[0]
        name = self._device_parameter(args, kwargs)
        if name is None:
            return args, kwargs
        return args, {**kwargs, name: constructor_value(self.device(worker_id), is_masked=self._is_masked)}

    def _device_parameter(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the name of the constructor's parameter for the device, if it has one that was not given."""
        signature = self.info.constructor_signature
        if signature is None:
            return None
        try:
            bound = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            return None  # the constructor itself will say what is wrong
        for name in ("device", "devices"):
            parameter = signature.parameters.get(name)
            if (
                parameter is not None
                and name not in bound
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ):
                return None if parameter.kind is parameter.POSITIONAL_ONLY else name
        return None

    def _packed_arguments(self, worker_id: int) -> Any:
        """Pack the constructor's arguments, once for all workers that get the same; large arrays are in memory once, too."""
        key = (worker_id if len(self._arguments) > 1 else 0, self.describe_device(worker_id))
        if key not in self._packed:
            self._packed[key] = _pack(self._pack, self.info.name, self.arguments(worker_id), "the constructor's arguments")
        return self._packed[key]

    def cargo(self, worker_id: int, generation: int) -> list[Any]:
        """Return what follows the boot message, packed: arguments or snapshot, and operations to carry out again."""
        snapshot = self._snapshot(worker_id, generation)
        start = self._packed_arguments(worker_id) if snapshot is None else self._pack(snapshot)
        return [start, *self.replay(worker_id)]

    def build(self, worker_id: int, generation: int) -> Any:
        """Build the object here."""
        snapshot = self._snapshot(worker_id, generation)
        if snapshot is not None:
            return pickle.loads(snapshot)
        args, kwargs = self._packed_arguments(worker_id)
        return self.info.factory(*args, **kwargs)

    def boot(self, worker_id: int, generation: int, *, with_pickles: bool = True) -> Boot:
        """Return the boot message of a worker."""
        device = self.device(worker_id)
        return Boot(
            worker_id=worker_id,
            n_workers=self.n_workers,
            generation=generation,
            pool_name=self.name,
            device=pickle.dumps(device) if device is not None else pickle.dumps(None),
            environ=dict(device.mask) if device is not None and self._is_masked else {},
            cpu_ids=self._cpus(worker_id),
            n_threads=self._n_threads,
            entropy=self.entropy,
            seed_words=self._seed_words(worker_id, generation),
            log_levels=find_levels(),
            factory=self.factory if with_pickles else b"",
            registered=self.registered if with_pickles else {},
            has_snapshot=self._snapshot(worker_id, generation) is not None,
            max_rss=self._max_rss,
            depth=self.depth,
            heritage=find_heritage(),
            shared_types=self.shared_types if with_pickles else (),
        )

    def _snapshot(self, worker_id: int, generation: int) -> bytes | None:
        return self.snapshots.get(worker_id) if generation and self._on_restart == "snapshot" else None

    def replay(self, worker_id: int) -> Sequence[Any]:
        """Return the operations that a worker carries out again, as the back end encoded them."""
        return self.replays[worker_id] if self._on_restart == "replay" else ()

    def _cpus(self, worker_id: int) -> tuple[int, ...] | None:
        if self._cpu_ids is None:
            return None
        return self._cpu_ids[worker_id % len(self._cpu_ids)]

    def _seed_words(self, worker_id: int, generation: int) -> tuple[int, ...] | None:
        if not self._has_seed:
            return None
        import numpy as np  # only with a seed

        sequence = np.random.SeedSequence(self.entropy, spawn_key=worker_spawn_key(worker_id, generation))
        return tuple(int(word) for word in sequence.generate_state(_N_SEED_WORDS))


def _pack(pack: Callable[[Any], Any], name: str, value: Any, what: str) -> Any:
    try:
        return pack(value)
    except SharedMemoryFullError:
        raise
    except Exception as exc:
        raise ArgumentPickleError(name, find_culprit(value, what), describe(exc)) from exc
