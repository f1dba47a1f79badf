"""How tasks end: the rules and the words that every backend shares.

Pure functions over frozen values, so any thread may call them.
"""

from __future__ import annotations

from concurrent.futures import Future

from nbgen.errors import EngineFailed, NbgenError
from nbgen.schema.picture import GenerationResult
from nbgen.schema.progress import GenerationProgress
from nbgen.schema.queue import MOST_DEATHS
from nbgen.schema.task import Outcome, TaskEnd

NEVER_RAN = "Cancelled before it started."


def describe_cancel(progress: GenerationProgress | None) -> str:
    """Return a sentence that says where a task was cancelled."""
    if progress is None or progress.current_stage is None:
        return NEVER_RAN
    return f"Cancelled at step {progress.current_step} of {progress.total_steps}."


def check_complete(result: GenerationResult | None, num_images: int) -> None:
    """Raise ``EngineFailed`` unless all pictures were made."""
    made = len(result.images) if result is not None else 0
    if made != num_images:
        raise EngineFailed(f"The engine made {made} of {num_images} pictures.")


def failed_end(
    task_id: str,
    error: BaseException,
    result: GenerationResult | None,
    num_images: int,
) -> TaskEnd:
    """Return the end of a task that an error ended.

    Args:
        task_id: The task.
        error: The error.
        result: The pictures that were made before it; None for none.
        num_images: How many were asked for.
    """
    text = str(error)
    if not isinstance(error, NbgenError):
        text = f"{type(error).__name__}: {error}"
    if result is not None:
        kept = f"The first {len(result.images)} of {num_images} pictures were kept."
        text = f"{text.rstrip('.')}. {kept}"
    return TaskEnd(task_id, Outcome.FAILED, text, result, error)


def died_too_often(error: str) -> str:
    """Return why a task fails whose attempts have all ended with their process."""
    return f"The process that made it ended {MOST_DEATHS} times. The last time: {error}"


def resolved(end: TaskEnd) -> Future[TaskEnd]:
    """Return a future that has resolved with an end."""
    future: Future[TaskEnd] = Future()
    future.set_result(end)
    return future
