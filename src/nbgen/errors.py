"""Every error that nbgen raises on purpose, each with a stable wire code.

::

    NbgenError
    ├── InvalidRequest        invalid_request         a field is not allowed
    ├── CheckpointNotFound    checkpoint_not_found    no such model here
    ├── OutOfMemory           out_of_memory           the picture is too big for here
    ├── BrokenPicture         broken_picture          black, or not a number
    ├── EngineFailed          engine_failed           it raised what it should not
    ├── WorkerDied            worker_died             the process of the model ended
    ├── NoRecipe              no_recipe               a file tells not how it was made
    ├── RowErrors             row_errors              rows of a table are not allowed
    ├── UnknownImage          unknown_image           no picture of that name
    ├── UnknownBatch          unknown_batch           no batch of that id
    ├── DataFolderUnusable    data_folder_unusable    nothing can be kept there
    ├── DataFolderInUse       data_folder_in_use      another process runs its tasks
    ├── ForeignPictures       foreign_pictures        others may refer to them
    ├── QueueFull             queue_full              too many tasks wait
    ├── TaskError             task_error
    │   ├── UnknownTask       unknown_task            no task of that id
    │   ├── TaskConflict      task_conflict           the id means another request
    │   ├── TaskNotEnded      task_not_ended          it waits or runs
    │   ├── TaskNotWaiting    task_not_waiting        it has no place in the queue
    │   ├── TaskElsewhere     task_elsewhere          another process runs it
    │   ├── TaskUnfinished    task_unfinished         the result was not there in time
    │   ├── TaskCancelled     task_cancelled          ended by a cancel
    │   ├── TaskLost          task_lost               its process died
    │   └── GenerationFailed  generation_failed       the engine gave up
    ├── DecisionConflict      decision_conflict       it cannot be decided (so) now
    ├── FeaturedImageMissing  featured_image_missing  nothing to approve
    ├── PublishFailed         publish_failed          an approval did not get out
    ├── AccessDenied          access_denied           credential missing or wrong
    ├── RunsNoTasks           runs_no_tasks           it only looks and decides
    └── StudioClosed          studio_closed           used after ``close()``

The message of each says what is wrong and what to do next; it is written for the
person who made the mistake and may be shown to any client. The codes are part of the
HTTP API and do not change. Errors may be pickled, so they cross from one process to
another as what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

_LONGEST_VALUE_SHOWN = 80


class NbgenError(Exception):
    """The base of every error that nbgen raises on purpose.

    Attributes:
        code: The stable name of the error on the wire.
    """

    code = "error"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default the message would be passed to __init__, which may want more.
        return _rebuilt, (type(self), self.args), self.__dict__


class InvalidRequest(NbgenError, ValueError):
    """A field of a request has a value that is not allowed.

    Attributes:
        field: The name of the field, as the caller wrote it.
        allowed: What the field takes, as a phrase.
    """

    code = "invalid_request"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.allowed = allowed
        self._value = value
        super().__init__(f"{field} must be {allowed}; got {_shown(value)}.")

    def renamed(self, field: str) -> InvalidRequest:
        """Return the same error with the field called as another caller knows it."""
        return InvalidRequest(field, self._value, self.allowed)


class RowErrors(NbgenError, ValueError):
    """Rows of a table ask for what is not allowed.

    Attributes:
        table: A ``pandas.DataFrame`` with a row for each mistake, and the columns
            ``row`` (the position, from 0), ``key``, ``field``, ``value`` and
            ``error``.
    """

    code = "row_errors"

    def __init__(self, message: str, table: pandas.DataFrame) -> None:
        self.table = table
        super().__init__(message)


class CheckpointNotFound(NbgenError):
    """The model that was asked for is not on this machine."""

    code = "checkpoint_not_found"


class OutOfMemory(NbgenError):
    """There is not enough memory for the picture, even made in the thriftiest way."""

    code = "out_of_memory"


class BrokenPicture(NbgenError):
    """The picture is black, or the model's answer was not a number."""

    code = "broken_picture"


class EngineFailed(NbgenError):
    """The engine raised, in a process of its own, what is no error of nbgen's.

    The message names the type of that exception; its traceback was logged.
    """

    code = "engine_failed"


class WorkerDied(NbgenError):
    """The process that makes the pictures ended before they were made.

    Attributes:
        of_memory: Whether it was killed, as a system does that runs out of memory.
    """

    code = "worker_died"

    def __init__(self, message: str, *, of_memory: bool = False) -> None:
        self.of_memory = of_memory
        super().__init__(message)


