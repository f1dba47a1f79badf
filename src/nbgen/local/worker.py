"""Runs one task from its start to its committed end.

``Worker.run`` and ``release`` belong to the worker thread, which makes the pictures;
they are encoded and saved on the thread ``nbgen-saver`` while the next task is under
way. ``cancel_waiting``, ``tell`` and what concerns ends that could not be saved may be
called from any thread, and the store decides which of two ends that race is the one.
"""

from __future__ import annotations

import datetime as dt
import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from PIL import Image

from nbgen.errors import InvalidRequest, NbgenError, WorkerDied
from nbgen.generation.engine import Cancelled, Engine
from nbgen.generation.recipe import encode_picture
from nbgen.images import Images
from nbgen.local.job_queue import Job
from nbgen.local.job_run import JobRun
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationResult,
    ImageRecord,
    Outcome,
    Stage,
    TaskEnd,
    TaskRecord,
)
from nbgen.store import Store

logger = logging.getLogger(__name__)

_NEVER_RAN = "Cancelled before it started."


class _NotOursToRun(Exception):
    """The task has ended, or is another's to run, as its record says."""

    def __init__(self, record: TaskRecord | None) -> None:
        self.record = record


class Worker:
    """Takes jobs through an engine and commits how they end.

    An end that cannot be saved is told as a failure, kept, and saved by ``save_ends``,
    so that the store comes to say what was told.

    Args:
        make_engine: Called once, when the first task runs or by ``prepare``.
        store: Where ends are committed before anyone is told.
        images: Where the pictures are saved.
        progress: Who tells those who watch.
        history: How long the stages of earlier runs took.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        store: Store,
        images: Images,
        progress: ProgressService,
        history: Timings,
    ) -> None:
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._store = store
        self._images = images
        self._progress = progress
        self._history = history
        self._loaded = False
        self._saver = ThreadPoolExecutor(1, "nbgen-saver")
        self._saving: Future[None] | None = None
        self._keeping = threading.Lock()
        self._unsaved: dict[str, str] = {}  # by task, the error that was told

    def run(self, job: Job) -> None:
        """Make the pictures of a job and have them saved; never raises."""
        self.save_ends()
        made = self._try(job)
        if isinstance(made.error, WorkerDied) and made.error.of_memory:
            # The new process begins with all memory free, and what else filled it may
            # be gone. A second death is for a person to look at.
            self._loaded = False
            made = self._try(job, "Trying once more: memory had run out")
        # One at a time, or pictures that wait to be saved would fill the memory.
        if self._saving is not None:
            wait([self._saving])
        try:
            self._saving = self._saver.submit(self._finish, job, made)
        except RuntimeError:  # the interpreter exits, and starts no more threads
            self._finish(job, made)

    def _try(self, job: Job, message: str | None = None) -> JobRun:
        made = JobRun(job, self._progress, self._history, was_loaded=self._loaded)
        try:
            self._make(job, made, message)
        except BaseException as error:  # noqa: BLE001 - whatever a model may raise
            made.error = error
        return made

    def prepare(self) -> Engine:
        """Return the engine, made now if it is not there yet.

        For the worker thread, and for whoever made the worker before there is one.
        """
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def cancel_waiting(
        self, jobs: Sequence[Job], take_out: Callable[[Sequence[Job]], list[Job]]
    ) -> None:
        """End jobs that wait as cancelled, in one transaction.

        Args:
            jobs: The jobs. Those that begin meanwhile are left alone.
            take_out: Takes jobs from the queue and returns those that waited there.
        """
        ids = [job.task_id for job in jobs]
        self._store.tasks.end_tasks(
            ids, Outcome.CANCELLED, ended_at=dt.datetime.now(dt.UTC), error=_NEVER_RAN
        )
        records = self._store.tasks.get_tasks(ids)
        for job in take_out(jobs):
            self.resolve_from_record(job, records.get(job.task_id))

    def resolve_from_record(self, job: Job, record: TaskRecord | None) -> None:
        """End a job as its record says: of an end that is not there nobody hears."""
        try:
            if record is not None:
                self._tell(record.end)
        finally:
            end = TaskEnd(job.task_id, None) if record is None else record.end
            job.done.set_result(end)

    def has_unsaved_end(self, task_id: str) -> bool:
        """Say whether a task has ended though the store does not know it yet."""
        with self._keeping:
            return task_id in self._unsaved

    def keep_end(self, task_id: str, error: str) -> None:
        """Have a task that was told to have failed end so in the store, later."""
        with self._keeping:
            self._unsaved[task_id] = error

    def save_ends(self) -> None:
        """Save the ends that could not be saved before; what still cannot is kept."""
        with self._keeping:
            unsaved = dict(self._unsaved)
        try:
            for error in set(unsaved.values()):
                ids = [task_id for task_id in unsaved if unsaved[task_id] == error]
                self._store.tasks.end_tasks(
                    ids, Outcome.FAILED, ended_at=dt.datetime.now(dt.UTC), error=error
                )
                with self._keeping:
                    for task_id in ids:
                        self._unsaved.pop(task_id, None)
        except Exception:
            logger.exception("The ends of %d tasks cannot be saved.", len(unsaved))

    def release(self) -> None:
        """Give the engine's memory back; it is loaded again when it is needed."""
        self._loaded = False
        if self._engine is not None:
            try:
                self._engine.close()
            except Exception:
                logger.exception("The engine's memory could not be given back.")

    def close(self) -> None:
        """Give the engine's memory back and end the saver's thread.

        Not while a job has not ended.
        """
        self._saver.shutdown()
        self.save_ends()
        self.release()

    def _make(self, job: Job, made: JobRun, message: str | None) -> None:
        job.cancel.raise_if_cancelled()
        if not self._store.tasks.start_task(job.task_id):
            raise _NotOursToRun(self._store.tasks.get_task(job.task_id))
        made.start()
        if message is not None:
            made.warn(message)
        image = self._open("image", job.request.image)
        mask = self._open("mask", job.request.mask)
        engine = self.prepare()
        for picture in engine.generate(
            job.request,
            seed=job.seed,
            reporter=made,
            cancel=job.cancel,
            image=image,
            mask=mask,
        ):
            self._loaded = True
            made.facts = engine.facts()
            made.pictures.append(picture)
        job.cancel.raise_if_cancelled()

    def _open(self, field: str, name: str | None) -> Image.Image | None:
        if name is None:
            return None
        data = self._images.read(name)
        if data is None:
            raise InvalidRequest(field, name, "the name of a picture that is kept here")
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture

    def _finish(self, job: Job, made: JobRun) -> None:
        """Save what was made and end the job; the saver's thread, never raises."""
        try:
            self._save_and_end(job, made)
        except BaseException as error:
            logger.exception("Saving task %s went wrong.", job.task_id)
            if not job.done.done():
                self._end(job, Outcome.FAILED, error=type(error).__name__, cause=error)

    def _save_and_end(self, job: Job, made: JobRun) -> None:
        result = None
        try:
            if made.pictures and not isinstance(made.error, Cancelled):
                made.start_stage(Stage.SAVE)
                result = self._save(job, made)
        except BaseException as error:  # noqa: BLE001 - whatever a disk may raise
            made.error = error
        if made.error is None:
            self._end(job, Outcome.SUCCEEDED, result=result, made_with=made.facts)
            made.remember()
        elif isinstance(made.error, Cancelled):
            self._cancel(job)
        elif isinstance(made.error, _NotOursToRun):
            self.resolve_from_record(job, made.error.record)
        else:
            self._fail(job, made, made.error, result)

    def _cancel(self, job: Job) -> None:
        progress = self._progress.get_progress(job.task_id)
        if progress is None or progress.current_stage is None:
            error = _NEVER_RAN
        else:
            error = (
                f"Cancelled at step {progress.current_step} of {progress.total_steps}."
            )
        self._end(job, Outcome.CANCELLED, error=error)

    def _fail(
        self,
        job: Job,
        made: JobRun,
        error: BaseException,
        partial: GenerationResult | None,
    ) -> None:
        text = str(error)
        if not isinstance(error, NbgenError):
            logger.error("Task %s failed.", job.task_id, exc_info=error)
            text = f"{type(error).__name__}: {error}"
        if partial is not None:
            count, asked = len(partial.images), job.request.num_images
            kept = f"The first {count} of {asked} pictures were kept."
            text = f"{text.rstrip('.')}. {kept}"
        outcome = Outcome.LOST if isinstance(error, WorkerDied) else Outcome.FAILED
        self._end(
            job,
            outcome,
            error=text,
            result=partial,
            made_with=made.facts,
            cause=error,
        )

    def _save(self, job: Job, made: JobRun) -> GenerationResult:
        """Save the pictures; the result has all of them, or there is none.

        What was saved before a cancel or a failure stays: another task may have made
        the same file and refer to it. Garbage is collected elsewhere.
        """
        images = []
        for index, picture in enumerate(made.pictures):
            job.cancel.raise_if_cancelled()
            seed = job.seed + index
            data = encode_picture(
                picture, job.request, seed=seed, index=index, facts=made.facts
            )
            name = self._images.save(data, job.request.output_format)
            image = ImageRecord(
                name=name,
                url=f"/images/{name}",
                width=picture.width,
                height=picture.height,
                seed=seed,
            )
            images.append(image)
        job.cancel.raise_if_cancelled()
        return GenerationResult(
            images=tuple(images),
            generation_time=time.monotonic() - made.started_at_s,
            notes=tuple(made.notes),
        )

    def _end(
        self,
        job: Job,
        outcome: Outcome,
        *,
        error: str | None = None,
        result: GenerationResult | None = None,
        made_with: dict[str, str] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        """Commit an end, then tell it; never raises."""
        end = TaskEnd(job.task_id, outcome, error, result, cause)
        try:
            progress = self._progress.get_progress(job.task_id)
            times = self._progress.stage_times(job.task_id) if progress else {}
            steps = self._progress.step_times(job.task_id) if progress else {}
            try:
                ended = self._store.tasks.end_task(
                    job.task_id,
                    outcome,
                    ended_at=dt.datetime.now(dt.UTC),
                    current_step=progress.current_step if progress else 0,
                    error=error,
                    result=result,
                    stages={stage.value: took_s for stage, took_s in times.items()},
                    step_times={stage.value: took_s for stage, took_s in steps.items()},
                    made_with=made_with,
                )
                record = None if ended else self._store.tasks.get_task(job.task_id)
            except Exception as fault:  # a full disk must not leave watchers waiting
                logger.exception("The end of task %s could not be saved.", job.task_id)
                record = self._ended_record(job.task_id)
                if record is None:
                    error = f"The result could not be saved: {fault}"
                    end = TaskEnd(job.task_id, Outcome.FAILED, error, cause=fault)
                    self.keep_end(job.task_id, error)
            if record is not None:
                # Somebody else ended it first, and that is the end for all.
                end = record.end
            self._tell(end)
        except Exception:
            logger.exception("The end of task %s could not be told.", job.task_id)
        finally:
            job.done.set_result(end)

    def _ended_record(self, task_id: str) -> TaskRecord | None:
        """Return a task whose end was saved though no answer came; None if not."""
        try:
            record = self._store.tasks.get_task(task_id)
        except Exception:
            logger.exception("Task %s could not be read.", task_id)
            return None
        return record if record is not None and record.status.ended else None

    def _tell(self, end: TaskEnd) -> None:
        if end.outcome is Outcome.SUCCEEDED:
            self._progress.mark_complete(end.task_id, result=end.result)
        elif end.outcome is not None:
            self._progress.mark_failed(
                end.task_id, end.error or "", outcome=end.outcome, result=end.result
            )
