"""The protocol of what runs tasks; see ``nbgen.backend``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from nbgen.schema import (
    GenerationRequest,
    QueueState,
    TaskEnd,
    TaskRecord,
)


class Running(Protocol):
    """Submits, orders and cancels tasks.

    Each call writes the queue and returns. Whichever process has its turn runs the
    tasks.
    """

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None,
        priority: int,
        replace: bool = False,
    ) -> TaskRecord:
        """Queue a task and return it once it is committed.

        Args:
            request: What to make.
            task_id: Its id; None draws one. If a task of that id exists with the same
                request, that task is returned: after another attempt is queued, if it
                failed or was lost.
            priority: -1,000 to 1,000; tasks of a higher one run first.
            replace: Whether a task of that id that has ended is made anew with another
                request, as its next attempt.

        Raises:
            InvalidRequest: A value is not allowed, or a picture is not kept here.
            TaskConflict: The id stands for another request.
            TaskNotEnded: The task to replace waits or runs.
            DecisionConflict: There is a decision on the task to replace.
            QueueFull: Too many tasks wait.
        """

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """Queue what is missing of a batch: all of it, or nothing if that fails.

        A row that failed or was lost gets another attempt. Rows that wait, run, have
        their pictures or were cancelled are left alone.

        Raises:
            InvalidRequest: The batch's id, a row's name or a picture is not allowed.
            TaskConflict: A row stands for another request.
            QueueFull: There is not room for all.
        """

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Queue another attempt at tasks that failed, were cancelled or lost.

        All or none. The request and the seed stay the same.

        Raises:
            UnknownTask: There is no such task.
            TaskNotEnded: One waits or runs.
            TaskSucceeded: One has its pictures.
            DecisionConflict: There is a decision on one.
            QueueFull: There is not room for all.
        """

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """Queue those rows again that failed, were cancelled or lost; all or none.

        Raises:
            QueueFull: There is not room for all.
        """

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Ask tasks to end: at once if they wait, within two steps if they run.

        Tasks that have ended stay as they are.

        Raises:
            UnknownTask: There is no such task; none is asked.
        """

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """Return a future that resolves with the task's end, once it is committed.

        ``TaskEnd.outcome`` is None if the backend is closed before the task has ended,
        or the task is deleted. A closed backend still knows the ends of the tasks that
        it has lately run.

        A callback of the future must return quickly and call nothing of the backend.

        Raises:
            UnknownTask: There is no such task.
        """

    def waiting(self) -> list[str]:
        """Return the ids of the tasks that wait to be run, the next one first."""

    def running(self) -> list[str]:
        """Return the ids of the tasks that run, the first one first."""

    def offered(self) -> list[str]:
        """Return the ids of the tasks that wait from before, the first one first.

        They were submitted in a process that is gone. They run once somebody calls
        ``run_offered`` or submits them again, or a server takes them over.
        """

    def run_offered(self) -> None:
        """Have the tasks run that wait from before."""

    def prioritise(self, task_id: str, priority: int) -> None:
        """Give a waiting task another priority, which is kept.

        Args:
            task_id: The task.
            priority: -1,000 to 1,000. Tasks of a higher one run first, those of the
                same in the order in which they were submitted.

        Raises:
            UnknownTask: There is no such task.
            TaskNotWaiting: It runs, or has ended.
            InvalidRequest: The priority is not from -1,000 to 1,000.
        """

    def pause(self) -> None:
        """Start no further task of the queue until ``resume``; what runs goes on.

        It holds in every process, and outlasts them.
        """

    def resume(self) -> None:
        """Start tasks of the queue again."""

    def queue_state(self) -> QueueState:
        """Return where the queue stands."""
