"""The handle on one task. Any thread may call every method."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nbgen.backend import Backend, PreviewCallback, ProgressCallback, StopWatching
from nbgen.errors import (
    GenerationFailed,
    StudioClosed,
    TaskCancelled,
    TaskConflict,
    TaskLost,
    TaskUnfinished,
)
from nbgen.handles.picture import Picture
from nbgen.schema import (
    Attempt,
    GenerationProgress,
    GenerationRequest,
    GenerationResult,
    Outcome,
    Status,
    TaskEnd,
    TaskRecord,
    describe_request,
    resolved,
)
from nbgen.schema.checks import submission_id

_ERROR_OF_OUTCOME = {
    Outcome.FAILED: GenerationFailed,
    Outcome.CANCELLED: TaskCancelled,
    Outcome.LOST: TaskLost,
}


class Task:
    """A handle on one task; making or dropping it changes nothing about the task.

    Example::

        task = studio.generate("a red circle", seed=1)
        task.watch(print)
        [picture] = task.result().images

    Attributes:
        id: The id of the task.
        request: The request as it was asked for.
        seed: The seed in use, drawn if the request named none.
        status_then: Where the task stood when this handle was made.
    """

    def __init__(self, backend: Backend, record: TaskRecord) -> None:
        self._backend = backend
        self.id = record.id
        self.request = record.request
        self.seed = record.seed
        self.status_then = record.status
        self._end = self._look()

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"Task({describe_request(self.request)})"

    @property
    def record(self) -> TaskRecord:
        """The task as the store knows it now."""
        [record] = self._backend.get_tasks([self.id])
        return record

    @property
    def progress(self) -> GenerationProgress:
        """The present state of the task."""
        return self._backend.get_progress(self.id)

    @property
    def status(self) -> Status:
        """Where the task stands."""
        return self.progress.status

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts at the task, the first one first."""
        return self._backend.attempts(self.id)

    @property
    def pictures(self) -> list[Picture]:
        """Handles on the task's pictures; empty before there are any."""
        result = self.record.result
        images = result.images if result else ()
        return [Picture(self._backend, image) for image in images]

    @property
    def image_paths(self) -> list[Path]:
        """The files of the task's pictures that are on this machine's disk.

        Raises:
            PictureDamaged: One of them is damaged.
        """
        return [path for picture in self.pictures if (path := picture.path)]

    def watch(self, callback: ProgressCallback) -> StopWatching:
        """Call back with every state; see ``Studio.watch``."""
        return self._backend.watch(self.id, callback)

    def watch_previews(self, callback: PreviewCallback) -> StopWatching:
        """Call back with previews; see ``Studio.watch_previews``."""
        return self._backend.watch_previews(self.id, callback)

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
        record = self._backend.submit(request, task_id=None, priority=0)
        return Task(self._backend, record)

    def cancel(self) -> None:
        """Ask the task to end, within two steps if it runs; no-op if it has ended."""
        self._backend.cancel([self.id])

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end and return what was made.

        A ``KeyboardInterrupt`` while waiting cancels the task.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Raises:
            TaskUnfinished: It has not ended in that time; it goes on.
            TaskCancelled: It was cancelled.
            TaskLost: The process that ran it ended, with an older nbgen.
            GenerationFailed: It failed; the cause is chained.
        """
        try:
            end = self._newest_end().result(timeout)
        except TimeoutError:
            raise TaskUnfinished(
                self.id,
                f"Task {self.id!r} has not ended within {timeout} s. It goes on; "
                "ask again, or cancel() it.",
            ) from None
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._result_of(end)

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        """Wait for the end without blocking the loop; raises as ``result`` does."""
        return self._wait().__await__()

    async def _wait(self) -> GenerationResult:
        if self._end.done():
            await asyncio.to_thread(self._newest_end)
        end = await asyncio.wrap_future(self._end)
        if end.outcome is None:
            await asyncio.to_thread(self._look)  # as ``_result_of`` does
        return result_of(end)

    def _result_of(self, end: TaskEnd) -> GenerationResult:
        if end.outcome is None:
            self._look()  # which says so if the task was deleted
        return result_of(end)

    def _newest_end(self) -> Future[TaskEnd]:
        """Return the future of the end, of the next attempt if there is one."""
        if self._end.done() and self._end.result().outcome is not Outcome.SUCCEEDED:
            newest = self._look()
            is_known = not newest.done() or newest.result().outcome is not None
            if is_known or self._end.result().outcome is None:
                self._end = newest
        return self._end

    def _look(self) -> Future[TaskEnd]:
        """Return the future of the end, as the backend knows it now."""
        try:
            return self._backend.ended(self.id)
        except StudioClosed:
            return resolved(TaskEnd(self.id, None))


class Submission(NamedTuple):
    """How a request is queued; see ``Studio.generate``."""

    task_id: str | None
    request_key: str | None
    priority: int
    replace: bool


def submit_request(
    backend: Backend, request: GenerationRequest, how: Submission
) -> Task:
    """Queue a request under an id or a key; see ``Studio.generate``.

    Raises:
        TaskConflict: The id or the key stands for another request.
    """
    try:
        record = backend.submit(
            request,
            task_id=submission_id(how.task_id, how.request_key),
            priority=how.priority,
            replace=how.replace,
        )
    except TaskConflict as error:
        raise TaskConflict(error.task_id, how.request_key) from error
    return Task(backend, record)


async def wait_or_cancel(task: Task) -> GenerationResult:
    """Wait for a task, and cancel it if the waiting is cancelled, as by Ctrl-C.

    Raises:
        TaskError: As ``Task.result`` does.
    """
    try:
        return await task
    except asyncio.CancelledError:
        task.cancel()
        raise


def result_of(end: TaskEnd) -> GenerationResult:
    """Return what a task made, or raise why it made nothing.

    Raises:
        TaskError: As ``Task.result`` does.
    """
    if end.outcome is Outcome.SUCCEEDED and end.result is not None:
        return end.result
    if end.outcome is None:
        raise TaskUnfinished(
            end.task_id,
            f"Task {end.task_id!r} has not ended: the studio was closed before. Open "
            "another one to follow it.",
        )
    error = _ERROR_OF_OUTCOME[end.outcome]
    raise error(end.task_id, end.error or str(end.cause)) from end.cause
