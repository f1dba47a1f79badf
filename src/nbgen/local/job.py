"""A task on its way through the lane that makes it."""

from __future__ import annotations

from concurrent.futures import Future

from nbgen.generation.engine import CancelToken
from nbgen.schema import TaskEnd, TaskRecord


class Job:
    """One attempt at a task, which runs here.

    Attributes:
        task_id: The id of the task.
        request: What to make.
        seed: The seed of the first picture.
        began_at: When the attempt began, in UTC.
        generation: The generation of the queue that runs it.
        cancel: Set to stop the work.
        is_given_back: Whether it was stopped because the queue closes or another has
            its turn, so that it is to run again; set before ``cancel``.
        done: Resolves when the end of the attempt is committed, or told as a failure.
            Its outcome is None if the task did not end by it.
    """

    def __init__(self, record: TaskRecord, generation: int) -> None:
        self.task_id = record.id
        self.request = record.request
        self.seed = record.seed
        self.began_at = record.started_at
        self.generation = generation
        self.cancel = CancelToken()
        self.is_given_back = False
        self.done: Future[TaskEnd] = Future()
        # From here on nobody who waits for the future can cancel it.
        self.done.set_running_or_notify_cancel()

    def give_back(self) -> None:
        """Stop the work, so that the task runs again; what a person cancelled ends."""
        self.is_given_back = self.is_given_back or not self.cancel.cancelled
        self.cancel.cancel()
