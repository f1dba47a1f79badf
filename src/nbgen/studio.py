"""The one facade over generation, progress, store and review.

``Studio`` turns keywords into frozen values, and answers into handles and DataFrames.
It has no state but its backend, whose threads docs/architecture.md lists. Every method
may be called from any thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from nbgen import framing, keeping
from nbgen.backend import (
    Backend,
    Deciding,
    Describing,
    Finding,
    Pictures,
    ProgressCallback,
    Running,
    Watching,
)
from nbgen.errors import NbgenError
from nbgen.forwarding import forwarded
from nbgen.handles import Batch, Task
from nbgen.handles.picture import copy_picture, format_of
from nbgen.handles.task import Submission, submit_request, wait_or_cancel
from nbgen.local.backend import LocalBackend
from nbgen.local.config import StudioConfig, StudioSettings, config_of
from nbgen.progress import ProgressService
from nbgen.review.publishers import Publisher
from nbgen.schema import (
    PICTURE_FIELDS,
    Decision,
    DecisionFields,
    GenerationRequest,
    RequestFields,
    TaskFilters,
    TaskPage,
    TaskRecord,
    Verdict,
    check_request_names,
    make_decision_request,
    make_query,
    make_request,
    takes_decision_fields,
    takes_request_fields,
)

if TYPE_CHECKING:
    from nbgen.generation.engine import Engine
    from nbgen.generation.process import ProcessEngine


class Studio:
    """Makes, watches and approves pictures.

    Opening one is cheap: the model is loaded in the background, and stays loaded until
    ``close()``. A process that exits closes it too. Studios of one process on the same
    data folder share queue and model, until the last one is closed or forgotten.

    Studios of other processes on the data folder share its queue: each may submit,
    cancel and decide, and one at a time runs the tasks. What waited in a process that
    is gone is offered; see ``offered``.

    Example::

        with Studio(checkpoint="tiny") as studio:
            task = studio.generate("a red circle", seed=1)
            print(task.result())

    Args:
        data_dir: The folder of tasks, decisions and pictures; by default
            ``NBGEN_DATA_DIR`` or the user's data folder.
        checkpoint: ``"auto"``, ``"tiny"``, ``"sdxl"``, a folder, a ``.safetensors``
            file or a model's id on the hub.
        engine: Makes the pictures instead of SDXL, in this process; for tests.
        progress: Notifies watchers; by default a service of the studio's own.
        publishers: Publish what is approved; by default those of
            ``nbgen.review.installed``.
        backend: Does the work, in place of one that the arguments describe.
        settings: Further fields of ``nbgen.local.config.StudioConfig``, which describes
            them: ``database``, ``images``, ``quorum``, ``worker`` and others.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        DataFolderUnusable: The data folder or the database cannot be read or written.
        InvalidRequest: A setting is not allowed, or an open studio has another.
        PublishFailed: An installed publisher cannot be loaded.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        checkpoint: str | Path = "auto",
        *,
        engine: Engine | ProcessEngine | None = None,
        progress: ProgressService | None = None,
        publishers: Sequence[Publisher] | None = None,
        backend: Backend | None = None,
        **settings: Unpack[StudioSettings],
    ) -> None:
        self._backend = backend or LocalBackend.open_shared(
            config_of(data_dir, checkpoint, settings),
            settings if checkpoint == "auto" else {"checkpoint", *settings},
            self,
            engine=engine,
            progress=progress,
            publishers=publishers,
        )

    @classmethod
    def open_library(
        cls,
        data_dir: str | Path | None = None,
        *,
        queue: str | None = None,
        publishers: Sequence[Publisher] | None = None,
    ) -> Studio:
        """Open a studio that never runs a task itself, and so opens no model.

        The arguments are those of ``Studio``.
        """
        config = StudioConfig(data_dir=data_dir, queue=queue)
        return cls(backend=LocalBackend.open_library(config, publishers=publishers))

    # Calls of the backend that need no translation; ``nbgen.backend`` describes them.
    retry_rows = forwarded(Running.retry_rows)
    waiting = forwarded(Running.waiting)
    running = forwarded(Running.running)
    offered = forwarded(Running.offered)
    run_offered = forwarded(Running.run_offered)
    queue_state = forwarded(Running.queue_state)
    prioritise = forwarded(Running.prioritise)
    pause = forwarded(Running.pause)
    resume = forwarded(Running.resume)
    get_progress = forwarded(Watching.get_progress)
    watch = forwarded(Watching.watch)
    watch_changes = forwarded(Watching.watch_changes)
    watch_previews = forwarded(Watching.watch_previews)
    batch_rows = forwarded(Finding.batch_rows)
    attempts = forwarded(Finding.attempts)
    image_path = forwarded(Pictures.picture_path, "image_path")
    read_image = forwarded(Pictures.read_picture, "read_image")
    collect_garbage = forwarded(Pictures.collect_garbage)
    check = forwarded(Pictures.check_pictures, "check")
    decide_many = forwarded(Deciding.decide, "decide_many")
    undo = forwarded(Deciding.undo)
    decisions = forwarded(Deciding.decisions)
    review = forwarded(Deciding.review)
    decided = forwarded(Deciding.decided)
    put_content = forwarded(Deciding.put_content)
    get_content = forwarded(Deciding.get_content)
    publications = forwarded(Deciding.publications)
    model = forwarded(Describing.model)
    measure_prompt = forwarded(Describing.measure_prompt)
    close = forwarded(Backend.close)
    keep_picture = keeping.keep_picture
    delete = keeping.delete
    delete_old = keeping.delete_old
    clear_up = keeping.clear_up
    export = keeping.export
    backup = keeping.backup
    restore = staticmethod(keeping.restore)

    # Tables; pandas is imported by the first of these that is called.
    generate_frame = framing.generate_frame
    tasks_frame = framing.tasks_frame
    images_frame = framing.images_frame
    decisions_frame = framing.decisions_frame

    @property
    def backend(self) -> Backend:
        """The backend that does the work."""
        return self._backend

    def __repr__(self) -> str:
        return "Studio()"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @takes_request_fields
    def generate(
        self,
        prompt: str,
        *,
        task_id: str | None = None,
        request_key: str | None = None,
        priority: int = 0,
        replace: bool = False,
        **fields: Unpack[RequestFields],
    ) -> Task:
        """Queue a generation and return at once.

        Args:
            prompt: What the picture shows.
            task_id: The id of the task; None draws one. An existing task of that id
                and the same request is returned, and made again if it failed.
            request_key: What you call this submission, in place of an id. However often
                it is repeated, it makes one task.
            priority: -1,000 to 1,000; tasks of a higher one run first.
            replace: Whether an ended task of that id is made anew with this request.
            fields: Further fields of ``GenerationRequest``. ``image`` and ``mask`` may
                also be PIL images, or the paths or the bytes of picture files.

        Raises:
            InvalidRequest: A value or a keyword is not allowed; nothing was queued.
            TaskConflict: The id or the key stands for another request.
            QueueFull: Too many tasks wait.
            StudioClosed: The studio is closed.
        """
        check_request_names(fields, "task_id", "request_key", "priority", "replace")
        wanted: dict[str, Any] = {"prompt": prompt, **fields}
        for name in PICTURE_FIELDS:
            if wanted.get(name) is not None:
                wanted[name] = self.keep_picture(name, wanted[name])
        return self.submit(
            make_request(wanted),
            task_id=task_id,
            request_key=request_key,
            priority=priority,
            replace=replace,
        )

    @takes_request_fields
    async def generate_image(
        self,
        prompt: str,
        output_path: str | Path,
        *,
        task_id: str | None = None,
        on_progress: ProgressCallback | None = None,
        **fields: Unpack[RequestFields],
    ) -> Path:
        """Make one picture, write it to a file and return its path.

        Args:
            prompt: What the picture shows.
            output_path: A file that ends in ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``;
                missing folders are made, and an existing file is replaced at the end.
            task_id: The id to follow the work under.
            on_progress: Called with every state of the task; see ``watch``.
            fields: See ``generate``. Of several pictures, the first is written.

        Raises:
            InvalidRequest: A value or a keyword is not allowed; nothing was queued.
            TaskError: The task did not succeed; nothing was written.
        """
        check_request_names(fields, "output_path", "task_id", "on_progress")
        path = Path(output_path)
        fields["output_format"] = format_of(path)
        task = await asyncio.to_thread(self.generate, prompt, task_id=task_id, **fields)
        if on_progress is not None:
            task.watch(on_progress)
        result = await wait_or_cancel(task)
        name = result.images[0].name
        await asyncio.to_thread(copy_picture, self._backend, name, path)
        return path

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None = None,
        request_key: str | None = None,
        priority: int = 0,
        replace: bool = False,
    ) -> Task:
        """Queue a request that was made before; see ``generate``."""
        wanted = Submission(task_id, request_key, priority, replace=replace)
        return submit_request(self._backend, request, wanted)

    def submit_batch(
        self,
        requests: Mapping[str, GenerationRequest],
        *,
        batch_id: str,
        priority: int = 0,
    ) -> Batch:
        """Queue what is missing of a batch, all of it or, if that fails, nothing.

        A row that failed or was lost gets another attempt. ``Running.submit_batch``
        describes the errors.

        Args:
            requests: The requests, by names that stay the same at the next call.
            batch_id: The name of the batch. Its tasks are ``batch_id:row``.
            priority: See ``generate``.
        """
        self._backend.submit_batch(batch_id, requests, priority=priority)
        return Batch(self._backend, batch_id, tuple(requests))

    def task(self, task_id: str) -> Task:
        """Return a handle on a task; raise ``UnknownTask`` if there is none."""
        return Task(self._backend, self.get_record(task_id))

    def batch(self, batch_id: str) -> Batch:
        """Return a handle on all rows of a batch, or raise ``UnknownBatch``."""
        rows = [row.name for row in self.batch_rows(batch_id)]
        return Batch(self._backend, batch_id, rows)

    def retry(self, task_id: str) -> Task:
        """Queue another attempt at a task that did not succeed; see ``Running``."""
        return self.retry_tasks([task_id])[0]

    def retry_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """Queue another attempt at many tasks, all or none; see ``retry``."""
        records = self._backend.retry(list(task_ids))
        return [Task(self._backend, record) for record in records]

    def cancel(self, task_id: str) -> None:
        """Ask a task to end; see ``cancel_tasks``."""
        self.cancel_tasks([task_id])

    def cancel_tasks(self, task_ids: Iterable[str]) -> None:
        """Ask tasks to end: at once if they wait, within two steps if they run."""
        self._backend.cancel(list(task_ids))

    def tasks(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[TaskFilters],
    ) -> TaskPage:
        """Return some of the tasks, newest first.

        ``TaskQuery`` describes the arguments. ``limit`` is 1 to 1,000.
        """
        query = make_query(filters, limit=limit, cursor=cursor)
        return self._backend.list_tasks(query)

    def get_record(self, task_id: str) -> TaskRecord:
        """Return the task as the store knows it, or raise ``UnknownTask``."""
        return self._backend.get_tasks([task_id])[0]

    def get_records(self, task_ids: Iterable[str]) -> list[TaskRecord]:
        """Return many tasks in the order of the ids, or raise ``UnknownTask``."""
        return self._backend.get_tasks(list(task_ids))

    @takes_decision_fields
    def approve(self, task_id: str, **fields: Unpack[DecisionFields]) -> Decision:
        """Approve a task; the same again returns the decision that stands.

        Args:
            task_id: The task.
            fields: The further fields of ``DecisionRequest``; ``reviewer_id`` is
                needed. Without ``featured_image_url`` and ``image``, the picture is the
                one that was approved already, the one in the task's metadata, or the
                first that was generated. ``Deciding.decide`` describes the errors.
        """
        return self.decide(task_id, Verdict.APPROVED, **fields)

    @takes_decision_fields
    def reject(self, task_id: str, **fields: Unpack[DecisionFields]) -> Decision:
        """Reject a task; see ``approve``. The reason is the ``feedback``."""
        return self.decide(task_id, Verdict.REJECTED, **fields)

    @takes_decision_fields
    def decide(
        self, task_id: str, verdict: Verdict, **fields: Unpack[DecisionFields]
    ) -> Decision:
        """Approve, reject or send back; see ``approve``."""
        request = make_decision_request(task_id, verdict, fields)
        answer = self._backend.decide([request])[0]
        if isinstance(answer, NbgenError):
            raise answer
        return answer

    @takes_decision_fields
    def request_changes(
        self,
        task_id: str,
        *,
        prompt: str | None = None,
        **fields: Unpack[DecisionFields],
    ) -> Task | None:
        """Send a task back, and queue it again as a new task, its child.

        ``Deciding.request_changes`` describes the errors.

        Args:
            task_id: The task.
            prompt: The prompt of the new task, which keeps the seed in use; None keeps
                the prompt and draws another seed.
            fields: See ``approve``. The ``feedback`` is needed: it is what to change.

        Returns:
            The new task, also if it was asked before; None for one made elsewhere.
        """
        request = make_decision_request(task_id, Verdict.CHANGES_REQUESTED, fields)
        child = self._backend.request_changes(request, prompt=prompt)
        return None if child is None else Task(self._backend, child)
