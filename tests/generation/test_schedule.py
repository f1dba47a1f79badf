"""The steps that are planned are those that happen, for every scheduler and split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nbgen.generation.schedule import Split, make_scheduler, split_steps
from nbgen.generation.sdxl import SDXLEngine
from nbgen.schema import GenerationRequest, SchedulerName
from tests.generation.recorder import Recorder, run

SDXL_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


@pytest.fixture(scope="module")
def engine() -> SDXLEngine:
    return SDXLEngine("tiny")


@pytest.mark.parametrize(
    ("scheduler", "steps", "split"),
    [
        ("euler", 50, (40, 10)),
        ("euler_karras", 50, (32, 18)),
        ("dpmpp_2m_karras", 50, (31, 19)),
        ("heun", 50, (79, 21)),
        ("euler", 30, (23, 7)),
        ("euler_karras", 30, (19, 11)),
        ("euler", 1, (1, 0)),
    ],
)
def test_splits_of_sdxls_own_schedule(
    scheduler: str, steps: int, split: tuple[int, int]
) -> None:
    request = GenerationRequest(
        prompt="a cat",
        scheduler=SchedulerName(scheduler),
        num_inference_steps=steps,
    )
    assert split_steps(SDXL_CONFIG, request) == Split(*split)


@settings(max_examples=40)
@given(
    scheduler=st.sampled_from(SchedulerName),
    steps=st.integers(1, 12),
    denoising_end=st.floats(0.05, 0.95),
    use_refinement=st.booleans(),
    start=st.sampled_from(["noise", "image", "mask"]),
    strength=st.floats(0.05, 1.0),
    num_images=st.integers(1, 2),
    guidance_cutoff=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_plan_is_what_happens(
    engine: SDXLEngine,
    scheduler: SchedulerName,
    steps: int,
    denoising_end: float,
    use_refinement: bool,
    start: str,
    strength: float,
    num_images: int,
    guidance_cutoff: float,
) -> None:
    image = Image.new("RGB", (64, 64), "red")
    recorder = Recorder()
    pictures = run(
        engine,
        recorder,
        image=image if start != "noise" else None,
        mask=image.convert("L") if start == "mask" else None,
        scheduler=scheduler,
        num_inference_steps=steps,
        denoising_end=denoising_end,
        use_refinement=use_refinement,
        strength=min(max(strength, 1.001 / steps), 1.0),
        num_images=num_images,
        guidance_cutoff=guidance_cutoff,
        width=64,
        height=64,
    )
    planned = [p.stage for p in recorder.planned for _ in range(p.steps)]
    assert recorder.steps == planned
    assert len(pictures) == num_images


@pytest.mark.parametrize("name", SchedulerName)
def test_each_scheduler_draws_what_the_prompt_says(
    engine: SDXLEngine, name: SchedulerName
) -> None:
    """A wrong configuration (DDIM that clips) would still make some picture."""
    [picture] = run(
        engine,
        Recorder(),
        prompt="a big red circle on a blue background",
        scheduler=name,
        num_inference_steps=20,
        guidance_scale=4.5,
    )
    red, _, blue = picture.getpixel((64, 64))  # type: ignore[misc]
    assert red > 150 > blue
    red, _, blue = picture.getpixel((4, 4))  # type: ignore[misc]
    assert blue > 150 > red


def test_a_new_scheduler_each_time() -> None:
    one, other = (make_scheduler(SchedulerName.HEUN, SDXL_CONFIG) for _ in range(2))
    assert one is not other
