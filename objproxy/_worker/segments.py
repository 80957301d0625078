"""Memory that several processes see: the seam for what only some systems have.

All shared memory of a program lies in one space of offsets, 2^63 bytes wide, of which almost nothing is ever used. A *segment*
is a stretch of it. Whoever knows an offset can map the segment, read it, or give its memory back; who may do what, and when, is
not the business of this file (`arena`, `loans`).

- `MemorySegments` (Linux): the space is one anonymous file that every worker inherits. So a program needs one descriptor
  however many segments it has, a segment costs nothing before it is filled, and the kernel frees everything with the last
  process.
- `NamedSegments` (elsewhere, or with OBJPROXY_PORTABLE=1): each segment is a file with a name made of its offset. Names survive
  their program, so the root nursery removes them when the program has ended, and the next program those that were missed. It
  also serves where no file may be so large (``ulimit -f``), or where anonymous files are not allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from objproxy._worker import natives, platform
from objproxy._worker.descriptors import allocate, make_memory_file, open_file

PAGE = mmap.PAGESIZE

#: Width of the part of the space in which one process makes segments.
RANGE = 1 << 42

_SPACE = (1 << 63) - RANGE
N_RANGES = _SPACE // RANGE

#: A fault maps up to 16 pages of a file that are in memory; with twice as many pages to each, half of a mapping was read.
_PAGES_PER_FAULT = 32

#: Of a larger segment pages are mapped one by one when they are touched: a process may only want a part of it.
_POPULATE_MAX = 1 << 30

_REMOVED = (
    "somebody else has removed the shared memory that this call needs: call again, or make the SharedArray, or what was put(), "
    "anew, and see that nothing (a cleaner of temporary files, RemoveIPC= of systemd) removes the files of programs that run"
)

_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED = 0x10
_POPULATE_READ = 22  # a request of madvise: do what reading would do
_POPULATE_WRITE = 23  # a request of madvise: do what writing would do, and change nothing
_FALLOC_PUNCH_HOLE = 0x02 | 0x01  # and keep the size

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
if sys.platform == "linux":
    _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Segments(Protocol):
    """A space of shared memory.

    Attributes
    ----------
    fd : int or None
        What a worker has to inherit.
    prefix : str
        What a worker has to know; "" if the descriptor is enough.
    is_inherited : bool
        Whether this is the copy of a forked child, to which nothing belongs.
    """

    fd: int | None
    prefix: str
    is_inherited: bool

    @property
    def largest(self) -> int:
        """The most bytes that one segment may have; whole pages."""
        ...

    def make(self, offset: int, nbytes: int) -> None:
        """Make a segment, without memory yet."""
        ...

    def make_table(self, offset: int, nbytes: int) -> None:
        """Make a segment whose memory is there when it is touched."""
        ...

    def reserve(self, offset: int, start: int, stop: int) -> None:
        """Give memory to the bytes from `start` to `stop` of a segment, or raise OSError: nobody ever meets a SIGBUS."""
        ...

    def is_there(self, offset: int) -> bool:
        """Return whether other processes can open a segment that was made."""
        ...

    def map(self, offset: int, nbytes: int, *, is_shared: bool, is_full: bool = False) -> Mapping:
        """Map a segment: shared, or as a copy whose pages are made when they are written.

        `is_full` says that every page has memory, so that all of them are mapped at once, without a page fault for each.
        """
        ...

    def read_into(self, offset: int, buffer: Any, start: int = 0) -> None:
        """Copy the bytes of a segment from byte `start` on into a writable buffer."""
        ...

    def discard(self, offset: int, nbytes: int) -> None:
        """Give the memory of a segment back to the system."""
        ...

    def discard_all(self, start: int, stop: int) -> None:
        """Give the memory of all segments between two offsets back."""
        ...

    def free_bytes(self) -> int | None:
        """Return how much memory new segments can get; None where nobody can tell."""
        ...

    def close(self) -> None:
        """Let go; what is mapped stays mapped."""
        ...


class Mapping(mmap.mmap):
    """A mapped segment. Arrays that lie in it keep it alive; `on_gone` is called when the last of them is gone."""

    on_gone: Callable[[], object] | None = None
    again: Callable[[], Mapping] | None = None  # maps the same segment once more
    _n_faults = 0  # of this process when the last copy was made
    _is_read = False

    def copy(self) -> Any:
        """Return a copy of a copy-on-write mapping that nobody has written to: one more of the same segment, if possible."""
        if self.again is not None and self.on_gone is not None:
            with contextlib.suppress(OSError):  # as many mappings as the system allows, or the segment's file was removed
                mapping = self.again()
                mapping.on_gone = _Keep(self)
                if self._is_read_whole():
                    mapping.fault_in()
                return mapping
        return bytearray(self)

    def _is_read_whole(self) -> bool:
        """Return whether users of copies have read all of them, as far as the page faults since the last copy tell.

        Mapping all pages at once is ten times faster then; who reads a few pages of a large table shall not pay for that.
        """
        import resource  # not needed when a program starts

        before, self._n_faults = self._n_faults, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if before and self._n_faults - before > len(self) // PAGE // _PAGES_PER_FAULT:
            self._is_read = True
        return self._is_read and len(self) <= _POPULATE_MAX

    def fault_in(self) -> None:
        """Map every page for reading, with one call of the system."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not Linux, or one before 5.14
            self.madvise(_POPULATE_READ)

    def __del__(self) -> None:
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    def make_private(self) -> None:
        """Copy every page of a copy-on-write mapping, so that nothing of it depends on the segment any more."""
        try:
            self.madvise(_POPULATE_WRITE)
        except (AttributeError, OSError, ValueError):  # not Linux, or one before 5.14
            for at in range(0, len(self), PAGE):
                self[at] = self[at]
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()


