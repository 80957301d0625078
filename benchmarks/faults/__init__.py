"""What each library does when something goes wrong: ``python -m benchmarks.faults``; see ``__main__``."""
