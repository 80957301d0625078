"""Tests that need an optional library say so where it is missing, instead of failing."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

#: Those of the extra "test-more"; the others are in "test".
_FURTHER = {
    "astropy",
    "cv2",
    "duckdb",
    "eventlet",
    "gevent",
    "numba",
    "polars",
    "pyarrow",
    "PyInstaller",
    "pytest_socket",
    "spacy",
    "torch",
}


def _reason(name: str) -> str:
    extra = "test,test-more" if name in _FURTHER else "test"
    return f"this needs {name}: pip install 'objproxy[{extra}]'"


def need(*names: str) -> Any:
    """Return the module of the last name; where one is missing, skip the test, or the module that calls this at its top."""
    for name in names:
        module = pytest.importorskip(name, reason=_reason(name), exc_type=ImportError)
    return module


def needs(*names: str) -> pytest.MarkDecorator:
    """Return the mark of a test that is skipped where one of the modules is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=", ".join(map(_reason, missing)))
