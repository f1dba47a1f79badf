"""Stable Diffusion XL, base and refiner, through diffusers.

Importing this module imports torch and diffusers, which takes seconds. Pipelines are
not thread-safe: an engine belongs to one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from PIL import Image

from nbgen.errors import CheckpointNotFound
from nbgen.generation.checkpoints import Checkpoint, find_checkpoint
from nbgen.generation.engine import CancelToken, StepReporter
from nbgen.progress import Stage, StagePlan
from nbgen.schema import GenerationRequest

DENOISING_END = 0.8
"""The share of the schedule that the base model makes before the refiner goes on."""

# Operations counted on the public SDXL configurations at 1024x1024: 13.52 TFLOP for
# a step of the base model with guidance, 14.57 for the refiner's, 10.47 to decode.
_REFINER_STEP_COST = 14.57 / 13.52
_DECODE_COST = 10.47 / 13.52


class _Pipelines(NamedTuple):
    """What stays loaded between two tasks."""

    base: Any
    refiner: Any
    default_size: tuple[int, int]


class SDXLEngine:
    """Makes pictures with a checkpoint in diffusers' folder layout.

    Loads at the first use and stays loaded until ``close``. Runs in bfloat16 on a CUDA
    device if there is one, else in float32 on the CPU.

    Args:
        checkpoint: What ``find_checkpoint`` takes.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self._checkpoint = checkpoint
        self._pipelines: _Pipelines | None = None

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: StepReporter,
        cancel: CancelToken,
    ) -> list[Image.Image]:
        """Make the pictures of a request; see ``Engine.generate``."""
        reporter.start_stage(Stage.LOAD)
        if self._pipelines is None:
            self._pipelines = _load(find_checkpoint(self._checkpoint))
        cancel.raise_if_cancelled()
        base, refiner, default_size = self._pipelines
        if request.use_refinement and refiner is None:
            raise CheckpointNotFound(
                f"The checkpoint {str(self._checkpoint)!r} has no refiner. Pass "
                "use_refinement=False, or put the refiner's folder inside it as "
                "'refiner'."
            )
        # A scheduler counts its steps, so each run gets its own.
        base.scheduler = base.scheduler.from_config(base.scheduler.config)
        base_steps = count_base_steps(base.scheduler, request)
        refiner_steps = request.num_inference_steps - base_steps
        stages = [StagePlan(Stage.BASE_MODEL, base_steps, base_steps)]
        if refiner_steps:
            cost = refiner_steps * _REFINER_STEP_COST
            stages.append(StagePlan(Stage.REFINER_MODEL, refiner_steps, cost))
        stages.append(StagePlan(Stage.DECODE, 0, _DECODE_COST))
        reporter.plan(stages)

        shared = {
            "prompt": [request.prompt] * request.num_images,
            "negative_prompt": [request.negative_prompt] * request.num_images,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            # On the CPU, so that a seed means the same picture on every device.
            "generator": [
                torch.Generator("cpu").manual_seed(seed + index)
                for index in range(request.num_images)
            ],
        }
        size = {
            "width": request.width or default_size[0],
            "height": request.height or default_size[1],
        }

        def sample(pipeline: Any, stage: Stage, steps: int, **more: Any) -> Any:
            reporter.start_stage(stage)
            last = steps if more.get("output_type") != "latent" else None
            on_step_end = _step_callback(reporter, cancel, decode_after_step=last)
            try:
                output = pipeline(**shared, **more, callback_on_step_end=on_step_end)
            finally:
                # What a pipeline does at its end, and leaves undone when left early.
                pipeline.maybe_free_model_hooks()
            return output.images

        if not refiner_steps:
            pictures = sample(base, Stage.BASE_MODEL, base_steps, **size)
        else:
            refiner.scheduler = base.scheduler.from_config(base.scheduler.config)
            latents = sample(
                base,
                Stage.BASE_MODEL,
                base_steps,
                **size,
                denoising_end=DENOISING_END,
                output_type="latent",
            )
            pictures = sample(
                refiner,
                Stage.REFINER_MODEL,
                refiner_steps,
                image=latents,
                denoising_start=DENOISING_END,
            )
        return list(pictures)

    def close(self) -> None:
        """Give the memory of the models back; a later ``generate`` loads again."""
        self._pipelines = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def count_base_steps(scheduler: Any, request: GenerationRequest) -> int:
    """Return how many sampling steps fall to the base model.

    ``denoising_end`` cuts on the value of the timestep, not on its number, so the
    split depends on the schedule. A schedule so short that it leaves one side
    without a step is made by the base model alone.
    """
    steps = request.num_inference_steps
    if not request.use_refinement:
        return steps
    scheduler.set_timesteps(steps)
    train_steps = scheduler.config.num_train_timesteps
    cutoff = round(train_steps - DENOISING_END * train_steps)
    base_steps = int((scheduler.timesteps >= cutoff).sum())
    return base_steps or steps


def _load(checkpoint: Checkpoint) -> _Pipelines:
    """Load the pipelines of a checkpoint onto the device.

    Raises:
        CheckpointNotFound: Something in the folder is missing or broken.
    """
    _silence_libraries()
    on_cuda = torch.cuda.is_available()
    if not on_cuda:
        _leave_a_core_free()
    options: dict[str, Any] = {
        "local_files_only": True,
        "use_safetensors": True,
        "add_watermarker": False,
        "dtype": torch.bfloat16 if on_cuda else torch.float32,
    }
    base_class: Any = diffusers.StableDiffusionXLPipeline
    refiner_class: Any = diffusers.StableDiffusionXLImg2ImgPipeline
    folder = checkpoint.folder
    try:
        base = base_class.from_pretrained(folder, **options)
        refiner = None
        if checkpoint.refiner_folder is not None:
            folder = checkpoint.refiner_folder
            refiner = refiner_class.from_pretrained(
                folder,
                text_encoder_2=base.text_encoder_2,
                tokenizer_2=base.tokenizer_2,
                vae=base.vae,
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointNotFound(
            f"The checkpoint in {folder.name!r} cannot be loaded: {error}"
        ) from error
    for pipeline in (base, refiner):
        if pipeline is not None:
            pipeline.set_progress_bar_config(disable=True)
            pipeline.to("cuda" if on_cuda else "cpu")
    return _Pipelines(base, refiner, checkpoint.default_size)


def _leave_a_core_free() -> None:
    # torch's threads wait for each other at every operation. With as many as there
    # are cores, one that shares its core with a browser or a kernel holds all up:
    # docs/measurements.md has sampling slowed several times over.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _cores() - 1)))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what a container leaves us, on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _step_callback(
    reporter: StepReporter, cancel: CancelToken, *, decode_after_step: int | None
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """Return the callback of one sampling stage, which reads no tensor."""
    steps_done = 0

    def on_step_end(
        _pipeline: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        nonlocal steps_done
        steps_done += 1
        reporter.finish_step()
        cancel.raise_if_cancelled()
        if steps_done == decode_after_step:
            reporter.start_stage(Stage.DECODE)
        return kwargs

    return on_step_end


def _silence_libraries() -> None:
    # A notebook's cell shows the bar of its panel and no other.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
