"""A soak: thousands of tasks among deaths, time-outs, cancellations and changes of size, and a count of everything at the end.

Command: ``python -m benchmarks.soak --tasks 10000 --seed 1 --minutes 10``; see ``__main__``.
"""
