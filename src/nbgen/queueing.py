"""The part of the studio that says what runs when.

Thread-safety: every method may be called from any thread. A task is committed before it
is acknowledged, and the queue of a process that died is taken over by the next studio
that is opened on the same data.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from nbgen.errors import (
    DataFolderInUse,
    DataFolderUnusable,
    StudioClosed,
    TaskConflict,
    TaskError,
    UnknownTask,
)
from nbgen.handles.task import Task
from nbgen.images import keep_picture
from nbgen.local.endings import Endings
from nbgen.local.job_queue import Job, JobQueue
from nbgen.local.lane import Lane
from nbgen.local.runner_lock import RunnerLock
from nbgen.progress import ProgressService
from nbgen.reviewing import Reviewing
from nbgen.schema import (
    Decision,
    GenerationProgress,
    GenerationRequest,
    TaskRecord,
    new_child,
    new_id,
    new_record,
    progress_of_record,
)
from nbgen.schema.checks import check_int, check_task_id

if TYPE_CHECKING:
    from nbgen.studio import Studio

logger = logging.getLogger(__name__)

HIGHEST_PRIORITY = 1_000


class Queueing(Reviewing):
    """Submits, orders and cancels tasks; ``Studio`` is one.

    What changes both the store and the queue is done under the submitters' lock. Where
    it is broken off in between, by Ctrl-C or an answer of the database that does not
    come, the tasks are in doubt until ``_settle`` has asked the store.
    """

    _progress: ProgressService
    _endings: Endings
    _lane: Lane
    _queue: JobQueue
    _runner: RunnerLock
    _takes_over: bool
    _rerun_lost: bool
    _submitting: threading.Lock
    _doubtful: set[str]
    _closed: bool

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None = None,
        priority: int = 0,
    ) -> Task:
        """Queue a request that was made before; see ``Studio.generate``."""
        if task_id is None:
            task_id = new_id()
        check_task_id(task_id)
        check_int("priority", priority, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)
        self._check_pictures(request)
        with self._submitting:
            if self._closed:
                raise StudioClosed
            standing = self._find_same(task_id, request)
        if standing is not None and self._is_settled(task_id):
            return standing
        try:
            with self._submission():
                # Again: somebody may have been faster, or it may have been taken over.
                standing = self._find_same(task_id, request)
                if standing is not None:
                    return standing
                record = new_record(task_id, request, priority=priority)
                [job] = self._add([record])
                return self._handle(record, job)
        except DataFolderInUse:
            if standing is None:
                raise
            return standing  # it is there who runs it

    def retry(self, task_id: str) -> Task:
        """Queue the request of an ended task again, as a task of its own.

        The new task has the old one as its parent, and its seed unless one was drawn.

        Raises:
            UnknownTask: There is no such task.
            TaskError: It has not ended.
            QueueFull: Too many tasks wait.
            StudioClosed: The studio is closed.
        """
        [task] = self.retry_tasks([task_id])
        return task

    def retry_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """Queue the requests of many ended tasks again, all or none; see ``retry``."""
        self._endings.save_ends()
        records = []
        for old in self.get_records(task_ids):
            if not old.status.ended:
                raise TaskError(
                    old.id, f"Task {old.id!r} has not ended. Wait for it, or cancel it."
                )
            records.append(new_child(old))
        if not records:
            return []
        with self._submission():
            jobs = self._add(records)
        return [self._handle(*made) for made in zip(records, jobs, strict=True)]

    def pause(self) -> None:
        """Start no further task until ``resume``; the one that runs goes on.

        To finish the running one and stop: ``close(finish=True)``.
        """
        self._queue.pause()

    def resume(self) -> None:
        """Start tasks again."""
        self._queue.resume()

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait here, the next one first."""
        return self._queue.waiting()

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting task another priority, which is kept.

        Args:
            task_id: The task.
            priority: -1,000 to 1,000; tasks of a higher one run first, those of the
                same in the order in which they were submitted.

        Raises:
            UnknownTask: There is no such task.
            TaskError: It does not wait here.
            InvalidRequest: The priority is not allowed.
        """
        check_int("priority", priority, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)
        self.get_record(task_id)
        with self._submitting:
            if not self._queue.waits(task_id):
                raise TaskError(
                    task_id,
                    f"Task {task_id!r} does not wait here: it runs, has ended, or is "
                    "another process's. Only a waiting task has a place in the queue.",
                )
            self._store.tasks.set_priority(task_id, priority)
            # One that has begun meanwhile could not have been sooner.
            self._queue.prioritise(task_id, priority)

    def cancel(self, task_id: str) -> None:
        """Ask a task to end: at once if it waits, within two steps if it runs.

        A task that has ended stays as it is.

        Raises:
            UnknownTask: There is no such task.
            TaskError: It does not run here, but in another process or studio.
            DataFolderUnusable: The database failed. A task that waits here ends when
                it is its turn.
        """
        self.cancel_tasks([task_id])

    def cancel_tasks(self, task_ids: Iterable[str]) -> None:
        """Ask many tasks to end, none of which begins meanwhile; see ``cancel``.

        If one is not here, none is asked.
        """
        task_ids = list(task_ids)
        with self._submitting:
            self._settle()
            not_here = [
                task_id
                for task_id in task_ids
                if self._queue.find(task_id) is None
                and not self._endings.has_unsaved_end(task_id)
            ]
            for record in self.get_records(not_here):
                if not record.status.ended:
                    raise TaskError(
                        record.id,
                        f"Task {record.id!r} runs in another process or studio, or "
                        "waits for one. Cancel it there.",
                    )
            waiting = self._queue.cancel(task_ids)
            if waiting:
                with self._in_doubt(job.task_id for job in waiting):
                    self._endings.cancel_waiting(waiting, self._queue.take_out)
            if self._queue.is_empty and not self._closed:
                self._runner.release()

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task, however long ago it ended.

        Raises:
            UnknownTask: There is no such task.
        """
        progress = self._progress.get_progress(task_id)
        if progress is None:
            progress = progress_of_record(self.get_record(task_id))
        return progress

    def task(self, task_id: str) -> Task:
        """Return a handle on a task.

        Raises:
            UnknownTask: There is no such task.
        """
        self._endings.save_ends()
        # Not between the storing and the queueing of one. The job first: one that ends
        # in between has its end in the record.
        with self._submitting:
            job = self._queue.find(task_id)
            record = self._store.tasks.get_task(task_id)
        if record is None:
            raise UnknownTask(task_id)
        return self._handle(record, job)

    @contextmanager
    def _submission(self) -> Iterator[None]:
        """Submit as the one process that runs the data folder's tasks.

        From then on it is until nothing is left to run.

        Raises:
            DataFolderInUse: Another process runs tasks.
            StudioClosed: The studio is closed.
        """
        with self._submitting:
            if self._closed:
                raise StudioClosed
            try:
                self._run_here()
                self._settle()
                yield
            finally:
                if self._queue.is_empty:
                    self._runner.release()

    def _run_here(self) -> None:
        self._store.renew_ownership()
        if self._runner.held:
            return
        self._runner.take()
        if not self._takes_over:
            return
        adopted = self._store.tasks.adopt_tasks(rerun_lost=self._rerun_lost)
        with self._in_doubt(record.id for record in adopted):
            self._queue_stored(adopted)

    def _queue_stored(self, records: Sequence[TaskRecord]) -> None:
        for record in records:
            # With a service that several share, whoever followed it goes on doing so.
            self._progress.forget(record.id)
            if self._progress.get_progress(record.id) is None:
                steps = record.request.num_inference_steps
                self._progress.create_progress(record.id, steps)
        self._queue.submit(_job(record) for record in records)

    @contextmanager
    def _in_doubt(self, task_ids: Iterable[str] = ()) -> Iterator[None]:
        """Change the store and the queue, and settle where they stand if that fails."""
        ids = set(task_ids)
        self._doubtful |= ids
        try:
            yield
        except TaskConflict as error:
            # Nothing was stored, and what is there of such an id is another's.
            self._fail_announced(str(error))
            self._doubtful.clear()
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
        self._doubtful -= ids

    def _settle(self, reason: str = "It was not stored.") -> None:
        """Bring the queue into line with the store; under the submitters' lock.

        Args:
            reason: Why tasks that are announced and not in the store have failed.
        """
        self._endings.save_ends()
        if not self._doubtful or self._closed:
            return
        records = self._store.tasks.get_tasks(list(self._doubtful))
        stored = []
        for task_id in self._doubtful:
            record = records.get(task_id)
            job = self._queue.find(task_id)
            if record is None:
                with suppress(UnknownTask):  # it was not announced
                    self._progress.mark_failed(task_id, reason)
            elif not record.status.ended:
                if job is None and not self._endings.has_unsaved_end(task_id):
                    stored.append(record)
            elif job is not None:
                for ended in self._queue.take_out([job]):
                    self._endings.resolve_from_record(ended, record)
        if stored:
            self._runner.take()
            self._queue_stored(sorted(stored, key=lambda record: record.created_at))
        self._doubtful.clear()

    def _fail_announced(self, error: str) -> list[str]:
        """Tell those who wait for tasks in doubt that they failed; return their ids."""
        announced = [
            task_id
            for task_id in self._doubtful
            if self._progress.get_progress(task_id) is not None
            and self._queue.find(task_id) is None
        ]
        for task_id in announced:
            self._progress.mark_failed(task_id, error)
        return announced

    def _another_runs(self) -> bool:
        """Say whether another process runs the tasks of the data folder."""
        if not self._runner.held_elsewhere:
            return False
        # As far as one can tell: the one that was last may be idle, or dead.
        with self._submitting:
            if self._closed:
                return False
            try:
                self._runner.take()
            except (DataFolderInUse, DataFolderUnusable):
                return True
            self._runner.release()
            return False

    def _rest(self) -> None:
        """Let another process run tasks if there is nothing left to run here."""
        with self._submitting:
            if self._queue.is_empty and not self._closed:
                self._runner.release()

    def _check_pictures(self, request: GenerationRequest) -> None:
        keep_picture(self._images, "image", request.image)
        keep_picture(self._images, "mask", request.mask)

    def _submit_child(
        self,
        parent_id: str,
        request: GenerationRequest,
        commit: Callable[[TaskRecord], Decision],
    ) -> Task | None:
        child = new_child(self.get_record(parent_id), request)
        with self._submission():
            self._queue.check_room()
            with self._in_doubt([child.id]):
                standing = commit(child).child_id
                if standing == child.id:
                    self._queue_stored([child])
            if standing == child.id:
                return self._handle(child, self._queue.find(child.id))
        # The same was asked for before, so there is a child already.
        return None if standing is None else self.task(standing)

    def _is_settled(self, task_id: str) -> bool:
        """Say whether a task has ended, or will here."""
        return (
            self._queue.find(task_id) is not None
            or self.get_record(task_id).status.ended
        )

    def _find_same(self, task_id: str, request: GenerationRequest) -> Task | None:
        """Return the task of that id, if there is one; under the submitters' lock."""
        standing = self._store.tasks.get_task(task_id)
        if standing is None:
            return None
        if standing.request != request:
            raise TaskConflict(task_id)
        return self._handle(standing, self._queue.find(task_id))

    def _add(self, records: Sequence[TaskRecord]) -> list[Job]:
        """Commit new tasks, all or none, and queue them; under the submitters' lock."""
        self._queue.check_room(len(records))
        taken = self._store.tasks.find_taken(records)
        if taken is not None:
            raise TaskConflict(taken)
        jobs = [_job(record) for record in records]
        with self._in_doubt():
            for record in records:
                self._announce(record)
            self._store.tasks.add_tasks(records)
            self._queue.submit(jobs)
        self._doubtful.difference_update(record.id for record in records)
        return jobs

    def _announce(self, record: TaskRecord) -> None:
        # One of that id that is not in the store could not be stored before.
        self._progress.forget(record.id)
        self._doubtful.add(record.id)
        try:
            self._progress.create_progress(
                record.id, record.request.num_inference_steps
            )
        except TaskConflict:  # another's, who shares the service
            self._doubtful.discard(record.id)
            raise

    def _handle(self, record: TaskRecord, job: Job | None) -> Task:
        return Task(cast("Studio", self), record, job)


def _job(record: TaskRecord) -> Job:
    return Job(record.id, record.request, record.seed, priority=record.priority)
