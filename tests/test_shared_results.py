"""Results that share something heavy: it crosses once (`register_shared`). All others are values of their moment."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vocab_targets
from objproxy import ProxyPool, ResultPickleError, WorkerDiedError, register_shared
from objproxy._worker import shared_values
from optional import need
from vocab_targets import Doc, Growing, GrowingVocab, LeaverOwner, Left, Pairs, Parser, Reader, Stubborns, Vocab

TEXTS = [f"text {i} of {i * 7}" for i in range(24)]


#: What the targets have registered; other tests are run without.
REGISTERED = dict(shared_values.registered)
if "PYTEST_CURRENT_TEST" not in os.environ:  # no worker that imports this module
    shared_values.registered.clear()


@pytest.fixture(autouse=True)
def registry() -> Iterator[dict[Any, Any]]:
    """Have the types of the targets be registered during each test, and no other type afterwards."""
    shared_values.registered.update(REGISTERED)
    yield shared_values.registered
    shared_values.registered.clear()


def _stream(method: Any, items: list[Any]) -> list[Any]:
    with method.stream() as stream:
        stream.put(items)
        stream.end()
        return list(stream)


def _awaited(method: Any, items: list[Any]) -> list[Any]:
    async def run() -> list[Any]:
        return [result async for result in method.aimap(items)]

    return asyncio.run(run())


VERBS: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "map": lambda method, items: method.map(items),
    "map of chunks": lambda method, items: method.options(chunksize=7).map(items),
    "imap": lambda method, items: list(method.imap(items)),
    "imap_unordered": lambda method, items: list(method.options(chunksize=5).imap_unordered(items)),
    "stream": _stream,
    "submit": lambda method, items: [future.result() for future in [method.submit(item) for item in items]],
    "aimap": _awaited,
    "rounds": lambda method, items: method.options(map_args=True, synchronize=True, stack_results=False)(items),
}


@pytest.mark.parametrize("portable", [False, True])
def test_an_object_of_a_registered_type_is_one_object_for_each_worker(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if portable:
        monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    with ProxyPool(Parser, worker_count=2) as pool:
        docs: list[Doc] = []
        for verb in VERBS.values():
            found = verb(pool.parse, TEXTS)
            assert sorted(doc.text for doc in found) == sorted(TEXTS)
            docs += found
        docs += pool.parse.broadcast("hello you")
        docs += [pool[0].parse("a new one"), *pool[1].parse_all(["this", "and this"])]
        docs += [doc for pair in pool.parse_twice.map(["one", "two"]) for doc in pair]
        assert [doc.text for doc in docs[-9:]] == [
            "hello you", "hello you", "a new one", "this", "and this", "one", "one", "two", "two"
        ]  # fmt: skip
        assert len({id(doc.vocab) for doc in docs}) == 2


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_every_start_method_shares(start_method: str) -> None:
    with ProxyPool(Parser, worker_count=1, start_method=start_method) as pool:
        docs = pool.parse.map(TEXTS)
    assert [doc.text for doc in docs] == TEXTS
    assert len({id(doc.vocab) for doc in docs}) == 1


def test_an_object_whose_version_has_changed_is_sent_anew() -> None:
    with ProxyPool(Parser, worker_count=2, init_args=(GrowingVocab,)) as pool:
        docs = pool.parse.options(chunksize=4).map([*TEXTS, *TEXTS])
        assert [doc.text for doc in docs] == [*TEXTS, *TEXTS]
        n_strings = {id(doc.vocab): len(doc.vocab.strings) for doc in docs}
        assert len(set(n_strings.values())) > 2  # they are values of their moments
        again = pool.parse.broadcast(TEXTS[0])
        assert [doc.text for doc in again] == [TEXTS[0]] * 2


@pytest.mark.parametrize("portable", [False, True])
def test_a_growing_list_gives_its_value_at_each_return(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if portable:
        monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    for verb in VERBS.values():
        with ProxyPool(Growing, worker_count=1) as pool:
            assert verb(pool.note, list(range(12))) == [list(range(i + 1)) for i in range(12)]
    with ProxyPool(Growing, worker_count=1) as pool:
        assert [pool[0].note(0), pool.note.broadcast(1)[0]] == [[0], [0, 1]]
        assert list(pool[0].note_all([2, 3])) == [[0, 1, 2], [0, 1, 2, 3]]


def test_finished_items_of_a_dead_worker_have_what_they_share() -> None:
    """The shared object goes ahead of the results, which wait in the journal."""
    with ProxyPool(Parser, worker_count=1) as pool:
        outcomes = pool.parse.options(chunksize=20, on_error="return").map([*TEXTS[:10], "die", *TEXTS[10:19]])
        docs = outcomes[:10] + outcomes[11:]
        assert isinstance(outcomes[10], WorkerDiedError)
        assert [doc.text for doc in docs] == TEXTS[:19]
        assert len({id(doc.vocab) for doc in docs[:10]}) == len({id(doc.vocab) for doc in docs[10:]}) == 1
        assert docs[0].vocab is not docs[10].vocab  # it is another worker's
        assert [list(groups) for groups in shared_values.arrived.values()] == [[0]]  # the dead one's is gone


def test_a_result_that_is_kept_keeps_what_it_refers_to_alone() -> None:
    with ProxyPool(Parser, worker_count=1) as pool:
        docs = pool.parse.options(chunksize=8).map(TEXTS[:8])
        kept, others = docs[3], [weakref.ref(doc.tensor) for doc in docs if doc is not docs[3]]
        vocab = weakref.ref(kept.vocab)
        del docs
        gc.collect()
        assert [other() for other in others] == [None] * 7
    assert not shared_values.arrived
    assert kept.text == TEXTS[3]
    del kept
    gc.collect()
    assert vocab() is None


def test_an_object_that_its_worker_has_dropped_is_dropped_here() -> None:
    with ProxyPool(Parser, worker_count=1) as pool:
        docs = pool.parse_alone.options(chunksize=10).map(TEXTS[:20])
        assert len({id(doc.vocab) for doc in docs}) == 20
        vocabs = [weakref.ref(doc.vocab) for doc in docs]
        del docs
        pool[0].parse("one more call")  # what is behind the last answer has been read by now
        gc.collect()
        assert [vocab() for vocab in vocabs] == [None] * 20


def test_more_objects_than_a_worker_notes_are_right_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_values, "MAX_HELD", 2)
    with ProxyPool(Several, worker_count=1, start_method="fork") as pool:
        for _ in range(3):
            docs = pool.parse.options(chunksize=3).map(range(12))
            assert [doc.text for doc in docs] == [f"text {i}" for i in range(12)]


class Several:
    """Has several vocabularies."""

    def __init__(self) -> None:
        self.vocabs = [Vocab() for _ in range(5)]

    def parse(self, item: int) -> Doc:
        return Doc(self.vocabs[item % 5], ["text", str(item)])


def test_shared_objects_may_refer_to_each_other() -> None:
    with ProxyPool(Pairs, worker_count=1) as pool:
        for chunksize in (1, 5):
            results = pool.one.options(chunksize=chunksize).map(range(6))
            assert [item for item, _ in results] == list(range(6))
            assert len({id(part) for _, part in results}) == 2
            right, left = results[0][1], results[1][1]
            assert left.right is right
            assert right.left is left


def test_what_cannot_be_shared_is_the_error_of_the_items_that_refer_to_it() -> None:
    with ProxyPool(Stubborns, worker_count=1) as pool:
        for method in (pool.unpickled_at, pool.unloaded_at):
            results = method.options(on_error="return", chunksize=3).map(range(8))
            assert results[::2] == [0, 2, 4, 6]
            assert all(isinstance(error, ResultPickleError) for error in results[1::2])
            assert all("not to be" in str(error) for error in results[1::2])


def test_an_attribute_that_is_read_is_as_it_is_now() -> None:
    with ProxyPool(Parser, worker_count=1) as pool:
        pool[0].parse("one")
        assert [len(vocab.strings) for vocab in pool.vocab] == [1]
        pool[0].parse("two")
        assert [len(vocab.strings) for vocab in pool.vocab] == [2]


def test_types_may_be_registered_in_the_program_alone(registry: dict[Any, Any]) -> None:
    class Shelf(list[Any]):
        pass

    class Owner:
        def __init__(self) -> None:
            self.shelf = Shelf([os.getpid()])

        def take(self, item: int) -> tuple[int, Any]:
            return item, self.shelf

        def grow(self, item: int) -> tuple[int, Any]:
            self.shelf.append(item)
            return item, self.shelf

    with ProxyPool(Owner, worker_count=1) as pool:
        assert len({id(shelf) for _, shelf in pool.take.map(range(4))}) == 4
    assert register_shared(Shelf, version=lambda shelf: len(shelf)) is Shelf
    with ProxyPool(Owner, worker_count=1) as pool:
        assert len({id(shelf) for _, shelf in pool.take.map(range(4))}) == 1
        assert [len(shelf) for _, shelf in pool.grow.map(range(4))] == [2, 3, 4, 5]


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_workers_in_this_process_return_the_object_itself(backend: str) -> None:
    with ProxyPool(Parser, worker_count=1, backend=backend) as pool:
        docs = pool.parse.map(TEXTS)
        assert [doc.text for doc in docs] == TEXTS
        assert {id(doc.vocab) for doc in docs} == {id(pool.vocab[0])}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a type"):
        register_shared(vocab_targets)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="built-in"):
        register_shared(dict)
    with pytest.raises(TypeError, match="version=3"):
        register_shared(Doc, version=3)  # type: ignore[arg-type]


class Tagger:
    """Uses spaCy itself."""

    def __init__(self) -> None:
        self.nlp = need("spacy").blank("en")

    def parse(self, text: str) -> Any:
        doc = self.nlp(text)
        doc[0].lemma_ = f"lemma-of-{text.split()[0]}"
        return doc


def test_documents_of_spacy_share_their_vocab(registry: dict[Any, Any]) -> None:
    register_shared(need("spacy").Vocab)
    texts = [f"word{i} seen late{i}." for i in range(40)]
    with ProxyPool(Tagger, worker_count=2) as pool:
        docs = pool.parse.options(chunksize=3).map(texts)
    assert [doc.text for doc in docs] == texts
    assert [[token.text for token in doc] for doc in docs] == [[f"word{i}", "seen", f"late{i}", "."] for i in range(40)]
    assert [doc[0].lemma_ for doc in docs] == [f"lemma-of-word{i}" for i in range(40)]
    assert len({id(doc.vocab) for doc in docs}) == 2


@pytest.mark.parametrize("portable", [False, True])
def test_arguments_share_an_object_in_each_worker(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if portable:
        monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    vocab = Vocab()
    docs = [Doc(vocab, text.split()) for text in TEXTS]
    with ProxyPool(Reader, worker_count=2) as pool:
        for verb in VERBS.values():
            found = verb(pool.read, docs)
            assert sorted(text for text, _ in found) == sorted(TEXTS)
            assert {n_vocabs for _, n_vocabs in found} == {1}
        assert pool.read.broadcast(docs[0], salt=object) == [(TEXTS[0], 1)] * 2
        assert pool.read.options(chunksize=4).map(docs, salt=[lambda: 1] * 24)[-1] == (TEXTS[-1], 1)  # goes by value


def test_arguments_whose_version_has_changed_are_sent_anew() -> None:
    vocab = GrowingVocab()
    with ProxyPool(Reader, worker_count=1) as pool:
        found = [pool[0].read(Doc(vocab, text.split())) for text in TEXTS[:5]]
        assert [text for text, _ in found] == TEXTS[:5]
        assert pool[0].n_alive() <= 2


def test_arguments_are_given_up_with_their_pool() -> None:
    vocab = Vocab()
    gone = weakref.ref(vocab)
    with ProxyPool(Reader, worker_count=1) as pool:
        assert pool[0].read(Doc(vocab, ["a", "word"])) == ("a word", 1)
        del vocab
        assert pool[0].read(Doc(Vocab(), ["another"])) == ("another", 2)
        gc.collect()
        assert gone() is None  # a new one is sent, and the old one is used no more
        assert pool[0].n_alive() == 1


def test_arguments_may_refer_to_each_other() -> None:
    left = Left()
    with ProxyPool(Reader, worker_count=2) as pool:
        assert pool.same.options(chunksize=2).map([left] * 6, [left.right] * 6) == [True] * 6


def test_a_worker_that_is_replaced_gets_what_arguments_share() -> None:
    with ProxyPool(Parser, worker_count=1) as parsers, ProxyPool(Reader, worker_count=1, max_tasks_per_worker=3) as readers:
        docs = parsers.parse.map(TEXTS)  # they come from workers, and go to others
        assert readers.read.map(docs) == [(text, 1) for text in TEXTS]


def test_a_shared_object_is_deleted_at_the_end_of_its_worker(tmp_path: Path) -> None:
    with ProxyPool(LeaverOwner, worker_count=1, init_args=(str(tmp_path / "said"),)) as pool:
        given = pool[0].give()
        assert pool[0].give() is given
    assert (tmp_path / "said").read_text() == "deleted\n"
