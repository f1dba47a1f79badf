"""Saves the pictures of a job that has been drawn, and ends it.

Thread-safety: ``finish`` and ``close`` belong to one thread at a time. What happens
between them and the committed end happens on the thread ``nbgen-saver``, while the next
job is drawn.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait

from nbgen.errors import NbgenError, WorkerDied
from nbgen.generation.engine import Cancelled
from nbgen.images import Images
from nbgen.local.endings import Endings
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.schema import (
    GenerationResult,
    ImageRecord,
    Outcome,
    check_complete,
    failed_end,
)
from nbgen.schema.checks import IMAGE_URL

logger = logging.getLogger(__name__)


class Finisher:
    """Takes jobs from the last drawn picture to their committed end, one at a time.

    Args:
        images: Where the pictures are saved.
        endings: Commits the ends and tells them.

    Example::

        finisher = Finisher(images, endings)
        finisher.finish(run)
        run.job.done.result().result  # the pictures
        finisher.close()
    """

    def __init__(self, images: Images, endings: Endings) -> None:
        self._images = images
        self._endings = endings
        self._saver = ThreadPoolExecutor(1, "nbgen-saver")
        self._saving: Future[None] | None = None

    def finish(self, run: JobRun) -> None:
        """Have a run's pictures saved as they come, and its job ended.

        Waits until the run before it has ended, or pictures that wait to be saved would
        fill the memory.
        """
        if self._saving is not None:
            wait([self._saving])
        try:
            self._saving = self._saver.submit(self._finish, run)
        except RuntimeError:  # the interpreter exits, and starts no more threads
            self._finish(run)

    def close(self) -> None:
        """End the thread, once the last job has ended."""
        self._saver.shutdown()

    def _finish(self, run: JobRun) -> None:
        try:
            self._save_and_end(run)
        except BaseException as error:
            logger.exception("Saving task %s went wrong.", run.job.task_id)
            if not run.job.done.done():
                self._endings.end(
                    run.job, Outcome.FAILED, error=type(error).__name__, cause=error
                )

    def _save_and_end(self, run: JobRun) -> None:
        result = None
        try:
            result = self._save(run)
            error = run.error
            if error is None:
                check_complete(result, run.job.request.num_images)
        except BaseException as raised:  # noqa: BLE001 - whatever a disk may raise
            error = raised
        if error is None:
            self._endings.end(
                run.job, Outcome.SUCCEEDED, result=result, made_with=run.facts
            )
            run.remember()
        elif isinstance(error, Cancelled) and run.job.is_given_back:
            self._endings.give_back(run.job)
        elif isinstance(error, Cancelled):
            self._endings.end(run.job, Outcome.CANCELLED, error=run.describe_cancel())
        elif isinstance(error, WorkerDied):
            # One that was drawn already has not killed the process: the next one has.
            is_innocent = run.drawn and run.was_overtaken
            self._endings.give_back(
                run.job, died_of=None if is_innocent else str(error)
            )
        else:
            self._fail(run, error, result)

    def _save(self, run: JobRun) -> GenerationResult | None:
        """Save the pictures and return them; None if there are none.

        What was saved before a cancel or a failure stays: another task may have made
        the same file and refer to it. Garbage is collected elsewhere.
        """
        job = run.job
        images = []
        for picture in run.pictures():
            _check_wanted(job)
            name = self._images.save(picture.data, picture.output_format)
            image = ImageRecord(
                name=name,
                url=f"{IMAGE_URL}{name}",
                width=picture.width,
                height=picture.height,
                seed=picture.seed,
            )
            images.append(image)
        if not images:
            return None
        _check_wanted(job)
        return GenerationResult(
            images=tuple(images),
            generation_time=run.elapsed_s(),
            notes=tuple(run.notes),
        )

    def _fail(
        self, run: JobRun, error: BaseException, partial: GenerationResult | None
    ) -> None:
        job = run.job
        if not isinstance(error, NbgenError):
            logger.error("Task %s failed.", job.task_id, exc_info=error)
        end = failed_end(job.task_id, error, partial, job.request.num_images)
        assert end.outcome is not None
        self._endings.end(
            job,
            end.outcome,
            error=end.error,
            result=end.result,
            made_with=run.facts,
            cause=end.cause,
        )


def _check_wanted(job: Job) -> None:
    """Raise ``Cancelled`` if a person wants no more pictures."""
    if not job.is_given_back:  # what was drawn before the queue closed is saved
        job.cancel.raise_if_cancelled()
