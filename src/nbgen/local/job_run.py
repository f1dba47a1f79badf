"""Collects a job's pictures, notes and error, and reports its progress.

Thread-safety: ``handle`` takes events on threads of the runner, one at a time (but for
previews). ``pictures`` belongs to the thread that saves them. All else belongs to the
worker thread, until it hands the run to the finisher.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    Planned,
    PreviewMade,
    Silent,
    StageStarted,
    StepFinished,
)
from nbgen.local.job import Job
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import Stage, StagePlan, describe_cancel

logger = logging.getLogger(__name__)

_STAGE_MESSAGES = {
    Stage.LOAD: "Loading the model",
    Stage.COMPILE: "Compiling the model for this size; minutes, once",
    Stage.ENCODE: "Reading the prompt",
    Stage.BASE_MODEL: "Sampling with the base model",
    Stage.REFINER_MODEL: "Sampling with the refiner",
    Stage.DECODE: "Decoding the picture",
    Stage.SAVE: "Saving the picture",
}


class JobRun:
    """One try at a job: its pictures, notes and error so far.

    Args:
        job: The job.
        progress: The service that notifies watchers.
        timings: How long the stages of earlier runs took.
        was_loaded: Whether the model was in memory when the job began.
        clock: Seconds on a clock that never goes back.

    Attributes:
        job: The job.
        facts: What the last picture was made with.
        notes: What the user should know, in sentences.
        error: What ended it; None while it runs, and if all pictures were made.
        drawn: Whether pictures were drawn, so the model is in memory.
        was_overtaken: Whether the next job had begun before this one ended; set by the
            worker thread, read by the one that saves.
    """

    def __init__(
        self,
        job: Job,
        progress: ProgressService,
        timings: Timings,
        *,
        was_loaded: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self.facts: dict[str, str] = {}
        self.notes: list[str] = []
        self.error: BaseException | None = None
        self.drawn = False
        self.was_overtaken = False
        self._task_id = job.task_id
        self._progress = progress
        self._timings = timings
        self._was_loaded = was_loaded
        self._clock = clock
        self._started_at_s = clock()
        self._plan: Sequence[StagePlan] = ()
        self._steps = 0
        self._stage = Stage.LOAD
        self._was_silent = False
        self._made: SimpleQueue[PictureMade | None] = SimpleQueue()

    def start(self) -> None:
        """Report that the work has begun."""
        expected_s = self._timings.expected_s(self.job.request, loaded=self._was_loaded)
        self._progress.update_progress(
            self._task_id,
            current_stage=Stage.LOAD,
            message=_STAGE_MESSAGES[Stage.LOAD],
            expected_s=expected_s,
        )

    def handle(self, event: EngineEvent) -> None:
        """Take an event of the runner."""
        # In the order of how often they come.
        if isinstance(event, StepFinished):
            self._steps += 1
            # After a silence, what was said of it is over.
            message = _STAGE_MESSAGES[self._stage] if self._was_silent else None
            self._was_silent = False
            self._progress.update_progress(
                self._task_id, current_step=self._steps, message=message
            )
        elif isinstance(event, PreviewMade):
            self._progress.previews.show(self._task_id, event.preview)
        elif isinstance(event, StageStarted):
            self.drawn = self.drawn or event.stage is Stage.SAVE
            self._stage = event.stage
            self._was_silent = False
            self._progress.update_progress(
                self._task_id,
                current_stage=event.stage,
                message=_STAGE_MESSAGES[event.stage],
            )
        elif isinstance(event, PictureMade):
            self.facts = event.facts
            self._made.put(event)
        elif isinstance(event, Planned):
            self._replan(event.stages)
        elif isinstance(event, Silent):
            self._was_silent = True
            said = f"No sign of life for {event.for_s:.0f} s. Cancel ends it at once."
            self._progress.update_progress(self._task_id, message=said)
        elif isinstance(event, Ended):
            self.end(event.error)
        else:
            self.warn(event.message)

    def warn(self, message: str) -> None:
        """Report something that the result keeps as a note."""
        if message not in self.notes:
            logger.warning("Task %s: %s", self._task_id, message)
            self.notes.append(message)
        self._progress.update_progress(self._task_id, message=message)

    def end(self, error: BaseException | None) -> None:
        """Take what ended the run; there will be no further picture."""
        self.error = error
        self._made.put(None)

    def wants_preview(self) -> bool:
        """Return whether anyone watches previews."""
        return self._progress.previews.wanted(self._task_id)

    def pictures(self) -> Iterator[PictureMade]:
        """Yield the pictures as they come, until the run has ended; once."""
        while (picture := self._made.get()) is not None:
            yield picture

    def elapsed_s(self) -> float:
        """Return the seconds since the work began."""
        return self._clock() - self._started_at_s

    def describe_cancel(self) -> str:
        """Return a sentence that says where the job was cancelled."""
        return describe_cancel(self._progress.get_progress(self._task_id))

    def remember(self) -> None:
        """Keep how long the stages took, once the task has ended."""
        self._timings.remember(
            self.job.request,
            self._plan,
            self._progress.stage_times(self._task_id),
            was_loaded=self._was_loaded,
            made_with=self.facts,
        )

    def _replan(self, stages: Sequence[StagePlan]) -> None:
        self._plan = stages
        expected_s = self._timings.expected_s(
            self.job.request, stages, loaded=self._was_loaded
        )
        self._progress.update_progress(
            self._task_id, plan=stages, expected_s=expected_s
        )
