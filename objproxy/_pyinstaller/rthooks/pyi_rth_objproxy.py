"""Make a helper of a process that was started as one, before the application does anything (``_worker/entrance.py``)."""

import os

if "OBJPROXY_HELPER" in os.environ:
    import objproxy  # noqa: F401  (its import is all)
