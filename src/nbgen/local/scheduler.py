"""Writes into the queue what is asked for: submissions, cancels, orders, pauses.

What is written counts at once, whichever process runs the tasks: its runner learns of
it from the change feed. Every method may be called from any thread. The number of
waiting tasks that is remembered belongs to a lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager

import msgspec

from nbgen.errors import QueueFull, TaskConflict, TaskNotWaiting
from nbgen.local.endings import Endings
from nbgen.local.ends import Ends
from nbgen.local.runner import Runner
from nbgen.schema import Plan, QueueState, TaskEnd
from nbgen.schema.checks import check_priority
from nbgen.store import Store
from nbgen.store.turn import Turn

_COUNT_EVERY_S = 1.0
_CLOSE = 1_000  # to the limit, so that each submission counts what waits
_MOST_PLANS = 20


class Scheduler:
    """Orders what runs; see the protocol ``Running``.

    Args:
        store: The queue.
        turn: Tells whether somebody runs the queue.
        ends: The futures of ends.
        limit: How many tasks may wait.
        runner: Runs tasks in this process; None for nothing that does.
        endings: Keeps ends that could not be committed; None without a runner.
    """

    def __init__(
        self,
        store: Store,
        turn: Turn,
        ends: Ends,
        limit: int,
        *,
        runner: Runner | None,
        endings: Endings | None,
    ) -> None:
        self._store = store
        self._queue = store.queue
        self._turn = turn
        self._ends = ends
        self._limit = limit
        self._runner = runner
        self._endings = endings
        self._lock = threading.Lock()
        # As many as waited when they were counted, and were submitted here since.
        self._most_waiting = 0
        self._counted_at_s = float("-inf")

    def add(self, make_plan: Callable[[], Plan]) -> Plan:
        """Commit what a plan wants, all or none, and return the plan.

        Args:
            make_plan: Returns the plan. It is called again if somebody else submits
                the same meanwhile.

        Raises:
            TaskConflict: A task of such an id exists already.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
        """
        tries = 0
        while True:
            plan = make_plan()
            if not plan.new and not plan.again:
                return plan
            tries += 1
            try:
                self._submit(plan)
            except TaskConflict:
                if tries == _MOST_PLANS:
                    raise
            else:
                return plan

    def check_room(self, count: int) -> None:
        """Check that there is room for more tasks.

        Raises:
            QueueFull: There is not.
        """
        if not count:
            return
        with self._lock:
            now_s = time.monotonic()
            is_stale = now_s - self._counted_at_s > _COUNT_EVERY_S
            # Other processes may have submitted some since.
            is_close = self._most_waiting + count + _CLOSE > self._limit
            if is_stale or is_close:
                self._most_waiting = self._queue.count_waiting()
                self._counted_at_s = now_s
            if self._most_waiting + count > self._limit:
                raise QueueFull(self._most_waiting, self._limit, count)
            self._most_waiting += count

    def wake(self) -> None:
        """Have what was committed run here, if nobody else runs it."""
        if self._runner is not None:
            self._runner.wake()

    def submitting(self, task_id: str) -> AbstractContextManager[None]:
        """Take a task for no deleted one while it is submitted; see ``Ends``."""
        return self._ends.submitting(task_id)

    def expect(self, task_id: str) -> None:
        """Make ready for whoever waits for a task that is about to be submitted."""
        self._ends.expect(task_id)

    def save_ends(self) -> None:
        """Commit the ends that could not be committed before."""
        if self._endings is not None:
            self._endings.save_ends()

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Ask tasks to end; see ``Running.cancel``."""
        self.save_ends()
        running = self._queue.cancel(task_ids)
        if self._runner is not None:
            self._runner.cancel(running)
            running = {each for each in running if not self._runner.runs(each)}
        if running:
            self._end_abandoned()

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future of the task's end; see ``Running.ended``."""
        self.save_ends()
        return self._ends.of(task_id)

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait, the next one first."""
        return self._queue.waiting()

    def running(self) -> list[str]:
        """Return the ids of the tasks that run, the first one first."""
        return self._queue.running()

    def offered(self) -> list[str]:
        """Return the ids of the tasks that wait from before; see ``Running``."""
        return self._queue.waiting(offered=True)

    def run_offered(self) -> None:
        """Have the tasks run that wait from before; see ``Running``."""
        self._queue.run_offered()
        self.wake()

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting task another priority; see ``Running.prioritise``."""
        check_priority(priority)
        if not self._queue.prioritise(task_id, priority):
            self._store.tasks.get_known([task_id])
            raise TaskNotWaiting(task_id)

    def pause(self) -> None:
        """Start no further task; see ``Running.pause``."""
        self._queue.set_paused(paused=True)

    def resume(self) -> None:
        """Start tasks again."""
        self._queue.set_paused(paused=False)

    def queue_state(self) -> QueueState:
        """Return where the queue stands."""
        has_runner = self._turn.last_beat() is not None
        return msgspec.structs.replace(self._queue.state(), has_runner=has_runner)

    def _submit(self, plan: Plan) -> None:
        # The others wait already.
        ended = sum(record.status.ended for record in plan.again)
        self.check_room(len(plan.new) + ended)
        self._store.renew_ownership()
        self._queue.submit(plan)
        self.wake()

    def _end_abandoned(self) -> None:
        """End what was asked to end and runs nowhere, since its process has died."""
        turn = self._store.open_turn()
        try:
            if turn.take():
                self._store.running.begin(take_over=False)
        finally:
            turn.release()
