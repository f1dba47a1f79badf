"""The part of the studio that says what runs when.

Thread-safety: every method may be called from any thread. A task is committed before it
is acknowledged, and the queue of a process that died is taken over by the next studio
that is opened on the same data.
"""

from __future__ import annotations

import datetime as dt
import secrets
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from nbgen.checks import MAX_SEED, check_task_id, check_whole
from nbgen.errors import StudioClosed, TaskConflict, TaskError, UnknownTask
from nbgen.jobs import Job, JobQueue, Worker
from nbgen.progress import GenerationProgress, ProgressService
from nbgen.progress.progress import progress_of_record
from nbgen.reviewing import Reviewing
from nbgen.schema import GenerationRequest, Status, TaskRecord
from nbgen.store import keep_picture
from nbgen.task import Task

if TYPE_CHECKING:
    from nbgen.studio import Studio

_HIGHEST_PRIORITY = 1_000


class Queueing(Reviewing):
    """Submits, orders and cancels tasks; ``Studio`` is one."""

    _progress: ProgressService
    _worker: Worker
    _queue: JobQueue
    _submitting: threading.Lock
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
            task_id = _new_id()
        check_task_id(task_id)
        check_whole("priority", priority, -_HIGHEST_PRIORITY, _HIGHEST_PRIORITY)
        keep_picture(self._images, "image", request.image)
        keep_picture(self._images, "mask", request.mask)
        with self._submitting:
            if self._closed:
                raise StudioClosed
            standing = self._store.get_task(task_id)
            if standing is not None:
                if standing.request != request:
                    raise TaskConflict(task_id)
                return self._handle(standing, self._queue.find(task_id))
            self._queue.check_room()
            record = _new_record(task_id, request, priority=priority)
            return self._add(record)

    def retry(self, task_id: str) -> Task:
        """Queue the request of an ended task again, as a task of its own.

        The new task has the old one as its parent, and its seed unless one was drawn.

        Raises:
            UnknownTask: There is no such task.
            TaskError: It has not ended.
            QueueFull: Too many tasks wait.
            StudioClosed: The studio is closed.
        """
        old = self.get_record(task_id)
        if not old.status.ended:
            raise TaskError(
                task_id, f"Task {task_id!r} has not ended. Wait for it, or cancel it."
            )
        with self._submitting:
            if self._closed:
                raise StudioClosed
            self._queue.check_room()
            return self._add(
                _new_record(_new_id(), old.request, task_id, priority=old.priority)
            )

    def pause(self) -> None:
        """Start no further task until ``resume``; the one that runs goes on.

        To finish the running one and stop: ``pause()``, wait for it, ``close()``.
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
        check_whole("priority", priority, -_HIGHEST_PRIORITY, _HIGHEST_PRIORITY)
        self.get_record(task_id)
        if not self._queue.prioritise(task_id, priority):
            raise TaskError(
                task_id,
                f"Task {task_id!r} does not wait here: it runs, has ended, or is "
                "another process's. Only a waiting task has a place in the queue.",
            )
        self._store.set_priority(task_id, priority)

    def cancel(self, task_id: str) -> None:
        """Ask a task to end: at once if it waits, within two steps if it runs.

        A task that has ended stays as it is.

        Raises:
            UnknownTask: There is no such task.
            TaskError: Another process runs it.
        """
        never_ran = self._queue.cancel(task_id)
        if never_ran is not None:
            self._worker.cancel(never_ran)
        elif not self.get_progress(task_id).status.ended and (
            self._progress.get_progress(task_id) is None
        ):
            raise TaskError(
                task_id,
                f"Task {task_id!r} runs in another process. Cancel it there.",
            )

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
        # Not between the storing and the queueing of one. The job first: one that ends
        # in between has its end in the record.
        with self._submitting:
            job = self._queue.find(task_id)
            record = self._store.get_task(task_id)
        if record is None:
            raise UnknownTask(task_id)
        return self._handle(self.get_record(task_id), job)

    def _take_over(self) -> None:
        """Queue the tasks that waited in processes that are gone."""
        for record in self._store.adopt_waiting():
            self._progress.create_progress(
                record.id, record.request.num_inference_steps
            )
            self._queue.submit(_job(record))

    def _submit_child(
        self,
        parent_id: str,
        request: GenerationRequest,
        commit: Callable[[TaskRecord], object],
    ) -> Task | None:
        child = _new_record(_new_id(), request, parent_id)
        with self._submitting:
            if self._closed:
                raise StudioClosed
            commit(child)
            if self._store.get_task(child.id) is not None:
                self._progress.create_progress(child.id, request.num_inference_steps)
                job = _job(child)
                self._queue.submit(job)
                return self._handle(child, job)
        # The same was asked for before, so there is a child already.
        standing = self._store.find_child(parent_id)
        return None if standing is None else self.task(standing)

    def _add(self, record: TaskRecord) -> Task:
        """Commit a new task and queue it; under the lock of those who submit."""
        task_id = record.id
        self._progress.create_progress(task_id, record.request.num_inference_steps)
        try:
            added = self._store.add_task(record)
        except Exception as error:
            self._progress.mark_failed(task_id, str(error))
            raise
        if not added:  # another process was faster
            self._progress.mark_failed(task_id, str(TaskConflict(task_id)))
            raise TaskConflict(task_id)
        job = _job(record)
        self._queue.submit(job)
        return self._handle(record, job)

    def _handle(self, record: TaskRecord, job: Job | None) -> Task:
        return Task(cast("Studio", self), record, job)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _new_record(
    task_id: str,
    request: GenerationRequest,
    parent_id: str | None = None,
    *,
    priority: int = 0,
) -> TaskRecord:
    seed = request.seed
    return TaskRecord(
        id=task_id,
        parent_id=parent_id,
        request=request,
        seed=_draw_seed(request) if seed is None else seed,
        priority=priority,
        status=Status.PENDING,
        created_at=dt.datetime.now(dt.UTC),
    )


def _draw_seed(request: GenerationRequest) -> int:
    # So that the last picture of a batch has a seed that may be asked for, too.
    return secrets.randbelow(MAX_SEED - request.num_images)


def _job(record: TaskRecord) -> Job:
    return Job(record.id, record.request, record.seed, priority=record.priority)
