"""Workers that do not exist: they take virtual time, and die, stall and fall silent as a seed says.

For tests of the engine. With a pool's class, real objects answer, in the caller's memory, and only the time and the
deaths are played; without one, nothing runs but the clock of the simulation, so a thousand workers and their deaths cost
milliseconds, and the same seed gives the same story again. The items of a batch are played through when it begins: how
long each takes, and whether one of them raises, kills its worker or never ends. When a worker is killed before the end
of the story, the story is cut at that moment. What a worker has done and not sent is in its journal, as with processes;
so the one item whose fate is unknown is the one that ran.
"""

from __future__ import annotations

import bisect
import heapq
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.interrupts import Condition
from objproxy._engine.messages import Batch, Failure
from objproxy._worker.wire import Operation
from objproxy.backends.base import Capabilities, PoolContext, WorkerInfo
from objproxy.backends.fate import Fate as Fate
from objproxy.backends.memory import ByReference, MemoryWorker
from objproxy.errors import WorkerInitError

_NEVER = float("inf")

#: Where nothing is to come, another thread may be about to send something; no thread takes so many seconds of real time for it.
_PATIENCE_SECONDS = 30.0

#: Exit code of a simulated crash: that of SIGSEGV.
_CRASHED = -11
_KILLED = -9


class DeadlockError(AssertionError):
    """Somebody waits without a limit, and nothing will ever happen."""


class _Story:
    """What one batch does on one worker.

    Attributes
    ----------
    begins : list of float
        When each item begins, as far as the story goes.
    outcomes : list
        What the items give that end.
    end : float
        When the story ends: with the answer, or with the worker; never, if an item stalls.
    is_death : bool
        Whether it ends with the worker.
    n_sent : int
        Outcomes that were sent already.
    """

    __slots__ = ("batch", "begins", "end", "is_death", "n_sent", "outcomes")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.begins: list[float] = []
        self.outcomes: list[Any] = []
        self.end = 0.0
        self.is_death = False
        self.n_sent = 0


class _Worker:
    """One worker of the simulation."""

    __slots__ = (
        "generation",
        "info",
        "is_ending",
        "is_killed",
        "is_leaving",
        "is_up",
        "live",
        "sent",
        "story",
        "tasks",
        "worker_id",
    )

    def __init__(self, worker_id: int, generation: int) -> None:
        self.worker_id = worker_id
        self.generation = generation
        self.info = WorkerInfo()
        self.live: MemoryWorker | None = None  # the real object, if there is one
        self.sent: deque[Batch] = deque()  # received and not begun
        self.story: _Story | None = None
        self.tasks: dict[int, _Story] = {}  # concurrent tasks, by their numbers
        self.is_up = False
        self.is_ending = self.is_leaving = False
        self.is_killed = False


