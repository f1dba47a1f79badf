"""Errors about one task, and about decisions on it."""

from __future__ import annotations

from nbgen.errors.base import NbgenError, shown


class TaskError(NbgenError):
    """Something is wrong with one task.

    Attributes:
        task_id: The id of the task.
    """

    code = "task_error"

    def __init__(self, task_id: str, message: str) -> None:
        self.task_id = task_id
        super().__init__(message)


class UnknownTask(TaskError, LookupError):
    """There is no task of that id."""

    code = "unknown_task"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"There is no task {shown(task_id)}. Check the id, or the data folder "
            "that the studio was opened on.",
        )


class TaskConflict(TaskError):
    """The id, or the key of the submission, already stands for another request."""

    code = "task_conflict"

    def __init__(self, task_id: str, key: str | None = None) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} exists with another request. Choose another task_id, "
            "leave it out to get a new one, or make the task anew with replace."
            if key is None
            else f"The key {shown(key)} was used for another request, which made task "
            f"{task_id!r}. Choose another key.",
        )


class TaskNotEnded(TaskError):
    """The task waits or runs, and only an ended one will do."""

    code = "task_not_ended"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id, f"Task {task_id!r} has not ended. Wait for it, or cancel it."
        )


class TaskSucceeded(TaskError):
    """The task has its pictures, and only one without will do."""

    code = "task_succeeded"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} has its pictures already. For others, submit a new "
            "task, or this one with another request and replace.",
        )


class TaskNotWaiting(TaskError):
    """The task has no place in the queue."""

    code = "task_not_waiting"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} does not wait: it runs, or has ended. Only a waiting "
            "task has a place in the queue.",
        )


class TaskProtected(TaskError):
    """The task is published or approved, and is deleted only by force."""

    code = "task_protected"

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} {reason}, so it was not deleted. To delete it all the "
            "same, use force: force=True, --force or ?force=true.",
        )


class TaskUnfinished(TaskError, TimeoutError):
    """The result was not there within the time that the caller would wait."""

    code = "task_unfinished"


class TaskCancelled(TaskError):
    """The task was cancelled before it had a result."""

    code = "task_cancelled"


class TaskLost(TaskError):
    """The process that ran the task ended before the task did."""

    code = "task_lost"


class GenerationFailed(TaskError):
    """The engine could not make the pictures."""

    code = "generation_failed"


class DecisionConflict(TaskError):
    """The task cannot take this decision now."""

    code = "decision_conflict"


class FeaturedImageMissing(TaskError):
    """There is no picture that an approval could stand for."""

    code = "featured_image_missing"
