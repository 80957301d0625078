"""A thousand life-time restarts, a thousand kills and many time-outs in a row: nothing may be lost, nothing may hang.

Command: ``python -m benchmarks.ompr_stress [--restarts 1000]``

This measures no speed; it ends with an error as soon as a result is wrong, and `faulthandler` ends it if it hangs. The tests
run a shorter form.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import time
from typing import Any

from benchmarks._lane import check
from objproxy.ompr import OMPRException, OMPRunner, RunningWorker

#: Seconds of silence after which the script gives up and shows where every thread is.
_PATIENCE_SECONDS = 120.0

_TIMEOUT = 0.05


class Victim(RunningWorker):
    """Does what a task says."""

    def process(self, x: int, do: str = "work") -> int:
        """Double a number, or die, or raise, or run for ever."""
        if do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "exit":
            os._exit(1)
        if do == "fail":
            raise ValueError(x)
        while do == "hang":
            time.sleep(60)
        return 2 * x


def check_results(tasks: list[dict[str, Any]], results: list[Any]) -> None:
    """Check that each task has the one result that is right for it."""
    check(len(results) == len(tasks), f"{len(results)} results of {len(tasks)} tasks")
    for task, result in zip(tasks, results, strict=True):
        if task.get("do", "work") == "work":
            check(result == 2 * task["x"], (task, result))
        else:
            check(isinstance(result, OMPRException) and result.task == task, (task, result))


def run(title: str, tasks: list[dict[str, Any]], **options: Any) -> None:
    """Run tasks, fed in pieces while results are read, and check all results."""
    began = time.perf_counter()
    results: list[Any] = []
    with OMPRunner(Victim, devices=[None] * 2, log_rww_exception=False, max_reruns=1, **options) as runner:
        for start in range(0, len(tasks), 100):
            faulthandler.dump_traceback_later(_PATIENCE_SECONDS, exit=True)
            runner.process(tasks[start : start + 100])
            results += [runner.get_result() for _ in range(50)]
        results += runner.get_all_results()
    faulthandler.cancel_dump_traceback_later()
    check_results(tasks, results)
    print(f"{title}: {len(tasks)} tasks, nothing lost, {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Run each kind of trouble alone, and all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=1000, help="how many of each kind; a multiple of 100")
    n = parser.parse_args().restarts
    dice = random.Random(1)
    run("life times", [{"x": x} for x in range(n)], rww_lifetime=1)
    run("kills", [{"x": x, "do": "die"} for x in range(n)], rerun_crashed=False)
    run("time-outs", [{"x": x, "do": "hang"} for x in range(n)], rerun_crashed=False, task_timeout=_TIMEOUT)
    kinds = ["work"] * 12 + ["die", "exit", "fail"]
    mixed = [{"x": x, "do": dice.choice(kinds)} for x in range(3 * n)]
    run("all together", mixed, rww_lifetime=3, task_timeout=60.0)


if __name__ == "__main__":
    main()
