"""The names of workercontext (MultiWorker): a function of a list, run on batches of that list by several processes."""

from objproxy.workercontext import reductions
from objproxy.workercontext.multiworker import (
    MultiWorker,
    MultiWorkerAsync,
    auto_parallelise,
    parallelise,
    parallelise_async,
)

__all__ = ["MultiWorker", "MultiWorkerAsync", "auto_parallelise", "parallelise", "parallelise_async", "reductions"]
