"""What to make: requests, and the closed sets of their fields.

All are frozen values, so any thread may hold them. They are validated when they are
made and look the same on the wire, in the store and in the widgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import (
    MAX_SEED,
    check_choice,
    check_flag,
    check_image_name,
    check_int,
    check_number,
    check_seed,
    check_side,
    check_text,
)


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
    "num_inference_steps": partial(check_int, least=1, most=150),
    "guidance_scale": partial(check_number, least=0, most=20),
    "seed": _check_seed_or_none,
    "use_refinement": check_flag,
    "num_images": partial(check_int, least=1, most=16),
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
