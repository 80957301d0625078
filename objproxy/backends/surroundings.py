"""Surroundings of the program that its workers get: variables and the working directory."""

from __future__ import annotations

import os


def apply_changes(environ: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    """Set variables of an environment, or remove those that shall be None; return it."""
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    return environ


def working_directory() -> str:
    """Return the working directory; the root if that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
