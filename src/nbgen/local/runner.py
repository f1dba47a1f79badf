"""Takes the turn at running a queue, and runs its tasks one at a time.

Thread-safety: every method of ``Runner`` may be called from any thread. The generation,
the started jobs and the closed flag belong to its condition. The thread
``nbgen-worker`` alone takes the turn, claims tasks and runs them. The thread
``nbgen-turn`` gives a sign of life each second while the turn is held.

Nobody looks for a cancelled task between its claim in the store and its entry among the
started jobs: ``_claiming`` is held for that long, and taken before the condition.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial

from nbgen.errors import StudioClosed
from nbgen.local.job import Job
from nbgen.local.lane import Lane
from nbgen.progress import ChangeFollower
from nbgen.schema import CANCELLING, ChangeKind, Changes, Outcome, Status, TaskEnd
from nbgen.store import Store
from nbgen.store.turn import Turn
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_ASK_FOR_TURN_EVERY_S = 0.2
_BEAT_EVERY_S = 1.0  # ten times in what counts as a silence


class Runner:
    """Runs the tasks of a queue while it has the turn.

    It asks for the turn when it is opened, and whenever there is something that it may
    run. It keeps the turn until it is idle, so that whoever has a model in memory is
    the one who uses it.

    Args:
        store: The queue.
        turn: The turn at running the queue.
        changes: Tells of submissions and cancels, of whatever process.
        lane: Makes the pictures, on the worker thread. A job may end after ``run`` has
            returned, while the next one runs.
        forget: Called with the id of each task that comes to wait.
        was_told: Returns whether a task was told to have ended, but the store does not
            know.
        idle_s: After so many seconds without work the lane's memory and the turn are
            released; None keeps them.
        take_over: Whether to run also what others submitted who are gone.
        prepares: Whether the lane is made ready when the turn is taken.

    Example::

        runner = Runner(store, turn, changes, lane, …)
        runner.start()
        store.queue.submit(plan)
        runner.wake()
        runner.close(finish=False)
        runner.end_beats()
        turn.release()
    """

    def __init__(
        self,
        store: Store,
        turn: Turn,
        changes: ChangeFollower,
        lane: Lane,
        *,
        forget: Callable[[str], None],
        was_told: Callable[[str], bool],
        idle_s: float | None,
        take_over: bool,
        prepares: bool,
    ) -> None:
        self._store = store
        self._queue = store.running
        self._changes = changes
        self._lane = lane
        self._forget_ended = forget
        self._was_told = was_told
        self._idle_s = math.inf if idle_s is None else idle_s
        self._take_over = take_over
        self._prepares = prepares
        self._turn = turn
        self._claiming = threading.Lock()
        self._changed = threading.Condition()
        self._has_news = True
        self._is_unsure = False
        self._has_asked = False  # the worker thread's, as are the next two
        self._found_none = False
        self._idle_since_s = 0.0
        self._generation: int | None = None  # while the turn is had
        self._started: dict[str, Job] = {}
        self._closed = False
        # Not Thread.join: one that Ctrl-C interrupts takes the thread for ended.
        self._worked = threading.Event()
        self._thread: threading.Thread | None = None
        self._beating: threading.Thread | None = None
        self._released = threading.Event()

    def start(self) -> None:
        """Begin to follow the queue, and to run its tasks; called once.

        Raises:
            DataFolderUnusable: The changes cannot be followed.
        """
        self._changes.watch(self._on_changes)
        self._thread = start_thread("nbgen-worker", self._work)
        self._beating = start_thread("nbgen-turn", self._beat)

    def wake(self) -> None:
        """Look at the queue now: something was submitted here."""
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def runs(self, task_id: str) -> bool:
        """Return whether a task runs here."""
        with self._changed:
            return task_id in self._started

    def cancel(self, task_ids: Iterable[str]) -> None:
        """Have tasks end that run here; others are ignored."""
        with self._claiming, self._changed:
            for task_id in task_ids:
                if task_id in self._started:
                    self._started[task_id].cancel.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, and all that it had started has ended."""
        return self._worked.is_set()

    def close(self, *, finish: bool) -> None:
        """Stop the worker thread; tasks that wait go on waiting in the store.

        A second call waits for the first.

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

    def end_beats(self) -> None:
        """Give no more sign of life, once it is closed; idempotent."""
        self._released.set()
        if self._beating is not None:
            self._beating.join()

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
            self._changed.notify_all()

    def _give_back_started(self) -> None:
        with self._changed:
            for job in self._started.values():
                job.give_back()
        self._lane.kill()

    def _on_changes(self, changes: Changes) -> None:
        """Take in what others have done; on the thread that follows the changes."""
        cancelled = []
        has_news = changes.reads_anew
        for change in changes.changes:
            if change.kind is ChangeKind.TASK and change.state == CANCELLING:
                cancelled.append(change.id)
            elif change.state == Status.PENDING:
                self._forget_ended(change.id)
                has_news = True
            elif change.kind is ChangeKind.QUEUE or change.state == Outcome.CANCELLED:
                # One that was about to be claimed may be the one that was cancelled.
                has_news = True
        if changes.reads_anew and self._generation is not None:
            try:
                cancelled = self._queue.asked_to_end(self._generation)
            except Exception as error:  # noqa: BLE001 - it is told again once it can be
                logger.warning("Cancels cannot be read: %s", error)
        if cancelled:
            self.cancel(cancelled)
        if has_news:
            self.wake()

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                # Outside the lock, since it calls at once for a job that has ended.
                job.done.add_done_callback(partial(self._forget, job))
                self._lane.run(job)
            with self._changed:
                ending = [job.done for job in self._started.values()]
            wait(ending)
        finally:
            self._worked.set()

    def _next(self) -> Job | None:
        """Wait for a task and claim it; None when the runner is closed."""
        self._idle_since_s = time.monotonic()
        while True:
            with self._changed:
                if self._closed:
                    return None
                self._has_news = False
            try:
                look_in_s = self._ask_for_turn() if self._generation is None else None
                if self._generation is not None:
                    job = self._claim(self._generation)
                    if job is not None:
                        return job
                    look_in_s = self._rest_if_idle()
            except StudioClosed:
                return None
            except Exception as error:  # noqa: BLE001 - a second later it may be there
                logger.warning("The queue cannot be read: %s", error)
                look_in_s = _LOOK_EVERY_S
                self._is_unsure = True
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._has_news, look_in_s
                )

    def _ask_for_turn(self) -> float | None:
        """Take the turn if there is something to run.

        Returns:
            In how many seconds to ask again; None at the next change.
        """
        if self._take_over:
            self._store.queue.run_offered()
        is_first, self._has_asked = not self._has_asked, True
        if not is_first and not self._queue.needs_runner(own_only=not self._take_over):
            return None
        if not self._turn.take():
            return _ASK_FOR_TURN_EVERY_S
        try:
            generation = self._queue.begin(take_over=self._take_over)
        except BaseException:
            self._turn.release()
            raise
        with self._changed:
            self._generation = generation
        self._idle_since_s = time.monotonic()
        try:
            if self._prepares:
                self._lane.prepare()
        except Exception:  # the first task fails for the same reason, and says so
            logger.exception("The engine could not be prepared.")
        return None

    def _claim(self, generation: int) -> Job | None:
        if self._is_unsure:
            self._give_back_lost(generation)
        with self._claiming:
            # Where nothing was found, others may write while this looks.
            if self._found_none and not self._queue.has_next(generation):
                return None
            record = self._queue.claim(generation, self._lane.name)
            self._found_none = record is None
            if record is None:
                return None
            job = Job(record, generation)
            with self._changed:
                before = self._started.get(job.task_id)
            if before is not None:  # it has been given back, which is being told
                wait([before.done])
            with self._changed:
                self._started[job.task_id] = job
                # If it was closed meanwhile, or another has the turn.
                if self._closed or self._generation != generation:
                    job.give_back()
        return job

    def _give_back_lost(self, generation: int) -> None:
        """Have tasks wait again that run here for the store, but not in fact.

        The answer to a claim was lost, or a task could not be given back.
        """
        self._is_unsure = False
        for task_id in self._queue.begun(generation):
            if not self.runs(task_id) and not self._was_told(task_id):
                self._queue.give_back(task_id, generation)

    def _rest_if_idle(self) -> float | None:
        """Release the model and the turn after a time without work.

        Returns:
            In how many seconds that is; None if there is no such time.
        """
        with self._changed:
            if self._started:
                return _LOOK_EVERY_S  # its pictures are being saved
        left_s = self._idle_since_s + self._idle_s - time.monotonic()
        if left_s > 0:
            return min(left_s, threading.TIMEOUT_MAX)
        self._lane.release()
        with self._changed:
            self._generation = None
        self._turn.release()
        return None

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_EVERY_S):
            generation = self._generation
            try:
                # PostgreSQL forgets whose connection it has dropped.
                self._store.renew_ownership()
                if generation is not None and not self._turn.beat(generation):
                    self._lose(generation)
            except Exception as error:  # noqa: BLE001 - a second later it may be there
                logger.warning("No sign of life can be given: %s", error)

    def _lose(self, generation: int) -> None:
        """Stop what runs: another has the turn."""
        with self._changed:
            if self._generation != generation:
                return
            self._generation = None
            self._has_news = True
            self._changed.notify_all()
        logger.warning("Another process has taken the queue over.")
        self._turn.release()
        self._give_back_started()

    def _forget(self, job: Job, done: Future[TaskEnd]) -> None:
        end = done.result()
        if end.cause is not None:
            # The frames hold pictures and, on a thread, tensors of the model.
            traceback.clear_frames(end.cause.__traceback__)
        with self._changed:
            if self._started.get(job.task_id) is job:
                del self._started[job.task_id]
            if end.outcome is None:
                self._is_unsure = self._has_news = True
                self._changed.notify_all()
