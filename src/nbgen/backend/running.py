"""The protocol of what runs tasks; see ``nbgen.backend``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from nbgen.schema import (
    GenerationRequest,
    TaskEnd,
    TaskRecord,
)


class Running(Protocol):
    """Submits, orders and cancels tasks."""

    def submit(
        self, request: GenerationRequest, *, task_id: str | None, priority: int
    ) -> TaskRecord:
        """Queue a task and return it once it is committed.

        Args:
            request: What to make.
            task_id: Its id; None draws one. If a task of that id exists with the same
                request, that task is returned.
            priority: -1,000 to 1,000; tasks of a higher one run first.

        Raises:
            InvalidRequest: A value is not allowed, or a picture is not kept here.
            TaskConflict: The id stands for another request.
            DataFolderInUse: Another process runs the tasks.
            QueueFull: Too many tasks wait.
        """

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """Queue what is missing of a batch: all of it, or nothing if that fails.

        Rows that wait, run or have their pictures are left alone. A row that failed,
        was cancelled or lost gets a new task with the last one as its parent.

        Raises:
            InvalidRequest: The batch's id, a row's name or a picture is not allowed.
            TaskConflict: A row stands for another request.
            DataFolderInUse: Another process runs the tasks, and something is missing.
            QueueFull: There is not room for all.
        """

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Queue the requests of ended tasks again, each as a child of the old task.

        All or none.

        Raises:
            UnknownTask: There is no such task.
            TaskNotEnded: One waits or runs.
            QueueFull: There is not room for all.
        """

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """Queue those rows again that failed, were cancelled or lost; all or none.

        Raises:
            QueueFull: There is not room for all.
            DataFolderInUse: Another process runs the tasks.
        """

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Ask tasks to end: at once if they wait, within two steps if they run.

        Tasks that have ended stay as they are. If one cannot be cancelled here, none
        is asked.

        Raises:
            UnknownTask: There is no such task.
            TaskElsewhere: One runs in another process, or waits for one.
        """

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future that resolves with the task's end, once it is committed.

        For a task that this backend does not run, the future is resolved already;
        ``TaskEnd.outcome`` is None if such a task has not ended. It is None too when
        the backend is closed before the task has ended, and gives it back.

        A callback of the future must return quickly and call nothing of the backend: it
        may run while the backend's locks are held.

        Raises:
            UnknownTask: There is no such task.
        """

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait, the next one first."""

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting task another priority, which is kept.

        Args:
            task_id: The task.
            priority: -1,000 to 1,000. Tasks of a higher one run first, those of the
                same in the order in which they were submitted.

        Raises:
            UnknownTask: There is no such task.
            TaskNotWaiting: It runs, has ended, or waits elsewhere.
            InvalidRequest: The priority is not from -1,000 to 1,000.
        """

    def pause(self) -> None:
        """Start no further task until ``resume``; the one that runs goes on.

        To finish the running task and stop: ``close(finish=True)``.
        """

    def resume(self) -> None:
        """Start tasks again."""
