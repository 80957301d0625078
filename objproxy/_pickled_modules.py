"""Which modules a pickle needs, found without loading it."""

from __future__ import annotations

#: Longer pickles are not read: what they need is then imported by each worker for itself.
_MAX_BYTES = 65_536

#: Opcodes that name a class or function, and those that give back what was named before.
_BY_STACK = b"\x93"
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})


def find_modules(pickled: bytes | memoryview) -> list[str]:
    """Return the modules of the classes and functions that a pickle names, in their order.

    Parameters
    ----------
    pickled : bytes-like
        A pickle of protocol 4 or 5; of a long one nothing is returned.
    """
    data = bytes(pickled) if len(pickled) <= _MAX_BYTES else b""
    if _BY_STACK not in data:
        return []

    import pickletools  # most pickles name nothing

    texts: list[str] = []  # pushed last: module and name, where a name is looked up
    memo: list[str | None] = []
    found: dict[str, None] = {}
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name in _STRINGS:
            texts = [*texts[-1:], str(argument)]
            last: str | None = str(argument)
        elif opcode.name in _PUTS:
            memo.append(last)
        elif opcode.name in _GETS:
            last = memo[int(argument or 0)] if int(argument or 0) < len(memo) else None
            texts = texts if last is None else [*texts[-1:], last]
        else:
            if opcode.name == "STACK_GLOBAL" and len(texts) == 2:
                found[texts[0]] = None
            last = None
    return list(found)
