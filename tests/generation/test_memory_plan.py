"""How a model is put into memory follows from what is free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.generation.memory_plan import (
    BIGGEST_PART,
    UNET_ROOM,
    VAE_ROOM,
    Device,
    MemoryPlan,
    plan_memory,
)

GIB = 2**30
SDXL = 12 * GIB
THRIFT = ["none", "model", "group"]


def gpu(free: int, *, bfloat16: bool = True) -> Device:
    return Device(kind="cuda", name="GPU", free=free, bfloat16=bfloat16)


def thrift(plan: MemoryPlan) -> tuple[int, bool]:
    """Return how much a plan gives up; parts that come and go cost most."""
    return THRIFT.index(plan.offload), plan.vae_tiling


@pytest.mark.parametrize(
    ("free", "offload", "tiled"),
    [
        (80 * GIB, "none", False),
        (SDXL + VAE_ROOM, "none", False),
        (SDXL + VAE_ROOM - 1, "none", True),
        (SDXL + UNET_ROOM, "none", True),
        (SDXL + UNET_ROOM - 1, "model", False),
        (int(SDXL * BIGGEST_PART) + UNET_ROOM + 1, "model", False),
        (int(SDXL * BIGGEST_PART) + UNET_ROOM - 1, "group", False),
        (VAE_ROOM - 1, "group", True),
        (0, "group", True),
    ],
)
def test_less_memory_makes_a_thriftier_plan(
    free: int, offload: str, *, tiled: bool
) -> None:
    plan = plan_memory(gpu(free), SDXL)
    assert (plan.offload, plan.vae_tiling) == (offload, tiled)


def test_a_gpu_with_bfloat16_uses_it_throughout() -> None:
    plan = plan_memory(gpu(80 * GIB), SDXL)
    assert (plan.dtype, plan.vae_dtype) == ("bfloat16", "bfloat16")
    assert plan.channels_last
    assert not plan.compile


def test_without_bfloat16_the_vae_stays_in_32_bit_and_takes_twice_the_room() -> None:
    def plan(free: int) -> MemoryPlan:
        return plan_memory(gpu(free, bfloat16=False), SDXL)

    assert (plan(80 * GIB).dtype, plan(80 * GIB).vae_dtype) == ("float16", "float32")
    assert not plan(SDXL + 2 * VAE_ROOM).vae_tiling
    assert plan(SDXL + 2 * VAE_ROOM - 1).vae_tiling


def test_on_the_cpu_nothing_moves_and_all_is_in_32_bit() -> None:
    device = Device(kind="cpu", name="CPU", free=0, bfloat16=False)
    assert plan_memory(device, SDXL) == MemoryPlan(
        dtype="float32",
        vae_dtype="float32",
        channels_last=False,
        offload="none",
        vae_tiling=False,
        compile=False,
    )


BYTES = st.integers(0, 200 * GIB)


@given(less=BYTES, more=BYTES, weights=BYTES, bfloat16=st.booleans())
def test_more_memory_never_makes_a_thriftier_plan(
    less: int, more: int, weights: int, *, bfloat16: bool
) -> None:
    less, more = sorted((less, more))
    small, big = (
        plan_memory(gpu(free, bfloat16=bfloat16), weights) for free in (less, more)
    )
    assert thrift(big) <= thrift(small)


@given(free=BYTES, weights=BYTES, bfloat16=st.booleans())
def test_what_a_plan_keeps_on_the_gpu_has_room_there(
    free: int, weights: int, *, bfloat16: bool
) -> None:
    plan = plan_memory(gpu(free, bfloat16=bfloat16), weights)
    kept = {"none": weights, "model": weights * BIGGEST_PART, "group": -UNET_ROOM}
    assert kept[plan.offload] + UNET_ROOM <= free
    # SDXL's own VAE overflows in float16.
    assert plan.vae_dtype != "float16"
