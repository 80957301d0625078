"""How fast objproxy is beside its peers: one script per question, ``python -m benchmarks`` runs them all.

Command: ``pip install -e .[bench]``, then ``python -m benchmarks`` (an hour), or ``python -m benchmarks.round_trip`` for
one question. Options: ``--quick`` (does everything work? two minutes), ``--rounds``, ``--only NAME ...`` and ``--skip NAME
...`` (contenders; ``--skip Ray Dask`` saves half a minute of a quick run), ``--output FOLDER``.

Every contender does the same work in the same Python and in the way its documents recommend; every result is checked.
They take turns, A B C A B C, each turn in an interpreter of its own with a time limit: one that hangs is reported and
disturbs no other. Medians count; quartiles and smallest values tell how much the machine was disturbed. Tables go to
the terminal; all values, with the machine's facts and all versions, go to a JSON file per question, and a plot beside
it if matplotlib is installed. ``python -m benchmarks`` also draws ``summary.png``: how near to its target each question
came, of all that have a file in the folder.
"""
