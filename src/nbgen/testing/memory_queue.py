"""The tasks of a ``MemoryBackend`` and the thread that runs them.

Thread-safety: all state belongs to the lock that ``MemoryQueue.opened`` holds. The
thread ``nbgen-memory`` runs the tasks and holds no lock meanwhile.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec

from nbgen.errors import QueueFull, StudioClosed, TaskConflict, UnknownTask, WorkerDied
from nbgen.generation.engine import CancelToken, Engine
from nbgen.generation.thread import ThreadEngine
from nbgen.progress import ProgressService
from nbgen.schema import (
    CANCELLING,
    DEFAULT_QUEUE,
    MOST_DEATHS,
    NEVER_RAN,
    Attempt,
    AttemptOutcome,
    ChangeKind,
    NewChange,
    Outcome,
    Plan,
    QueueState,
    Status,
    TaskEnd,
    TaskRecord,
    changes_of_waiting,
    describe_cancel,
    died_too_often,
    present_attempt,
    progress_of_record,
    queue_change,
    resolved,
    utc_now,
)
from nbgen.testing.memory_changes import MemoryChanges
from nbgen.testing.memory_finding import Numbered
from nbgen.testing.memory_pictures import MemoryPictures
from nbgen.testing.memory_run import MemoryRun
from nbgen.threads import start_thread

_LANE = "memory"
_AGAIN: dict[str, Any] = {
    "status": Status.PENDING,
    "outcome": None,
    "error": None,
    "started_at": None,
    "ended_at": None,
    "current_step": 0,
    "stages": {},
    "step_times": {},
    "made_with": {},
    "result": None,
}
"""The values of a task that waits for its next attempt."""


class Unended:
    """What a task has until it ends: its future, and the token that cancels it.

    It ``is_given_back`` if it was cancelled because the queue closes. ``deaths`` counts
    the attempts that have ended with their process.
    """

    def __init__(self) -> None:
        self.cancel = CancelToken()
        self.is_given_back = False
        self.deaths = 0
        self.future: Future[TaskEnd] = Future()
        # From here on, nobody who waits for the future can cancel it.
        self.future.set_running_or_notify_cancel()


class MemoryQueue:
    """Keeps tasks and runs them one at a time, by priority, then in their order.

    Example::

        queue = MemoryQueue(PatternEngine(), MemoryPictures(utc_now), 10)
        with queue.opened():
            queue.submit(Plan(new=[new_record("a", request)]))
            future = queue.unended["a"].future
        future.result(10)

    Args:
        engine: Makes the pictures; closed by ``close``.
        pictures: Where they are kept.
        limit: How many tasks may wait.
        now: Returns the present time in UTC.

    Attributes:
        tasks: All tasks by their ids, in the order in which they were added.
        numbers: The place of each in the order of submission, which is never another's.
        attempts: The earlier attempts at tasks, without the last one.
        unended: What those have that have not ended.
        progress: Tells the watchers.
        changes: The change feed.
    """

    def __init__(
        self,
        engine: Engine,
        pictures: MemoryPictures,
        limit: int,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._now = now
        self.tasks: dict[str, TaskRecord] = {}
        self.numbers: dict[str, int] = {}
        self.attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
        self.unended: dict[str, Unended] = {}
        self.progress = ProgressService()
        self.changes = MemoryChanges()
        self._engine = engine
        self._runner = ThreadEngine(lambda: engine)
        self._pictures = pictures
        self._limit = limit
        self._added = 0
        self._paused = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = start_thread("nbgen-memory", self._work)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the lock; raise ``StudioClosed`` after ``close``."""
        with self._changed:
            if self._closed:
                raise StudioClosed
            yield

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future of the end of a task; see ``Running.ended``.

        After ``close`` only those are known that have ended.
        """
        with self._changed:
            record = self.tasks.get(task_id)
            if self._closed and (record is None or not record.status.ended):
                raise StudioClosed
            if record is None:
                raise UnknownTask(task_id)
            unended = self.unended.get(task_id)
            return resolved(record.end) if unended is None else unended.future

    def submit(self, plan: Plan) -> None:
        """Queue what a plan wants, all or none.

        Raises:
            QueueFull: There is not room for all.
            TaskConflict: A new task's id is another's.
        """
        again = [record for record in plan.again if record.status.ended]
        records = [*plan.new, *again]
        self.check_room(len(records))
        for record in plan.new:
            if record.id in self.tasks:
                raise TaskConflict(record.id)
        for record in plan.new:
            self._added += 1
            self.numbers[record.id] = self._added
            self.tasks[record.id] = record
        for record in again:
            self.attempts[record.id] += present_attempt(self.tasks[record.id])
            self.progress.forget(record.id)
            self.tasks[record.id] = msgspec.structs.replace(record, **_AGAIN)
        for record in records:
            self.unended[record.id] = Unended()
            self.progress.create_progress(record.id, record.request.num_inference_steps)
        self.changes.append(changes_of_waiting(records))
        self._changed.notify_all()

    def numbered(self) -> list[Numbered]:
        """Return all tasks with their numbers, in the order of submission."""
        return [Numbered(self.numbers[i], record) for i, record in self.tasks.items()]

    def check_room(self, count: int) -> None:
        """Raise ``QueueFull`` unless so many more tasks may wait."""
        waiting = len(self.waiting())
        if count and waiting + count > self._limit:
            raise QueueFull(waiting, self._limit, count)

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait, the next one first."""
        records = [self.tasks[task_id] for task_id in self.unended]
        waiting = [record for record in records if record.status is Status.PENDING]
        waiting.sort(key=lambda each: (-each.priority, self.numbers[each.id]))
        return [record.id for record in waiting]

    def running(self) -> list[str]:
        """Return the ids of the tasks that run."""
        tasks = (self.tasks[task_id] for task_id in self.unended)
        return [task.id for task in tasks if task.status is Status.GENERATING]

    def state(self) -> QueueState:
        """Return where the queue stands."""
        waiting, running = len(self.waiting()), len(self.running())
        return QueueState(
            name=DEFAULT_QUEUE,
            is_paused=self._paused,
            has_runner=True,
            waiting=waiting,
            running=running,
        )

    def pause(self, *, paused: bool) -> None:
        """Start no further task while paused."""
        if paused is not self._paused:
            self.changes.append([queue_change(DEFAULT_QUEUE, paused=paused)])
        self._paused = paused
        self._changed.notify_all()

    def change(self, task_id: str, **fields: object) -> None:
        """Replace fields of a task."""
        record = msgspec.structs.replace(self.tasks[task_id], **fields)
        self.tasks[task_id] = record
        self._tell(record, record.outcome or record.status)

    def delete(self, task_id: str) -> None:
        """Forget a task that has ended, if there is one; its children stay."""
        record = self.tasks.pop(task_id, None)
        if record is None:
            return
        del self.numbers[task_id]
        self.attempts.pop(task_id, None)
        self.progress.forget(task_id)
        for child in list(self.tasks.values()):
            if child.parent_id == task_id:
                orphan = msgspec.structs.replace(child, parent_id=None)
                self.tasks[child.id] = orphan
        self._tell(record, "deleted")

    def cancel(self, task_ids: Iterable[str]) -> list[TaskEnd]:
        """Ask tasks to end; return the ends of those that waited, for ``resolve``."""
        waiting = set(self.waiting())
        ends = []
        for task_id in task_ids:
            self.unended[task_id].cancel.cancel()
            if task_id in waiting:
                ends.append(TaskEnd(task_id, Outcome.CANCELLED, NEVER_RAN))
                self._commit(ends[-1])
            else:
                self._tell(self.tasks[task_id], CANCELLING)
        return ends

    def resolve(self, ends: Iterable[TaskEnd]) -> None:
        """Resolve the futures of tasks that have ended; call it without the lock."""
        for end in ends:
            with self._changed:
                unended = self.unended.pop(end.task_id, None)
            if unended is not None:  # else another thread closes the queue, too
                unended.future.set_result(end)

    def close(self, *, finish: bool) -> None:
        """End the thread, after the running task if that is to finish."""
        with self._changed:
            self._closed = True
            if not finish:
                for unended in self.unended.values():
                    # What a person cancelled ends.
                    unended.is_given_back |= not unended.cancel.cancelled
                    unended.cancel.cancel()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self.resolve([TaskEnd(task_id, None) for task_id in list(self.unended)])
        self.progress.close()

    def _work(self) -> None:
        while (record := self._next()) is not None:
            run = MemoryRun(record, self.progress, read=self._read, save=self._save)
            end = run.run(self._runner, self.unended[record.id].cancel)
            with self._changed:
                ended = self._finish(end, run.facts)
            if ended is not None:
                self.resolve([ended])
        self._runner.close()
        self._engine.close()

    def _next(self) -> TaskRecord | None:
        """Wait for a task and mark it as started; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self.waiting() and not self._paused)
            )
            if self._closed:
                return None
            task_id = self.waiting()[0]
            self.change(
                task_id,
                status=Status.GENERATING,
                started_at=self._now(),
                attempt=self.tasks[task_id].attempt + 1,
                lane=_LANE,
            )
            return self.tasks[task_id]

    def _finish(self, end: TaskEnd, facts: dict[str, str]) -> TaskEnd | None:
        """Commit how an attempt ended; return the end of the task, if it is that."""
        task_id = end.task_id
        unended = self.unended[task_id]
        is_cancelled = unended.cancel.cancelled and not unended.is_given_back
        if isinstance(end.cause, WorkerDied):
            unended.deaths += 1
            error = str(end.cause)
            if is_cancelled:
                text = describe_cancel(self.progress.get_progress(task_id))
                end = TaskEnd(task_id, Outcome.CANCELLED, text)
            elif unended.deaths < MOST_DEATHS:
                self._wait_again(task_id, AttemptOutcome.LOST, error)
                return None
            else:
                end = TaskEnd(task_id, Outcome.FAILED, died_too_often(error))
        elif end.outcome is Outcome.CANCELLED and not is_cancelled:
            self._wait_again(task_id, AttemptOutcome.GIVEN_BACK)
            return None
        self._commit(end, facts)
        return end

    def _wait_again(
        self,
        task_id: str,
        outcome: AttemptOutcome,
        error: str | None = None,
    ) -> None:
        """Keep an attempt that did not end its task, which waits for the next one."""
        record = self.tasks[task_id]
        self.attempts[task_id] += [
            msgspec.structs.replace(
                attempt, outcome=outcome, error=error, ended_at=self._now()
            )
            for attempt in present_attempt(record)
        ]
        self.change(task_id, **_AGAIN)
        state = progress_of_record(self.tasks[task_id])
        self.progress.publish_foreign(state, was_here=True)
        if not self._closed:
            steps = record.request.num_inference_steps
            self.progress.create_progress(task_id, steps)

    def _commit(self, end: TaskEnd, facts: dict[str, str] | None = None) -> None:
        """Keep the end of a task, then tell the watchers."""
        task_id, outcome, error, result, _ = end
        present = self.progress.get_progress(task_id)
        assert present is not None  # a task that has not ended is never forgotten
        assert outcome is not None
        times = self.progress.stage_times(task_id)
        steps = self.progress.step_times(task_id)
        self.change(
            task_id,
            status=outcome.status,
            outcome=outcome,
            error=error,
            result=result,
            ended_at=self._now(),
            current_step=present.current_step,
            stages={stage.value: took_s for stage, took_s in times.items()},
            step_times={stage.value: took_s for stage, took_s in steps.items()},
            made_with=facts or {},
        )
        if outcome is Outcome.SUCCEEDED:
            self.progress.mark_complete(task_id, result=result)
        else:
            self.progress.mark_failed(
                task_id, error or "", outcome=outcome, result=result
            )

    def _tell(self, record: TaskRecord, state: str) -> None:
        new = NewChange(ChangeKind.TASK, record.id, state, record.batch_id)
        self.changes.append([new])

    def _read(self, name: str) -> bytes:
        with self._changed:
            return self._pictures.read(name)

    def _save(self, data: bytes, kind: str) -> str:
        with self._changed:
            return self._pictures.save(data, kind)
