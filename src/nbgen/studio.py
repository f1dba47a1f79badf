"""The one facade over generation, progress, store and review.

Thread-safety: every method of ``Studio`` and ``Task`` may be called from any thread.
A studio has threads of its own: ``nbgen-worker`` has the pictures made, by a process
that the studio starts, ``nbgen-saver`` saves them, ``nbgen-progress`` tells those who
watch, ``nbgen-followed`` looks at tasks of other processes that somebody watches, and
each publisher has one that brings approvals to it.
``close()`` ends them, and a process that exits calls it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from nbgen.errors import DataFolderInUse, InvalidRequest
from nbgen.framing import Framing
from nbgen.generation.checkpoints import find_checkpoint
from nbgen.generation.process import ProcessEngine, load_sdxl
from nbgen.generation.thread import ThreadEngine
from nbgen.handles.task import Task
from nbgen.images import keep_picture, open_images
from nbgen.local.endings import Endings
from nbgen.local.finisher import Finisher
from nbgen.local.job_queue import JobQueue
from nbgen.local.lane import Lane
from nbgen.local.outbox import Outbox
from nbgen.local.runner_lock import RunnerLock
from nbgen.local.timings import Timings
from nbgen.local.watching import Watching
from nbgen.progress import ProgressService
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.review.installed import load_publishers
from nbgen.review.publishers import Publisher
from nbgen.review.quorum import read_quorum
from nbgen.schema import (
    GenerationRequest,
    Metadata,
    OutputFormat,
    SchedulerName,
    progress_of_record,
)
from nbgen.schema.checks import check_choice
from nbgen.settings import (
    default_data_dir,
    default_database,
    default_images,
    default_quorum,
)
from nbgen.store import Store

if TYPE_CHECKING:
    from PIL import Image

    from nbgen.generation.engine import Engine, EngineRunner
    from nbgen.generation.memory_plan import MemoryPlan

    PictureSource = str | Path | bytes | Image.Image


_FORMAT_OF_SUFFIX = {
    ".png": OutputFormat.PNG,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".webp": OutputFormat.WEBP,
}


class Studio(Framing):
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
        progress: Tells those who watch; by default a service of the studio's own.
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
        engine: Engine | ProcessEngine | None = None,
        progress: ProgressService | None = None,
        database: str | None = None,
        images: str | Path | None = None,
        quorum: str | None = None,
        publishers: Sequence[Publisher] | None = None,
    ) -> None:
        def make_runner() -> EngineRunner:
            if isinstance(engine, ProcessEngine):
                return engine
            if engine is not None:
                return ThreadEngine(lambda: engine)
            load = partial(load_sdxl, checkpoint, loras=loras, memory_plan=memory_plan)
            if worker == "thread":
                return ThreadEngine(load)
            process = ProcessEngine(load)
            process.start()
            return process

        if worker not in ("process", "thread"):
            raise InvalidRequest("worker", worker, "'process' or 'thread'")
        if engine is None:
            find_checkpoint(checkpoint)
        self._quorum = read_quorum(default_quorum() if quorum is None else quorum)
        publishers = load_publishers() if publishers is None else publishers
        folder = default_data_dir() if data_dir is None else Path(data_dir)
        self._store = Store(folder, database or default_database())
        self._runner = RunnerLock(self._store.lock_folder)
        self._submitting = threading.Lock()
        self._doubtful = set()
        self._closed = False
        self._tearing_down = threading.Lock()
        self._process_id = os.getpid()
        self._takes_over = take_over
        self._rerun_lost = rerun_lost
        try:
            place = images or default_images() or folder / "images"
            self._images = open_images(place, owner=self._store.identity)
            self._publishing = Outbox(self._store, self._images, publishers)
        except BaseException:
            self._store.close()
            raise
        self._progress = progress or ProgressService()
        self._endings = Endings(self._store.tasks, self._progress)
        self._lane = Lane(
            make_runner,
            self._store.tasks,
            self._images,
            self._progress,
            Timings(folder / "timings.json", str(checkpoint)),
            self._endings,
            Finisher(self._images, self._endings),
        )
        self._followed = Watching(self._store, self._progress)
        self._closing = ExitStack()
        # The first of these is the last to happen, so that whoever becomes the runner
        # finds our tasks to be taken over.
        self._closing.callback(self._runner.release)
        self._closing.callback(self._store.close)
        if progress is None:
            self._closing.callback(self._progress.close)
        self._closing.callback(self._followed.close)
        self._closing.callback(self._publishing.close)
        self._closing.callback(self._lane.close)
        try:
            if worker == "process":
                # Ahead of need; a thread would load while the caller goes on in Python.
                self._lane.prepare()
            self._queue = JobQueue(
                self._lane.run,
                on_empty=self._rest,
                on_idle=self._lane.release,
                idle_s=release_after,
                # The model of one that has something to run may need the memory.
                is_asked_to_rest=self._another_runs,
                limit=queue_limit,
            )
        except BaseException:
            self._closing.close()
            raise
        if take_over:
            try:
                with suppress(DataFolderInUse), self._submission():
                    pass  # what waited is queued
            except BaseException:
                self.close()
                raise
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
        priority: int = 0,
    ) -> Task:
        """Queue a generation and return at once.

        The arguments are those of ``GenerationRequest``; ``image`` and ``mask`` may
        also be PIL images or the paths of picture files. With a ``task_id`` that
        exists, the same request returns the task that there is. Tasks of a higher
        ``priority``, -1,000 to 1,000, run first.

        Raises:
            InvalidRequest: A value is not allowed; nothing was queued.
            TaskConflict: The id stands for another request.
            DataFolderInUse: Another process runs the tasks of the data folder.
            QueueFull: Too many tasks wait.
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
        return self.submit(request, task_id=task_id, priority=priority)

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
        result = await task
        await asyncio.to_thread(self._copy_picture, result.images[0].name, path)
        return path

    def watch(self, task_id: str, callback: ProgressCallback) -> Callable[[], None]:
        """Have the callback told of every state of a task, in order, none twice.

        The present state comes first, then every later one, up to the end. The task
        need not exist yet. Of a task that another process runs, no more is seen than
        its beginning and its end, within a second. The callback runs on the thread
        ``nbgen-progress``, or, for a task that ended long ago, on the caller's; it must
        return quickly.

        Returns:
            A function that ends the watching.
        """
        if self._progress.get_progress(task_id) is None:
            record = self._store.tasks.get_task(task_id)
            if record is not None and record.status.ended:
                callback(progress_of_record(record))
                return lambda: None
            if record is not None:
                return self._followed.watch(progress_of_record(record), callback)
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

    def close(self, *, finish: bool = False) -> None:
        """Cancel what runs, end the threads and give the model's memory back.

        What waits goes on waiting, for the next studio that is opened on the same data.
        Waits for the running step, and for a publication under way. Called again, it
        waits until the studio is closed, and does nothing where it is. In a fork of the
        process that opened the studio it does nothing: the studio is not the fork's.

        Args:
            finish: Whether the task that runs goes on to its end first, unless another
                thread closes without that. A ``KeyboardInterrupt`` cancels it, and is
                raised once the studio is closed; a second one is raised at once and
                leaves the studio to be closed again.
        """
        if os.getpid() != self._process_id:
            return
        with self._submitting:
            self._closed = True
        try:
            self._queue.close(finish=finish)
        finally:
            # Never beneath a task that runs: its end has to be stored and told.
            if self._queue.has_ended:
                with self._tearing_down:
                    self._closing.close()
                atexit.unregister(self.close)
