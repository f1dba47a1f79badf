"""Puts the averaged weights of every stage together, trained so far or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools.tiny.autoencoder import normalise
from tools.tiny.models import Networks, make_networks
from tools.tiny.text import Readers


def _averages(folder: Path, stage: str) -> dict[str, Any] | None:
    path = folder / f"{stage}.pt"
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, Any] = state["average"]
    return weights


def trained_networks(folder: Path, seed: int) -> Networks:
    """Return the networks as far as the stages in a state folder have come."""
    networks = make_networks(seed)
    if (weights := _averages(folder, "text")) is not None:
        # Loads into the encoders, which the readers share.
        Readers(networks).load_state_dict(weights)
    if (weights := _averages(folder, "decoder")) is not None:
        networks.vae.load_state_dict(weights)
    elif (weights := _averages(folder, "vae")) is not None:
        networks.vae.load_state_dict(weights)
        normalise(networks.vae, seed)
        networks.vae.cpu()
    if (weights := _averages(folder, "base")) is not None:
        networks.base.load_state_dict(weights)
    if (weights := _averages(folder, "refiner")) is not None:
        networks.refiner.load_state_dict(weights)
    for part in (networks.encoder, networks.encoder_2, networks.vae,
                 networks.base, networks.refiner):  # fmt: skip
        part.eval()
    return networks
