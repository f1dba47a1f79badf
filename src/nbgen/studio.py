"""The one facade over generation, progress, store and review.

``Studio`` turns keywords into frozen values, and answers into handles and DataFrames.
It has no state but its backend, whose threads docs/architecture.md lists. Every method
may be called from any thread.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
)

from nbgen.atomic import write_atomic
from nbgen.backend import (
    Backend,
    Deciding,
    Finding,
    Pictures,
    ProgressCallback,
    Running,
    Watching,
)
from nbgen.errors import InvalidRequest, NbgenError
from nbgen.handles import Batch, Task
from nbgen.images import PictureSource, read_source
from nbgen.local.backend import LocalBackend
from nbgen.local.config import StudioConfig
from nbgen.progress import ProgressService
from nbgen.review.publishers import Publisher
from nbgen.schema import (
    PICTURE_FIELDS,
    Decision,
    DecisionRequest,
    GenerationRequest,
    OutputFormat,
    RequestFields,
    Status,
    TaskPage,
    TaskQuery,
    TaskRecord,
    Verdict,
    check_request_names,
    make_request,
    takes_request_fields,
)
from nbgen.schema.checks import check_choice

if TYPE_CHECKING:
    import pandas as pd

    from nbgen.frames import FrameBatch
    from nbgen.generation.engine import Engine
    from nbgen.generation.memory_plan import MemoryPlan

_FORMAT_OF_SUFFIX = {
    ".png": OutputFormat.PNG,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".webp": OutputFormat.WEBP,
}


_Params = ParamSpec("_Params")
_Answer = TypeVar("_Answer")


def _forwarded(
    method: Callable[Concatenate[Any, _Params], _Answer],
) -> Callable[Concatenate[Studio, _Params], _Answer]:
    """Return a method of ``Studio`` that calls the same method of its backend."""

    @functools.wraps(method)
    def forward(
        self: Studio, /, *args: _Params.args, **kwargs: _Params.kwargs
    ) -> _Answer:
        answer: _Answer = getattr(self._backend, method.__name__)(*args, **kwargs)
        return answer

    return forward


class Studio:
    """Makes, watches and approves pictures.

    Opening one is cheap: the model is loaded in the background, and stays loaded until
    ``close()``. Use it as a context manager, or close it; a process that exits closes
    it too.

    One process at a time runs the tasks of a data folder. While it does, the studios of
    others on that folder find tasks and decide on them, and ``DataFolderInUse`` answers
    what would run one. When nothing is left to run, whoever submits first is the next.

    Args:
        data_dir: Where tasks, decisions and pictures are kept; by default
            ``NBGEN_DATA_DIR`` or the user's data folder.
        checkpoint: ``"auto"``: SDXL if its weights and a GPU are there, else
            ``"tiny"``, the small model that comes with nbgen. Or ``"sdxl"``, a
            folder in diffusers' layout, a ``.safetensors`` file or a model's id on the
            hub; see ``nbgen.generation.checkpoints.find_checkpoint``.
        loras: Paths of LoRA files (``.safetensors``) and their weights.
        memory_plan: How the model is put into memory; None decides from what is free.
        worker: ``"process"``: the pictures are made in a process of their own, which
            starts and loads the model now, in the background; this one never
            imports torch, and outlives a crash or a lack of memory there.
            ``"thread"``: in this process, from the first task on; for debugging, and
            where no process can be started.
        release_after: Seconds without work after which the model's memory is given
            back until the next task; None keeps it.
        queue_limit: How many tasks may wait.
        take_over: Whether tasks run here that waited in a studio that is gone: one
            that was closed, or whose process died. What ran in one that died ends as
            ``lost``.
        rerun_lost: Whether, instead, what ran in one that died runs again.
        engine: Makes the pictures instead of SDXL, in this process; for tests.
        progress: Notifies watchers; by default a service of the studio's own.
        backend: Does the work; by default a ``LocalBackend`` that the other arguments
            describe.
        database: The URL of a database that takes the place of the SQLite file in the
            data folder, such as ``postgresql+psycopg://…``; by default
            ``NBGEN_DATABASE``.
        images: Where pictures are kept, if not in the data folder: another folder or
            a URL such as ``s3://bucket/folder``; by default ``NBGEN_IMAGES``.
        quorum: Whose approvals a task needs: ``"any"`` for one of anybody, ``"2"`` for
            so many of anybody, ``"all:ada,bob"`` for those of all the named,
            ``"2:ada,bob,eve"`` for so many of them; by default ``NBGEN_QUORUM``. Any
            rejection rejects.
        publishers: Who publishes what is approved here; by default those of the
            variables and entry points that ``nbgen.review.installed`` names.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        DataFolderUnusable: The data folder or the database cannot be read or written.
        InvalidRequest: The worker, the database, the images, the quorum or the
            publishers are not such.
        PublishFailed: An installed publisher cannot be loaded.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        checkpoint: str | Path = "auto",
        *,
        loras: Mapping[str | Path, float] | None = None,
        memory_plan: MemoryPlan | None = None,
        worker: Literal["process", "thread"] = "process",
        release_after: float | None = 900.0,
        queue_limit: int = 10_000,
        take_over: bool = True,
        rerun_lost: bool = False,
        engine: Engine | None = None,
        progress: ProgressService | None = None,
        database: str | None = None,
        images: str | Path | None = None,
        quorum: str | None = None,
        publishers: Sequence[Publisher] | None = None,
        backend: Backend | None = None,
    ) -> None:
        if backend is None:
            config = StudioConfig(
                data_dir=data_dir,
                checkpoint=checkpoint,
                loras=loras,
                memory_plan=memory_plan,
                worker=worker,
                release_after_s=release_after,
                queue_limit=queue_limit,
                take_over=take_over,
                rerun_lost=rerun_lost,
                database=database,
                images=images,
                quorum=quorum,
            )
            backend = LocalBackend.open(
                config, engine=engine, progress=progress, publishers=publishers
            )
        self._backend = backend

    @classmethod
    def open_library(
        cls,
        data_dir: str | Path | None = None,
        *,
        publishers: Sequence[Publisher] | None = None,
    ) -> Studio:
        """Open a studio that finds, decides, exports and clears up, and runs no task.

        It opens neither a queue nor a model, so it is cheap and disturbs no other
        process.

        Args:
            data_dir: See ``Studio``.
            publishers: See ``Studio``.

        Raises:
            DataFolderUnusable: The data folder or the database cannot be used.
        """
        config = StudioConfig(data_dir=data_dir)
        return cls(backend=LocalBackend.open_library(config, publishers=publishers))

    # Calls of the backend that need no translation; ``nbgen.backend`` describes them.
    retry_rows = _forwarded(Running.retry_rows)
    waiting = _forwarded(Running.waiting)
    prioritise = _forwarded(Running.prioritise)
    pause = _forwarded(Running.pause)
    resume = _forwarded(Running.resume)
    get_progress = _forwarded(Watching.get_progress)
    watch = _forwarded(Watching.watch)
    watch_previews = _forwarded(Watching.watch_previews)
    batch_rows = _forwarded(Finding.batch_rows)
    image_path = _forwarded(Pictures.picture_path)
    read_image = _forwarded(Pictures.read_picture)
    collect_garbage = _forwarded(Pictures.collect_garbage)
    decide_many = _forwarded(Deciding.decide)
    undo = _forwarded(Deciding.undo)
    decisions = _forwarded(Deciding.decisions)
    review = _forwarded(Deciding.review)
    decided = _forwarded(Deciding.decided)
    put_content = _forwarded(Deciding.put_content)
    get_content = _forwarded(Deciding.get_content)
    publications = _forwarded(Deciding.publications)
    close = _forwarded(Backend.close)

    @property
    def backend(self) -> Backend:
        """The backend that does the work."""
        return self._backend

    def describe(self, decision: Decision) -> str:
        """Return what came of a decision, in a sentence or two; see ``decided``."""
        return self.decided(decision).message

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
        priority: int = 0,
        **fields: Unpack[RequestFields],
    ) -> Task:
        """Queue a generation and return at once.

        Args:
            prompt: What the picture shows.
            task_id: The id of the task; None draws one. If a task of that id exists
                with the same request, that task is returned.
            priority: -1,000 to 1,000; tasks of a higher one run first.
            fields: Further fields of ``GenerationRequest``. ``image`` and ``mask`` may
                also be PIL images, or the paths or the bytes of picture files.

        Raises:
            InvalidRequest: A value or a keyword is not allowed; nothing was queued.
            TaskConflict: The id stands for another request.
            DataFolderInUse: Another process runs the tasks of the data folder.
            QueueFull: Too many tasks wait.
            StudioClosed: The studio is closed.
        """
        check_request_names(fields, "task_id", "priority")
        wanted: dict[str, Any] = {"prompt": prompt, **fields}
        for name in PICTURE_FIELDS:
            if wanted.get(name) is not None:
                wanted[name] = self.keep_picture(name, wanted[name])
        return self.submit(make_request(wanted), task_id=task_id, priority=priority)

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
            output_path: Where to write it, ending in ``.png``, ``.jpg``, ``.jpeg`` or
                ``.webp``, which says the ``output_format``; folders that do not exist
                are made, and a file that exists is replaced, once the picture is there.
            task_id: The id to follow the work under.
            on_progress: Called with every state of the task; see ``watch``.
            fields: See ``generate``. Of several pictures, the first is written.

        Raises:
            InvalidRequest: A value or a keyword is not allowed; nothing was queued.
            TaskError: The task did not succeed; nothing was written.
        """
        check_request_names(fields, "output_path", "task_id", "on_progress")
        path = Path(output_path)
        kind = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
        if kind is None:
            allowed = "a path that ends in .png, .jpg, .jpeg or .webp"
            raise InvalidRequest("output_path", str(path), allowed)
        fields["output_format"] = kind
        task = await asyncio.to_thread(self.generate, prompt, task_id=task_id, **fields)
        if on_progress is not None:
            task.watch(on_progress)
        result = await task
        await asyncio.to_thread(self._copy_picture, result.images[0].name, path)
        return path

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None = None,
        priority: int = 0,
    ) -> Task:
        """Queue a request that was made before; see ``generate``."""
        record = self._backend.submit(request, task_id=task_id, priority=priority)
        return Task(self._backend, record)

    def submit_batch(
        self,
        requests: Mapping[str, GenerationRequest],
        *,
        batch_id: str,
        priority: int = 0,
    ) -> Batch:
        """Queue what is missing of a batch, all of it or, if that fails, nothing.

        Rows that wait, run or have their pictures are left alone. A row that failed,
        was cancelled or lost is retried; the retry makes what a reviewer last asked
        for, if one requested changes.

        Args:
            requests: The requests, under names that stay the same when the same is
                submitted again; each 1 to 60 letters, digits, dots, underscores, colons
                or hyphens.
            batch_id: The name of the batch, likewise. The tasks of a new batch have
                the ids ``batch_id:row``.
            priority: See ``generate``.

        Raises:
            InvalidRequest: A value is not allowed.
            TaskConflict: A row, or such a task id, stands for something else.
            DataFolderInUse: Another process runs the tasks of the data folder, and
                something is missing.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
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
        """Queue the request of an ended task again, as a task of its own.

        The new task has the old one as its parent, and its seed unless one was drawn.

        Raises:
            UnknownTask: There is no such task.
            TaskNotEnded: It has not ended.
            QueueFull: Too many tasks wait.
            StudioClosed: The studio is closed.
        """
        [task] = self.retry_tasks([task_id])
        return task

    def retry_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """Queue the requests of many ended tasks again, all or none; see ``retry``."""
        records = self._backend.retry(list(task_ids))
        return [Task(self._backend, record) for record in records]

    def cancel(self, task_id: str) -> None:
        """Ask a task to end: at once if it waits, within two steps if it runs.

        A task that has ended stays as it is.

        Raises:
            UnknownTask: There is no such task.
            TaskElsewhere: It does not run here, but in another process or studio.
            DataFolderUnusable: The database failed. A task that waits here ends when
                it is its turn.
        """
        self.cancel_tasks([task_id])

    def cancel_tasks(self, task_ids: Iterable[str]) -> None:
        """Ask many tasks to end, none of which begins meanwhile; see ``cancel``.

        If one is not here, none is asked.
        """
        self._backend.cancel(list(task_ids))

    def tasks(
        self,
        *,
        status: str | None = None,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> TaskPage:
        """Return some of the tasks, newest first; ``TaskQuery`` describes the filters.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        return self._backend.list_tasks(
            TaskQuery(
                status=None
                if status is None
                else check_choice("status", status, Status),
                text=text,
                since=since,
                batch_id=batch_id,
                limit=limit,
                cursor=cursor,
            )
        )

    def get_record(self, task_id: str) -> TaskRecord:
        """Return the task as the store knows it, or raise ``UnknownTask``."""
        return self._backend.get_tasks([task_id])[0]

    def get_records(self, task_ids: Iterable[str]) -> list[TaskRecord]:
        """Return many tasks in the order of the ids, or raise ``UnknownTask``."""
        return self._backend.get_tasks(list(task_ids))

    def keep_picture(self, field: str, source: PictureSource) -> str:
        """Put a picture into the image folder and return its name there.

        Args:
            field: What it is for, for the error: ``"image"`` or ``"mask"``.
            source: A PIL image, the path or the bytes of a picture file, or the name
                of a picture that is kept here already.

        Raises:
            InvalidRequest: It is no picture.
        """
        return self._backend.keep_picture(field, read_source(field, source))

    def approve(self, task_id: str, **fields: Any) -> Decision:
        """Approve a task; the same again returns the decision that stands.

        Args:
            task_id: The task.
            fields: The further fields of ``DecisionRequest``; ``reviewer_id`` is
                needed. Without ``featured_image_url`` and ``image``, the picture is the
                one that was approved already, the one in the task's metadata, or the
                first that was generated.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: It awaits no decision, was decided otherwise, or by
                somebody else meanwhile.
            FeaturedImageMissing: Its pictures are gone.
        """
        return self.decide(task_id, Verdict.APPROVED, **fields)

    def reject(self, task_id: str, **fields: Any) -> Decision:
        """Reject a task; see ``approve``. The reason is the ``feedback``."""
        return self.decide(task_id, Verdict.REJECTED, **fields)

    def decide(self, task_id: str, verdict: Verdict, **fields: Any) -> Decision:
        """Approve, reject or send back; see ``approve``."""
        request = DecisionRequest(task_id=task_id, verdict=verdict, **fields)
        answer: Decision | NbgenError
        [answer] = self._backend.decide([request])
        if isinstance(answer, NbgenError):
            raise answer
        return answer

    def request_changes(
        self,
        task_id: str,
        *,
        reviewer_id: str,
        feedback: str,
        prompt: str | None = None,
        expect_version: int | None = None,
    ) -> Task | None:
        """Send a task back, and queue it again as a new task, its child.

        Args:
            task_id: The task.
            reviewer_id: Who decides.
            feedback: What should change.
            prompt: The prompt of the new task, which keeps the seed in use; None keeps
                the prompt and draws another seed.
            expect_version: See ``DecisionRequest``.

        Returns:
            The new task, or, asked again, the one that there is; None for a task that
            was made elsewhere and is to be changed there.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: See ``approve``.
            DataFolderInUse: Another process runs the tasks of the data folder.
            QueueFull: Too many tasks wait; nothing was decided.
            StudioClosed: The studio is closed.
        """
        request = DecisionRequest(
            task_id=task_id,
            verdict=Verdict.CHANGES_REQUESTED,
            reviewer_id=reviewer_id,
            feedback=feedback,
            expect_version=expect_version,
        )
        child = self._backend.request_changes(request, prompt=prompt)
        return None if child is None else Task(self._backend, child)

    def generate_frame(
        self,
        df: pd.DataFrame,
        prompt: str = "prompt",
        *,
        key: str | None = None,
        overrides: str | None = None,
        name: str | None = None,
        priority: int = 0,
        **column_or_constant: Any,
    ) -> FrameBatch:
        """Queue a task for each row of a table, and return at once.

        All rows are checked before the first is queued. Called again, for example by
        running its cell again, it queues what is missing: rows that are new or were
        changed, and those whose task failed, was cancelled or lost.

        Args:
            df: The rows.
            prompt: The name of a column, or a template with columns in braces, such as
                ``"{headline}, watercolor"``; formats such as ``{price:.2f}`` work. A
                text of several words that is like no column's name is the prompt of
                all rows.
            key: The column whose values, each once, tell the rows apart, so that a row
                that was changed is known from a new one by a person who looks at the
                task ids; None tells them apart by what they ask for.
            overrides: A column of objects (dictionaries or JSON texts) with request
                fields of that row, which take the place of what is said here; a field
                that is None there does not.
            name: Tells this batch from others, 1 to 60 letters, digits, dots,
                underscores, colons or hyphens. By default one that the other arguments
                determine. Give another to make the same pictures anew.
            priority: See ``generate``.
            column_or_constant: Further fields of ``GenerationRequest``: the name of a
                column, or a value for all rows. An empty cell, and None for all rows,
                stands for the field's default. ``negative_prompt`` may be a template
                too.

        Returns:
            A handle on the batch; ``to_frame()`` is the table with what came of it.

        Raises:
            InvalidRequest: An argument is not allowed, for any row.
            RowErrors: Rows ask for what is not allowed; its ``table`` lists them all.
            TaskConflict: A task id of the batch stands for something else.
            DataFolderInUse: Another process runs the tasks of the data folder, and
                something is missing.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
        """
        from nbgen import frames

        return frames.generate_frame(
            self._backend,
            df,
            prompt,
            key=key,
            overrides=overrides,
            name=name,
            priority=priority,
            fields=column_or_constant,
        )

    def tasks_frame(
        self,
        *,
        status: str | None = None,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a table of tasks, newest first; see ``tasks`` for the filters.

        The columns and their dtypes are always the same; see ``nbgen.frames.tables``.

        Args:
            status: See ``tasks``.
            text: See ``tasks``.
            since: See ``tasks``.
            batch_id: See ``tasks``.
            limit: How many at most; None for all.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        from nbgen import frames

        return frames.tasks_frame(
            self._backend,
            status=status,
            text=text,
            since=since,
            batch_id=batch_id,
            limit=limit,
        )

    def images_frame(
        self,
        *,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a table of the pictures that were made, newest tasks first.

        What was decided stands beside the pictures that the decision is about.

        Args:
            text: See ``tasks``.
            since: See ``tasks``.
            batch_id: See ``tasks``.
            limit: How many at most; None for all.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        from nbgen import frames

        return frames.images_frame(
            self._backend,
            text=text,
            since=since,
            batch_id=batch_id,
            limit=limit,
        )

    def decisions_frame(self, task_id: str | None = None) -> pd.DataFrame:
        """Return the log of decisions as a table, oldest first.

        Args:
            task_id: Only those on this task; None for all.
        """
        from nbgen import frames

        return frames.decisions_frame(self._backend, task_id)

    def _copy_picture(self, name: str, target: Path) -> None:
        data = self.read_image(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data)
