"""The nouns of nbgen: requests, results, tasks and decisions.

All are frozen values, so any thread may hold them. They are validated when they are
made and look the same on the wire, in the store and in the widgets.
"""

from __future__ import annotations

import datetime as dt
import math
import operator
import re
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest

MAX_PROMPT_LENGTH = 2_000
MAX_SEED = 2**32 - 1
SIZE_MULTIPLE = 8
"""SDXL's VAE halves each side three times, so sides are multiples of 8 pixels."""

_TASK_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


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
        seed: Seed of the first picture, 0 to 2**32-1; picture ``i`` takes
            ``seed + i``. None draws one.
        use_refinement: Whether the refiner makes the last fifth of the schedule.
        num_images: How many pictures, 1 to 16, made as one batch.

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

    def __post_init__(self) -> None:
        checked = {
            "prompt": _text("prompt", self.prompt, shortest=1),
            "negative_prompt": _text("negative_prompt", self.negative_prompt),
            "width": _side("width", self.width),
            "height": _side("height", self.height),
            "num_inference_steps": _whole(
                "num_inference_steps", self.num_inference_steps, 1, 150
            ),
            "guidance_scale": _number("guidance_scale", self.guidance_scale, 0, 20),
            "seed": self.seed if self.seed is None else check_seed(self.seed),
            "use_refinement": _flag("use_refinement", self.use_refinement),
            "num_images": _whole("num_images", self.num_images, 1, 16),
        }
        for field, value in checked.items():
            force_setattr(self, field, value)


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
    """

    images: tuple[ImageRecord, ...]
    generation_time: float

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        first = self.images[0]
        seeds = ", ".join(str(image.seed) for image in self.images)
        noun = "image" if len(self.images) == 1 else "images"
        return (
            f"GenerationResult({len(self.images)} {noun}, "
            f"{first.width}x{first.height}, seed {seeds})"
        )


class Verdict(StrEnum):
    """What a reviewer decided."""

    APPROVED = "approved"
    REJECTED = "rejected"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One entry in the log of decisions; entries are never changed.

    Attributes:
        task_id: The task that was decided.
        verdict: What was decided.
        reviewer_id: Who decided.
        feedback: What the reviewer said, or None.
        featured_image_url: The picture that an approval stands for, or None.
        decided_at: When, in UTC.
    """

    task_id: str
    verdict: Verdict
    reviewer_id: str
    feedback: str | None
    featured_image_url: str | None
    decided_at: dt.datetime


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task as the store knows it.

    Attributes:
        id: The id of the task.
        request: The request as it was asked for.
        seed: The seed in use: the request's, or the one drawn for it.
        status: Where the task stands.
        outcome: How it ended; None before that.
        error: Why it did not succeed; None otherwise.
        created_at: When it was submitted, in UTC.
        ended_at: When it ended, in UTC; None before that.
        current_step: Sampling steps done when it ended; 0 before that.
        result: The pictures of a task that succeeded; None otherwise.
        decision: The reviewer's decision; None while there is none.
    """

    id: str
    request: GenerationRequest
    seed: int
    status: Status
    outcome: Outcome | None = None
    error: str | None = None
    created_at: dt.datetime
    ended_at: dt.datetime | None = None
    current_step: int = 0
    result: GenerationResult | None = None
    decision: Decision | None = None

    @property
    def approval_status(self) -> str:
        """``"approved"``, ``"rejected"`` or, undecided, ``"pending"``."""
        return "pending" if self.decision is None else self.decision.verdict.value


def check_task_id(task_id: object) -> str:
    """Return the task id, or raise ``InvalidRequest`` when it cannot be one.

    An id is one segment of a URL path, so a slash, a blank, ``.`` and ``..`` cannot
    stand in it.
    """
    if (
        isinstance(task_id, str)
        and _TASK_ID.fullmatch(task_id)
        and task_id not in (".", "..")
    ):
        return task_id
    raise InvalidRequest(
        "task_id",
        task_id,
        "1 to 128 letters, digits, dots, underscores, colons or hyphens "
        "(and not '.' or '..')",
    )


def check_seed(seed: object) -> int:
    """Return the seed, or raise ``InvalidRequest`` when it cannot be one."""
    return _whole("seed", seed, 0, MAX_SEED)


def check_reviewer_id(reviewer_id: object) -> str:
    """Return the trimmed reviewer id; raise ``InvalidRequest`` if it is none."""
    return _text("reviewer_id", reviewer_id, shortest=1, longest=200)


def check_feedback(feedback: object) -> str | None:
    """Return the trimmed feedback, None for none; raise ``InvalidRequest`` if bad."""
    if feedback is None:
        return None
    return _text("feedback", feedback, longest=10_000) or None


def _text(
    field: str, value: Any, *, shortest: int = 0, longest: int = MAX_PROMPT_LENGTH
) -> str:
    trimmed = value.strip() if isinstance(value, str) else None
    if trimmed is None or not shortest <= len(trimmed) <= longest:
        allowed = f"a text of {shortest:,} to {longest:,} characters"
        raise InvalidRequest(field, value, allowed)
    # A lone surrogate can be neither stored nor sent.
    return trimmed.encode("utf-8", "replace").decode()


def _whole(field: str, value: Any, least: int, most: int) -> int:
    try:
        # bool is an int to Python, but not to the person who wrote it.
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        allowed = f"a whole number from {least:,} to {most:,}"
        raise InvalidRequest(field, value, allowed)
    return number


def _number(field: str, value: Any, least: float, most: float) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:  # also false for nan
        raise InvalidRequest(field, value, f"a number from {least} to {most}")
    return number


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(field, value, "true or false")
    return value


def _side(field: str, value: Any) -> int | None:
    if value is None:
        return None
    allowed = f"a multiple of {SIZE_MULTIPLE} from 64 to 2,048 pixels"
    try:
        side = _whole(field, value, 64, 2_048)
    except InvalidRequest:
        raise InvalidRequest(field, value, allowed) from None
    if side % SIZE_MULTIPLE:
        below = side - side % SIZE_MULTIPLE
        nearest = f" (the nearest are {below} and {below + SIZE_MULTIPLE})"
        raise InvalidRequest(field, value, allowed + nearest)
    return side
