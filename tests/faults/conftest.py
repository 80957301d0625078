"""Tests of this folder may run in every way, as those of the contract do."""

from way_fixtures import *  # noqa: F403
