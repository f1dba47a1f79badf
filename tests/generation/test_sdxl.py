"""The real pipelines on the tiny checkpoint: steps, split, cancel, seeds, faults."""

from __future__ import annotations

import io
import shutil
import threading
from operator import attrgetter
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from safetensors.torch import save_file

from nbgen.errors import BrokenPicture, CheckpointNotFound, OutOfMemory
from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.generation.engine import Cancelled
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.generation.model import ModelDescription
from nbgen.generation.sdxl import SDXLEngine
from nbgen.schema import Stage
from tests.generation.recorder import Recorder, run

QUICK_STEPS: dict[str, Any] = {"num_inference_steps": 3}
QUICK: dict[str, Any] = {**QUICK_STEPS, "width": 64, "height": 64}


def loaded(engine: SDXLEngine) -> tuple[Any, Any]:
    """Return the pipelines of an engine that has run, to break them."""
    assert engine._loaded is not None
    _, pipelines = engine._loaded
    return pipelines.base, pipelines.refiner


@pytest.fixture(scope="module")
def engine() -> SDXLEngine:
    """Return an engine that has run, so that any test may be the first to use it."""
    engine = SDXLEngine("tiny")
    run(engine, Recorder(), **QUICK)
    return engine


def test_base_and_refiner_share_the_schedule(engine: SDXLEngine) -> None:
    recorder = Recorder()
    [picture] = run(engine, recorder, num_inference_steps=10)
    assert recorder.stages == [
        "load",
        "encode",
        "base_model",
        "refiner_model",
        "decode",
    ]
    assert recorder.steps == ["base_model"] * 8 + ["refiner_model"] * 2
    assert [(p.stage, p.steps) for p in recorder.planned] == [
        ("load", 0),
        ("encode", 0),
        ("base_model", 8),
        ("refiner_model", 2),
        ("decode", 0),
        ("save", 0),
    ]
    assert (picture.mode, picture.size) == ("RGB", (128, 128))
    assert len(picture.getcolors(100_000) or []) > 10


@pytest.mark.parametrize("use_refinement", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 30])
def test_the_plan_is_what_happens(
    engine: SDXLEngine, steps: int, use_refinement: bool
) -> None:
    recorder = Recorder()
    run(
        engine,
        recorder,
        num_inference_steps=steps,
        use_refinement=use_refinement,
        width=64,
        height=64,
    )
    planned = [p.stage for p in recorder.planned for _ in range(p.steps)]
    assert recorder.steps == planned
    assert len(planned) == steps


@pytest.mark.parametrize("negative_prompt", ["", "blue"])
@pytest.mark.parametrize("zeros_for_none", [True, False])
def test_the_pictures_are_those_of_plain_diffusers(
    negative_prompt: str, zeros_for_none: bool
) -> None:
    """Our own path around the pipelines changes no pixel.

    SDXL's refiner, unlike its base, takes an empty text for no negative prompt.
    """
    engine = SDXLEngine("tiny")
    run(engine, Recorder(), **QUICK)
    _, our_refiner = loaded(engine)
    base_class: Any = diffusers.StableDiffusionXLPipeline
    refiner_class: Any = diffusers.StableDiffusionXLImg2ImgPipeline
    options = {"local_files_only": True, "dtype": torch.float32}
    base = base_class.from_pretrained(TINY_FOLDER, **options)
    refiner = refiner_class.from_pretrained(
        TINY_FOLDER / "refiner",
        text_encoder_2=base.text_encoder_2,
        tokenizer_2=base.tokenizer_2,
        vae=base.vae,
        **options,
    )
    for pipeline in (refiner, our_refiner):
        pipeline.register_to_config(force_zeros_for_empty_prompt=zeros_for_none)
    shared = {
        "negative_prompt": negative_prompt or None,
        "prompt": "a red circle on a blue background",
        "num_inference_steps": 10,
        "guidance_scale": 8.0,
    }
    generator = torch.Generator("cpu").manual_seed(7)
    latents = base(
        **shared,
        width=128,
        height=128,
        generator=generator,
        denoising_end=0.8,
        output_type="latent",
    ).images
    expected = refiner(
        **shared, image=latents, generator=generator, denoising_start=0.8
    ).images[0]
    fields: dict[str, Any] = {"negative_prompt": negative_prompt}
    [picture] = run(engine, Recorder(), num_inference_steps=10, **fields)
    assert picture.tobytes() == expected.tobytes()


