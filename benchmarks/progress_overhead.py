"""Measures what following a run costs: nbgen against plain diffusers, and one step.

Run: ``.venv/bin/python benchmarks/progress_overhead.py``. Both make the same pictures
with the tiny checkpoint, 50 steps, base and refiner, on one thread, in turns. What is
measured is the time of this thread alone (``time.thread_time``), so that other programs
disturb it less; the ratio is the median over pairs of neighbours. nbgen reports to a
progress service that nobody watches, as the worker does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from PIL import Image

from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.generation.engine import CancelToken
from nbgen.generation.sdxl import SDXLEngine
from nbgen.progress import Preview, ProgressService, Stage, StagePlan
from nbgen.schema import GenerationRequest

PAIRS = 60
STEPS = 50
SEED = 7
PROMPT = "a red circle on a blue background"
CALLS = 20_000


class ServiceReporter:
    """Reports to a progress service, as the worker's reporter does."""

    def __init__(self, service: ProgressService, task_id: str) -> None:
        self._service = service
        self._task_id = task_id
        self._steps = 0
        service.create_progress(task_id, STEPS)

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Hand the plan on."""
        self._service.update_progress(self._task_id, plan=stages)

    def start_stage(self, stage: Stage) -> None:
        """Hand the stage on."""
        self._service.update_progress(self._task_id, current_stage=stage)

    def finish_step(self) -> None:
        """Hand the step on."""
        self._steps += 1
        self._service.update_progress(self._task_id, current_step=self._steps)

    def warn(self, message: str) -> None:
        """Hand the message on."""
        self._service.update_progress(self._task_id, message=message)

    def wants_preview(self) -> bool:
        """Ask the service."""
        return self._service.previews.wanted(self._task_id)

    def show_preview(self, preview: Preview) -> None:
        """Hand the preview on."""
        self._service.previews.show(self._task_id, preview)


def plain_diffusers() -> Callable[[], Image.Image]:
    """Return a function that makes the picture without nbgen."""
    # Diffusers publishes no types, and its names are resolved lazily.
    library: Any = diffusers
    options = {"local_files_only": True, "dtype": torch.float32}
    base = library.StableDiffusionXLPipeline.from_pretrained(TINY_FOLDER, **options)
    refiner = library.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        TINY_FOLDER / "refiner",
        text_encoder_2=base.text_encoder_2,
        tokenizer_2=base.tokenizer_2,
        vae=base.vae,
        **options,
    )
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)

    def make() -> Image.Image:
        shared = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": 8.0}
        generator = torch.Generator("cpu").manual_seed(SEED)
        latents = base(
            **shared,
            width=128,
            height=128,
            generator=generator,
            denoising_end=0.8,
            output_type="latent",
        ).images
        made: Image.Image = refiner(
            **shared, image=latents, generator=generator, denoising_start=0.8
        ).images[0]
        return made

    return make


def with_nbgen() -> Callable[[], Image.Image]:
    """Return a function that makes the picture with nbgen's engine."""
    engine = SDXLEngine("tiny")
    service = ProgressService()
    request = GenerationRequest(prompt=PROMPT, num_inference_steps=STEPS)
    numbers = iter(range(10_000))

    def make() -> Image.Image:
        reporter = ServiceReporter(service, f"run-{next(numbers)}")
        [made] = engine.generate(
            request, seed=SEED, reporter=reporter, cancel=CancelToken()
        )
        return made

    return make


def seconds(make: Callable[[], Image.Image]) -> float:
    """Return the seconds of this thread that a run takes."""
    started_at_s = time.thread_time()
    make()
    return time.thread_time() - started_at_s


def step_microseconds(watchers: int) -> float:
    """Return the median time of reporting one step, in microseconds."""
    service = ProgressService(keep_ended=1)
    gone = [
        service.register_callback("run", lambda _state: None) for _ in range(watchers)
    ]
    service.create_progress("run", CALLS)
    service.update_progress(
        "run",
        plan=[StagePlan(Stage.BASE_MODEL, CALLS, CALLS)],
        current_stage=Stage.BASE_MODEL,
    )
    times_s = []
    for step in range(1, CALLS + 1):
        started_at_s = time.perf_counter()
        service.update_progress("run", current_step=step)
        times_s.append(time.perf_counter() - started_at_s)
    for unregister in gone:
        unregister()
    service.close()
    return statistics.median(times_s) * 1e6


def main() -> None:
    """Print the ratio and the cost of a step."""
    torch.set_num_threads(1)
    plain, ours = plain_diffusers(), with_nbgen()
    if plain().tobytes() != ours().tobytes():
        raise SystemExit("The pictures differ, so the times mean nothing.")
    ratios, plain_s = [], []
    for _ in range(PAIRS):
        pair = [("plain", plain), ("ours", ours)]
        random.shuffle(pair)
        taken = {name: seconds(make) for name, make in pair}
        ratios.append(taken["ours"] / taken["plain"])
        plain_s.append(taken["plain"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"plain diffusers: {statistics.median(plain_s):.3f} s of its thread a run")
    print(
        f"nbgen / plain diffusers, {PAIRS} pairs: median {middle:.4f} "
        f"(quartiles {low:.4f} to {high:.4f}; goal 1.01)"
    )
    for watchers in (0, 1):
        print(
            f"one step, {watchers} watchers: {step_microseconds(watchers):.1f} us "
            "(goal 20)"
        )


if __name__ == "__main__":
    main()
