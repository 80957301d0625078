"""The names of mtasklite: any iterable streamed through workers that each have constructor arguments of their own."""

from objproxy.mtasklite.constants import ArgumentPassing, ExceptionBehaviour
from objproxy.mtasklite.delayed_init import delayed_init
from objproxy.mtasklite.pool import Pool
from objproxy.mtasklite.utils import is_exception
from objproxy.mtasklite.version import __version__

__all__ = ["ArgumentPassing", "ExceptionBehaviour", "Pool", "__version__", "delayed_init", "is_exception"]
