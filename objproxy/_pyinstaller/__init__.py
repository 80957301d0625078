"""What PyInstaller is told when it freezes an application with objproxy; it finds this by the entry point of the package."""

from __future__ import annotations

import os

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """Return the folder of ``rthooks.dat``, which names the script that runs before an application does."""
    return [os.path.dirname(__file__)]