class _Keep:
    """Keeps a mapping, and with it the loan of its segment."""

    __slots__ = ("_mapping",)

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping

    def __call__(self) -> None:
        """Let go."""
        del self._mapping


#: Mappings that could not be made; they are never given back.
_broken: list[Mapping] = []

#: Copies that still share pages with their segments, and so with whoever will use these next.
_copies: weakref.WeakSet[Mapping] = weakref.WeakSet()


def map_file(fd: int, offset: int, nbytes: int, flags: int) -> Mapping:
    """Map a file without keeping a descriptor for it, which `mmap.mmap` can do since Python 3.13."""
    if sys.version_info >= (3, 13):
        return Mapping(fd, nbytes, flags=flags, prot=_READ_WRITE, offset=offset, trackfd=False)

    mapping = Mapping(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    if _libc.mmap(address, nbytes, _READ_WRITE, flags | _MAP_FIXED, fd, offset) != address:
        number = ctypes.get_errno()
        # Whether the old mapping is still there is not known, so it must not be taken down: another thread may be there by now.
        _broken.append(mapping)
        raise OSError(number, f"mmap: {os.strerror(number)}")
    return mapping


def whole_pages(nbytes: int) -> int:
    """Round up to whole pages."""
    return -(-nbytes // PAGE) * PAGE


def _flags(nbytes: int, is_shared: bool, is_full: bool) -> int:
    populate = getattr(mmap, "MAP_POPULATE", 0) if is_full and nbytes <= _POPULATE_MAX else 0
    return (mmap.MAP_SHARED | populate) if is_shared else mmap.MAP_PRIVATE


def _noted(mapping: Mapping, is_shared: bool) -> Mapping:
    if not is_shared:
        _copies.add(mapping)
    return mapping


def _read(fd: int, offset: int, buffer: Any) -> None:
    rest = memoryview(buffer).cast("B")
    while rest:
        n_read = os.preadv(fd, [rest], offset)
        if not n_read:
            raise OSError(errno.EIO, "a shared segment is shorter than was said")
        rest, offset = rest[n_read:], offset + n_read


class MemorySegments:
    """One anonymous file for everything.

    Parameters
    ----------
    fd : int or None
        The file, inherited; None makes a new one.
    """

    prefix = ""
    largest = RANGE

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = make_memory_file("objproxy-arena", _SPACE)
        self.fd: int | None = fd
        self.is_inherited = False
        _spaces.add(self)

    def make(self, offset: int, nbytes: int) -> None:
        """Do nothing: the whole space is there."""

    def make_table(self, offset: int, nbytes: int) -> None:
        """Do nothing: anonymous memory has no file system that could be full."""

    def reserve(self, offset: int, start: int, stop: int) -> None:
        """Allocate the pages."""
        assert self.fd is not None
        allocate(self.fd, offset + start, stop - start)

    def is_there(self, offset: int) -> bool:
        """Return True: nobody else can get at it."""
        return True

    def map(self, offset: int, nbytes: int, *, is_shared: bool, is_full: bool = False) -> Mapping:
        """Map a part of the file."""
        assert self.fd is not None
        return _noted(map_file(self.fd, offset, nbytes, _flags(nbytes, is_shared, is_full)), is_shared)

    def read_into(self, offset: int, buffer: Any, start: int = 0) -> None:
        """Read a part of the file."""
        assert self.fd is not None
        _read(self.fd, offset + start, buffer)

    def discard(self, offset: int, nbytes: int) -> None:
        """Punch a hole into the file."""
        self.discard_all(offset, offset + nbytes)

    def discard_all(self, start: int, stop: int) -> None:
        """Punch a hole into the file."""
        if self.fd is None:
            return  # the kernel frees it with the last mapping
        _libc.fallocate(self.fd, _FALLOC_PUNCH_HOLE, start, stop - start)

    def free_bytes(self) -> int | None:
        """Return the memory that is available."""
        return platform.available_bytes()

    def close(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, None
        if fd is not None:
            natives.close(fd)


class NamedSegments:
    """One file for each segment.

    Parameters
    ----------
    prefix : str
        Beginning of every name, with the folder; "" makes a new one.
    """

    fd: int | None = None

    def __init__(self, prefix: str = "") -> None:
        self.is_inherited = False
        _spaces.add(self)
        self.prefix = prefix or f"{find_folder()}/objproxy-{os.getpid()}-{_pid_namespace()}-{os.urandom(8).hex()}-"

    @property
    def largest(self) -> int:
        """The most bytes that a segment may have, which is a file: what ``ulimit -f`` says now, in whole pages."""
        import resource  # not needed when a program starts

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return RANGE if limit == resource.RLIM_INFINITY else min(limit // PAGE * PAGE, RANGE)

    def _path(self, offset: int) -> str:
        return f"{self.prefix}{offset:016x}"

    def _open(self, offset: int, flags: int) -> int:
        try:
            return open_file(self._path(offset), flags)
        except FileNotFoundError as exc:
            raise FileNotFoundError(exc.errno, _REMOVED, self._path(offset)) from None

    def make(self, offset: int, nbytes: int) -> None:
        """Make the file; it is new, and nobody else may read it."""
        fd = open_file(self._path(offset), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, nbytes)
        finally:
            natives.close(fd)

    def make_table(self, offset: int, nbytes: int) -> None:
        """Make the file with all its pages: who touches one in a file system that is full is killed."""
        self.make(offset, nbytes)
        self.reserve(offset, 0, nbytes)

    def reserve(self, offset: int, start: int, stop: int) -> None:
        """Allocate the pages."""
        fd = self._open(offset, os.O_RDWR)
        try:
            allocate(fd, start, stop - start)
        finally:
            natives.close(fd)

    def is_there(self, offset: int) -> bool:
        """Return whether its file is there."""
        return os.path.exists(self._path(offset))

    def map(self, offset: int, nbytes: int, *, is_shared: bool, is_full: bool = False) -> Mapping:
        """Map the file."""
        fd = self._open(offset, os.O_RDWR)
        try:
            return _noted(map_file(fd, 0, nbytes, _flags(nbytes, is_shared, is_full)), is_shared)
        finally:
            natives.close(fd)

    def read_into(self, offset: int, buffer: Any, start: int = 0) -> None:
        """Read the file."""
        fd = self._open(offset, os.O_RDONLY)
        try:
            _read(fd, start, buffer)
        finally:
            natives.close(fd)

    def discard(self, offset: int, nbytes: int) -> None:
        """Remove the file."""
        if not self.is_inherited:
            with contextlib.suppress(OSError):
                os.unlink(self._path(offset))

    def discard_all(self, start: int, stop: int) -> None:
        """Remove the files."""
        if self.is_inherited:
            return
        for path in _files(self.prefix):
            with contextlib.suppress(ValueError, OSError):
                if start <= int(path.rpartition("-")[2], 16) < stop:
                    os.unlink(path)

    def free_bytes(self) -> int | None:
        """Return what both the memory and the folder's file system have room for."""
        available = platform.available_bytes()
        state = os.statvfs(os.path.dirname(self.prefix))
        in_folder = state.f_bavail * state.f_frsize
        return in_folder if available is None else min(available, in_folder)

    def close(self) -> None:
        """Remove every file; what is mapped stays."""
        if not self.is_inherited:
            remove_files(self.prefix)


def find_folder() -> str:
    """Return the folder for files that are shared memory.

    Raises
    ------
    OSError
        There is none that this process may write to.
    """
    memory = "/dev/shm"
    if os.path.isdir(memory) and os.access(memory, os.W_OK):
        return memory
    import tempfile  # slow to load, and seldom needed

    try:
        return tempfile.gettempdir()
    except FileNotFoundError as exc:
        text = (
            f"there is no folder for shared memory: {memory} cannot be written, and {exc.strerror}; set TMPDIR to one that can"
        )
        raise OSError(errno.EROFS, text) from exc


def _files(prefix: str) -> list[str]:
    folder, start = os.path.split(prefix)
    return [f"{folder}/{name}" for name in os.listdir(folder) if name.startswith(start)]


def remove_files(prefix: str) -> None:
    """Remove every named segment of one program."""
    for path in _files(prefix):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _pid_namespace() -> str:
    """Return what tells apart the namespaces of process ids (of containers) that share a folder of shared memory."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:  # there are none here
        return "0"


def sweep() -> None:
    """Remove the segments of programs that have ended and could not do it; only this user's own, of this namespace of pids."""
    here = _pid_namespace()
    for path in _files(f"{find_folder()}/objproxy-"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, namespace = os.path.basename(path).split("-")[1:3]
            if namespace == here and os.stat(path).st_uid == os.getuid() and not platform.is_process_alive(int(pid)):
                os.unlink(path)


def open_segments(fd: int | None = None, prefix: str = "") -> Segments:
    """Open the space of shared memory that this program, or its owner, has; without arguments make a new one."""
    if fd is not None:
        return MemorySegments(fd)
    if not prefix and platform.has_memory_files() and _may_try_sizes():
        try:
            return MemorySegments()
        except OSError as exc:  # the size of files is limited, or anonymous ones are not allowed here
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise
    return NamedSegments(prefix)


def _may_try_sizes() -> bool:
    """Return False where a file that is too large would kill this process: its host has started Python without signals."""
    if signal.getsignal(signal.SIGXFSZ) is not signal.SIG_DFL:
        return True
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


#: Every space that this process has opened.
_spaces: weakref.WeakSet[Any] = weakref.WeakSet()

#: Set while this process forks a child of our own, which never looks at the arrays of the program.
is_forking_own_child = False


def _before_fork() -> None:
    """Give all arrays that share pages with a segment pages of their own.

    A child would go on reading its inherited view of them, and nobody would know when it is done, and so when the segment
    may be used again.
    """
    if not is_forking_own_child:
        for mapping in list(_copies):
            mapping.make_private()
        _copies.clear()


def _after_fork_in_child() -> None:
    for space in list(_spaces):
        space.is_inherited = True
        if space.fd is not None:
            space.close()
    _spaces.clear()
    _copies.clear()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