def test_an_engine_takes_pipelines_that_are_in_memory(engine: SDXLEngine) -> None:
    expected = run(engine, Recorder(), **QUICK)[0].tobytes()
    models = engine._loaded
    assert models is not None
    other = SDXLEngine("nowhere", load_models=lambda: models)
    assert run(other, Recorder(), **QUICK)[0].tobytes() == expected
    assert other.facts()["checkpoint"] == "tiny"


def test_a_seed_means_the_same_pixels_again(engine: SDXLEngine) -> None:
    first = run(engine, Recorder(), num_inference_steps=4)[0].tobytes()
    assert run(engine, Recorder(), num_inference_steps=4)[0].tobytes() == first
    other = run(engine, Recorder(), num_inference_steps=4, seed=8)[0].tobytes()
    assert other != first


def test_a_batch_and_another_size(engine: SDXLEngine) -> None:
    pictures = run(
        engine,
        Recorder(),
        num_inference_steps=5,
        num_images=3,
        width=192,
        height=64,
        negative_prompt="blue",
    )
    assert [picture.size for picture in pictures] == [(192, 64)] * 3
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("after", [1, 7, 8, 9, 10])
def test_cancel_takes_at_most_two_steps_and_the_next_run_works(
    engine: SDXLEngine, after: int
) -> None:
    recorder = Recorder(cancel_after=after)
    with pytest.raises(Cancelled):
        run(engine, recorder, num_inference_steps=10)
    assert after <= len(recorder.steps) <= after + 2
    assert Stage.DECODE not in recorder.stages
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_cancel_before_the_first_step(engine: SDXLEngine) -> None:
    recorder = Recorder()
    recorder.cancel.cancel()
    with pytest.raises(Cancelled):
        run(engine, recorder)
    assert recorder.steps == []


def test_closing_gives_the_models_back_and_loads_again(engine: SDXLEngine) -> None:
    engine.close()
    assert len(run(engine, Recorder(), num_inference_steps=1)) == 1


def test_a_checkpoint_without_refiner_says_what_to_do(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "copied")
    shutil.rmtree(folder / "refiner")
    engine = SDXLEngine(folder)
    with pytest.raises(CheckpointNotFound, match=r"no refiner\. Pass use_refinement="):
        run(engine, Recorder(), num_inference_steps=1)
    assert run(engine, Recorder(), num_inference_steps=1, use_refinement=False)


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae", "refiner/unet"])
def test_missing_weights_are_said(tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "copied")
    for weights in (folder / part).glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(CheckpointNotFound, match=r"not whole|cannot be loaded"):
        run(SDXLEngine(folder), Recorder(), num_inference_steps=1)


def test_truncated_weights_are_said(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "copied")
    [weights] = (folder / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointNotFound, match="cannot be loaded"):
        run(SDXLEngine(folder), Recorder(), num_inference_steps=1)


def test_cancel_at_the_start_of_a_stage(engine: SDXLEngine) -> None:
    for stage in (Stage.LOAD, Stage.ENCODE, Stage.REFINER_MODEL, Stage.DECODE):
        recorder = Recorder(cancel_at=stage)
        with pytest.raises(Cancelled):
            run(engine, recorder, num_inference_steps=10)
        assert recorder.stages[-1] == stage
        assert len(recorder.steps) <= 10


def test_an_unknown_word_is_said_with_words_that_are_known(engine: SDXLEngine) -> None:
    recorder = Recorder()
    run(engine, recorder, prompt="An astronaut's house, triangel", **QUICK)
    [warning] = recorder.warnings
    assert warning.startswith(
        "The tiny model does not know \"astronaut's\", 'triangel'. It knows words such "
        "as triangle, house, "
    )
    known = Recorder()
    run(engine, known, prompt="A red House, on green hills", **QUICK)
    assert known.warnings == []


MARKED = ("", "ein 😀! ", "a quokka, ", "wow!!! ")


