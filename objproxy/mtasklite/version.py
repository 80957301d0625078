"""The version, where mtasklite's users look for it; it is that of objproxy."""

from objproxy import __version__

__all__ = ["__version__"]