class SimulatedBackend(ByReference):
    """Plays workers in virtual time.

    Parameters
    ----------
    seed : int
        The same seed and the same calls give the same story.
    fate : Fate
        How long things take and how often they go wrong.
    run : callable
        ``run(*arguments)`` gives the value of an item, where there are no real objects.
    can_kill : bool
        Whether calls may have a time limit. It is one of virtual time: the methods of real objects run to their end.

    Attributes
    ----------
    executions : dict of Rules to Counter
        How often each item of each call has begun to run.
    n_deaths : int
        Workers that died by themselves.
    """

    name = "simulated"

    def __init__(
        self,
        seed: int = 0,
        fate: Fate | None = None,
        run: Callable[..., Any] = lambda x: x + 1,
        *,
        can_kill: bool = True,
    ) -> None:
        self.capabilities = Capabilities(
            can_kill=can_kill, crosses_processes=False, binds_devices=False, can_run_concurrently=True
        )
        self.executions: dict[Any, Counter[int]] = {}
        self.n_deaths = 0
        self._random = random.Random(seed)
        self._fate = fate or Fate()
        self._run = run
        self._time = 0.0
        self._future: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._n_planned = 0
        self._events: list[m.Event] = []
        self._is_woken = False
        self._workers: dict[int, _Worker] = {}
        self._context: PoolContext | None = None
        # Guards the future: one thread moves the clock, others send.
        self._lock = threading.RLock()
        self._changed = Condition(self._lock)

    # ---- the protocol ------------------------------------------------------------------------------------------------

    def open(self, context: PoolContext) -> None:
        """Keep what builds the objects."""
        self._context = context

    def now(self) -> float:
        """Return the virtual time."""
        return self._time

    def start(self, worker_id: int, generation: int) -> None:
        """Let a constructor begin."""
        with self._lock:
            self._start(worker_id, generation)

    def _start(self, worker_id: int, generation: int) -> None:
        worker = self._workers[worker_id] = _Worker(worker_id, generation)
        fate, seconds = self._fate, self._draw(self._fate.constructor_seconds)
        is_spared = fate.spares_first and generation == 0
        if not is_spared and self._happens(fate.constructor_stalls):
            return
        if not is_spared and self._happens(fate.constructor_raises):
            self._plan(seconds, lambda: self._fail_init(worker))
        elif not is_spared and self._happens(fate.constructor_dies):
            self._plan(seconds, lambda: self._crash(worker))
        else:
            self._plan(seconds, lambda: self._come_up(worker, seconds))

    def send(self, worker_id: int, batch: Batch) -> None:
        """Let a worker receive a batch."""
        with self._lock:
            self._send(worker_id, batch)

    def _send(self, worker_id: int, batch: Batch) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None and not worker.is_killed:
            if batch.rules.concurrency:
                self._begin_task(worker, batch)
                return
            worker.sent.append(batch)
            if worker.is_up and worker.story is None:
                self._begin_next(worker)

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Let a worker cancel a task; as the seed says, it does not do so, or the task goes on for ever."""
        with self._lock:
            worker = self._workers.get(worker_id)
            if worker is None or worker.generation != generation or seq not in worker.tasks or worker.is_killed:
                return
            story = worker.tasks[seq]
            began = story.begins[0] if story.begins[0] <= self._time else _NEVER
            if limit is not None and began + limit > self._time:
                self._tell(m.NotDue(worker_id, generation, seq, began))
            elif not self._happens(self._fate.ignores_interrupts):
                self._tell(m.Stopping(worker_id, generation, seq, "in a simulation"))
                story.outcomes = [Failure(CancelledError())]
                story.is_death = False
                if self._happens(self._fate.ignores_interrupts):
                    story.end = _NEVER
                else:
                    story.end = self._time + self._fate.kill_seconds
                    self._plan(self._fate.kill_seconds, lambda: self._end_task(worker, story))

    def inspect(self, worker_id: int, generation: int, is_last_call: bool, limit: float | None = None) -> None:
        """Say where a worker stands; as the seed says, only when it is asked again."""
        with self._lock:
            story = self._workers[worker_id].story if worker_id in self._workers else None
            begin = story.begins[0] if story is not None else 0.0
            began = begin if begin <= self._time else _NEVER
            if limit is not None and began + limit > self._time:
                self._tell(m.Inspected(worker_id, generation, "", began=began))
            elif is_last_call or not self._happens(self._fate.keeps_silent):
                self._tell(m.Inspected(worker_id, generation, "in a simulation"))

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """Ask a worker to end, interrupt what it runs, or kill it."""
        with self._lock:
            self._end(worker_id, generation, how)

    def _end(self, worker_id: int, generation: int, how: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.generation != generation or worker.is_killed:
            return
        if how in ("ask", "leave"):
            worker.is_ending = True
            worker.is_leaving = how == "leave"
            if worker.is_up and worker.story is None:
                self._begin_end(worker)
        elif how == "kill" or not self._happens(self._fate.ignores_interrupts):
            worker.is_killed = True
            self._plan(self._fate.kill_seconds, lambda: self._bury(worker, _KILLED))
            if self._happens(self._fate.answers_late):
                self._answer_late(worker)

    def wait(self, timeout: float | None) -> Sequence[m.Event]:
        """Move the clock to the next event, or by `timeout`."""
        with self._lock:
            return self._wait(timeout)

    def _wait(self, timeout: float | None) -> Sequence[m.Event]:
        limit = _NEVER if timeout is None else self._time + timeout
        while not self._events and not self._is_woken:
            if self._future and self._future[0][0] <= limit:
                self._time, _, happen = heapq.heappop(self._future)
                happen()
            elif limit < _NEVER:
                self._time = limit
                break
            elif not self._changed.wait(_PATIENCE_SECONDS):
                raise DeadlockError("nothing will ever happen, and somebody waits for it")
        self._is_woken = False
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Make `wait` return."""
        with self._lock:
            self._is_woken = True
            self._changed.notify_all()

    def info(self, worker_id: int) -> WorkerInfo:
        """Return how long a worker took to come up."""
        worker = self._workers.get(worker_id)
        return worker.info if worker is not None else WorkerInfo()

    def close(self) -> None:
        """Forget the workers."""
        self._workers.clear()
        self._future.clear()

    def abandon(self) -> None:
        """Forget the copy that a forked child has."""
        self.close()

    # ---- for stories told by a test ----------------------------------------------------------------------------------

    def crash(self, worker_id: int) -> None:
        """Let a worker die now, whatever it does."""
        with self._lock:
            self._crash(self._workers[worker_id])

    # ---- constructors and ends ---------------------------------------------------------------------------------------

    def _is_alive(self, worker: _Worker) -> bool:
        return self._workers.get(worker.worker_id) is worker

    def _come_up(self, worker: _Worker, seconds: float) -> None:
        if self._is_alive(worker) and not worker.is_killed:
            if self._context is not None and not self._build(worker, self._context):
                return
            worker.is_up = True
            worker.info = WorkerInfo(None, 0.0, seconds, worker.info.attributes)
            self._tell(m.Ready(worker.worker_id, worker.generation))
            self._begin_next(worker)

    def _build(self, worker: _Worker, context: PoolContext) -> bool:
        """Build the real object of a worker; False if its constructor raised."""
        live = worker.live = MemoryWorker(context, worker.worker_id, worker.generation)
        first = live.boot()[0]
        worker.info = live.info
        if isinstance(first, m.InitFailed):
            self._tell(first)
            self._bury(worker, 1)
            return False
        return True

    def _fail_init(self, worker: _Worker) -> None:
        if self._is_alive(worker) and not worker.is_killed:
            error = WorkerInitError(worker.worker_id, "its constructor raised ValueError: so the seed says")
            self._tell(m.InitFailed(worker.worker_id, worker.generation, error))
            self._bury(worker, 1)

    def _begin_end(self, worker: _Worker) -> None:
        """Let a worker end that has nothing else to do."""
        fate, seconds = self._fate, self._draw(self._fate.exit_seconds)
        if self._happens(fate.works_at_end):
            self._tell(m.Ending(worker.worker_id, worker.generation, "finishing"))
            self._plan(self._draw(fate.end_seconds), lambda: self._go_on_ending(worker, seconds))
        elif not self._happens(fate.hangs_at_end):
            self._plan(seconds, lambda: self._finish(worker))

    def _go_on_ending(self, worker: _Worker, seconds: float) -> None:
        if not self._is_alive(worker) or worker.is_killed:
            return
        if self._happens(self._fate.fails_at_end):
            self._tell(m.EndFailed(worker.worker_id, worker.generation, "close", ValueError("so the seed says")))
        self._tell(m.Ending(worker.worker_id, worker.generation, "leaving"))
        if not self._happens(self._fate.hangs_at_end):
            self._plan(seconds, lambda: self._finish(worker))

    def _finish(self, worker: _Worker) -> None:
        if self._is_alive(worker) and not worker.is_killed:
            events = [] if worker.live is None or worker.is_leaving else worker.live.finish()
            for event in events[:-1]:  # the last is its death
                self._tell(event)
            self._bury(worker, 0)

    def _crash(self, worker: _Worker) -> None:
        if self._is_alive(worker) and not worker.is_killed:
            self.n_deaths += 1
            self._bury(worker, _CRASHED)

    def _bury(self, worker: _Worker, exitcode: int) -> None:
        """Tell that a worker is gone, and what its journal says."""
        if not self._is_alive(worker):
            return
        del self._workers[worker.worker_id]
        died = m.Died(worker.worker_id, worker.generation, exitcode)
        story = worker.story
        if story is not None:
            n_begun = self._count_begun(story)
            n_done = min(len(story.outcomes), n_begun - (n_begun > 0 and self._is_inside(story, n_begun)))
            n_kept = story.n_sent if self._happens(self._fate.loses_journal) else n_done
            outcomes = story.outcomes[story.n_sent : n_kept]
            died = died._replace(
                started_seq=story.batch.seq,
                recovered=outcomes,
                failed=_failed(outcomes),
                running=n_begun - 1 if n_begun > n_kept else None,
            )
        begun = {task.batch.seq for task in worker.tasks.values() if self._count_begun(task)}
        self._tell(died._replace(begun=frozenset(begun)))
        if worker.live is not None:
            worker.live.forget_tasks()

    # ---- concurrent tasks --------------------------------------------------------------------------------------------

    def _begin_task(self, worker: _Worker, batch: Batch) -> None:
        if self._happens(self._fate.dies_before):
            self._plan(0.0, lambda: self._crash(worker))
        story = worker.tasks[batch.seq] = self._tell_story(worker, batch)
        if story.end < _NEVER:
            self._plan(story.end - self._time, lambda: self._end_task(worker, story))

    def _end_task(self, worker: _Worker, story: _Story) -> None:
        seq = story.batch.seq
        if not self._is_alive(worker) or worker.tasks.get(seq) is not story or worker.is_killed or story.end > self._time:
            return
        if story.is_death:
            self._crash(worker)
            return
        self._count_begun(story)
        del worker.tasks[seq]
        self._answer(worker, story, len(story.outcomes), is_last=True)

    # ---- batches -----------------------------------------------------------------------------------------------------

    def _begin_next(self, worker: _Worker) -> None:
        """Begin with the next batch, or with the end, if there is nothing else to do."""
        worker.story = None
        if worker.is_killed or not worker.sent:
            if worker.is_ending and not worker.is_killed:
                self._begin_end(worker)
            return
        if self._happens(self._fate.dies_before):
            self._plan(0.0, lambda: self._crash(worker))
            return
        story = worker.story = self._tell_story(worker, worker.sent.popleft())
        if story.end < _NEVER:
            self._plan(story.end - self._time, lambda: self._end_story(worker, story))
        if len(story.outcomes) > 1 and self._happens(self._fate.answers_in_parts):
            n_items = self._random.randrange(1, len(story.outcomes))
            self._plan(story.begins[n_items] - self._time, lambda: self._answer_part(worker, story, n_items))

    def _tell_story(self, worker: _Worker, batch: Batch) -> _Story:
        """Play the items of a batch through.

        A real object answers all of them at once; what it did not live to say is dropped.
        """
        story, fate = _Story(batch), self._fate
        time = self._time + self._draw(fate.unpickle_seconds)
        operation: Operation = batch.payload.data if batch.payload.data is not None else batch.payload.operation
        answers = worker.live.serve(batch).outcomes if worker.live is not None else None
        story.end = _NEVER
        for offset in range(batch.count):
            story.begins.append(time)
            if self._happens(fate.stalls):
                return story
            time += self._draw(fate.item_seconds)
            if self._happens(fate.dies):
                break
            story.outcomes.append(self._outcome(operation, offset) if answers is None else answers[offset])
            if self._happens(fate.dies_between):
                break
        else:
            story.end = time
            return story
        story.is_death = True
        story.end = time
        return story

    def _outcome(self, operation: Operation, offset: int) -> Any:
        if self._happens(self._fate.raises):
            return Failure(ValueError("so the seed says"))
        if operation.verb == "map":
            return self._run(*[column[offset] for column in operation.args])
        return self._run(*operation.args)

    def _end_story(self, worker: _Worker, story: _Story) -> None:
        if not self._is_alive(worker) or worker.story is not story or worker.is_killed:
            return
        if story.is_death:
            self._crash(worker)
            return
        self._count_begun(story)
        self._answer(worker, story, len(story.outcomes), is_last=True)
        if not worker.sent and self._happens(self._fate.dies_idle):
            worker.story = None
            self._plan(self._draw(self._fate.item_seconds), lambda: self._crash(worker))
        else:
            self._begin_next(worker)

    def _answer_part(self, worker: _Worker, story: _Story, n_items: int) -> None:
        if self._is_alive(worker) and worker.story is story and not worker.is_killed and story.n_sent < n_items:
            self._answer(worker, story, n_items, is_last=False)

    def _answer(self, worker: _Worker, story: _Story, stop: int, *, is_last: bool) -> None:
        outcomes = story.outcomes[story.n_sent : stop]
        story.n_sent = stop
        seconds = self._time - story.begins[0]
        self._tell(
            m.Replied(worker.worker_id, worker.generation, story.batch.seq, outcomes, _failed(outcomes), is_last, seconds)
        )

    def _answer_late(self, worker: _Worker) -> None:
        """Let an answer arrive that was on its way already when its worker was killed."""
        story = worker.story
        if story is not None and len(story.outcomes) == story.batch.count:
            story.begins = [min(begin, self._time) for begin in story.begins]
            self._count_begun(story)
            self._answer(worker, story, len(story.outcomes), is_last=True)
            worker.story = None

    def _count_begun(self, story: _Story) -> int:
        """Count what has begun, once for each story; return how many items that are."""
        n_begun = bisect.bisect_right(story.begins, self._time)
        counter = self.executions.setdefault(story.batch.rules, Counter())
        start = story.batch.start
        for item in range(start, start + n_begun):
            counter[item] += 1
        return n_begun

    def _is_inside(self, story: _Story, n_begun: int) -> bool:
        """Whether the last item that has begun has not ended."""
        if n_begun > len(story.outcomes):
            return True
        end = story.begins[n_begun] if n_begun < len(story.begins) else story.end
        return self._time < end

    # ---- chance and time ---------------------------------------------------------------------------------------------

    def _happens(self, share: float) -> bool:
        return share > 0.0 and self._random.random() < share

    def _draw(self, mean: float) -> float:
        return self._random.expovariate(1.0 / mean) if mean > 0.0 else 0.0

    def _plan(self, seconds: float, happen: Callable[[], None]) -> None:
        self._n_planned += 1
        heapq.heappush(self._future, (self._time + seconds, self._n_planned, happen))
        self._changed.notify_all()

    def _tell(self, event: m.Event) -> None:
        self._events.append(event)
        self._changed.notify_all()


def _failed(outcomes: Sequence[Any]) -> list[int]:
    return [offset for offset, outcome in enumerate(outcomes) if type(outcome) is Failure]
