"""The nouns of nbgen: requests, results, tasks and decisions.

All are frozen values, so any thread may hold them. They are validated when they are
made and look the same on the wire, in the store and in the widgets.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from nbgen.checks import (
    MAX_SEED,
    check_choice,
    check_flag,
    check_image_name,
    check_number,
    check_seed,
    check_side,
    check_text,
    check_whole,
)
from nbgen.decision import ApprovalStatus as ApprovalStatus
from nbgen.decision import Decision as Decision
from nbgen.decision import Verdict as Verdict
from nbgen.errors import InvalidRequest


class Status(StrEnum):
    """Where a task stands: the closed set that protocol clients switch on."""

    PENDING = "pending"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether a task of this status will never change again."""
        return self in (Status.COMPLETED, Status.FAILED)


class Outcome(StrEnum):
    """How precisely an ended task ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def status(self) -> Status:
        """The protocol status of a task with this outcome."""
        return Status.COMPLETED if self is Outcome.SUCCEEDED else Status.FAILED


class SchedulerName(StrEnum):
    """The samplers, by the names that the field calls them by."""

    EULER = "euler"
    EULER_KARRAS = "euler_karras"
    DPMPP_2M = "dpmpp_2m"
    DPMPP_2M_KARRAS = "dpmpp_2m_karras"
    HEUN = "heun"
    DDIM = "ddim"
    UNIPC = "unipc"


class OutputFormat(StrEnum):
    """The kinds of picture files; PNG keeps every pixel as it was made."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class Metadata(StrEnum):
    """What a picture file tells of how it was made.

    ``full``: everything that makes it again. ``minimal``: that nbgen made it, its
    seed and its size. ``none``: nothing.
    """

    FULL = "full"
    MINIMAL = "minimal"
    NONE = "none"


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to make.

    Attributes:
        prompt: What the picture shows; 1 to 2,000 characters after trimming.
        negative_prompt: What it shall not show; up to 2,000 characters.
        width: Width in pixels, a multiple of 8 from 64 to 2048; None for the size
            that the checkpoint was trained on.
        height: Height in pixels, likewise.
        num_inference_steps: Sampling steps over base and refiner, 1 to 150.
        guidance_scale: Weight of the prompt, 0 to 20 (1 and less: no guidance).
        seed: Seed of the first picture; picture ``i`` takes ``seed + i``, and all lie
            from 0 to 2**32-1. None draws one.
        use_refinement: Whether the refiner makes the last fifth of the schedule.
        num_images: How many pictures, 1 to 16, made as one batch.
        scheduler: The sampler: one of ``SchedulerName``.
        denoising_end: With the refiner, the share of the schedule that the base
            model makes before it: more than 0, less than 1.
        guidance_cutoff: The share of the steps after which guidance stops, 0 to 1.
            1 guides all of them; 0.8 saves about a tenth of the time, since a step
            without guidance costs half.
        image: The picture to start from, for image-to-image: a name from the image
            folder (``Studio.generate`` also takes a file or a PIL image). None
            starts from noise.
        mask: With ``image``, for inpainting: the name of a picture of the same
            shape, white where to draw anew and black where to keep. None draws all
            of it anew.
        strength: With ``image``, how far to go from it: more than 0, up to 1. So
            many of the steps are made; at least one must be.
        output_format: The kind of file: ``png``, ``jpeg`` or ``webp``.
        metadata: What the file tells of how it was made: ``full``, ``minimal`` or
            ``none``.

    Raises:
        InvalidRequest: A value is not allowed.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 8.0
    seed: int | None = None
    use_refinement: bool = True
    num_images: int = 1
    scheduler: SchedulerName = SchedulerName.EULER
    denoising_end: float = 0.8
    guidance_cutoff: float = 1.0
    image: str | None = None
    mask: str | None = None
    strength: float = 0.7
    output_format: OutputFormat = OutputFormat.PNG
    metadata: Metadata = Metadata.FULL

    def __post_init__(self) -> None:
        for field, check in _CHECKS.items():
            force_setattr(self, field, check(field, getattr(self, field)))
        if self.seed is not None and self.seed + self.num_images - 1 > MAX_SEED:
            allowed = f"so low that each of {self.num_images} pictures has a seed up to"
            raise InvalidRequest("seed", self.seed, f"{allowed} {MAX_SEED:,}")
        if self.mask is not None and self.image is None:
            raise InvalidRequest("mask", self.mask, "left out when there is no image")
        if int(self.num_inference_steps * self.strength) < 1 and self.image is not None:
            least = math.ceil(100 / self.num_inference_steps) / 100
            raise InvalidRequest(
                "strength",
                self.strength,
                f"at least {least:g} with {self.num_inference_steps} steps, so that "
                "one of them is made",
            )


