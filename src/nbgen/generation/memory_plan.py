"""Decides how a model is put into the memory that there is. Imports no torch.

The rules, for a GPU with ``free`` bytes and a model of ``weights`` bytes in 16 bit:

- It all fits with room for the work: everything stays on the GPU.
- The biggest part fits with room for the work: the parts come and go
  (``offload="model"``), which costs some seconds a picture.
- Otherwise layer by layer (``offload="group"``), which is slow but runs.

The room for the work is that of a UNet at 1024x1024 and of the VAE. The VAE decodes in
tiles where its own room is short. On the CPU nothing is moved and float32 is used,
since few CPUs multiply quickly in 16 bit.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Offload = Literal["none", "model", "group"]

_GIB = 2**30
UNET_ROOM = 2 * _GIB
"""What a UNet of SDXL's size takes beside its weights, two samples of 1024x1024."""
VAE_ROOM = 5 * _GIB
"""What SDXL's VAE takes in 16 bit to decode 1024x1024 in one piece."""
BIGGEST_PART = 0.45
"""The share of base, refiner, text encoders and VAE that lies in the base's UNet."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model is to run.

    Attributes:
        kind: ``"cpu"`` or ``"cuda"``.
        name: What it is called, such as ``"NVIDIA H100 80GB HBM3"``.
        free: Bytes of its memory that are free.
        bfloat16: Whether it multiplies in bfloat16 without emulation.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    free: int
    bfloat16: bool


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded; every field may be overridden.

    Attributes:
        dtype: Of UNets and text encoders: ``float32``, ``bfloat16`` or ``float16``.
        vae_dtype: Of the VAE. SDXL's own VAE overflows in float16.
        channels_last: Whether convolutions get their data channel by channel within
            a pixel, which a GPU's tensor cores want.
        offload: What leaves the GPU while it is not needed.
        vae_tiling: Whether pictures are decoded in overlapping tiles.
        compile: Whether the UNets are compiled with ``torch.compile`` before their
            first step of a new size: minutes once, for a fifth less time a step
            afterwards. Off unless asked for.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    vae_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    offload: Offload = "none"
    vae_tiling: bool = False
    compile: bool = False


def plan_memory(device: Device, weights: int) -> MemoryPlan:
    """Return the plan for a device.

    Args:
        device: Where the model is to run.
        weights: Bytes of base, refiner, text encoders and VAE in 16 bit.
    """
    if device.kind == "cpu":
        return MemoryPlan()
    dtype: Literal["bfloat16", "float16"] = "bfloat16" if device.bfloat16 else "float16"
    offload: Offload
    if device.free >= weights + UNET_ROOM:
        offload, left = "none", device.free - weights
    elif device.free >= weights * BIGGEST_PART + UNET_ROOM:
        offload, left = "model", device.free
    else:
        offload, left = "group", device.free
    return MemoryPlan(
        dtype=dtype,
        vae_dtype="bfloat16" if device.bfloat16 else "float32",
        channels_last=True,
        offload=offload,
        vae_tiling=left < VAE_ROOM * (1 if device.bfloat16 else 2),
    )