class NoRecipe(NbgenError):
    """A picture file does not say how it was made."""

    code = "no_recipe"


class UnknownImage(NbgenError, LookupError):
    """There is no picture of that name where the studio keeps its pictures."""

    code = "unknown_image"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no picture {_shown(name)}. Take a name from the result of a "
            "task, and check that its file was not removed."
        )


class UnknownBatch(NbgenError, LookupError):
    """There is no batch of that id."""

    code = "unknown_batch"

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"There is no batch {_shown(batch_id)}. Check the id, or the data folder "
            "that the studio was opened on."
        )


class PackageMissing(NbgenError, ImportError):
    """A package that this needs is not installed."""

    code = "package_missing"

    def __init__(self, package: str | None, extra: str) -> None:
        super().__init__(
            f"This needs the package {package}, which is not installed. Install what "
            f"belongs to it with: pip install 'nbgen[{extra}]'"
        )


class DataFolderUnusable(NbgenError):
    """The folder or the database for tasks and pictures cannot be read or written."""

    code = "data_folder_unusable"


class DataFolderInUse(NbgenError):
    """Another process runs the tasks of the data folder."""

    code = "data_folder_in_use"

    def __init__(self, folder: str, holder: str) -> None:
        super().__init__(
            f"The data folder {folder!r} is in use: {holder} runs tasks. Try again "
            "when they have ended, submit there, or open another folder with data_dir, "
            "--data-dir or NBGEN_DATA_DIR. To look and to decide works here, too."
        )


class ForeignPictures(NbgenError):
    """Garbage cannot be told from pictures that another database refers to."""

    code = "foreign_pictures"


class QueueFull(NbgenError):
    """As many tasks wait as may."""

    code = "queue_full"

    def __init__(self, waiting: int, limit: int, asked: int) -> None:
        wait = "1 task waits" if waiting == 1 else f"{waiting:,} tasks wait"
        way_out = "Submit again when some have run, cancel some"
        if asked > limit:
            way_out = "Submit fewer at a time"
        super().__init__(
            f"{asked:,} more {'does' if asked == 1 else 'do'} not fit: {wait}, and "
            f"{limit:,} may. {way_out}, or open the studio with a higher queue_limit."
        )


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
            f"There is no task {_shown(task_id)}. Check the id, or the data folder "
            "that the studio was opened on.",
        )


class TaskConflict(TaskError):
    """The id already stands for another request."""

    code = "task_conflict"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} exists with another request. Choose another task_id, "
            "or leave it out to get a new one.",
        )


class TaskNotEnded(TaskError):
    """The task waits or runs, and only an ended one will do."""

    code = "task_not_ended"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id, f"Task {task_id!r} has not ended. Wait for it, or cancel it."
        )


class TaskNotWaiting(TaskError):
    """The task has no place in the queue."""

    code = "task_not_waiting"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} does not wait here: it runs, has ended, or is another "
            "process's. Only a waiting task has a place in the queue.",
        )


class TaskElsewhere(TaskError):
    """Another process or studio runs the task, or will."""

    code = "task_elsewhere"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            task_id,
            f"Task {task_id!r} runs in another process or studio, or waits for one. "
            "Cancel it there.",
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


class PublishFailed(NbgenError):
    """An approved picture could not be published."""

    code = "publish_failed"


class AccessDenied(NbgenError):
    """The credential is missing or wrong."""

    code = "access_denied"


class RunsNoTasks(NbgenError):
    """The studio was opened to look and to decide, and runs no tasks."""

    code = "runs_no_tasks"

    def __init__(self) -> None:
        super().__init__(
            "This studio finds tasks and decides on them, but runs none. Open one "
            "with Studio() to make pictures."
        )


class StudioClosed(NbgenError):
    """The studio was used after it was closed."""

    code = "studio_closed"

    def __init__(self) -> None:
        super().__init__("This studio is closed. Open another with Studio().")


def _rebuilt(kind: type[NbgenError], arguments: tuple[Any, ...]) -> NbgenError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


def _shown(value: object) -> str:
    """Return the value as it may stand in a message: short, on one line."""
    if isinstance(value, str) and len(value) > _LONGEST_VALUE_SHOWN:
        return f"{len(value):,} characters"
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - also of a number that Python will not write
        return f"a value of type {type(value).__name__} that cannot be shown"
    # What can be neither stored nor sent, of a class that shows itself with it.
    shown = shown.encode("utf-8", "replace").decode()
    if len(shown) > _LONGEST_VALUE_SHOWN:
        return shown[: _LONGEST_VALUE_SHOWN - 1] + "…"
    return shown
