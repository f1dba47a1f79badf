"""Trains the autoencoder, and gives its latents unit variance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tools.tiny.draw import SIDE, draw, draw_for_training
from tools.tiny.models import SCALING
from tools.tiny.scenes import make_scene
from tools.tiny.trainer import Trainer, best_device

_POOL = 4000
_FACTOR = 8


def to_tensor(pixels: Any) -> Tensor:
    """Return pictures (n, height, width, 3) of bytes as (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Pool:
    """Training pictures in memory, of which crops are taken."""

    def __init__(self, seed: int, size: int = _POOL) -> None:
        self._pixels = np.stack(
            [draw_for_training(seed, i, make_scene(seed, i))[0] for i in range(size)]
        )

    def crops(self, rng: random.Random, count: int, side: int) -> Tensor:
        """Return crops (count, 3, side, side), from where something is to be seen."""
        chosen: list[Any] = []
        while len(chosen) < count:
            picture = self._pixels[rng.randrange(len(self._pixels))]
            best = None
            for _ in range(1 if side == SIDE else 3):
                y, x = (rng.randrange(SIDE - side + 1) for _ in range(2))
                crop = picture[y : y + side, x : x + side]
                if best is None or crop[::4, ::4].std() > best[::4, ::4].std():
                    best = crop
            chosen.append(best)
        return to_tensor(np.stack(chosen))


def _picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the error of the pixels and of the differences between neighbours."""
    loss = F.l1_loss(made, wanted) + F.mse_loss(made, wanted)
    for axis in (2, 3):
        loss = loss + 0.5 * F.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
    return loss


def train_vae(vae: Any, folder: Path, seed: int, minutes: float) -> Trainer:
    """Train the whole autoencoder.

    The first three latent channels are drawn towards the picture's own colours at an
    eighth of its size. Such latents are smooth, so that the diffusion models learn
    them sooner, and the fourth channel is left for what edges need.
    """
    with torch.no_grad():
        # Little noise on the latents at first, or the colours never come in.
        vae.quant_conv.bias[4:] = -6.0
    trainer = Trainer("vae", vae, folder, rate=2.5e-3, average=0.995)
    if minutes <= 0:
        return trainer
    pool = Pool(seed)

    def loss(rng: random.Random, share: float) -> Tensor:
        # Small crops first: the colours come in sooner for the same work.
        sizes = ((32, 32), (64, 12), (SIDE, 5))
        side, count = sizes[(share >= 0.35) + (share >= 0.75)]
        wanted = pool.crops(rng, count, side).to(trainer.device)
        posterior = trainer.model.encode(wanted).latent_dist  # type: ignore[operator]
        made = trainer.model.decode(posterior.sample()).sample  # type: ignore[operator]
        colours = F.avg_pool2d(wanted, _FACTOR)
        anchor = F.mse_loss(posterior.mean[:, :3], colours)
        kl: Tensor = posterior.kl().mean()
        return _picture_loss(made, wanted) + 0.3 * anchor + 1e-4 * kl

    trainer.run(minutes, loss, decay=0.5)
    return trainer


def train_decoder(vae: Any, folder: Path, seed: int, minutes: float) -> Trainer:
    """Train the decoder further, on latents as inexact as a diffusion model's.

    The encoder stays as it is, so latents that were made before remain valid.
    """
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    trainer = Trainer(
        "decoder", vae, folder, rate=1.2e-3, average=0.998, trained=trained
    )
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    if minutes <= 0:
        return trainer
    pool = Pool(seed + 1)

    def loss(rng: random.Random, _: float) -> Tensor:
        wanted = pool.crops(rng, 5, SIDE).to(trainer.device)
        with torch.no_grad():
            latents = vae.encode(wanted).latent_dist.mean
            noise = torch.rand(len(latents), 1, 1, 1, device=latents.device) * 0.12
            latents = latents + noise / SCALING * torch.randn_like(latents)
        return _picture_loss(vae.decode(latents).sample, wanted)

    trainer.run(minutes, loss, decay=0.5)
    return trainer


@torch.no_grad()
def normalise(vae: Any, seed: int, pictures: int = 384) -> None:
    """Fold each latent channel's mean and deviation into the convolutions around it.

    ``latents * scaling_factor`` then has mean 0 and deviation 1 with SDXL's own
    factor, and the configuration needs no ``latents_mean``.
    """
    device = best_device()
    vae.to(device)
    latents = torch.cat(
        [
            vae.encode(
                to_tensor(
                    [draw(make_scene(seed, i)) for i in range(start, start + 32)]
                ).to(device)
            ).latent_dist.mean
            for start in range(0, pictures, 32)
        ]
    )
    mean = latents.mean((0, 2, 3))
    scale = latents.std((0, 2, 3)) * SCALING
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:4] /= scale.view(4, 1, 1, 1)
    before.bias[:4] = (before.bias[:4] - mean) / scale
    # The spread of the posterior, as the logarithm of a variance.
    before.bias[4:] -= 2 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= scale.view(1, 4, 1, 1)


@torch.no_grad()
def psnr(vae: Any, seed: int, pictures: int = 64) -> float:
    """Return the decibels of pictures that were encoded and decoded."""
    wanted = to_tensor([draw(make_scene(seed, i)) for i in range(pictures)])
    wanted = wanted.to(best_device())
    made = vae.decode(vae.encode(wanted).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (made - wanted).square().mean()))
