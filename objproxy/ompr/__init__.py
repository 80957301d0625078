"""OMPR's names: a queue of tasks for objects of one class, one in each worker, on top of `objproxy.ProxyPool`.

Programs written for any generation of OMPR run with nothing but the import changed.
"""

from objproxy.ompr.folder import FolderMP, RunningWorkerFolder
from objproxy.ompr.helpers import OMPRException
from objproxy.ompr.runner import OMPRunner
from objproxy.ompr.simple import simple_process
from objproxy.ompr.worker import RunningWorker

__all__ = ["FolderMP", "OMPRException", "OMPRunner", "RunningWorker", "RunningWorkerFolder", "simple_process"]
