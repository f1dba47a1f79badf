"""Puts a checkpoint into memory, as a memory plan says.

Importing this module imports torch and diffusers, which takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from nbgen.errors import CheckpointNotFound
from nbgen.generation.checkpoints import REFINER_SHARES, Checkpoint
from nbgen.generation.memory_plan import Device, MemoryPlan, plan_memory

# Diffusers publishes no types, and its names are resolved lazily.
_DIFFUSERS: Any = diffusers


class Pipelines:
    """What stays loaded between two tasks.

    Attributes:
        base: A ``StableDiffusionXLPipeline``.
        refiner: A ``StableDiffusionXLImg2ImgPipeline`` that shares the base's VAE and
            second text encoder, or None.
        device: What they run on.
        plan: How they were loaded.
        scheduler_config: The noise schedule that the base was trained on.
        execution_device: Where inputs go, wherever the weights are at the moment.
    """

    def __init__(
        self, base: Any, refiner: Any, device: Device, plan: MemoryPlan
    ) -> None:
        self.base = base
        self.refiner = refiner
        self.device = device
        self.plan = plan
        self.scheduler_config = base.scheduler.config
        # Kept, since diffusers looks for it in every module, for two milliseconds.
        self.execution_device = base._execution_device
        self._derived: dict[str, Any] = {}

    def derived(self, pipeline_class: str) -> Any:
        """Return a pipeline of another class over the models of the base."""
        if pipeline_class not in self._derived:
            made = getattr(_DIFFUSERS, pipeline_class)(
                **self.base.components,
                requires_aesthetics_score=False,
                add_watermarker=False,
            )
            made.set_progress_bar_config(disable=True)
            self._derived[pipeline_class] = made
        return self._derived[pipeline_class]


def find_device() -> Device:
    """Return the GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device(
            kind="cuda",
            name=torch.cuda.get_device_name(),
            free=free,
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    return Device(kind="cpu", name="CPU", free=0, bfloat16=False)


def load(
    checkpoint: Checkpoint,
    plan: MemoryPlan | None,
    loras: Mapping[Path, float],
    *,
    between: Callable[[], None] = lambda: None,
) -> Pipelines:
    """Load the pipelines of a checkpoint.

    Args:
        checkpoint: The model.
        plan: How; None for what ``plan_memory`` decides.
        loras: LoRA files (``.safetensors``) and their weights.
        between: Called when a part has been loaded; may raise to end the loading.

    Raises:
        CheckpointNotFound: Something is missing or broken.
    """
    _silence_libraries()
    device = find_device()
    if device.kind == "cpu":
        _leave_a_core_free()
    plan = plan or plan_memory(device, checkpoint.weights_bytes())
    base = _load_base(checkpoint, plan)
    between()
    for path, weight in loras.items():
        _add_lora(base, path, weight)
    refiner = _load_refiner(checkpoint, base, plan)
    between()
    return assemble(base, refiner, device, plan)


def assemble(base: Any, refiner: Any, device: Device, plan: MemoryPlan) -> Pipelines:
    """Return pipelines that are in memory already, prepared as a plan says.

    Args:
        base: A ``StableDiffusionXLPipeline``.
        refiner: A ``StableDiffusionXLImg2ImgPipeline`` over the base's VAE and second
            text encoder, or None.
        device: What they are to run on.
        plan: How; their types of numbers are those of the plan, but for the VAE's.
    """
    if plan.vae_dtype != plan.dtype:
        base.vae.to(getattr(torch, plan.vae_dtype))
        # Has the pipelines encode a picture in 32 bit too.
        base.vae.register_to_config(force_upcast=True)
    if plan.vae_tiling:
        base.vae.enable_tiling()
    for pipeline in (base, refiner):
        if pipeline is not None:
            pipeline.set_progress_bar_config(disable=True)
            _place(pipeline, device, plan)
    return Pipelines(base, refiner, device, plan)


def _load_base(checkpoint: Checkpoint, plan: MemoryPlan) -> Any:
    options = _options(plan)
    pipeline_class = _DIFFUSERS.StableDiffusionXLPipeline
    try:
        if checkpoint.vae is not None:
            options["vae"] = _DIFFUSERS.AutoencoderKL.from_pretrained(
                checkpoint.vae,
                local_files_only=True,
                use_safetensors=True,
                dtype=getattr(torch, plan.vae_dtype),
            )
        if checkpoint.base.is_file():
            config = checkpoint.config_folder()
            if config is None:
                raise CheckpointNotFound(
                    f"A single file such as {checkpoint.name!r} holds weights only. "
                    "Its configuration comes with SDXL's: run nbgen pull sdxl once."
                )
            return pipeline_class.from_single_file(
                checkpoint.base, config=str(config), **options
            )
        return pipeline_class.from_pretrained(
            checkpoint.base, variant=_variant(checkpoint.base), **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _broken(checkpoint.name, error) from error


def _load_refiner(checkpoint: Checkpoint, base: Any, plan: MemoryPlan) -> Any:
    folder = checkpoint.refiner
    if folder is None:
        return None
    shared = {part: getattr(base, part) for part in REFINER_SHARES}
    try:
        return _DIFFUSERS.StableDiffusionXLImg2ImgPipeline.from_pretrained(
            folder, variant=_variant(folder), **shared, **_options(plan)
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _broken(f"{checkpoint.name}/refiner", error) from error


def _options(plan: MemoryPlan) -> dict[str, Any]:
    return {
        "local_files_only": True,
        "use_safetensors": True,
        "add_watermarker": False,
        "dtype": getattr(torch, plan.dtype),
    }


def _variant(folder: Path) -> str | None:
    """Return ``"fp16"`` for a folder whose UNet is there in 16 bit only."""
    files = list((folder / "unet").glob("*.safetensors"))
    halved = [file for file in files if ".fp16." in file.name]
    return "fp16" if files and len(halved) == len(files) else None


def _add_lora(base: Any, path: Path, weight: float) -> None:
    if path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointNotFound(
            f"There is no LoRA file {path.name!r}; a LoRA is one .safetensors file."
        )
    adapter = path.stem.replace(".", "_")
    try:
        base.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=adapter
        )
        base.set_adapters(adapter, weight)
        # Into the weights, so that a step costs no more than without.
        base.fuse_lora(adapter_names=[adapter])
        base.unload_lora_weights()
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise CheckpointNotFound(
            f"The LoRA {path.name!r} does not fit this checkpoint: {error}"
        ) from error


def _place(pipeline: Any, device: Device, plan: MemoryPlan) -> None:
    if plan.channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
    if plan.compile:
        pipeline.unet.compile_repeated_blocks(fullgraph=True)
    if plan.offload == "model":
        pipeline.enable_model_cpu_offload()
    elif plan.offload == "group":
        pipeline.enable_group_offload(
            onload_device=torch.device(device.kind),
            offload_type="leaf_level",
            use_stream=device.kind == "cuda",
        )
    else:
        pipeline.to(device.kind)


def _broken(name: str, error: BaseException) -> CheckpointNotFound:
    return CheckpointNotFound(f"The checkpoint {name!r} cannot be loaded: {error}")


def _leave_a_core_free() -> None:
    # torch's threads wait for each other at every operation. With as many as there
    # are cores, one that shares its core with a browser or a kernel holds all up:
    # docs/measurements.md has sampling slowed several times over.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _cores() - 1)))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what a container leaves us, on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _silence_libraries() -> None:
    # A notebook's cell shows the bar of its panel and no other.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
