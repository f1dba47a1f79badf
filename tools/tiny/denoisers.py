"""Trains the two UNets: the base on all noise, the refiner on the low-noise end."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tools.tiny.draw import SIDE
from tools.tiny.latents import Samples, count_shards, read_shards
from tools.tiny.models import Networks, make_scheduler
from tools.tiny.trainer import Trainer

BATCH = 16
_NO_PROMPT = 0.10
# The refiner takes over at a fifth of the way; it learns a little more than that.
REFINER_STEPS = 300


def aesthetic_scores(sides: Tensor) -> Tensor:
    """Return the score of pictures by the width that they had when they were drawn.

    A sharp picture scores 6.0, as SDXL's pipeline asks for by default, and one that
    was enlarged from 24 pixels scores the 2.5 of its negative prompt.
    """
    return 2.5 + 3.5 * ((sides - 24) / (SIDE - 24)).clamp(0, 1) ** 0.5


def time_ids(sides: Tensor, *, refiner: bool) -> Tensor:
    """Return the micro-conditioning of samples, as the stock pipelines order it."""
    zero = torch.zeros_like(sides)
    if refiner:
        return torch.stack([sides, sides, zero, zero, aesthetic_scores(sides)], 1)
    full = torch.full_like(sides, SIDE)
    return torch.stack([sides, sides, zero, zero, full, full], 1)


class Noise:
    """SDXL's noise schedule: what is mixed, and what a v-predicting network answers."""

    def __init__(self, device: torch.device) -> None:
        kept = make_scheduler().alphas_cumprod.to(device)
        self._signal, self._noise = kept.sqrt(), (1 - kept).sqrt()

    def mix(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy latents at timesteps ``t`` and the v to predict."""
        a, b = (x[t].view(-1, 1, 1, 1) for x in (self._signal, self._noise))
        return a * latents + b * noise, a * noise - b * latents

    def deviation(self, t: Tensor) -> Tensor:
        """Return the share of noise at timesteps ``t``, shape (n, 1, 1, 1)."""
        kept: Tensor = self._noise[t]
        return kept.view(-1, 1, 1, 1)


def base_timesteps(count: int, device: torch.device) -> Tensor:
    """Draw timesteps for the base: half of them from 300 to 900, where shapes form."""
    anywhere = torch.randint(0, 1000, (count,), device=device)
    middle = torch.randint(300, 900, (count,), device=device)
    return torch.where(torch.rand(count, device=device) < 0.5, anywhere, middle)


@torch.no_grad()
def describe(
    samples: Samples, rows: Tensor, *, refiner: bool, left_out: float
) -> dict[str, Any]:
    """Return what a UNet is told of these samples, with some prompts left out.

    A prompt that is left out (``left_out`` of them) is all zeros, as the stock
    pipelines make it for guidance when there is no negative prompt.
    """
    states, pooled = samples.states[rows].float(), samples.pooled[rows].float()
    if refiner:
        states = states[:, :, states.shape[2] // 2 :]
    kept = torch.rand(len(rows), device=rows.device) >= left_out
    states = states * kept.view(-1, 1, 1)
    pooled = pooled * kept.view(-1, 1)
    return {
        "encoder_hidden_states": states,
        "added_cond_kwargs": {
            "text_embeds": pooled,
            "time_ids": time_ids(samples.sides[rows], refiner=refiner),
        },
    }


def train_unet(
    networks: Networks,
    folder: Path,
    minutes: float,
    *,
    refiner: bool,
    decay: float,
    rate: float = 1e-3,
    batch: int = BATCH,
) -> Trainer:
    """Train the base or the refiner on the samples in the state folder.

    Latents are read anew when more of them were made in the meantime.
    """
    name = "refiner" if refiner else "base"
    unet = networks.refiner if refiner else networks.base
    trainer = Trainer(name, unet, folder, rate=rate, average=0.9995, muon=True)
    if minutes <= 0:
        return trainer
    device = trainer.device
    cache = folder / "latents"
    samples = read_shards(cache, device)
    known = count_shards(cache)
    noise_of = Noise(device)

    def loss(_: random.Random, __: float) -> Tensor:
        nonlocal samples, known
        if trainer.step % 200 == 0 and count_shards(cache) > known:
            samples = read_shards(cache, device)
            known = count_shards(cache)
        rows = torch.randint(0, len(samples), (batch,), device=device)
        latents = samples.latents[rows].float()
        t = (
            torch.randint(0, REFINER_STEPS, (batch,), device=device)
            if refiner
            else base_timesteps(batch, device)
        )
        noisy, wanted = noise_of.mix(latents, torch.randn_like(latents), t)
        told = describe(samples, rows, refiner=refiner, left_out=_NO_PROMPT)
        made = trainer.model(noisy, t, **told).sample
        return F.mse_loss(made, wanted)

    trainer.run(minutes, loss, decay=decay)
    return trainer


@torch.no_grad()
def held_out_error(
    unet: Any, samples: Samples, low: int, high: int, *, refiner: bool
) -> float:
    """Return the error of the noise-free latents that a UNet sees in noisy ones.

    Args:
        unet: The base or the refiner.
        samples: Samples that it was not trained on; sharp ones are used.
        low: The first timestep.
        high: The timestep after the last.
        refiner: Which of the two it is.

    Returns:
        The root mean square error, in deviations of the latents.
    """
    device = samples.latents.device
    torch.manual_seed(0)
    noise_of = Noise(device)
    total, seen = 0.0, 0
    sharp = (samples.sides == SIDE).nonzero().view(-1)
    for rows in torch.split(sharp, 32):
        latents = samples.latents[rows].float()
        t = torch.randint(low, high, (len(rows),), device=device)
        noisy, wanted = noise_of.mix(latents, torch.randn_like(latents), t)
        told = describe(samples, rows, refiner=refiner, left_out=0.0)
        made = unet(noisy, t, **told).sample
        # v = a*noise - b*x and x0 = a*noisy - b*v, so the error of x0 is b times v's.
        b = noise_of.deviation(t)
        total += float(((made - wanted) * b).square().mean((1, 2, 3)).sum())
        seen += len(rows)
    return math.sqrt(total / seen)
