"""What comes of one job while it runs, and the telling of those who watch.

Owned by the worker thread until it is handed to the saver's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbgen.local.job_queue import Job
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import Preview, Stage, StagePlan

if TYPE_CHECKING:
    from PIL import Image

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
    """What became of a job so far; also the ``StepReporter`` of its engine.

    Args:
        job: The job.
        progress: Who tells those who watch.
        history: How long the stages of earlier runs took.
        was_loaded: Whether the model was in memory when the job began.
    """

    def __init__(
        self,
        job: Job,
        progress: ProgressService,
        history: Timings,
        *,
        was_loaded: bool,
    ) -> None:
        self.pictures: list[Image.Image] = []
        self.facts: dict[str, str] = {}
        self.notes: list[str] = []
        self.error: BaseException | None = None
        self.started_at_s = time.monotonic()
        self._job = job
        self._task_id = job.task_id
        self._progress = progress
        self._history = history
        self._was_loaded = was_loaded
        self._plan: Sequence[StagePlan] = ()
        self._steps = 0

    def start(self) -> None:
        """Tell that the work has begun."""
        expected_s = self._history.expected_s(
            self._job.request, loaded=self._was_loaded
        )
        self._progress.update_progress(
            self._task_id,
            current_stage=Stage.LOAD,
            message=_STAGE_MESSAGES[Stage.LOAD],
            expected_s=expected_s,
        )

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Tell which stages there will be, and what is left of them."""
        self._plan = stages
        expected_s = self._history.expected_s(
            self._job.request, stages, loaded=self._was_loaded
        )
        self._progress.update_progress(
            self._task_id, plan=stages, expected_s=expected_s
        )

    def remember(self) -> None:
        """Keep how long the stages took, once the task has ended."""
        self._history.remember(
            self._job.request,
            self._plan,
            self._progress.stage_times(self._task_id),
            was_loaded=self._was_loaded,
            made_with=self.facts,
        )

    def start_stage(self, stage: Stage) -> None:
        """Tell that a stage has begun."""
        self._progress.update_progress(
            self._task_id, current_stage=stage, message=_STAGE_MESSAGES[stage]
        )

    def finish_step(self) -> None:
        """Tell that a step is done."""
        self._steps += 1
        self._progress.update_progress(self._task_id, current_step=self._steps)

    def warn(self, message: str) -> None:
        """Tell something that the result keeps as a note."""
        if message not in self.notes:
            logger.warning("Task %s: %s", self._task_id, message)
            self.notes.append(message)
        self._progress.update_progress(self._task_id, message=message)

    def wants_preview(self) -> bool:
        """Say whether anyone looks at previews."""
        return self._progress.previews.wanted(self._task_id)

    def show_preview(self, preview: Preview) -> None:
        """Show a preview to those who look."""
        self._progress.previews.show(self._task_id, preview)
