"""A module that makes things when it is imported, and a class that lives there."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time

folder = tempfile.TemporaryDirectory()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
child.start()


class Importer:
    """Tells what its module has made."""

    def things(self) -> tuple[str, int | None]:
        return folder.name, child.pid

    def are_there(self) -> bool:
        assert child.pid is not None
        os.kill(child.pid, 0)
        return os.path.isdir(folder.name)
