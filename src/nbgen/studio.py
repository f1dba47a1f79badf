"""The one facade over generation, progress, store and review.

Thread-safety: every method of ``Studio`` and ``Task`` may be called from any thread.
A studio has three threads of its own: ``nbgen-worker`` makes the pictures,
``nbgen-saver`` saves them and ``nbgen-progress`` tells those who watch. ``close()``
ends them, and a process that exits calls it.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime as dt
import secrets
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbgen.checks import (
    MAX_SEED,
    check_choice,
    check_feedback,
    check_reviewer_id,
    check_task_id,
)
from nbgen.errors import (
    InvalidRequest,
    StudioClosed,
    TaskConflict,
    TaskError,
    UnknownTask,
)
from nbgen.generation.checkpoints import find_checkpoint
from nbgen.jobs import Job, JobQueue, Worker
from nbgen.progress import GenerationProgress, ProgressService
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.progress.progress import progress_of_record
from nbgen.review.decide import decide
from nbgen.schema import (
    Decision,
    GenerationRequest,
    Metadata,
    OutputFormat,
    SchedulerName,
    Status,
    TaskRecord,
    Verdict,
)
from nbgen.settings import default_data_dir
from nbgen.store import ImageFolder, Store, keep_picture
from nbgen.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from nbgen.generation.engine import Engine
    from nbgen.generation.memory import MemoryPlan

    PictureSource = str | Path | bytes | Image.Image


_FORMAT_OF_SUFFIX = {
    ".png": OutputFormat.PNG,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".webp": OutputFormat.WEBP,
}


class Studio:
    """Makes, watches and approves pictures.

    Opening one is cheap: the model is loaded when the first task runs, and stays
    loaded until ``close()``. Use it as a context manager, or close it; a process that
    exits closes it too.

    Args:
        data_dir: Where tasks, decisions and pictures are kept; by default
            ``NBGEN_DATA_DIR`` or the user's data folder.
        checkpoint: ``"auto"``: SDXL if its weights and a GPU are there, else
            ``"tiny"``, the small model that comes with nbgen. Or ``"sdxl"``, a
            folder in diffusers' layout, a ``.safetensors`` file or a model's id on the
            hub; see ``nbgen.generation.checkpoints.find_checkpoint``.
        loras: Paths of LoRA files (``.safetensors``) and their weights.
        memory_plan: How the model is put into memory; None decides from what is free.
        release_after: Seconds without work after which the model's memory is given
            back until the next task; None keeps it.
        engine: Makes the pictures instead of SDXL; for tests.
        progress: Tells those who watch; by default a service of the studio's own.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        DataFolderUnusable: The data folder cannot be read or written.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        checkpoint: str | Path = "auto",
        *,
        loras: Mapping[str | Path, float] | None = None,
        memory_plan: MemoryPlan | None = None,
        release_after: float | None = 900.0,
        engine: Engine | None = None,
        progress: ProgressService | None = None,
    ) -> None:
        def make_engine() -> Engine:
            if engine is not None:
                return engine
            # Imported on the worker's thread, so that opening a studio stays quick.
            from nbgen.generation.sdxl import SDXLEngine

            return SDXLEngine(checkpoint, loras=loras, memory_plan=memory_plan)

        if engine is None:
            find_checkpoint(checkpoint)
        folder = default_data_dir() if data_dir is None else Path(data_dir)
        self._store = Store(folder)
        self._images = ImageFolder(folder / "images")
        self._owns_progress = progress is None
        self._progress = progress or ProgressService()
        self._worker = Worker(make_engine, self._store, self._images, self._progress)
        self._queue = JobQueue(
            self._worker.run, on_idle=self._worker.release, idle_s=release_after
        )
        self._submitting = threading.Lock()
        self._closed = False
        atexit.register(self.close)

    def __repr__(self) -> str:
        return "Studio()"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 8.0,
        seed: int | None = None,
        use_refinement: bool = True,
        num_images: int = 1,
        scheduler: str = SchedulerName.EULER,
        denoising_end: float = 0.8,
        guidance_cutoff: float = 1.0,
        image: PictureSource | None = None,
        mask: PictureSource | None = None,
        strength: float = 0.7,
        output_format: str = OutputFormat.PNG,
        metadata: str = Metadata.FULL,
        task_id: str | None = None,
    ) -> Task:
        """Queue a generation and return at once.

        The arguments are those of ``GenerationRequest``; ``image`` and ``mask`` may
        also be PIL images or the paths of picture files. With a ``task_id`` that
        exists, the same request returns the task that there is.

        Raises:
            InvalidRequest: A value is not allowed; nothing was queued.
            TaskConflict: The id stands for another request.
            StudioClosed: The studio is closed.
        """
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            use_refinement=use_refinement,
            num_images=num_images,
            scheduler=check_choice("scheduler", scheduler, SchedulerName),
            denoising_end=denoising_end,
            guidance_cutoff=guidance_cutoff,
            image=keep_picture(self._images, "image", image),
            mask=keep_picture(self._images, "mask", mask),
            strength=strength,
            output_format=check_choice("output_format", output_format, OutputFormat),
            metadata=check_choice("metadata", metadata, Metadata),
        )
        return self.submit(request, task_id=task_id)

    def submit(self, request: GenerationRequest, *, task_id: str | None = None) -> Task:
        """Queue a request that was made before; see ``generate``."""
        if task_id is None:
            task_id = uuid.uuid4().hex[:12]
        check_task_id(task_id)
        keep_picture(self._images, "image", request.image)
        keep_picture(self._images, "mask", request.mask)
        with self._submitting:
            if self._closed:
                raise StudioClosed
            standing = self._store.get_task(task_id)
            if standing is not None:
                if standing.request != request:
                    raise TaskConflict(task_id)
                return Task(self, standing, self._queue.find(task_id))
            record = TaskRecord(
                id=task_id,
                request=request,
                seed=_drawn_seed(request) if request.seed is None else request.seed,
                status=Status.PENDING,
                created_at=dt.datetime.now(dt.UTC),
            )
            self._progress.create_progress(task_id, request.num_inference_steps)
            try:
                added = self._store.add_task(record)
            except Exception as error:
                self._progress.mark_failed(task_id, str(error))
                raise
            if not added:  # another process was faster
                self._progress.mark_failed(task_id, str(TaskConflict(task_id)))
                raise TaskConflict(task_id)
            job = Job(task_id, request, record.seed)
            self._queue.submit(job)
        return Task(self, record, job)

    async def generate_image(
        self,
        prompt: str,
        output_path: str | Path,
        *,
        task_id: str | None = None,
        on_progress: ProgressCallback | None = None,
        **request: Any,
    ) -> Path:
        """Make one picture, write it to a file and return its path.

        Args:
            prompt: What the picture shows.
            output_path: Where to write it, ending in ``.png``, ``.jpg``, ``.jpeg`` or
                ``.webp``; folders that do not exist are made, and a file that exists
                is replaced, once the picture is there.
            task_id: The id to follow the work under.
            on_progress: Told of every state of the task; see ``watch``.
            request: Further arguments of ``generate``.

        Raises:
            InvalidRequest: A value is not allowed; nothing was queued.
            TaskError: The task did not succeed; nothing was written.
        """
        path = Path(output_path)
        kind = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
        if kind is None:
            allowed = "a path that ends in .png, .jpg, .jpeg or .webp"
            raise InvalidRequest("output_path", str(path), allowed)
        request["output_format"] = kind
        task = await asyncio.to_thread(
            self.generate, prompt, task_id=task_id, **request
        )
        if on_progress is not None:
            task.watch(on_progress)
        await task
        await asyncio.to_thread(_copy_whole, task.image_paths[0], path)
        return path

    def task(self, task_id: str) -> Task:
        """Return a handle on a task.

        Raises:
            UnknownTask: There is no such task.
        """
        # Not between the storing and the queueing of one. The job first: one that ends
        # in between has its end in the record.
        with self._submitting:
            job = self._queue.find(task_id)
            return Task(self, self.get_record(task_id), job)

    def tasks(self, *, limit: int = 100) -> list[TaskRecord]:
        """Return the newest tasks, newest first."""
        return self._store.list_tasks(limit)

    def get_record(self, task_id: str) -> TaskRecord:
        """Return the task as the store knows it.

        Raises:
            UnknownTask: There is no such task.
        """
        record = self._store.get_task(task_id)
        if record is None:
            raise UnknownTask(task_id)
        return record

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task, however long ago it ended.

        Raises:
            UnknownTask: There is no such task.
        """
        progress = self._progress.get_progress(task_id)
        if progress is None:
            progress = progress_of_record(self.get_record(task_id))
        return progress

    def watch(self, task_id: str, callback: ProgressCallback) -> Callable[[], None]:
        """Have the callback told of every state of a task, in order, none twice.

        The present state comes first, then every later one, up to the end. The task
        need not exist yet. The callback runs on the thread ``nbgen-progress``, or, for
        a task that ended long ago, on the caller's; it must return quickly.

        Returns:
            A function that ends the watching.
        """
        if self._progress.get_progress(task_id) is None:
            record = self._store.get_task(task_id)
            if record is not None and record.status.ended:
                callback(progress_of_record(record))
                return lambda: None
        return self._progress.register_callback(task_id, callback)

    def watch_previews(
        self, task_id: str, callback: PreviewCallback
    ) -> Callable[[], None]:
        """Have the callback shown what the picture of a task will look like.

        Up to four times a second while it samples; nothing is made for those who do
        not look. The callback runs on the thread ``nbgen-preview`` and must return
        quickly.

        Returns:
            A function that ends it.
        """
        return self._progress.previews.register(task_id, callback)

    def keep_picture(self, field: str, source: PictureSource) -> str:
        """Put a picture into the image folder and return its name there.

        Args:
            field: What it is for, for the error: ``"image"`` or ``"mask"``.
            source: A PIL image, the path or the bytes of a picture file, or the name
                of a picture that is kept here already.

        Raises:
            InvalidRequest: It is no picture.
        """
        name = keep_picture(self._images, field, source)
        assert name is not None
        return name

    def cancel(self, task_id: str) -> None:
        """Ask a task to end: at once if it waits, within two steps if it runs.

        A task that has ended stays as it is.

        Raises:
            UnknownTask: There is no such task.
            TaskError: Another process runs it.
        """
        never_ran = self._queue.cancel(task_id)
        if never_ran is not None:
            self._worker.cancel(never_ran)
        elif not self.get_progress(task_id).status.ended and (
            self._progress.get_progress(task_id) is None
        ):
            raise TaskError(
                task_id,
                f"Task {task_id!r} runs in another process. Cancel it there.",
            )

    def approve(
        self,
        task_id: str,
        *,
        reviewer_id: str,
        feedback: str | None = None,
        featured_image_url: str | None = None,
    ) -> Decision:
        """Approve a completed task; again, it returns the decision that stands.

        Args:
            task_id: The task.
            reviewer_id: Who decides, 1 to 200 characters.
            feedback: What the reviewer says, up to 10,000 characters.
            featured_image_url: The picture that is meant; None for the first.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: It is not completed, or was rejected.
            FeaturedImageMissing: Its pictures are gone.
        """
        return self.decide(
            task_id,
            Verdict.APPROVED,
            reviewer_id=reviewer_id,
            feedback=feedback,
            featured_image_url=featured_image_url,
        )

    def reject(
        self, task_id: str, *, reviewer_id: str, feedback: str | None = None
    ) -> Decision:
        """Reject a completed task; again, it returns the decision that stands.

        Raises:
            UnknownTask: There is no such task.
            InvalidRequest: A value is not allowed.
            DecisionConflict: It is not completed, or was approved.
        """
        return self.decide(
            task_id, Verdict.REJECTED, reviewer_id=reviewer_id, feedback=feedback
        )

    def decide(
        self,
        task_id: str,
        verdict: Verdict,
        *,
        reviewer_id: str,
        feedback: str | None = None,
        featured_image_url: str | None = None,
    ) -> Decision:
        """Approve or reject; see ``approve`` and ``reject``."""
        return decide(
            self.get_record(task_id),
            verdict,
            reviewer_id=check_reviewer_id(reviewer_id),
            feedback=check_feedback(feedback),
            featured_image_url=featured_image_url,
            store=self._store,
            images=self._images,
        )

    def image_path(self, name: str) -> Path | None:
        """Return the file of a picture by its name, or None if there is none."""
        return self._images.path(name)

    def close(self) -> None:
        """Cancel what is unfinished, end the threads and give the model's memory back.

        Waits for the running step. Calling it again does nothing.
        """
        with self._submitting:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        for never_ran in self._queue.close():
            self._worker.cancel(never_ran)
        self._worker.close()
        if self._owns_progress:
            self._progress.close()
        self._store.close()


def _drawn_seed(request: GenerationRequest) -> int:
    return secrets.randbelow(MAX_SEED - request.num_images)


def _copy_whole(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
