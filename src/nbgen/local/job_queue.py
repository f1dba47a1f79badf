"""Holds the jobs that wait, and runs one at a time, by priority and then by age.

Thread-safety: every method of ``JobQueue`` may be called from any thread. The waiting
and the unfinished jobs belong to its lock; the thread ``nbgen-worker`` alone runs jobs.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial

from nbgen.errors import QueueFull
from nbgen.generation.engine import CancelToken
from nbgen.schema import GenerationRequest, TaskEnd
from nbgen.threads import start_thread

_LOOK_EVERY_S = 1.0
_KNOWN_ENDS = 256


class Job:
    """One task on its way through the queue.

    Attributes:
        task_id: The id of the task.
        request: What to make.
        seed: The seed of the first picture.
        priority: Jobs of a higher one run first.
        cancel: Set to stop the work.
        is_given_back: Whether it was stopped because the queue closes, so that it is to
            run again; set before ``cancel``.
        done: Resolves when the end of the task is committed, or told as a failure. Its
            outcome is None if the task did not end here.
    """

    def __init__(
        self,
        task_id: str,
        request: GenerationRequest,
        seed: int,
        *,
        priority: int = 0,
    ) -> None:
        self.task_id = task_id
        self.request = request
        self.seed = seed
        self.priority = priority
        self.number = 0  # the queue's, which counts what is submitted
        self.cancel = CancelToken()
        self.is_given_back = False
        self.done: Future[TaskEnd] = Future()
        # From here on nobody who waits for the future can cancel it.
        self.done.set_running_or_notify_cancel()


def _order(job: Job) -> tuple[int, int]:
    return -job.priority, job.number


class JobQueue:
    """Runs jobs one at a time, by priority, then first come first served.

    A job that is given its former priority again has its former place again.

    Example::

        queue = JobQueue(run, stop=kill, on_idle=release, idle_s=900.0, limit=10_000)
        queue.submit([job])
        queue.start(on_empty=let_others_run, is_asked_to_rest=another_runs)

    Args:
        run: Called with each job on the worker thread; must not raise. The job may
            end after it has returned, while the next one runs.
        stop: Called by ``close`` once the started jobs are cancelled; must not wait.
        on_idle: Called on the worker thread when there has been nothing to do for
            ``idle_s``, or nothing while ``is_asked_to_rest``.
        idle_s: Seconds; None for as long as it takes.
        limit: How many jobs may wait.
    """

    def __init__(
        self,
        run: Callable[[Job], None],
        *,
        stop: Callable[[], None],
        on_idle: Callable[[], None],
        idle_s: float | None,
        limit: int,
    ) -> None:
        self._run = run
        self._stop = stop
        self._on_idle = on_idle
        self._idle_s = idle_s
        self._limit = limit
        self._changed = threading.Condition()
        self._submitted = 0
        self._waiting: list[Job] = []  # in the order in which they will run
        self._paused = False
        self._started: dict[str, Job] = {}
        self._jobs: dict[str, Job] = {}  # those that wait and those that started
        self._ended: OrderedDict[str, Future[TaskEnd]] = OrderedDict()  # the last ones
        self._closed = False
        # Not Thread.join: one that Ctrl-C interrupts takes the thread for ended.
        self._worked = threading.Event()
        self._thread: threading.Thread | None = None
        self._on_empty: Callable[[], None] = _do_nothing
        self._is_asked_to_rest: Callable[[], bool] = lambda: False

    def start(
        self, *, on_empty: Callable[[], None], is_asked_to_rest: Callable[[], bool]
    ) -> None:
        """Start the worker thread; called once.

        Args:
            on_empty: Called when the last job has ended, on the thread that ended it.
            is_asked_to_rest: Asked on the worker thread now and then while there is
                nothing to do.
        """
        self._on_empty = on_empty
        self._is_asked_to_rest = is_asked_to_rest
        self._thread = start_thread("nbgen-worker", self._work)

    def check_room(self, jobs: int = 1) -> None:
        """Raise ``QueueFull`` if ``jobs`` more would exceed the limit; 0 never does."""
        with self._changed:
            waiting = len(self._waiting)
        if jobs and waiting + jobs > self._limit:
            raise QueueFull(waiting, self._limit, jobs)

    def submit(self, jobs: Iterable[Job]) -> None:
        """Put jobs behind those of their priority; no-op for tasks that are here."""
        with self._changed:
            for job in jobs:
                if job.task_id in self._jobs:
                    continue
                self._submitted += 1
                job.number = self._submitted
                insort(self._waiting, job, key=_order)
                self._jobs[job.task_id] = job
            self._changed.notify()

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting job another priority; no-op if it does not wait."""
        with self._changed:
            job = self._find_waiting(task_id)
            if job is not None:
                self._waiting.remove(job)
                job.priority = priority
                insort(self._waiting, job, key=_order)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and all that was started has ended."""
        with self._changed:
            return not self._jobs

    def set_paused(self, *, paused: bool) -> bool:
        """Start no further job, or start jobs again; return whether that is new.

        One that runs goes on to its end.
        """
        with self._changed:
            is_new = self._paused is not paused
            self._paused = paused
            self._changed.notify()
        return is_new

    def waiting(self) -> list[str]:
        """Return the ids of the waiting tasks, the next one first."""
        with self._changed:
            return [job.task_id for job in self._waiting]

    def find(self, task_id: str) -> Job | None:
        """Return the job of that task if it waits or has not ended."""
        with self._changed:
            return self._jobs.get(task_id)

    def end_of(self, task_id: str) -> Future[TaskEnd] | None:
        """Return the future of a job's end; None if the queue does not know the job.

        Of the jobs that have ended, the queue knows the last 256.
        """
        with self._changed:
            job = self._jobs.get(task_id)
            return self._ended.get(task_id) if job is None else job.done

    def waits(self, task_id: str) -> bool:
        """Say whether that task waits."""
        with self._changed:
            return self._find_waiting(task_id) is not None

    def cancel(self, task_ids: Iterable[str]) -> list[Job]:
        """Ask jobs to end; those not here are ignored.

        One that waits keeps its place until it is taken out, and ends there if it is
        its turn before: so none is lost, whatever comes in between.

        Returns:
            Those that wait.
        """
        with self._changed:
            asked = [self._jobs[i] for i in task_ids if i in self._jobs]
            for job in asked:
                job.cancel.cancel()
            return [job for job in asked if job.task_id not in self._started]

    def take_out(self, jobs: Iterable[Job]) -> list[Job]:
        """Take out those of the jobs that wait; they are the caller's to end."""
        asked = {job.task_id for job in jobs}
        with self._changed:
            taken = [job for job in self._waiting if job.task_id in asked]
            self._waiting = [job for job in self._waiting if job.task_id not in asked]
            for job in taken:
                del self._jobs[job.task_id]
        return taken

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, and all that it had started has ended."""
        return self._worked.is_set()

    def close(self, *, finish: bool) -> None:
        """Stop the worker thread; waiting jobs are dropped without an outcome.

        The store keeps the dropped tasks. A second call waits for the first.

        Args:
            finish: Whether started jobs go on to their end, unless somebody else
                closes without that, or a ``KeyboardInterrupt`` comes; otherwise they
                are given back.

        Raises:
            KeyboardInterrupt: Once all has ended; a second one at once.
        """
        try:
            self._let_go()
            if not finish:
                self._give_back_started()
            self._wait_worked()
        except KeyboardInterrupt:
            self._let_go()
            self._give_back_started()
            self._wait_worked()
            raise
        if self._thread is not None:
            self._thread.join()

    def _wait_worked(self) -> None:
        if self._thread is None:
            self._worked.set()
        # Python looks for a Ctrl-C only before it begins to wait, and misses one that
        # comes at that very moment.
        while not self._worked.wait(_LOOK_EVERY_S):
            pass

    def _let_go(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
            while self._waiting:
                job = self._waiting[-1]
                if not job.done.done():
                    job.done.set_result(TaskEnd(job.task_id, None))
                self._jobs.pop(job.task_id, None)
                self._waiting.pop()

    def _give_back_started(self) -> None:
        with self._changed:
            for job in self._started.values():
                # What a person cancelled ends.
                job.is_given_back = job.is_given_back or not job.cancel.cancelled
                job.cancel.cancel()
        self._stop()

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                # Outside the lock, since it calls at once for a job that has ended.
                job.done.add_done_callback(partial(self._forget, job))
                self._run(job)
            with self._changed:
                ending = [job.done for job in self._started.values()]
            wait(ending)
        finally:
            self._worked.set()

    def _next(self) -> Job | None:
        """Wait for a job and count it as started; None when the queue is closed."""
        idle_s = math.inf if self._idle_s is None else self._idle_s
        idle_since_s = time.monotonic()
        look_s: float | None = min(idle_s, _LOOK_EVERY_S)
        while True:
            with self._changed:
                if self._changed.wait_for(
                    lambda: self._closed or (self._waiting and not self._paused),
                    look_s,
                ):
                    if self._closed:
                        return None
                    job = self._waiting.pop(0)
                    self._started[job.task_id] = job
                    return job
            idle = time.monotonic() - idle_since_s >= idle_s
            if idle or self._is_asked_to_rest():
                self._on_idle()
                look_s = None

    def _find_waiting(self, task_id: str) -> Job | None:
        return None if task_id in self._started else self._jobs.get(task_id)

    def _forget(self, job: Job, done: Future[TaskEnd]) -> None:
        end = done.result()
        if end.cause is not None:
            # The frames hold pictures and, on a thread, tensors of the model.
            traceback.clear_frames(end.cause.__traceback__)
        with self._changed:
            self._started.pop(job.task_id, None)
            self._jobs.pop(job.task_id, None)
            if end.outcome is not None:
                self._ended[job.task_id] = done
                if len(self._ended) > _KNOWN_ENDS:
                    self._ended.popitem(last=False)
            empty = not self._jobs
        if empty:
            self._on_empty()


def _do_nothing() -> None:
    """Do nothing."""
