"""Every test of this folder may run in every way."""

from way_fixtures import *  # noqa: F403
