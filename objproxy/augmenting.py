"""Carry out ``pool.n += 1`` on what each instance holds.

Python turns the statement into three steps: read ``pool.n``, apply ``+=`` to what was read, set ``pool.n``. Were the first
step a plain read, it would give the array of all values, and the last would set that array on every instance. So the first
step gives an `Augmented`, the second writes the operator and its operand into it, and the third sends both to the workers.
"""

from __future__ import annotations

import opcode
from types import FrameType
from typing import Any

_COPY, _LOAD_ATTR, _EXTENDED_ARG = (opcode.opmap.get(name, -1) for name in ("COPY", "LOAD_ATTR", "EXTENDED_ARG"))

_OPERATORS = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor")


class Augmented:
    """Stands for an attribute between the first and the last step of an augmented assignment.

    Attributes
    ----------
    operand : object
        What stands right of the operator.
    operator : str
        Name of the operator in the module ``operator``; empty until it is applied.
    """

    __slots__ = ("operand", "operator")

    def __init__(self) -> None:
        self.operand: Any = None
        self.operator = ""


def _make_step(operator: str) -> Any:
    def step(self: Augmented, operand: Any) -> Augmented:
        self.operand, self.operator = operand, operator
        return self

    return step


for _name in _OPERATORS:
    setattr(Augmented, f"__i{_name}__", _make_step(f"i{_name}"))


def is_augmented(frame: FrameType) -> bool:
    """Tell whether a frame reads an attribute as the first step of an augmented assignment.

    Parameters
    ----------
    frame : frame
        Of the function that reads the attribute at this moment.

    Notes
    -----
    The object is needed twice, to read the attribute and to set it. So the compiler copies it right before the read, which it
    does in no other statement (CPython 3.11 to 3.15, ``codegen_augassign``). Where the instructions are not CPython's, the
    answer is False.
    """
    code, at = frame.f_code.co_code, frame.f_lasti
    if at < 2 or code[at] != _LOAD_ATTR:
        return False
    at -= 2
    while at > 0 and code[at] == _EXTENDED_ARG:
        at -= 2
    return code[at] == _COPY and code[at + 1] == 1
