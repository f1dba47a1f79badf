"""Runs one task from its start to its committed end.

``Worker.run`` belongs to the worker thread; ``Worker.end`` may be called from any
thread, and the store decides which of two ends that race is the one.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence

from nbgen.errors import NbgenError
from nbgen.generation.engine import Cancelled, Engine
from nbgen.jobs.queue import Job
from nbgen.progress import ProgressService, Stage, StagePlan
from nbgen.schema import GenerationResult, ImageRecord, Outcome
from nbgen.store import ImageFolder, Store

logger = logging.getLogger(__name__)

_STAGE_MESSAGES = {
    Stage.LOAD: "Loading the model",
    Stage.BASE_MODEL: "Sampling with the base model",
    Stage.REFINER_MODEL: "Sampling with the refiner",
    Stage.DECODE: "Decoding the picture",
    Stage.SAVE: "Saving the picture",
}


class Worker:
    """Takes jobs through an engine and commits how they end.

    Args:
        make_engine: Called once, on the worker thread, when the first task runs.
        store: Where ends are committed before anyone is told.
        images: Where the pictures are saved.
        progress: Who tells those who watch.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        store: Store,
        images: ImageFolder,
        progress: ProgressService,
    ) -> None:
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._store = store
        self._images = images
        self._progress = progress

    def run(self, job: Job) -> None:
        """Do the work of a job; never raises, however the work ends."""
        try:
            result = self._generate(job)
        except Cancelled:
            self.cancel(job)
        except NbgenError as error:
            self._fail(job, str(error), error)
        except Exception as error:  # whatever a model or a disk may raise
            logger.exception("Task %s failed.", job.task_id)
            self._fail(job, f"{type(error).__name__}: {error}", error)
        else:
            self._end(job, Outcome.SUCCEEDED, result=result)

    def cancel(self, job: Job) -> None:
        """End a job that runs no more, or never ran, as cancelled."""
        progress = self._progress.get_progress(job.task_id)
        if progress is None or progress.current_stage is None:
            error = "Cancelled before it started."
        else:
            error = (
                f"Cancelled at step {progress.current_step} of {progress.total_steps}."
            )
        self._end(job, Outcome.CANCELLED, error=error)

    def close(self) -> None:
        """Give the engine's memory back; not while a job runs."""
        if self._engine is not None:
            self._engine.close()

    def _fail(self, job: Job, error: str, cause: BaseException) -> None:
        job.error = cause
        self._end(job, Outcome.FAILED, error=error)

    def _generate(self, job: Job) -> GenerationResult:
        started_at_s = time.monotonic()
        self._store.start_task(job.task_id)
        reporter = _Reporter(job.task_id, self._progress)
        reporter.start_stage(Stage.LOAD)
        if self._engine is None:
            self._engine = self._make_engine()
        pictures = self._engine.generate(
            job.request, seed=job.seed, reporter=reporter, cancel=job.cancel
        )
        job.cancel.raise_if_cancelled()
        reporter.start_stage(Stage.SAVE)
        images = []
        for index, picture in enumerate(pictures):
            name = self._images.save(picture)
            image = ImageRecord(
                name=name,
                url=f"/images/{name}",
                width=picture.width,
                height=picture.height,
                seed=job.seed + index,
            )
            images.append(image)
        return GenerationResult(
            images=tuple(images), generation_time=time.monotonic() - started_at_s
        )

    def _end(
        self,
        job: Job,
        outcome: Outcome,
        *,
        error: str | None = None,
        result: GenerationResult | None = None,
    ) -> None:
        progress = self._progress.get_progress(job.task_id)
        try:
            ended = self._store.end_task(
                job.task_id,
                outcome,
                ended_at=dt.datetime.now(dt.UTC),
                current_step=progress.current_step if progress else 0,
                error=error,
                result=result,
            )
            record = None if ended else self._store.get_task(job.task_id)
        except Exception as fault:  # a full disk must not leave watchers waiting
            logger.exception("The end of task %s could not be saved.", job.task_id)
            job.error = fault
            outcome, result = Outcome.FAILED, None
            error = f"The result could not be saved: {fault}"
        else:
            if record is not None and record.outcome is not None:
                # Somebody else ended it first, and that is the end for all.
                outcome, error, result = record.outcome, record.error, record.result
        if result is not None:
            self._progress.mark_complete(job.task_id, result=result)
        else:
            self._progress.mark_failed(job.task_id, error or "", outcome=outcome)
        job.done.set_result(None)


class _Reporter:
    """Counts steps over all stages and hands them on; worker thread only."""

    def __init__(self, task_id: str, progress: ProgressService) -> None:
        self._task_id = task_id
        self._progress = progress
        self._steps = 0

    def plan(self, stages: Sequence[StagePlan]) -> None:
        self._progress.update_progress(self._task_id, plan=stages)

    def start_stage(self, stage: Stage) -> None:
        self._progress.update_progress(
            self._task_id, current_stage=stage, message=_STAGE_MESSAGES[stage]
        )

    def finish_step(self) -> None:
        self._steps += 1
        self._progress.update_progress(self._task_id, current_step=self._steps)
