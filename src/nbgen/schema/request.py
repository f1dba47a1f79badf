"""What to make: requests, and the closed sets of their fields.

All are frozen values, so any thread may hold them. They are validated when they are
made and look the same on the wire, in the store and in the widgets.

A new field is declared here, in ``GenerationRequest`` and in ``RequestFields``, and
nowhere else: the checks, ``Studio.generate``, the panel, the command line, the HTTP
body and the tables take it from here. ``nbgen.schema.fields`` says what a ``Meta`` may
say.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import (
    LONGEST_SIDE,
    MAX_PROMPT_LENGTH,
    MAX_SEED,
    SHORTEST_SIDE,
    SIZE_MULTIPLE,
    check_image_name,
)
from nbgen.schema.fields import check_field_names, describe_fields, fields_of

if TYPE_CHECKING:
    from PIL import Image

    PictureSource = str | Path | bytes | Image.Image


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


_Side = Annotated[
    int, Meta(ge=SHORTEST_SIDE, le=LONGEST_SIDE, multiple_of=SIZE_MULTIPLE)
]
_Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to make.

    Example:
        >>> GenerationRequest(prompt="a red circle", seed=7).num_inference_steps
        50

    Raises:
        InvalidRequest: A value is not allowed.
    """

    prompt: Annotated[
        str,
        Meta(
            title="Prompt",
            description="What the picture shows",
            min_length=1,
            max_length=MAX_PROMPT_LENGTH,
            extra={"lines": 2},
        ),
    ]
    negative_prompt: Annotated[
        str,
        Meta(
            title="Negative prompt",
            description="What to leave out",
            max_length=MAX_PROMPT_LENGTH,
        ),
    ] = ""
    width: Annotated[
        _Side | None,
        Meta(
            title="Width",
            description="Width in pixels; none stands for the size that the "
            "checkpoint was trained on",
            extra={"none": "auto"},
        ),
    ] = None
    height: Annotated[
        _Side | None,
        Meta(
            title="Height",
            description="Height in pixels; none stands for the size that the "
            "checkpoint was trained on",
            extra={"none": "auto"},
        ),
    ] = None
    num_inference_steps: Annotated[
        int,
        Meta(
            title="Steps",
            description="Sampling steps over base and refiner",
            ge=1,
            le=150,
            extra={"option": "--steps"},
        ),
    ] = 50
    guidance_scale: Annotated[
        float,
        Meta(
            title="Guidance",
            description="Weight of the prompt; 1 and less is no guidance",
            ge=0,
            le=20,
        ),
    ] = 8.0
    seed: Annotated[
        _Seed | None,
        Meta(
            title="Seed",
            description="Seed of the first picture; picture i takes seed + i, and "
            "none draws one",
            extra={"none": "random"},
        ),
    ] = None
    use_refinement: Annotated[
        bool,
        Meta(
            title="Refine",
            description="Whether the refiner makes the rest of the schedule",
            extra={"option": "--refine/--no-refine"},
        ),
    ] = True
    num_images: Annotated[
        int,
        Meta(
            title="Images",
            description="How many pictures, made as one batch",
            ge=1,
            le=16,
        ),
    ] = 1
    scheduler: Annotated[
        SchedulerName,
        Meta(
            title="Scheduler",
            description="The sampler",
            extra={
                "labels": {
                    SchedulerName.EULER: "Euler",
                    SchedulerName.EULER_KARRAS: "Euler Karras",
                    SchedulerName.DPMPP_2M: "DPM++ 2M",
                    SchedulerName.DPMPP_2M_KARRAS: "DPM++ 2M Karras",
                    SchedulerName.HEUN: "Heun",
                    SchedulerName.DDIM: "DDIM",
                    SchedulerName.UNIPC: "UniPC",
                }
            },
        ),
    ] = SchedulerName.EULER
    denoising_end: Annotated[
        float,
        Meta(
            title="Refine from",
            description="With the refiner, the share of the schedule before it",
            gt=0,
            lt=1,
        ),
    ] = 0.8
    guidance_cutoff: Annotated[
        _Share,
        Meta(
            title="Guidance until",
            description="The share of the steps that are guided; 0.8 saves about a "
            "tenth of the time, since a step without guidance costs half",
        ),
    ] = 1.0
    image: Annotated[
        str | None,
        Meta(
            title="Image",
            description="A picture to start from; none starts from noise",
            extra={"picture": True, "check": partial(check_image_name, "image")},
        ),
    ] = None
    mask: Annotated[
        str | None,
        Meta(
            title="Mask",
            description="With an image, a picture of the same shape: white where to "
            "draw anew, black where to keep; none draws all of it anew",
            extra={"picture": True, "check": partial(check_image_name, "mask")},
        ),
    ] = None
    strength: Annotated[
        _Share,
        Meta(
            title="Strength",
            description="With an image, how far to go from it: the share of the "
            "steps that are made; at least one must be",
        ),
    ] = 0.7
    output_format: Annotated[
        OutputFormat,
        Meta(
            title="Format",
            description="The kind of picture file",
            extra={
                "labels": {
                    OutputFormat.PNG: "PNG",
                    OutputFormat.JPEG: "JPEG",
                    OutputFormat.WEBP: "WebP",
                }
            },
        ),
    ] = OutputFormat.PNG
    metadata: Annotated[
        Metadata,
        Meta(
            title="Metadata",
            description="What the picture file says of how it was made",
            extra={
                "labels": {
                    Metadata.FULL: "Full",
                    Metadata.MINIMAL: "Minimal",
                    Metadata.NONE: "None",
                }
            },
        ),
    ] = Metadata.FULL

    def __post_init__(self) -> None:
        for name, field in REQUEST_FIELDS.items():
            force_setattr(self, name, field.check(getattr(self, name)))
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