@pytest.mark.parametrize("start", MARKED)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_words_before_the_cut_change_the_picture_and_no_others_do(
    engine: SDXLEngine, field: str, start: str
) -> None:
    words = ["red"] * 45
    text = start + " ".join(words)
    length = ModelDescription("tiny").measure_prompt(text)
    assert length is not None
    assert length.cut_at is not None
    first_unread = (length.cut_at - len(start)) // 4
    assert 25 < first_unread < 40

    def draw(text: str) -> bytes:
        fields: dict[str, Any] = {"prompt": "a star", field: text, **QUICK}
        return run(engine, Recorder(), **fields)[0].tobytes()

    picture = draw(text)
    for changed in (0, 20, first_unread - 1, first_unread, 40, 44):
        other = start + " ".join([*words[:changed], "blue", *words[changed + 1 :]])
        assert (draw(other) == picture) == (changed >= first_unread)


LONG = "a red circle " * 13 + "and a blue square"


def test_a_prompt_that_is_cut_is_said(engine: SDXLEngine) -> None:
    recorder = Recorder()
    run(engine, recorder, prompt=LONG, negative_prompt=f"no {LONG}", **QUICK)
    of_prompt, of_negative = recorder.warnings
    assert of_prompt == (
        "The model reads 38 of the prompt's 43 tokens. "
        "Left out: '… circle and a blue square'."
    )
    assert of_negative == (
        "The model reads 38 of the negative prompt's 45 tokens. "
        "Left out: '… a red circle and a blue square'."
    )


def test_what_is_read_to_its_end_is_not_said(engine: SDXLEngine) -> None:
    recorder = Recorder()
    fits = "a red circle " * 12 + "a circle"
    run(engine, recorder, prompt=fits, negative_prompt=fits, **QUICK)
    assert recorder.warnings == []


@pytest.mark.parametrize("field", ["guidance_scale", "guidance_cutoff"])
def test_a_negative_prompt_that_is_not_read_at_all_is_not_cut(
    engine: SDXLEngine, field: str
) -> None:
    recorder = Recorder()
    run(engine, recorder, negative_prompt=LONG, **{**QUICK, field: 0.1})
    assert recorder.warnings == []


def test_what_an_engine_says_is_what_is_measured_without_it(engine: SDXLEngine) -> None:
    for prompt in ("wow!!! " * 20, "😀 İ a quokka's " * 9, "<|endoftext|> a " * 30):
        length = ModelDescription("tiny").measure_prompt(prompt)
        assert length is not None
        recorder = Recorder()
        run(engine, recorder, prompt=prompt, **QUICK)
        said = f"The model reads 38 of the prompt's {length.tokens} tokens."
        assert any(warning.startswith(said) for warning in recorder.warnings)


def test_an_empty_negative_prompt_is_none(engine: SDXLEngine) -> None:
    """SDXL was trained with zeros in its place, not with an empty text."""
    empty = run(engine, Recorder(), **QUICK)[0].tobytes()
    assert run(engine, Recorder(), negative_prompt=" ", **QUICK)[0].tobytes() == empty
    blue = run(engine, Recorder(), negative_prompt="blue", **QUICK)[0].tobytes()
    assert blue != empty


def test_guidance_stops_where_it_is_cut_off(engine: SDXLEngine) -> None:
    """The model sees half as many samples from there on, in both stages."""
    seen: list[int] = []

    def count(_module: Any, args: tuple[Any, ...], _kwargs: Any) -> None:
        seen.append(len(args[0]))

    base, refiner = (pipeline.unet for pipeline in loaded(engine))
    hooks = [
        unet.register_forward_pre_hook(count, with_kwargs=True)
        for unet in (base, refiner)
    ]
    try:
        for cutoff, guided in ((1.0, 10), (0.9, 9), (0.8, 8), (0.5, 5), (0.0, 0)):
            seen.clear()
            recorder = Recorder()
            fields: dict[str, Any] = {"num_inference_steps": 10, "num_images": 2}
            pictures = run(engine, recorder, guidance_cutoff=cutoff, **fields)
            assert seen == [4] * guided + [2] * (10 - guided)
            assert len(pictures) == 2
    finally:
        for hook in hooks:
            hook.remove()


