"""What a picture file says of how it was made, written and read.

A file holds the recipe twice: as JSON, from which ``nbgen.recipe`` makes the request
again, and as the line ``parameters`` that other tools for Stable Diffusion read (as
AUTOMATIC1111's web UI writes it). PNG keeps both as text; JPEG and WebP keep them in
Exif, the JSON as ``ImageDescription`` and the parameters as ``UserComment``. No path,
no user and no time is written, so the same request makes the same bytes.

Pure functions, for any thread. Imports no torch.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
from PIL import ExifTags, Image, PngImagePlugin

from nbgen.errors import NoRecipe
from nbgen.schema import GenerationRequest, Metadata, OutputFormat, SchedulerName

_JSON_KEY = "nbgen"
_TEXT_KEY = "parameters"
_UNICODE = b"UNICODE\0"
"""What Exif puts in front of a comment in UTF-16."""
_EXIF_ROOM = 60_000
"""Bytes that both texts may take, since JPEG holds 64 KiB of Exif."""
_LOSSY_QUALITY = 92
# As AUTOMATIC1111's web UI calls them; it names the spacing of the noise apart.
_SAMPLERS = {
    SchedulerName.EULER: ("Euler", "Automatic"),
    SchedulerName.EULER_KARRAS: ("Euler", "Karras"),
    # Automatic is Karras there, for this one.
    SchedulerName.DPMPP_2M: ("DPM++ 2M", "Uniform"),
    SchedulerName.DPMPP_2M_KARRAS: ("DPM++ 2M", "Karras"),
    SchedulerName.HEUN: ("Heun", "Automatic"),
    SchedulerName.DDIM: ("DDIM", "Automatic"),
    SchedulerName.UNIPC: ("UniPC", "Automatic"),
}


def encode_picture(
    picture: Image.Image,
    request: GenerationRequest,
    *,
    seed: int,
    index: int,
    facts: dict[str, str],
) -> bytes:
    """Return the file of a picture, with as much of its recipe as the request says.

    Args:
        picture: The picture.
        request: What was asked for.
        seed: The seed of this picture.
        index: Its place in the batch, from 0.
        facts: What it was made with; see ``Engine.facts``.

    Returns:
        A PNG, JPEG or WebP file.
    """
    texts = _texts(picture, request, seed, index, facts)
    buffer = io.BytesIO()
    if request.output_format is OutputFormat.PNG:
        info = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            info.add_itxt(key, text)
        picture.save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()
    exif = Image.Exif()
    if _JSON_KEY in texts:
        # Exif's plain text is ASCII, and JSON can be.
        exif[ExifTags.Base.ImageDescription] = texts[_JSON_KEY]
    if "Software" in texts:
        exif[ExifTags.Base.Software] = texts["Software"]
    comment = _UNICODE + texts.get(_TEXT_KEY, "").encode("utf-16-be")
    fits = len(comment) + len(texts.get(_JSON_KEY, "")) <= _EXIF_ROOM
    if _TEXT_KEY in texts and fits:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    options: dict[str, Any] = {"quality": _LOSSY_QUALITY}
    if len(exif):
        options["exif"] = exif
    picture.save(buffer, request.output_format.value.upper(), **options)
    return buffer.getvalue()


def recipe(path: str | Path) -> GenerationRequest:
    """Return the request that makes the picture of a file again.

    Reads what nbgen wrote, or else the line ``parameters`` of another tool: prompts,
    size, steps, guidance, seed and sampler. The request is for this one picture; the
    pictures of a batch differ in the last bits when they are made one by one.

    Args:
        path: A PNG, JPEG or WebP file.

    Raises:
        NoRecipe: The file cannot be read, or does not say how it was made.
    """
    name = Path(path).name
    try:
        with Image.open(path) as picture:
            texts = _read_texts(picture)
    except Exception as error:  # whatever Pillow raises over a broken file
        # Pillow's own message holds the path.
        reason = getattr(error, "strerror", None) or "it is none, or broken"
        raise NoRecipe(f"{name!r} cannot be read as a picture: {reason}.") from error
    try:
        if _JSON_KEY in texts:
            return _from_json(texts[_JSON_KEY])
        if _TEXT_KEY in texts:
            return _from_parameters(texts[_TEXT_KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise NoRecipe(f"The recipe in {name!r} cannot be read: {error}") from error
    raise NoRecipe(
        f"{name!r} does not say how it was made. Pictures made with metadata='full', "
        "the default, do."
    )


def _texts(
    picture: Image.Image,
    request: GenerationRequest,
    seed: int,
    index: int,
    facts: dict[str, str],
) -> dict[str, str]:
    """Return what the file is to say, by key."""
    if request.metadata is Metadata.NONE:
        return {}
    size = {"width": picture.width, "height": picture.height}
    brief = {"seed": seed, **size}
    if request.metadata is Metadata.MINIMAL:
        return {"Software": "nbgen", _JSON_KEY: json.dumps(brief)}
    asked = msgspec.to_builtins(request)
    alone = {**asked, **brief, "num_images": 1}
    batch = {"index": index, "num_images": request.num_images}
    full = {"request": alone, "batch": batch, "made_with": facts}
    return {
        "Software": "nbgen",
        _JSON_KEY: json.dumps(full, sort_keys=True),
        _TEXT_KEY: _parameters(request, seed, picture, facts),
    }


def _parameters(
    request: GenerationRequest, seed: int, picture: Image.Image, facts: dict[str, str]
) -> str:
    sampler, spacing = _SAMPLERS[request.scheduler]
    values = {
        "Steps": request.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": spacing,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{picture.width}x{picture.height}",
        "Model": facts.get("checkpoint", "unknown").replace(",", " "),
    }
    if request.image is not None:
        values["Denoising strength"] = f"{request.strength:g}"
    if request.use_refinement:
        values["Refiner switch at"] = f"{request.denoising_end:g}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in values.items()))
    return "\n".join(lines)


def _read_texts(picture: Image.Image) -> dict[str, str]:
    texts = {
        key: str(value)
        for key, value in picture.info.items()
        if key in (_JSON_KEY, _TEXT_KEY)
    }
    exif = picture.getexif()
    described = exif.get(ExifTags.Base.ImageDescription)
    if isinstance(described, str) and described.startswith("{"):
        texts.setdefault(_JSON_KEY, described)
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        text = comment.removeprefix(_UNICODE).decode("utf-16-be", "replace")
        texts.setdefault(_TEXT_KEY, text)
    return texts


def _from_json(text: str) -> GenerationRequest:
    content = json.loads(text)
    if not isinstance(content, dict) or "request" not in content:
        raise ValueError("it was written with metadata='minimal'.")
    known = set(GenerationRequest.__struct_fields__)
    asked = content["request"]
    if not isinstance(asked, dict):
        raise TypeError("its request is no object.")
    return GenerationRequest(**{k: v for k, v in asked.items() if k in known})


def _from_parameters(text: str) -> GenerationRequest:
    """Read the line of another tool; what it does not say is left at its default."""
    lines = text.strip().split("\n")
    settings = {}
    if re.match(r"Steps: *\d", lines[-1]):
        settings = dict(re.findall(r'([\w ]+): ("[^"]*"|[^,]*)(?:, |$)', lines.pop()))
    # Only at the start of a line, since a prompt may say it too.
    prompt, _, negative = "\n".join(["", *lines]).partition("\nNegative prompt:")
    fields: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    fields["use_refinement"] = "Refiner switch at" in settings
    if "Refiner switch at" in settings:
        fields["denoising_end"] = float(settings["Refiner switch at"])
    if "Steps" in settings:
        fields["num_inference_steps"] = int(settings["Steps"])
    if "CFG scale" in settings:
        fields["guidance_scale"] = float(settings["CFG scale"])
    if "Seed" in settings:
        fields["seed"] = int(settings["Seed"])
    if "Size" in settings:
        width, _, height = settings["Size"].partition("x")
        fields["width"], fields["height"] = int(width), int(height)
    fields["scheduler"] = _scheduler_of(settings)
    return GenerationRequest(**fields)


def _scheduler_of(settings: dict[str, str]) -> SchedulerName:
    # Older tools say "DPM++ 2M Karras" in one.
    sampler, spacing = settings.get("Sampler", ""), settings.get("Schedule type")
    if sampler.endswith(" Karras"):
        sampler, spacing = sampler.removesuffix(" Karras"), "Karras"
    if (sampler, spacing) == ("DPM++ 2M", "Automatic"):
        spacing = "Karras"
    for name, (called, spaced) in _SAMPLERS.items():
        if called == sampler and (spaced == "Karras") == (spacing == "Karras"):
            return name
    return SchedulerName.EULER
