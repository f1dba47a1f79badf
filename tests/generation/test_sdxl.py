"""The real pipelines on the tiny checkpoint: steps, split, cancel, seeds, faults."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from nbgen.errors import CheckpointNotFound
from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.generation.engine import Cancelled, CancelToken
from nbgen.generation.sdxl import SDXLEngine
from nbgen.progress import Preview, Stage, StagePlan
from nbgen.schema import GenerationRequest


class Recorder:
    """A reporter that remembers, and that cancels after a step if asked to."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.cancel = CancelToken()
        self.planned: list[StagePlan] = []
        self.stages: list[Stage] = []
        self.steps: list[Stage] = []
        self.warnings: list[str] = []
        self.looks = False
        self.previews: SimpleQueue[Preview] = SimpleQueue()
        self._cancel_after = cancel_after

    def plan(self, stages: Sequence[StagePlan]) -> None:
        self.planned = list(stages)

    def start_stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def finish_step(self) -> None:
        self.steps.append(self.stages[-1])
        if len(self.steps) == self._cancel_after:
            self.cancel.cancel()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def wants_preview(self) -> bool:
        return self.looks

    def show_preview(self, preview: Preview) -> None:
        self.previews.put(preview)


@pytest.fixture(scope="module")
def engine() -> SDXLEngine:
    return SDXLEngine("tiny")


def run(
    engine: SDXLEngine, recorder: Recorder, seed: int = 7, **fields: Any
) -> list[Image.Image]:
    request = GenerationRequest(**{"prompt": "a red circle", **fields})
    made = engine.generate(
        request, seed=seed, reporter=recorder, cancel=recorder.cancel
    )
    return list(made)


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


def test_the_pictures_are_those_of_plain_diffusers(engine: SDXLEngine) -> None:
    """Our own path around the pipelines changes no pixel."""
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
    shared = {
        "prompt": "a red circle",
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
    [picture] = run(engine, Recorder(), num_inference_steps=10)
    assert picture.tobytes() == expected.tobytes()


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
