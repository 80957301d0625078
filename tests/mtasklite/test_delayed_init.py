"""A delayed class is still a class."""

from __future__ import annotations

import abc
import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from objproxy.mtasklite import Pool, delayed_init
from objproxy.mtasklite.delayed_init import ShellObject


@delayed_init
class Scaler:
    """Scales."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, item: int) -> int:
        return self.factor * item


class Shifted(Scaler):
    def __init__(self, factor: int, shift: int) -> None:
        super().__init__(factor)
        self.shift = shift

    def __call__(self, item: int) -> int:
        return super().__call__(item) + self.shift


class Base(abc.ABC):
    @abc.abstractmethod
    def __call__(self, item: Any) -> Any: ...


@delayed_init
class Concrete(Base):
    def __call__(self, item: Any) -> Any:
        return item


@delayed_init
def make_scaler(factor: int) -> Any:
    return Scaler(factor).build()


def test_calling_a_delayed_class_builds_nothing() -> None:
    shell = Scaler(3)
    assert isinstance(shell, ShellObject)
    assert repr(shell) == "<delayed Scaler(3)>"
    assert repr(ShellObject(dict, 1, key=2)) == "<delayed dict(1, key=2)>"


def test_a_shell_builds_its_object_when_it_is_called() -> None:
    shell = Scaler(3)
    assert shell(5) == 15
    assert shell(6) == 18


def test_it_can_be_asked_about_as_a_class() -> None:
    built = Scaler(3).build()
    assert isinstance(built, Scaler)
    assert type(built) is Scaler
    assert issubclass(Shifted, Scaler)
    assert (Scaler.__name__, Scaler.__qualname__, Scaler.__module__, Scaler.__doc__) == (
        "Scaler",
        "Scaler",
        __name__,
        "Scales.",
    )


def test_subclasses_are_delayed_too() -> None:
    shell = Shifted(3, shift=1)
    assert isinstance(shell, ShellObject)
    assert shell(5) == 16
    assert isinstance(shell.build(), Scaler)


def test_its_objects_can_be_copied_and_pickled() -> None:
    built = Scaler(3).build()
    for other in (copy.copy(built), copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert type(other) is Scaler
        assert other(2) == 6


def test_metaclasses_are_kept() -> None:
    assert isinstance(Concrete().build(), Base)
    assert list(Pool(Concrete(), 2)([1, 2])) == [1, 2]

    @delayed_init
    class Abstract(Base):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Abstract().build()


def test_functions_that_make_objects_may_be_delayed() -> None:
    assert make_scaler.__name__ == "make_scaler"
    assert list(Pool(make_scaler(4), 2)([1, 2])) == [4, 8]


def test_shells_of_plain_classes_need_no_decorator() -> None:
    assert list(Pool(ShellObject(Scaler, 2), 2)([1, 2])) == [2, 4]


def test_anything_else_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="delayed_init decorates a class"):
        delayed_init(3)  # type: ignore[arg-type]


def test_local_classes_work() -> None:
    step = 10

    @delayed_init
    class Local:
        def __call__(self, item: int) -> int:
            return item + step

    class Child(Local):
        pass

    with Pool([Local(), Child()]) as pool:
        assert list(pool([1, 2, 3])) == [11, 12, 13]


def test_classes_of_a_script_work_without_a_guard(tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from objproxy.mtasklite import Pool, delayed_init\n"
        "@delayed_init\n"
        "class Scaler:\n"
        "    def __init__(self, factor):\n"
        "        self.factor = factor\n"
        "    def __call__(self, item):\n"
        "        return self.factor * item, self\n"
        "found = list(Pool([Scaler(2), Scaler(2)])([1, 2, 3]))\n"
        "print([number for number, _ in found], all(isinstance(scaler, Scaler) for _, scaler in found))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 4, 6] True\n", "")
