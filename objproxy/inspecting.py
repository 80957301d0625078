"""Signatures of functions and classes whose annotations cannot be computed, which Python does when it is asked since 3.14."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["signature_of"]


def signature_of(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    """Return the signature of a function or class; its annotations are texts where a name in them has no value.

    Parameters
    ----------
    function : callable
        What has a signature.
    follow_wrapped : bool
        As for `inspect.signature`.

    Raises
    ------
    TypeError, ValueError
        It has none: it is compiled, and does not tell.

    Notes
    -----
    A name that only type checkers import (``if TYPE_CHECKING``) has no value (PEP 649).
    """
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    except Exception:
        if sys.version_info < (3, 14):
            raise
        kind: Any = sys.modules["annotationlib"]  # `inspect` imports it
        return inspect.signature(function, follow_wrapped=follow_wrapped, annotation_format=kind.Format.STRING)
