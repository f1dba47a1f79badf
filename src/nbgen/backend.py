"""What a studio is built on: the protocols between the facade and what does the work.

``Studio``, its handles, the widgets, the server and the command line know these
protocols only. ``nbgen.local.LocalBackend`` implements them in this process,
``nbgen.testing.MemoryBackend`` in memory, for tests. The tests in ``tests/contract``
run on each of them.

Every method may be called from any thread. Arguments and answers are frozen values;
callbacks are taken for watching only. Every method raises ``StudioClosed`` after
``close``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from nbgen.errors import NbgenError
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.schema import (
    BatchRow,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    GenerationProgress,
    GenerationRequest,
    PublicationRecord,
    Review,
    TaskEnd,
    TaskPage,
    TaskQuery,
    TaskRecord,
)

__all__ = [
    "Backend",
    "Deciding",
    "Finding",
    "Pictures",
    "PreviewCallback",
    "ProgressCallback",
    "Running",
    "StopWatching",
    "Watching",
]

StopWatching = Callable[[], None]
"""Ends the watching; calling it again does nothing."""


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
        the backend is closed before the task began.

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


class Watching(Protocol):
    """Shows how far tasks are."""

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task, however long ago it ended.

        Raises:
            UnknownTask: There is no such task.
        """

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        """Call back with the present state of a task, then with every later one.

        States come in order, none twice, up to the end. The task need not exist yet. Of
        a task that another process runs, the callback gets no more than the beginning
        and the end, within a second. The callback must return quickly; it runs on the
        thread ``nbgen-progress``, or on the caller's if the task has ended already.

        Returns:
            A function that ends the watching.
        """

    def watch_previews(self, task_id: str, callback: PreviewCallback) -> StopWatching:
        """Call back with previews of the picture, up to four a second, as it samples.

        Previews are made only while somebody watches them. The callback runs on a
        thread of the backend and must return quickly.
        """


class Finding(Protocol):
    """Finds tasks."""

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of the tasks that the query asks for, newest first.

        Raises:
            InvalidRequest: The cursor is none of this backend's.
        """

    def get_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return tasks in the order of the ids.

        Raises:
            UnknownTask: There is no such task; the first that is missing.
        """

    def batch_rows(self, batch_id: str) -> list[BatchRow]:
        """Return where the rows of a batch stand, in the order of their first tasks.

        Raises:
            InvalidRequest: It is no id of a batch.
            UnknownBatch: There is no such batch.
        """


class Pictures(Protocol):
    """Keeps picture files under names made from their bytes."""

    def keep_picture(self, field: str, picture: str | bytes) -> str:
        """Return the name of a picture that a request may refer to.

        Args:
            field: The field of the request, for the error: ``image`` or ``mask``.
            picture: The name or ``/images/`` URL of a picture that is kept here, or the
                bytes of a PNG file to keep.

        Raises:
            InvalidRequest: No picture of that name is kept here.
        """

    def read_picture(self, name: str) -> bytes:
        """Return the bytes of a picture file.

        Raises:
            UnknownImage: There is no picture of that name.
        """

    def picture_path(self, name: str) -> Path | None:
        """Return the file of a picture; None if it is not on this machine's disk."""

    def collect_garbage(self, *, dry_run: bool = True) -> list[str]:
        """Remove picture files that nothing refers to; return their names.

        Files that were written within the last hour stay: they may belong to a task
        under way. Unfinished files are removed too.

        Args:
            dry_run: Whether to remove nothing and only return the names.

        Raises:
            ForeignPictures: Another database may refer to them.
        """


class Deciding(Protocol):
    """Takes decisions, keeps their log, and publishes what is approved."""

    def decide(
        self, requests: Iterable[DecisionRequest]
    ) -> list[Decision | NbgenError]:
        """Take decisions in one transaction.

        Returns:
            For each request, in their order, the decision that stands, or why it was
            refused. A refusal does not keep the others from being taken.
        """

    def request_changes(
        self, request: DecisionRequest, *, prompt: str | None
    ) -> TaskRecord | None:
        """Send a task back and queue it again as its child, in one transaction.

        Args:
            request: The decision, with the verdict ``changes_requested``.
            prompt: The prompt of the child, which keeps the seed in use; None keeps the
                prompt and draws another seed.

        Returns:
            The child; the same one if the same was asked before. None for a task that
            was made elsewhere.

        Raises:
            UnknownTask: There is no such task.
            DecisionConflict: It cannot be decided so now.
            QueueFull: Too many tasks wait; nothing was decided.
        """

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None = None
    ) -> Decision:
        """Take a decision back: the reviewer's own or, knowingly, somebody else's.

        It counts as never taken, so the decision that it had overruled counts again.
        Publications of an approval that are not out yet are cancelled; published
        pictures stay published.

        Args:
            task_id: The task.
            reviewer_id: Who undoes.
            expect_version: How many decisions on the task the reviewer knows of. With
                it, the last decision that counts is undone where none of the
                reviewer's own does.

        Returns:
            The entry of the log, which supersedes the decision.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: There is nothing to undo, or somebody decided meanwhile.
        """

    def decisions(self, task_id: str | None = None) -> list[Decision]:
        """Return the log of decisions, oldest first: of one task, or all of it."""

    def review(self, task_id: str) -> Review:
        """Return what the decisions on a task come to.

        Raises:
            UnknownTask: There is no such task.
        """

    def decided(self, decision: Decision, *, wait_s: float = 0.0) -> Decided:
        """Return what came of a decision: its review, publications and a sentence.

        Args:
            decision: An entry of the log.
            wait_s: How long to wait, in seconds, for each publication to be tried.

        Raises:
            UnknownTask: There is no such task.
        """

    def put_content(
        self,
        task_id: str,
        metadata: Mapping[str, Any] | str,
        *,
        featured_image_url: str | None = None,
    ) -> ContentTask:
        """Register a task made elsewhere, or merge what is newly known of it.

        Args:
            task_id: The id of the task.
            metadata: What its makers know of it: an object, or one as JSON text.
                Objects are merged with what is known, other values take its place, and
                what is not mentioned stays.
            featured_image_url: Its own picture; None leaves it as it is.

        Raises:
            InvalidRequest: A value is not allowed.
        """

    def get_content(self, task_id: str) -> ContentTask:
        """Return a task made elsewhere.

        Raises:
            UnknownTask: There is no such task.
        """

    def publications(
        self, task_id: str, *, wait_s: float = 0.0
    ) -> list[PublicationRecord]:
        """Return the publications of a task, oldest first.

        Args:
            task_id: The task.
            wait_s: How long to wait, in seconds, for each to be tried once.
        """


class Backend(Running, Watching, Finding, Pictures, Deciding, Protocol):
    """All that a studio needs."""

    def close(self, *, finish: bool = False) -> None:
        """Cancel what runs, and release all threads, processes and files.

        Waiting tasks go on waiting, for the next studio that is opened on the same
        data. It waits for the running step, and for a publication under way. A second
        call waits for the same end.

        Args:
            finish: Whether the task that runs goes on to its end first. A
                ``KeyboardInterrupt`` cancels it, and is raised once all is closed; a
                second one is raised at once and leaves the rest to be closed again.
        """