def _check_seed_or_none(_field: str, value: Any) -> int | None:
    return None if value is None else check_seed(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "prompt": partial(check_text, shortest=1),
    "negative_prompt": check_text,
    "width": check_side,
    "height": check_side,
    "num_inference_steps": partial(check_whole, least=1, most=150),
    "guidance_scale": partial(check_number, least=0, most=20),
    "seed": _check_seed_or_none,
    "use_refinement": check_flag,
    "num_images": partial(check_whole, least=1, most=16),
    "scheduler": partial(check_choice, choices=SchedulerName),
    "denoising_end": partial(check_number, least=0, most=1, ends=False),
    "guidance_cutoff": partial(check_number, least=0, most=1),
    "image": check_image_name,
    "mask": check_image_name,
    "strength": partial(check_number, least=0, most=1),
    "output_format": partial(check_choice, choices=OutputFormat),
    "metadata": partial(check_choice, choices=Metadata),
}


def check_field(name: str, value: Any) -> Any:
    """Return a request's field as ``GenerationRequest`` would hold it.

    Raises:
        InvalidRequest: The value is not allowed, whatever the other fields are.
    """
    return _CHECKS[name](name, value)


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished picture.

    Attributes:
        name: The name of the file in the studio's image folder.
        url: The path under which a server serves it.
        width: Width in pixels.
        height: Height in pixels.
        seed: The seed that it was made from.
    """

    name: str
    url: str
    width: int
    height: int
    seed: int


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a task made.

    Attributes:
        images: The pictures, in the order of their seeds.
        generation_time: Seconds from the start of the work to the saved files.
        notes: What the person should know, in sentences; often empty.
    """

    images: tuple[ImageRecord, ...]
    generation_time: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        first = self.images[0]
        seeds = ", ".join(str(image.seed) for image in self.images)
        noun = "image" if len(self.images) == 1 else "images"
        return (
            f"GenerationResult({len(self.images)} {noun}, "
            f"{first.width}x{first.height}, seed {seeds})"
        )


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task as the store knows it.

    Attributes:
        id: The id of the task.
        parent_id: The task that a reviewer wanted changed into this one, or that this
            one is another attempt at; None for neither.
        batch_id: The batch that it belongs to; None for none.
        batch_row: Which row of the batch it is for. Of several, such as retries, the
            newest counts.
        request: The request as it was asked for.
        seed: The seed in use: the request's, or the one drawn for it.
        priority: Tasks of a higher one run first.
        status: Where the task stands.
        outcome: How it ended; None before that.
        error: Why it did not succeed; None otherwise.
        created_at: When it was submitted, in UTC.
        started_at: When the work on it began, in UTC; None before that.
        ended_at: When it ended, in UTC; None before that.
        current_step: Sampling steps done when it ended; 0 before that.
        stages: The seconds that each stage took, of those that were over when the end
            was committed.
        step_times: The seconds that each sampling step took, to three digits, of each
            stage that samples. The first of a stage includes what comes before it.
        made_with: The checkpoint, the device and the versions of the libraries.
        result: The pictures of a task that succeeded, or those of a batch that were
            made before it failed; None otherwise.
        decisions: The log of the decisions on it, oldest first.
        decision: The decision in force; None while there is none.
        approval_status: What all decisions come to.
    """

    id: str
    parent_id: str | None = None
    batch_id: str | None = None
    batch_row: str | None = None
    request: GenerationRequest
    seed: int
    priority: int = 0
    status: Status
    outcome: Outcome | None = None
    error: str | None = None
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    current_step: int = 0
    stages: dict[str, float] = {}
    step_times: dict[str, tuple[float, ...]] = {}
    made_with: dict[str, str] = {}
    result: GenerationResult | None = None
    decisions: tuple[Decision, ...] = ()
    decision: Decision | None = None
    approval_status: ApprovalStatus = ApprovalStatus.PENDING

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        request = self.request
        sized = request.width and request.height
        size = f", {request.width}x{request.height}" if sized else ""
        seed = "random" if request.seed is None else request.seed
        steps = request.num_inference_steps
        noun = "step" if steps == 1 else "steps"
        return f"TaskRecord({self.status}, {steps} {noun}{size}, seed {seed})"

    @property
    def version(self) -> int:
        """How many decisions there are on the task."""
        return len(self.decisions)


class BatchRow(NamedTuple):
    """Where one row of a batch stands.

    Attributes:
        name: Which row.
        task_id: The newest task for it.
        status: Where that stands.
        outcome: How it ended; None before that.
        error: Why it did not succeed; None otherwise.
        took_s: Seconds from its start to its end; None before that.
        ended_at: When it ended, in UTC; None before that.
    """

    name: str
    task_id: str
    status: Status
    outcome: Outcome | None
    error: str | None
    took_s: float | None
    ended_at: dt.datetime | None

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"BatchRow({self.name!r}, {self.outcome or self.status})"


class TaskPage(list[TaskRecord]):
    """Some of the tasks, newest first.

    Attributes:
        next_cursor: Where the next page begins; None on the last.
    """

    def __init__(
        self, records: Iterable[TaskRecord] = (), next_cursor: str | None = None
    ) -> None:
        super().__init__(records)
        self.next_cursor = next_cursor