def test_memory_that_is_short_for_a_batch_costs_time_only(
    engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [
        run(engine, Recorder(), seed=seed, **QUICK)[0].tobytes() for seed in (7, 8, 9)
    ]
    unet = loaded(engine)[0].unet
    forward = unet.forward

    def short(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", short)
    recorder = Recorder()
    pictures = run(engine, recorder, num_images=3, **QUICK)
    assert [picture.tobytes() for picture in pictures] == expected
    [warning] = recorder.warnings
    assert warning.startswith("There was not enough memory for the batch")
    assert len(recorder.steps) == sum(planned.steps for planned in recorder.planned)


def test_memory_that_is_short_for_one_picture_is_said(
    engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_args: Any, **_kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(loaded(engine)[0].unet, "forward", short)
    with pytest.raises(OutOfMemory, match=r"of 64x64\. Make it smaller"):
        run(engine, Recorder(), num_images=2, **QUICK)


def test_memory_that_is_short_to_decode_is_met_with_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = SDXLEngine("tiny")
    run(engine, Recorder(), **QUICK)
    vae = loaded(engine)[0].vae
    decode = vae.decode

    def short(*args: Any, **kwargs: Any) -> Any:
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", short)
    recorder = Recorder()
    assert len(run(engine, recorder, **QUICK)) == 1
    assert "decoded in tiles" in recorder.warnings[0]


@pytest.mark.parametrize("part", ["unet", "vae.decoder"])
def test_a_broken_picture_fails_loudly(part: str) -> None:
    engine = SDXLEngine("tiny")
    run(engine, Recorder(), **QUICK)
    broken = attrgetter(part)(loaded(engine)[0])
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(BrokenPicture, match=r"not a number.*fp16-safe VAE"):
        run(engine, Recorder(), use_refinement=False, **QUICK)


def test_image_to_image_stays_near_its_picture(engine: SDXLEngine) -> None:
    red = Image.new("RGB", (128, 128), (220, 40, 40))
    near, far = (
        run(engine, Recorder(), image=red, strength=strength, num_inference_steps=10,
            guidance_scale=1.0, use_refinement=False)[0]
        for strength in (0.1, 1.0)
    )  # fmt: skip
    assert distance(near, red) < distance(far, red) / 2


def test_a_picture_to_start_from_gives_its_proportions(engine: SDXLEngine) -> None:
    wide = Image.new("RGB", (400, 100), "white")
    [picture] = run(engine, Recorder(), image=wide, num_inference_steps=4)
    assert picture.size == (256, 64)
    [asked] = run(engine, Recorder(), image=wide, width=64, height=64, **QUICK_STEPS)
    assert asked.size == (64, 64)


def test_inpainting_keeps_what_the_mask_leaves(engine: SDXLEngine) -> None:
    blue = Image.new("RGB", (128, 128), (45, 85, 205))
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (32, 32, 96, 96))
    [picture] = run(
        engine, Recorder(), image=blue, mask=mask, strength=1.0,
        num_inference_steps=10, guidance_scale=4.5,
    )  # fmt: skip
    outside = Image.composite(blue, picture, mask)
    assert outside.tobytes() == blue.tobytes()
    assert distance(picture.crop((40, 40, 88, 88)), blue.crop((40, 40, 88, 88))) > 20


def test_previews_show_the_picture_rather_than_noise() -> None:
    engine = SDXLEngine("tiny", preview_every_s=0.0)
    recorder = Recorder(looks=True)
    [picture] = run(engine, recorder, num_inference_steps=20, guidance_scale=4.5)
    engine.close()  # ends the thread that makes them
    previews = []
    while not recorder.previews.empty():
        previews.append(recorder.previews.get())
    assert previews
    assert {(p.width, p.height) for p in previews} == {(16, 16)}
    last = Image.open(io.BytesIO(previews[-1].jpeg))
    assert last.format == "JPEG"
    assert distance(last.resize(picture.size), picture) < 25


def test_nobody_looking_means_no_preview_thread(engine: SDXLEngine) -> None:
    run(engine, Recorder(), **QUICK)
    assert "nbgen-preview" not in {thread.name for thread in threading.enumerate()}


def test_a_lora_changes_the_picture(engine: SDXLEngine, tmp_path: Path) -> None:
    plain = run(engine, Recorder(), **QUICK)[0].tobytes()
    lora = make_lora(loaded(engine)[0].unet, tmp_path / "style.v1.safetensors")
    for weight, same in ((0.0, True), (1.0, False)):
        adapted = SDXLEngine("tiny", loras={lora: weight})
        assert (run(adapted, Recorder(), **QUICK)[0].tobytes() == plain) is same
        assert adapted.facts()["loras"] == f"style.v1.safetensors:{weight:g}"


def test_a_lora_that_does_not_fit_is_said(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_file({"unet.nothing.lora_A.weight": torch.zeros(2, 2)}, wrong)
    with pytest.raises(CheckpointNotFound, match=r"LoRA 'wrong\.safetensors'"):
        run(SDXLEngine("tiny", loras={wrong: 1.0}), Recorder(), **QUICK)
    with pytest.raises(CheckpointNotFound, match=r"no LoRA file 'gone\.safetensors'"):
        run(SDXLEngine("tiny", loras={tmp_path / "gone.safetensors": 1.0}), Recorder())


def make_lora(unet: Any, path: Path) -> Path:
    """Write a LoRA of rank 2 for the queries of a UNet's attention."""
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, module in unet.named_modules():
        if name.endswith("to_q"):
            rows, columns = module.weight.shape
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(
                2, columns, generator=rng
            )
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=rng)
    save_file(weights, path)
    return path


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures, in grey levels."""
    difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return float(sum(ImageStat.Stat(difference).mean) / 3)


@pytest.mark.parametrize(
    "plan",
    [
        MemoryPlan(channels_last=True),
        MemoryPlan(vae_tiling=True),
        MemoryPlan(vae_dtype="bfloat16"),
        MemoryPlan(offload="group"),
    ],
    ids=["channels_last", "vae_tiling", "vae_dtype", "group"],
)
def test_a_memory_plan_changes_the_picture_little(
    engine: SDXLEngine, plan: MemoryPlan
) -> None:
    planned = SDXLEngine("tiny", memory_plan=plan)
    white = Image.new("RGB", (128, 128), "white")
    for image, mask in ((None, None), (white, None), (white, white.convert("L"))):
        [one] = run(engine, Recorder(), image=image, mask=mask, **QUICK_STEPS)
        [other] = run(planned, Recorder(), image=image, mask=mask, **QUICK_STEPS)
        assert distance(one, other) < 3


def test_compiling_is_a_stage_of_its_own_for_each_new_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is compiled is diffusers' business, so it is left out here."""
    unet_class: Any = diffusers.UNet2DConditionModel
    compiled = []
    monkeypatch.setattr(
        unet_class,
        "compile_repeated_blocks",
        lambda *_args, **_kwargs: compiled.append(1),
    )
    engine = SDXLEngine("tiny", memory_plan=MemoryPlan(compile=True))
    plain = SDXLEngine("tiny")
    for width, compiles in ((64, True), (64, False), (128, True)):
        fields: dict[str, Any] = {"width": width, "height": 64, **QUICK_STEPS}
        recorder = Recorder()
        [picture] = run(engine, recorder, **fields)
        assert (Stage.COMPILE in recorder.stages) is compiles
        assert (Stage.COMPILE in [p.stage for p in recorder.planned]) is compiles
        assert len(recorder.steps) == 3
        assert picture.tobytes() == run(plain, Recorder(), **fields)[0].tobytes()
    assert len(compiled) == 2  # base and refiner


def test_a_taesd_beside_the_weights_makes_the_previews(tmp_path: Path) -> None:
    """Its weights are random here; that it is what is shown is the point."""
    library: Any = diffusers
    blocks = {"encoder_block_out_channels": (8,) * 4, "num_encoder_blocks": (1,) * 4}
    decoder = {"decoder_block_out_channels": (8,) * 4, "num_decoder_blocks": (1,) * 4}
    library.AutoencoderTiny(**blocks, **decoder).save_pretrained(tmp_path)
    engine = SDXLEngine("tiny", preview_every_s=0.0)
    run(engine, Recorder(), **QUICK)
    assert engine._loaded is not None
    checkpoint, pipelines = engine._loaded
    engine._loaded = (msgspec.structs.replace(checkpoint, previews=tmp_path), pipelines)
    recorder = Recorder(looks=True)
    run(engine, recorder, num_inference_steps=10)
    engine.close()
    assert recorder.previews.get().width == 128
