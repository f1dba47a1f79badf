"""Keeps training samples on disk as the UNets see them: each is encoded once.

The autoencoder's encoder and the text encoders must be trained before. Whoever trains
them again has to remove the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.tiny.autoencoder import to_tensor
from tools.tiny.draw import draw_for_training
from tools.tiny.models import SCALING, Networks
from tools.tiny.scenes import make_scene
from tools.tiny.text import encode, token_ids
from tools.tiny.trainer import best_device

SHARD = 1024
_CHUNK = 16


@dataclass
class Samples:
    """Training samples, all of them in memory.

    Attributes:
        latents: Scaled as the UNet sees them, (n, 4, 16, 16), fp16.
        states: What the text encoders say of the captions, token by token,
            (n, tokens, 128), fp16.
        pooled: The same of the whole captions, (n, 128), fp16.
        sides: Width in pixels that each picture had before it was enlarged, (n,).
    """

    latents: Tensor
    states: Tensor
    pooled: Tensor
    sides: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def make_shard(
    networks: Networks, vae: Any, seed: int, number: int
) -> dict[str, Tensor]:
    """Draw and encode the pictures of one shard, and encode their captions."""
    return to_samples(networks, vae, seed, number * SHARD, SHARD)


@torch.no_grad()
def to_samples(
    networks: Networks, vae: Any, seed: int, first: int, count: int
) -> dict[str, Tensor]:
    """Draw and encode pictures, by the names of the fields of `Samples`."""
    captions, sides, latents = [], [], []
    device = best_device()
    vae.to(device)
    for start in range(first, first + count, _CHUNK):
        scenes = [make_scene(seed, start + i) for i in range(_CHUNK)]
        drawn = [draw_for_training(seed, start + i, s) for i, s in enumerate(scenes)]
        pixels = to_tensor([picture for picture, _ in drawn]).to(device)
        captions += [scene.caption for scene in scenes]
        sides += [side for _, side in drawn]
        mean = vae.encode(pixels).latent_dist.mean
        latents.append((mean * SCALING).half().cpu())
    ids, ids_2 = token_ids(networks, captions)
    encoders = networks.encoder.to(device), networks.encoder_2.to(device)
    told = [
        encode(*encoders, some.to(device), some_2.to(device))
        for some, some_2 in zip(
            torch.split(ids, 64), torch.split(ids_2, 64), strict=True
        )
    ]
    return {
        "latents": torch.cat(latents),
        "states": torch.cat([states.half().cpu() for states, _ in told]),
        "pooled": torch.cat([pooled.half().cpu() for _, pooled in told]),
        "sides": torch.tensor(sides, dtype=torch.int16),
    }


def write_shards(
    networks: Networks, vae: Any, folder: Path, seed: int, shards: int
) -> None:
    """Write the shards that are missing; a reader never finds half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        path = folder / f"{number:04}.pt"
        if path.is_file():
            continue
        part = path.with_suffix(".part")
        torch.save(make_shard(networks, vae, seed, number), part)
        part.replace(path)
        print(f"latents  {number + 1} of {shards} shards", flush=True)


def count_shards(folder: Path) -> int:
    """Return how many shards there are."""
    return len(list(folder.glob("*.pt")))


def read_shards(folder: Path, device: torch.device) -> Samples:
    """Read every shard that there is."""
    shards = [
        torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))
    ]
    joined = {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}
    return in_memory(joined, device)


def in_memory(joined: dict[str, Tensor], device: torch.device) -> Samples:
    """Return encoded samples on a device."""
    return Samples(
        joined["latents"].to(device),
        joined["states"].to(device),
        joined["pooled"].to(device),
        joined["sides"].float().to(device),
    )
