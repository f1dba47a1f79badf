"""What can be said of a task at one moment: frozen values without behaviour."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec

from nbgen.schema.picture import GenerationResult
from nbgen.schema.request import GenerationRequest
from nbgen.schema.task import Outcome, Status, TaskRecord

WAITS = "Waiting in the queue"
WAITS_AGAIN = "Waiting in the queue, to be tried again"


_NEARLY_DONE = 99.9
"""The most that a percentage shows before the task has completed."""


class Stage(StrEnum):
    """The named parts of a generation, in the order in which they happen."""

    LOAD = "load"
    COMPILE = "compile"
    ENCODE = "encode"
    BASE_MODEL = "base_model"
    REFINER_MODEL = "refiner_model"
    DECODE = "decode"
    SAVE = "save"

    # Enum's own is written in Python, and a stage is looked up often in each step.
    __hash__ = str.__hash__

    @property
    def position(self) -> int:
        """The place of the stage in the order, from 0."""
        return _POSITIONS[self]


_POSITIONS = {stage: position for position, stage in enumerate(Stage)}


class StagePlan(msgspec.Struct, frozen=True):
    """How much of the work lies in one stage.

    Attributes:
        stage: The stage.
        steps: Sampling steps in it; 0 for a stage without steps.
        cost: Time of the whole stage in units of one step of the base model.
    """

    stage: Stage
    steps: int
    cost: float


def rough_plan(request: GenerationRequest) -> tuple[StagePlan, ...]:
    """Return the sampling stages of a request as it splits its steps.

    A real schedule cuts on the noise rather than on the count, so its split may differ
    by a step or two, and some schedulers make more than one step of one.
    """
    steps = request.num_inference_steps
    made = steps if request.image is None else int(steps * request.strength)
    refiner = 0
    if request.use_refinement:
        refiner = steps - round(steps * request.denoising_end)
    if refiner >= made:  # the base makes alone what leaves it no step
        refiner = 0
    stages = ((Stage.BASE_MODEL, made - refiner), (Stage.REFINER_MODEL, refiner))
    return tuple(StagePlan(stage, count, count) for stage, count in stages if count)


class Preview(msgspec.Struct, frozen=True):
    """What a picture will look like, seen while it is made.

    Attributes:
        jpeg: A small JPEG file.
        width: Its width in pixels: an eighth of the picture's, or up to 512.
        height: Its height in pixels.
    """

    jpeg: bytes
    width: int
    height: int


class GenerationProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one task at one moment.

    Example::

        state = studio.get_progress("hero-1")
        print(f"{state.current_step} of {state.total_steps} steps")

    All numbers are finite; ``seq``, ``current_step``, ``elapsed_time``,
    ``overall_percentage`` and ``timestamp`` never go back within a task.

    Attributes:
        task_id: The id of the task.
        seq: The number of this state, from 1, one more for each published state.
        status: Where the task stands.
        current_step: Sampling steps done, over base and refiner.
        total_steps: Sampling steps of the whole run.
        current_stage: The stage under way; None before the start.
        elapsed_time: Seconds since the work started; 0.0 while it waits.
        estimated_remaining: Seconds left; 0.0 while that is not known.
        remaining_known: Whether ``estimated_remaining`` says anything.
        overall_percentage: The share of the work done, 0 to 100, by the cost of the
            stages; loading is not counted, since its length is not known beforehand.
        error: Why the task did not succeed; None otherwise.
        message: One line for a person.
        timestamp: When this state came about, in UTC.
        outcome: How the task ended; None before that.
        result: The pictures of a task that succeeded, or those of a batch that were
            made before it failed; None otherwise.
    """

    task_id: str
    seq: int
    status: Status
    current_step: int
    total_steps: int
    current_stage: Stage | None
    elapsed_time: float
    estimated_remaining: float
    remaining_known: bool
    overall_percentage: float
    error: str | None
    message: str
    timestamp: dt.datetime
    outcome: Outcome | None = None
    result: GenerationResult | None = None

    @property
    def percentage(self) -> float:
        """``100 * current_step / total_steps``, below 100 until completed."""
        return shown_percentage(self.current_step, self.total_steps, self.status)


def shown_percentage(done: float, total: float, status: Status) -> float:
    """Return ``100 * done / total`` as a bar shows it: 100 only when completed."""
    if status is Status.COMPLETED:
        return 100.0
    return min(100 * done / total, _NEARLY_DONE)


def done_message(result: GenerationResult | None) -> str:
    """Return the last message of a task that succeeded, with what it had to say."""
    return " ".join(["Done.", *result.notes]) if result and result.notes else "Done"


def progress_of_record(record: TaskRecord) -> GenerationProgress:
    """Rebuild the state of a task that the progress service does not hold."""
    steps = record.request.num_inference_steps
    step = steps if record.status is Status.COMPLETED else record.current_step
    percentage = shown_percentage(step, steps, record.status)
    return GenerationProgress(
        task_id=record.id,
        seq=1,
        status=record.status,
        current_step=step,
        total_steps=steps,
        current_stage=None,
        elapsed_time=record.result.generation_time if record.result else 0.0,
        estimated_remaining=0.0,
        remaining_known=False,
        overall_percentage=percentage,
        error=record.error,
        message=_message_of_record(record),
        timestamp=record.ended_at or record.started_at or record.created_at,
        outcome=record.outcome,
        result=record.result,
    )


def _message_of_record(record: TaskRecord) -> str:
    if record.error is not None:
        return record.error
    if record.status.ended:
        return done_message(record.result)
    if record.is_offered:
        return "Waits from before. It runs once it is asked for."
    if record.status is Status.PENDING:
        return WAITS if record.attempt == 0 else WAITS_AGAIN
    return "Running in another process"
