"""A device's lane: takes one job at a time through its engine.

Thread-safety: ``run``, ``prepare`` and ``release`` belong to the worker thread, and any
may call ``kill``. Once that thread has ended, ``close`` belongs to the thread that
closes the studio.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nbgen.errors import InvalidRequest, WorkerDied
from nbgen.generation.engine import EngineRunner, Work
from nbgen.images import Images
from nbgen.local.endings import Endings
from nbgen.local.finisher import Finisher
from nbgen.local.job import Job
from nbgen.local.job_run import JobRun
from nbgen.local.live_writer import LiveWriter
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService

logger = logging.getLogger(__name__)


class Lane:
    """Draws the pictures of jobs, one job after the other.

    The finisher saves the pictures of a job and ends it while the next one is drawn.

    Args:
        name: What the history of a task calls this machine.
        make_runner: Called once, when the first job runs or by ``prepare``.
        images: Where pictures to start from are read.
        progress: The service that notifies watchers.
        timings: How long the stages of earlier runs took.
        endings: Saves ends that could not be saved, before each job.
        live: Writes the states of what runs, for other processes.
        finisher: Saves pictures and ends jobs; belongs to this lane, which closes it.
        clock: Seconds on a clock that never goes back.

    Example::

        lane = Lane(
            "studio-1",
            lambda: ThreadEngine(PatternEngine),
            images, progress,
            timings=timings, endings=endings, live=live, finisher=finisher,
        )
        lane.run(job)
        job.done.result()
        lane.close()
    """

    def __init__(
        self,
        name: str,
        make_runner: Callable[[], EngineRunner],
        images: Images,
        progress: ProgressService,
        *,
        timings: Timings,
        endings: Endings,
        live: LiveWriter,
        finisher: Finisher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._make_runner = make_runner
        self._runner: EngineRunner | None = None
        self._images = images
        self._progress = progress
        self._timings = timings
        self._endings = endings
        self._live = live
        self._finisher = finisher
        self._clock = clock
        self._loaded = False
        self._before: JobRun | None = None

    def run(self, job: Job) -> None:
        """Draw the pictures of a job and have it finished; never raises.

        Returns when the next job may begin; this one may end after that.
        """
        self._endings.save_ends()
        if self._before is not None:
            self._before.was_overtaken = True
        run = self._try(job)
        if isinstance(run.error, WorkerDied):
            self._loaded = False
        self._finisher.finish(run)
        self._before = run

    def prepare(self) -> EngineRunner:
        """Return the runner, made now if it is not there yet."""
        if self._runner is None:
            self._runner = self._make_runner()
        return self._runner

    def release(self) -> None:
        """Free the engine's memory; it is loaded again when it is needed."""
        self._loaded = False
        if self._runner is not None:
            try:
                self._runner.close()
            except Exception:
                logger.exception("The engine's memory could not be given back.")

    def kill(self) -> None:
        """Have what runs end at once, whatever it does, once it was cancelled.

        Any thread may call it.
        """
        runner = self._runner
        if runner is not None:
            runner.kill()

    def close(self) -> None:
        """End the finisher's thread and free the engine's memory.

        Not while a job has not ended.
        """
        self._finisher.close()
        self._timings.keep()
        self._endings.save_ends()
        self.release()

    def _try(self, job: Job) -> JobRun:
        run = JobRun(
            job,
            self._progress,
            self._timings,
            was_loaded=self._loaded,
            clock=self._clock,
        )
        try:
            self._draw(job, run)
        except BaseException as error:  # noqa: BLE001 - whatever a store may raise
            run.end(error)
        self._loaded = self._loaded or run.drawn
        return run

    def _draw(self, job: Job, run: JobRun) -> None:
        # What is remembered is of an earlier attempt.
        self._progress.forget(job.task_id)
        steps = job.request.num_inference_steps
        self._progress.create_progress(job.task_id, steps, began_at=job.began_at)
        job.cancel.raise_if_cancelled()
        run.start()
        self._live.follow(job.task_id)
        work = Work(
            job.request,
            job.seed,
            self._read("image", job.request.image),
            self._read("mask", job.request.mask),
        )
        self.prepare().run(
            work,
            on_event=run.handle,
            wants_preview=run.wants_preview,
            cancel=job.cancel,
        )

    def _read(self, field: str, name: str | None) -> bytes | None:
        if name is None:
            return None
        data = self._images.read(name)
        if data is None:
            raise InvalidRequest(field, name, "the name of a picture that is kept here")
        return data
