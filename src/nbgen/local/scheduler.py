"""Commits submissions and cancels, and keeps the store and the queue in line.

The protocol of a submission lies here whole. A task is announced to its watchers,
committed to the store, put into the job queue, and only then acknowledged. What is
broken off in between, by Ctrl-C or a database that does not answer, is unsettled: its
ids are kept until ``_settle`` has read the store and has brought the queue into line
with it.

Every method may be called from any thread. The unsettled ids, the closed flag and the
runner lock belong to ``_lock``, which is held over the store and the queue; see
docs/architecture.md for the order of locks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from nbgen.errors import (
    DataFolderInUse,
    DataFolderUnusable,
    StudioClosed,
    TaskConflict,
    TaskElsewhere,
    TaskNotWaiting,
    UnknownTask,
)
from nbgen.local.endings import Endings
from nbgen.local.job_queue import Job, JobQueue
from nbgen.local.runner_lock import RunnerLock
from nbgen.progress import ProgressService
from nbgen.schema import TaskEnd, TaskRecord, queue_change, resolved
from nbgen.schema.checks import check_priority
from nbgen.store import Store

logger = logging.getLogger(__name__)


class Scheduler:
    """Runs the tasks of one store; see the protocol ``Running``.

    Args:
        store: The tasks; whether a task exists and has ended is decided there.
        progress: Notifies watchers.
        queue: The jobs that wait and run here.
        endings: Commits ends, and keeps those that could not be committed.
        turn: The lock of the one process that runs tasks.
        take_over: Whether tasks of studios that are gone run here.
        rerun_lost: Whether tasks that ran in a process that died run again.
    """

    def __init__(
        self,
        store: Store,
        progress: ProgressService,
        queue: JobQueue,
        endings: Endings,
        turn: RunnerLock,
        *,
        take_over: bool,
        rerun_lost: bool,
    ) -> None:
        self._store = store
        self._tasks = store.tasks
        self._progress = progress
        self._queue = queue
        self._endings = endings
        self._turn = turn
        self._take_over = take_over
        self._rerun_lost = rerun_lost
        self._lock = threading.Lock()
        self._unsettled: set[str] = set()
        self._closed = False

    def start(self) -> None:
        """Queue the tasks that wait from before, and start to run jobs.

        Where another process runs tasks, they are left to it.
        """
        self._queue.start(
            on_empty=self._release_turn_if_idle,
            is_asked_to_rest=self._another_process_runs,
        )
        if self._take_over:
            with suppress(DataFolderInUse), self._submission():
                pass  # what waited is queued

    def add(self, plan: Callable[[], Sequence[TaskRecord]]) -> Sequence[TaskRecord]:
        """Commit and queue the tasks that a plan wants, all or none; return them.

        Args:
            plan: Returns new tasks. It is called with the lock held, so nobody submits
                or takes over a task between the plan and its commit.

        Raises:
            TaskConflict: A task of such an id exists already.
            DataFolderInUse: Another process runs the tasks.
            QueueFull: There is not room for all.
            StudioClosed: The scheduler is closed.
        """
        with self._submission():
            records = plan()
            if records:
                self._add(records)
            return records

    def add_child(
        self, child: TaskRecord, commit: Callable[[], str | None]
    ) -> str | None:
        """Queue a child that ``commit`` stores together with a decision.

        Args:
            child: The new task.
            commit: Stores the child and returns its id; or returns the id of the child
                that was stored before, or None if there is none.

        Returns:
            What ``commit`` returned.

        Raises:
            DataFolderInUse: Another process runs the tasks.
            QueueFull: Too many tasks wait; nothing was committed.
            StudioClosed: The scheduler is closed.
        """
        with self._submission():
            self._queue.check_room()
            with self._settling([child.id]):
                standing = commit()
                if standing == child.id:
                    self._enqueue([child])
        return standing

    def save_ends(self) -> None:
        """Commit the ends that could not be committed before."""
        self._check_open()
        self._endings.save_ends()

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Ask tasks to end, none of which begins meanwhile; see ``Running.cancel``."""
        with self._lock:
            self._check_open()
            self._settle()
            not_here = [
                task_id
                for task_id in task_ids
                if self._queue.find(task_id) is None
                and not self._endings.has_unsaved_end(task_id)
            ]
            for record in self._tasks.get_known(not_here):
                if not record.status.ended:
                    raise TaskElsewhere(record.id)
            waiting = self._queue.cancel(task_ids)
            if waiting:
                with (
                    self._releasing_turn(),
                    self._settling(job.task_id for job in waiting),
                ):
                    self._endings.cancel_waiting(waiting, self._queue.take_out)

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future of the task's end; see ``Running.ended``."""
        # Not between the storing and the queueing of a task. The queue first: the
        # record of a task that ends in between has its end.
        with self._lock:
            if not self._closed:
                self._endings.save_ends()
            known = self._queue.end_of(task_id)
            # One that was deleted is not to be found any more.
            is_kept = self._closed or self._progress.get_progress(task_id) is not None
            if known is not None and is_kept:
                return known
            self._check_open()
            [record] = self._tasks.get_known([task_id])
        return resolved(record.end)

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait, the next one first."""
        self._check_open()
        return self._queue.waiting()

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting task another priority; see ``Running.prioritise``."""
        check_priority(priority)
        with self._lock:
            self._check_open()
            if not self._queue.waits(task_id):
                self._tasks.get_known([task_id])
                raise TaskNotWaiting(task_id)
            self._tasks.set_priority(task_id, priority)
            # One that has begun meanwhile could not have been sooner.
            self._queue.prioritise(task_id, priority)

    def pause(self) -> None:
        """Start no further task; see ``Running.pause``."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Start tasks again."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        with self._lock:  # so that the feed tells it in the order in which it happens
            self._check_open()
            self._obey_pause(paused=paused)

    def _obey_pause(self, *, paused: bool) -> None:
        if not self._queue.set_paused(paused=paused):
            return
        try:
            self._store.changes.record(queue_change(paused=paused))
        except Exception:  # the queue obeys all the same
            logger.exception("That the queue was paused or resumed is not told.")

    def _release_turn_if_idle(self) -> None:
        """Let another process run tasks if there is nothing left to run here."""
        with self._lock:
            if self._queue.is_empty and not self._closed:
                self._turn.release()

    def _another_process_runs(self) -> bool:
        """Return whether another process runs the tasks of the store."""
        if not self._turn.held_elsewhere:
            return False
        # As far as one can tell: the one that was last may be idle, or dead.
        with self._lock:
            if self._closed:
                return False
            try:
                self._turn.take()
            except (DataFolderInUse, DataFolderUnusable):
                return True
            self._turn.release()
            return False

    def close(self, *, finish: bool) -> None:
        """Refuse further tasks, and wait for the end of the running one.

        Raises:
            KeyboardInterrupt: It came while this waited; see ``JobQueue.close``.
        """
        with self._lock:
            self._closed = True
        self._queue.close(finish=finish)
        self._obey_pause(paused=False)  # it ends with the studio

    @property
    def has_ended(self) -> bool:
        """Whether it was closed and every task that had started has ended."""
        return self._queue.has_ended

    def _check_open(self) -> None:
        if self._closed:
            raise StudioClosed

    @contextmanager
    def _submission(self) -> Iterator[None]:
        """Hold the lock and the turn of the one process that runs tasks.

        The turn is kept until nothing is left to run.

        Raises:
            DataFolderInUse: Another process has the turn.
            StudioClosed: The scheduler is closed.
        """
        with self._lock:
            self._check_open()
            with self._releasing_turn():
                self._take_turn()
                self._settle()
                yield

    @contextmanager
    def _releasing_turn(self) -> Iterator[None]:
        """Release the turn at the end if nothing is left to run; with the lock held."""
        try:
            yield
        finally:
            if self._queue.is_empty:
                self._turn.release()

    def _take_turn(self) -> None:
        self._store.renew_ownership()
        if self._turn.held:
            return
        self._turn.take()
        if not self._take_over:
            return
        adopted = self._tasks.adopt_tasks(rerun_lost=self._rerun_lost)
        with self._settling(record.id for record in adopted):
            self._enqueue(adopted)

    def _enqueue(self, records: Sequence[TaskRecord]) -> None:
        """Queue tasks that are stored, and begin to follow their progress."""
        for record in records:
            # With a service that several share, whoever followed it goes on doing so.
            self._progress.forget(record.id)
            if self._progress.get_progress(record.id) is None:
                steps = record.request.num_inference_steps
                self._progress.create_progress(record.id, steps)
        self._queue.submit(_job(record) for record in records)

    @contextmanager
    def _settling(self, task_ids: Iterable[str] = ()) -> Iterator[None]:
        """Change the store and the queue; if that fails, settle where tasks stand."""
        ids = set(task_ids)
        self._unsettled |= ids
        try:
            yield
        except TaskConflict as error:
            # Nothing was stored, and what is there of such an id is another's.
            self._fail_announced(str(error))
            self._unsettled.clear()
            raise
        except BaseException as error:
            reason = str(error) or "It was interrupted before it was stored."
            try:
                self._settle(reason)
            except Exception:
                logger.exception("Whether tasks were stored is not known yet.")
                for task_id in self._fail_announced(reason):
                    self._endings.keep_end(task_id, reason)
            raise
        self._unsettled -= ids

    def _settle(self, reason: str = "It was not stored.") -> None:
        """Bring the queue into line with the store; call it with the lock held.

        Args:
            reason: Why tasks that were announced and not stored have failed.
        """
        self._endings.save_ends()
        if not self._unsettled or self._closed:
            return
        records = self._tasks.get_tasks(list(self._unsettled))
        stored = []
        for task_id in self._unsettled:
            record = records.get(task_id)
            job = self._queue.find(task_id)
            if record is None:
                with suppress(UnknownTask):  # it was not announced
                    self._progress.mark_failed(task_id, reason, was_stored=False)
            elif not record.status.ended:
                if job is None and not self._endings.has_unsaved_end(task_id):
                    stored.append(record)
            elif job is not None:
                for ended in self._queue.take_out([job]):
                    self._endings.resolve_from_record(ended, record)
        if stored:
            self._turn.take()
            self._enqueue(sorted(stored, key=lambda record: record.created_at))
        self._unsettled.clear()

    def _fail_announced(self, error: str) -> list[str]:
        """Tell watchers of unsettled tasks that these failed; return their ids."""
        announced = [
            task_id
            for task_id in self._unsettled
            if self._progress.get_progress(task_id) is not None
            and self._queue.find(task_id) is None
        ]
        for task_id in announced:
            self._progress.mark_failed(task_id, error, was_stored=False)
        return announced

    def _add(self, records: Sequence[TaskRecord]) -> None:
        """Commit new tasks, all or none, and queue them; with the lock held."""
        self._queue.check_room(len(records))
        taken = self._tasks.find_taken(records)
        if taken is not None:
            raise TaskConflict(taken)
        jobs = [_job(record) for record in records]
        with self._settling():
            for record in records:
                self._announce(record)
            self._tasks.add_tasks(records)
            self._queue.submit(jobs)
        self._unsettled.difference_update(record.id for record in records)

    def _announce(self, record: TaskRecord) -> None:
        # One of that id that is not in the store could not be stored before.
        self._progress.forget(record.id)
        self._unsettled.add(record.id)
        try:
            self._progress.create_progress(
                record.id, record.request.num_inference_steps
            )
        except TaskConflict:  # another's, who shares the service
            self._unsettled.discard(record.id)
            raise


def _job(record: TaskRecord) -> Job:
    return Job(record.id, record.request, record.seed, priority=record.priority)
