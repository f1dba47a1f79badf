"""A picture file says how it was made, to nbgen and to others, and nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

import nbgen
from nbgen.errors import NoRecipe
from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.generation.recipe import encode_picture, recipe
from nbgen.schema import (
    REQUEST_FIELDS,
    GenerationRequest,
    Metadata,
    OutputFormat,
    SchedulerName,
)
from nbgen.schema.checks import MAX_PROMPT_LENGTH, MAX_SEED
from nbgen.studio import Studio

FACTS = {"checkpoint": "tiny", "device": "CPU"}
NAMES = st.from_regex(r"[0-9a-f]{32}\.(png|jpeg|webp)", fullmatch=True)
SIDES = st.sampled_from([64, 72, 128])


_LETTERS = st.characters(exclude_characters="\0")


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    """Draw a request with every field set to something."""
    fields = draw(fields_of_requests())
    assert fields.keys() == REQUEST_FIELDS.keys()
    return GenerationRequest(**fields)


@st.composite
def fields_of_requests(draw: st.DrawFn) -> dict[str, Any]:
    number = st.floats(0, 1, allow_subnormal=False)
    num_images = draw(st.integers(1, 16))
    image = draw(st.none() | NAMES)
    return {
        "prompt": draw(st.text(_LETTERS, min_size=1, max_size=200).filter(str.strip)),
        "negative_prompt": draw(st.text(_LETTERS, max_size=50)),
        "width": draw(st.none() | SIDES),
        "height": draw(st.none() | SIDES),
        "num_inference_steps": draw(st.integers(100, 150)),
        "guidance_scale": draw(st.floats(0, 20)),
        "seed": draw(st.none() | st.integers(0, MAX_SEED - 16)),
        "use_refinement": draw(st.booleans()),
        "num_images": num_images,
        "scheduler": draw(st.sampled_from(SchedulerName)),
        "denoising_end": draw(st.floats(0.01, 0.99)),
        "guidance_cutoff": draw(number),
        "image": image,
        "mask": None if image is None else draw(st.none() | NAMES),
        "strength": draw(st.floats(0.01, 1)),
        "output_format": draw(st.sampled_from(OutputFormat)),
        "metadata": Metadata.FULL,
    }


def encoded(request: GenerationRequest, *, seed: int = 7, index: int = 0) -> bytes:
    picture = Image.new("RGB", (request.width or 64, request.height or 64), "red")
    return encode_picture(picture, request, seed=seed, index=index, facts=FACTS)


def read(folder: Path, data: bytes) -> GenerationRequest:
    file = folder / "picture"
    file.write_bytes(data)
    return recipe(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests(), index=st.integers(0, 15))
def test_a_file_makes_its_request_again(
    tmp_path: Path, request: GenerationRequest, index: int
) -> None:
    seed = (request.seed or 0) + index
    data = encoded(request, seed=seed, index=index)
    assert read(tmp_path, data) == msgspec.structs.replace(
        request,
        seed=seed,
        num_images=1,
        width=request.width or 64,
        height=request.height or 64,
    )
    assert data == encoded(request, seed=seed, index=index)


@pytest.mark.parametrize("kind", OutputFormat)
def test_the_longest_prompts_fit_into_any_file(
    tmp_path: Path, kind: OutputFormat
) -> None:
    long = "\N{HUGGING FACE}" * MAX_PROMPT_LENGTH
    request = GenerationRequest(prompt=long, negative_prompt=long, output_format=kind)
    assert read(tmp_path, encoded(request)).negative_prompt == long


@pytest.mark.parametrize("kind", OutputFormat)
def test_a_file_says_as_much_as_was_asked(tmp_path: Path, kind: OutputFormat) -> None:
    def made(metadata: Metadata) -> bytes:
        return encoded(
            GenerationRequest(
                prompt="a secret cat", output_format=kind, metadata=metadata
            ),
            seed=424242,
        )

    full, minimal, none = map(made, Metadata)
    assert b"a secret cat" in full
    for data in (minimal, none):
        assert b"secret" not in data.replace(b"\0", b"")
    assert b'{"seed": 424242, "width": 64, "height": 64}' in minimal
    assert b"nbgen" in minimal
    for word in (b"nbgen", b"424242", b"Exif", b"EXIF"):
        assert word not in none
    with pytest.raises(NoRecipe, match="written with metadata='minimal'"):
        read(tmp_path, minimal)
    with pytest.raises(NoRecipe, match="'picture' does not say how it was made"):
        read(tmp_path, none)


@pytest.mark.parametrize("kind", OutputFormat)
def test_other_tools_find_the_parameters(kind: OutputFormat) -> None:
    request = GenerationRequest(
        prompt="a cat, 8k\non a mat",
        negative_prompt="dogs, ☃",
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler=SchedulerName.DPMPP_2M_KARRAS,
        use_refinement=True,
        output_format=kind,
    )
    with Image.open(BytesIO(encoded(request))) as picture:
        if kind is OutputFormat.PNG:
            parameters = picture.info["parameters"]
        else:
            comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)
            written = comment[ExifTags.Base.UserComment]
            assert written.startswith(b"UNICODE\0")
            parameters = written[8:].decode("utf-16-be")
    assert parameters == (
        "a cat, 8k\non a mat\nNegative prompt: dogs, ☃\nSteps: 30, Sampler: DPM++ 2M, "
        "Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 64x64, Model: tiny, "
        "Refiner switch at: 0.8"
    )


def png(texts: dict[str, str]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def jpeg(parameters: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        b"UNICODE\0" + parameters.encode("utf-16-be")
    )
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


NEWER = """\
cinematic photo of a fox, (golden hour:1.2), <lora:film:0.8>
Steps: of a temple in the fog, "quoted", 35mm
Negative prompt: lowres, text,
bad hands
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, \
Seed: 3141592653, Size: 832x1216, Model hash: 31e35c80fc, \
Model: sd_xl_base_1.0, Lora hashes: "film: 1a2b, Steps: 3", Version: v1.9.4"""
OLDER = """\
portrait of a woman, a sign that says "Negative prompt: none"
Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x768, Model: m, \
Denoising strength: 0.4, Hires steps: 12, Refiner switch at: 0.9"""


@pytest.mark.parametrize("encode", [lambda text: png({"parameters": text}), jpeg])
def test_the_parameters_of_another_tool_are_read(tmp_path: Path, encode: Any) -> None:
    assert read(tmp_path, encode(NEWER)) == GenerationRequest(
        prompt="cinematic photo of a fox, (golden hour:1.2), <lora:film:0.8>\n"
        'Steps: of a temple in the fog, "quoted", 35mm',
        negative_prompt="lowres, text,\nbad hands",
        num_inference_steps=28,
        guidance_scale=6.5,
        seed=3141592653,
        width=832,
        height=1216,
        scheduler=SchedulerName.DPMPP_2M_KARRAS,
        use_refinement=False,
    )
    assert read(tmp_path, encode(OLDER)) == GenerationRequest(
        prompt='portrait of a woman, a sign that says "Negative prompt: none"',
        num_inference_steps=20,
        guidance_scale=7,
        seed=1,
        width=512,
        height=768,
        scheduler=SchedulerName.EULER,
        use_refinement=True,
        denoising_end=0.9,
    )


@pytest.mark.parametrize(
    ("said", "scheduler"),
    [
        ("Sampler: DPM++ 2M Karras", SchedulerName.DPMPP_2M_KARRAS),
        ("Sampler: DPM++ 2M", SchedulerName.DPMPP_2M),
        ("Sampler: DPM++ 2M, Schedule type: Uniform", SchedulerName.DPMPP_2M),
        # The web UI's default for this one, and only for it.
        ("Sampler: DPM++ 2M, Schedule type: Automatic", SchedulerName.DPMPP_2M_KARRAS),
        ("Sampler: Euler, Schedule type: Automatic", SchedulerName.EULER),
        ("Sampler: Euler, Schedule type: Karras", SchedulerName.EULER_KARRAS),
        ("Sampler: UniPC", SchedulerName.UNIPC),
        ("Sampler: LMS", SchedulerName.EULER),
    ],
)
def test_samplers_go_by_two_names(
    tmp_path: Path, said: str, scheduler: SchedulerName
) -> None:
    data = png({"parameters": f"a cat\nSteps: 20, {said}"})
    assert read(tmp_path, data).scheduler is scheduler


@pytest.mark.parametrize("scheduler", SchedulerName)
def test_a_sampler_is_read_as_it_was_written(
    tmp_path: Path, scheduler: SchedulerName
) -> None:
    request = GenerationRequest(prompt="a cat", scheduler=scheduler)
    with Image.open(BytesIO(encoded(request))) as picture:
        parameters = picture.info["parameters"]
    assert read(tmp_path, png({"parameters": parameters})).scheduler is scheduler


def test_parameters_may_be_a_prompt_alone(tmp_path: Path) -> None:
    data = png({"parameters": "a cat\nSteps: many"})
    assert read(tmp_path, data).prompt == "a cat\nSteps: many"


FULL = json.dumps({"request": {"prompt": "a cat"}})


@pytest.mark.parametrize(
    "text",
    [
        FULL[:-3],
        "",
        "[]",
        "5",
        '{"request": 5}',
        '{"request": {}}',
        '{"request": {"prompt": ""}}',
        '{"request": {"prompt": "a cat", "seed": -1}}',
        '{"request": {"prompt": "a cat", "seed": "x"}}',
        "[" * 100_000,
    ],
)
def test_a_broken_recipe_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(NoRecipe, match="The recipe in 'picture' cannot be read"):
        read(tmp_path, png({"nbgen": text}))


@pytest.mark.parametrize(
    "text",
    ["Steps: 20", "a cat\nSteps: 20, Size: 10", "a cat\nSteps: 20, CFG scale: high"],
)
def test_broken_parameters_are_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(NoRecipe, match="The recipe in 'picture' cannot be read"):
        read(tmp_path, png({"parameters": text}))


def test_a_field_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    content = {"request": {"prompt": "a cat", "sparkle": 3}}
    assert read(tmp_path, png({"nbgen": json.dumps(content)})).prompt == "a cat"


def test_what_is_no_picture_has_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Steps: 20")
    for name in ("notes.txt", "missing.png", "."):
        with pytest.raises(NoRecipe, match="cannot be read as a picture") as raised:
            nbgen.recipe(tmp_path / name)
        # The name is enough, and may be shown to anyone.
        assert str(tmp_path) not in str(raised.value)


# Pillow warns of what it passes over.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(OutputFormat), where=st.floats(0, 1), byte=st.binary())
def test_a_broken_file_is_read_or_refused(
    tmp_path: Path, kind: OutputFormat, where: float, byte: bytes
) -> None:
    data = encoded(GenerationRequest(prompt="a cat", output_format=kind))
    cut = int(where * len(data))
    for broken in (data[:cut], data[:cut] + byte + data[cut + len(byte) :]):
        with contextlib.suppress(NoRecipe):
            assert isinstance(read(tmp_path, broken), GenerationRequest)


@pytest.mark.parametrize("kind", OutputFormat)
def test_no_path_is_written(tmp_path: Path, kind: OutputFormat) -> None:
    """Not even of a checkpoint that was given as one."""
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "private" / "mine")
    with Studio(tmp_path / "data", folder) as studio:
        task = studio.generate(
            "a red circle", num_inference_steps=2, output_format=kind, seed=7
        )
        task.result(100)
        [path] = task.image_paths
        data = path.read_bytes()
        again = studio.submit(nbgen.recipe(path))
        again.result(100)
        assert again.image_paths == [path]
    for text in (data, data.replace(b"\0", b"")):
        assert b"private" not in text
        assert b"/tmp" not in text
        assert str(tmp_path).encode() not in text
    assert b"mine" in data
