"""Schedulers by name, and how many steps each model makes of a schedule.

Importing this module imports diffusers.
"""

from __future__ import annotations

import copy
import functools
import json
from typing import Any, NamedTuple

import diffusers

from nbgen.schema import GenerationRequest, SchedulerName

_CLASSES: dict[SchedulerName, tuple[str, dict[str, Any]]] = {
    SchedulerName.EULER: ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    SchedulerName.EULER_KARRAS: (
        "EulerDiscreteScheduler",
        {"use_karras_sigmas": True},
    ),
    SchedulerName.DPMPP_2M: (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": False},
    ),
    SchedulerName.DPMPP_2M_KARRAS: (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True},
    ),
    SchedulerName.HEUN: ("HeunDiscreteScheduler", {"use_karras_sigmas": False}),
    # Made from another scheduler's configuration, DDIM would clip latents to -1..1.
    SchedulerName.DDIM: (
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False},
    ),
    SchedulerName.UNIPC: ("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
}


class Split(NamedTuple):
    """How many times each model is called; 0 for a refiner that has nothing to do."""

    base_steps: int
    refiner_steps: int


def make_scheduler(name: SchedulerName, config: Any) -> Any:
    """Return a new scheduler of that name with a checkpoint's noise schedule.

    A scheduler counts its steps, so each run takes a new one.
    """
    # Copied, since making one takes five times as long.
    return copy.deepcopy(_unused_scheduler(name, json.dumps(config)))


@functools.cache
def _unused_scheduler(name: SchedulerName, config: str) -> Any:
    class_name, options = _CLASSES[name]
    return getattr(diffusers, class_name).from_config(json.loads(config), **options)


def split_steps(config: Any, request: GenerationRequest) -> Split:
    """Return how many steps base and refiner make of a request.

    A step is one call of a model, after which diffusers calls ``callback_on_step_end``:
    Heun makes ``2 * n - 1`` of them. ``denoising_end`` and ``denoising_start`` cut on
    the value of the timestep, not on its number, so the split depends on the schedule
    (the rules are those of diffusers' StableDiffusionXLPipeline and
    StableDiffusionXLImg2ImgPipeline, version 0.42). A schedule that leaves one side
    without a step is made by the base alone.
    """
    scheduler = make_scheduler(request.scheduler, config)
    scheduler.set_timesteps(request.num_inference_steps)
    timesteps = scheduler.timesteps
    first = 0
    if request.image is not None:
        asked = request.num_inference_steps
        first = (asked - int(asked * request.strength)) * scheduler.order
    ahead = len(timesteps) - first
    if not request.use_refinement:
        return Split(ahead, 0)
    train_steps = scheduler.config.num_train_timesteps
    cutoff = round(train_steps - request.denoising_end * train_steps)
    base_steps = int((timesteps[first:] >= cutoff).sum())
    refiner_steps = int((timesteps < cutoff).sum())
    if scheduler.order == 2 and refiner_steps % 2 == 0:
        # Heun's two calls of a step must not be parted.
        refiner_steps += 1
    if not base_steps or not refiner_steps:
        return Split(ahead, 0)
    return Split(base_steps, refiner_steps)
