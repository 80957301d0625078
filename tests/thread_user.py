"""A module that uses GNU's OpenMP when it is imported, as libraries do that compute something then."""

from __future__ import annotations

from thread_targets import OpenMP, run_parallel

RAN = run_parallel(3)


class Early(OpenMP):
    """Its nursery has threads that its workers do not have."""
