"""`pqdm` with workers that are processes."""

import functools

from objproxy.mtasklite.pqdm import pqdm as _pqdm

__all__ = ["pqdm"]

pqdm = functools.partial(_pqdm, use_threads=False)
pqdm.__doc__ = _pqdm.__doc__