class RequestFields(TypedDict, total=False):
    """The fields of a request but its prompt, as keywords of functions.

    As ``GenerationRequest`` has them, but looser: a member of a closed set may be its
    text, and a picture may be a PIL image, or the path or the bytes of a file.
    """

    negative_prompt: str
    width: int | None
    height: int | None
    num_inference_steps: int
    guidance_scale: float
    seed: int | None
    use_refinement: bool
    num_images: int
    scheduler: str
    denoising_end: float
    guidance_cutoff: float
    image: PictureSource | None
    mask: PictureSource | None
    strength: float
    output_format: str
    metadata: str


REQUEST_FIELDS = fields_of(GenerationRequest)
"""What ``GenerationRequest`` says of its fields, by their names."""
PICTURE_FIELDS = tuple(name for name, f in REQUEST_FIELDS.items() if f.is_picture)
"""The fields that name picture files."""


def check_field(name: str, value: Any) -> Any:
    """Return a request's field as ``GenerationRequest`` would hold it.

    Raises:
        InvalidRequest: The value is not allowed, whatever the other fields are.
    """
    return REQUEST_FIELDS[name].check(value)


def check_request_names(names: Iterable[object], *also: str) -> None:
    """Refuse names that no field of a request has, and say which comes closest.

    Args:
        names: The names.
        also: Further names that are allowed.

    Raises:
        InvalidRequest: It names the first that is not known.
    """
    check_field_names(names, REQUEST_FIELDS, *also)


def make_request(fields: Mapping[str, Any]) -> GenerationRequest:
    """Return the request of these fields.

    Args:
        fields: Its fields, by their names; pictures by the names of their files.

    Raises:
        InvalidRequest: There is no field of a name, or a value is not allowed.
    """
    check_request_names(fields)
    return GenerationRequest(**fields)


def describe_request(request: GenerationRequest) -> str:
    """Return a request in a few words: "30 steps, 1024x1024, seed 7".

    A notebook compares this text, so it holds nothing that differs between runs.
    """
    steps = request.num_inference_steps
    sized = request.width and request.height
    size = f", {request.width}x{request.height}" if sized else ""
    seed = "random" if request.seed is None else request.seed
    return f"{steps} {'step' if steps == 1 else 'steps'}{size}, seed {seed}"


GenerationRequest.__doc__ = (
    f"{inspect.getdoc(GenerationRequest)}\n\n"
    f"Fields:\n{describe_fields(REQUEST_FIELDS.values())}"
)
