"""Documents and their vocabulary, as spaCy has them: many small results that refer to one heavy object which grows."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np

import objproxy


@objproxy.register_shared
class Vocab:
    """Strings by number; a document brings those that it uses, as spaCy's does."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self.vectors = np.zeros(1 << 16)

    def add(self, word: str) -> int:
        if word not in self.strings:
            self.strings.append(word)
        return self.strings.index(word)


class GrowingVocab(Vocab):
    """One whose documents do not bring their strings."""


objproxy.register_shared(GrowingVocab, version=lambda vocab: len(vocab.strings))


class Doc:
    def __init__(self, vocab: Vocab, words: list[str]) -> None:
        self.vocab = vocab
        self.numbers = [vocab.add(word) for word in words]
        self.tensor = np.arange(40_000.0)
        self.hooks: dict[str, Any] = {}

    @property
    def text(self) -> str:
        return " ".join(self.vocab.strings[number] for number in self.numbers)

    def __reduce__(self) -> Any:
        # As spaCy does it: the vocabulary, hooks, and everything else as bytes, with the strings that are used.
        strings = [] if isinstance(self.vocab, GrowingVocab) else [self.vocab.strings[number] for number in self.numbers]
        return _rebuild, (self.vocab, self.hooks, strings, self.numbers, self.tensor)


def _rebuild(vocab: Vocab, hooks: dict[str, Any], strings: list[str], numbers: list[int], tensor: Any) -> Doc:
    doc = Doc(vocab, strings)
    doc.numbers, doc.hooks, doc.tensor = doc.numbers or numbers, hooks, tensor
    return doc


class Parser:
    """Makes documents."""

    def __init__(self, kind: type[Vocab] = Vocab) -> None:
        self.kind = kind
        self.vocab = kind()

    def parse(self, text: str) -> Doc:
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Doc(self.vocab, text.split())

    def parse_twice(self, text: str) -> list[Doc]:
        return [self.parse(text), self.parse(text)]

    def parse_all(self, texts: list[str]) -> Iterator[Doc]:
        yield from map(self.parse, texts)

    async def parse_later(self, text: str) -> Doc:
        return self.parse(text)

    def parse_alone(self, text: str) -> Doc:
        return Doc(self.kind(), text.split())


class Growing:
    """Returns what it goes on changing."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def note(self, item: int) -> list[int]:
        self.seen.append(item)
        return self.seen

    def note_all(self, items: list[int]) -> Iterator[list[int]]:
        yield from map(self.note, items)


@objproxy.register_shared
class Left:
    def __init__(self) -> None:
        self.right = Right(self)


@objproxy.register_shared
class Right:
    def __init__(self, left: Left) -> None:
        self.left = left


class Pairs:
    """Has two shared objects that refer to each other."""

    def __init__(self) -> None:
        self.left = Left()

    def one(self, item: int) -> tuple[int, Any]:
        return item, self.left if item % 2 else self.left.right


@objproxy.register_shared
class Stubborn:
    """Cannot be pickled, or not rebuilt where it was not made."""

    def __init__(self, *, pickles: bool) -> None:
        self.pickles = pickles

    def __reduce__(self) -> Any:
        if not self.pickles:
            raise TypeError("not to be pickled")
        return _rebuild_in, (os.getpid(),)


def _rebuild_in(pid: int) -> Stubborn:
    if pid != os.getpid():
        raise ValueError("not to be rebuilt here")
    return Stubborn(pickles=True)


class Stubborns:
    def __init__(self) -> None:
        self.unpickled, self.unloaded = Stubborn(pickles=False), Stubborn(pickles=True)

    def unpickled_at(self, item: int) -> Any:
        return [item, self.unpickled] if item % 2 else item

    def unloaded_at(self, item: int) -> Any:
        return [item, self.unloaded] if item % 2 else item


class Reader:
    """Takes documents as arguments."""

    def __init__(self) -> None:
        self.vocabs: dict[int, Vocab] = {}

    def read(self, doc: Doc, *, salt: Any = None) -> tuple[str, int]:
        self.vocabs[id(doc.vocab)] = doc.vocab
        return doc.text, len(self.vocabs)

    def n_alive(self) -> int:
        gc.collect()
        self.vocabs.clear()
        return sum(isinstance(value, Vocab) for value in gc.get_objects())

    def same(self, left: Any, right: Any) -> bool:
        return left.right is right and right.left is left


@objproxy.register_shared
class Leaver:
    """Writes a word when it is deleted."""

    def __init__(self, path: str) -> None:
        self.path, self.pid = path, os.getpid()

    def __del__(self) -> None:
        if os.getpid() == self.pid:
            with open(self.path, "a") as file:
                file.write("deleted\n")


class LeaverOwner:
    def __init__(self, path: str) -> None:
        self.leaver = Leaver(path)

    def give(self) -> Leaver:
        return self.leaver
