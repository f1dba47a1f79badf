"""The handle on one task. Every method may be called from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nbgen.errors import GenerationFailed, TaskCancelled, TaskLost, TaskUnfinished
from nbgen.local.job_queue import Job
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.schema import (
    GenerationProgress,
    GenerationResult,
    Outcome,
    Status,
    TaskRecord,
    describe_request,
)

if TYPE_CHECKING:
    from nbgen.studio import Studio

_ERROR_OF_OUTCOME = {
    Outcome.FAILED: GenerationFailed,
    Outcome.CANCELLED: TaskCancelled,
    Outcome.LOST: TaskLost,
}


class Task:
    """A handle on one task; making or dropping it changes nothing about the task.

    Attributes:
        id: The id of the task.
        request: The request as it was asked for.
    """

    def __init__(self, studio: Studio, record: TaskRecord, job: Job | None) -> None:
        self._studio = studio
        self._job = job
        self._seed = record.seed
        self.id = record.id
        self.request = record.request

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"Task({describe_request(self.request)})"

    @property
    def seed(self) -> int:
        """The seed in use, drawn if the request named none."""
        return self._seed

    @property
    def record(self) -> TaskRecord:
        """The task as the store knows it now."""
        return self._studio.get_record(self.id)

    @property
    def progress(self) -> GenerationProgress:
        """The present state of the task."""
        return self._studio.get_progress(self.id)

    @property
    def status(self) -> Status:
        """Where the task stands."""
        return self.progress.status

    @property
    def image_paths(self) -> list[Path]:
        """The files of the task's pictures; empty before it has succeeded."""
        result = self.record.result
        names = [image.name for image in result.images] if result else []
        return [path for name in names if (path := self._studio.image_path(name))]

    def watch(self, callback: ProgressCallback) -> Callable[[], None]:
        """Have the callback told of every state; see ``Studio.watch``."""
        return self._studio.watch(self.id, callback)

    def watch_previews(self, callback: PreviewCallback) -> Callable[[], None]:
        """Have the callback shown previews; see ``Studio.watch_previews``."""
        return self._studio.watch_previews(self.id, callback)

    def variations(self, count: int = 4, *, strength: float = 0.6) -> Task:
        """Queue variations of the first picture: the same prompt, other seeds.

        Args:
            count: How many, 1 to 16.
            strength: How far they go from the picture: more than 0, up to 1.

        Raises:
            TaskError: The task has no picture to start from.
            InvalidRequest: A value is not allowed.
        """
        result = self.result(0)
        first = result.images[0]
        request = msgspec.structs.replace(
            self.request,
            image=first.name,
            mask=None,
            strength=strength,
            num_images=count,
            seed=None,
            width=first.width,
            height=first.height,
        )
        return self._studio.submit(request)

    def cancel(self) -> None:
        """Ask the task to end, within two steps if it runs; no-op if it has ended."""
        self._studio.cancel(self.id)

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end and return what was made.

        A ``KeyboardInterrupt`` while waiting cancels the task.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TaskUnfinished: It has not ended in that time; it goes on.
            TaskCancelled: It was cancelled.
            TaskLost: The process that ran it ended.
            GenerationFailed: It failed; the cause is chained.
        """
        if self._job is not None:
            try:
                self._job.done.result(timeout)
            except TimeoutError:
                raise TaskUnfinished(
                    self.id,
                    f"Task {self.id!r} has not ended within {timeout} s. It goes on; "
                    "ask again, or cancel() it.",
                ) from None
            except KeyboardInterrupt:
                self.cancel()
                raise
        return ended_result(self.record, self._cause)

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        """Wait for the end without blocking the loop; raises as ``result`` does."""
        return self._wait().__await__()

    async def _wait(self) -> GenerationResult:
        if self._job is not None:
            await asyncio.wrap_future(self._job.done)
        return ended_result(self.record, self._cause)

    @property
    def _cause(self) -> BaseException | None:
        return None if self._job is None else self._job.error


def ended_result(
    record: TaskRecord, cause: BaseException | None = None
) -> GenerationResult:
    """Return what an ended task made, or raise why it made nothing.

    Raises:
        TaskError: As ``Task.result`` does.
    """
    if record.outcome is Outcome.SUCCEEDED and record.result is not None:
        return record.result
    if record.outcome is None and cause is None:
        raise TaskUnfinished(
            record.id,
            f"Task {record.id!r} has not ended, and does not run here: another "
            "process has it, or it waits for one since its studio was closed. Its "
            "result can be read once it has ended.",
        )
    error = _ERROR_OF_OUTCOME[record.outcome or Outcome.FAILED]
    raise error(record.id, record.error or str(cause)) from cause
