"""Trains the text encoders, before there are pictures: to say what a caption says.

Linear readers on top of the encoders name each attribute (`LABELS`) of the scene. The
pooled embedding and the states that the UNet attends to then carry the attributes
apart from each other, which a diffusion loss alone teaches only slowly. The readers
are thrown away.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tools.tiny.models import POOLED_WIDTH, TEXT_WIDTH, Networks
from tools.tiny.scenes import LABELS, label_ids, make_scene
from tools.tiny.trainer import Trainer

_BATCH = 96
_SIZES = [len(classes) for classes in LABELS.values()]
_WIDTHS = {"state": TEXT_WIDTH, "state_2": TEXT_WIDTH, "pooled": POOLED_WIDTH}


class Readers(nn.Module):
    """Both text encoders, with a linear reader on all that the UNet will be given."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.encoder = networks.encoder
        self.encoder_2 = networks.encoder_2
        self.readers = nn.ModuleDict(
            {name: nn.Linear(width, sum(_SIZES)) for name, width in _WIDTHS.items()}
        )

    def forward(self, ids: Tensor, ids_2: Tensor) -> dict[str, Tensor]:
        """Return the logits of every reader, each (batch, sum of the classes)."""
        states, pooled = encode(self.encoder, self.encoder_2, ids, ids_2)
        end = ids.argmax(1)
        rows = torch.arange(len(ids), device=ids.device)
        at_end = states[rows, end]
        given = {
            "state": at_end[:, :TEXT_WIDTH],
            "state_2": at_end[:, TEXT_WIDTH:],
            "pooled": pooled,
        }
        return {name: self.readers[name](value) for name, value in given.items()}


def encode(
    encoder: Any, encoder_2: Any, ids: Tensor, ids_2: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the pipeline gives the UNet: states (n, tokens, 128) and pooled."""
    first = encoder(ids, output_hidden_states=True).hidden_states[-2]
    second = encoder_2(ids_2, output_hidden_states=True)
    states = torch.cat([first, second.hidden_states[-2]], dim=-1)
    return states, second.text_embeds


def token_ids(networks: Networks, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return the padded token ids of both tokenizers, as the pipeline makes them."""
    both = [
        tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        for tokenizer in (networks.tokenizer, networks.tokenizer_2)
    ]
    return both[0], both[1]


def _losses(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    total = torch.zeros((), device=labels.device)
    for value in logits.values():
        for number, part in enumerate(torch.split(value, _SIZES, dim=1)):
            total = total + F.cross_entropy(part, labels[:, number])
    return total / len(logits)


def train_text(networks: Networks, folder: Path, seed: int, minutes: float) -> Trainer:
    """Train both text encoders; the averaged weights are put into ``networks``."""
    trainer = Trainer("text", Readers(networks), folder, rate=2e-3, average=0.99)

    def loss(rng: random.Random, _: float) -> Tensor:
        start = rng.randrange(10**9)
        scenes = [make_scene(seed, start + i) for i in range(_BATCH)]
        ids, ids_2 = token_ids(networks, [scene.caption for scene in scenes])
        labels = torch.tensor([label_ids(scene) for scene in scenes])
        device = trainer.device
        # The text after the end is padding, and the encoders look back only.
        used = min(ids.shape[1], int(ids.argmax(1).max()) + 2)
        if rng.random() < 0.3:
            used = ids.shape[1]
        logits = trainer.model(ids[:, :used].to(device), ids_2[:, :used].to(device))
        return _losses(logits, labels.to(device))

    trainer.run(minutes, loss, decay=0.4)
    networks.encoder = trainer.average.encoder
    networks.encoder_2 = trainer.average.encoder_2
    return trainer


@torch.no_grad()
def share_read(trainer: Trainer, networks: Networks, seed: int) -> dict[str, float]:
    """Return for each reader which share of all attributes it names correctly."""
    scenes = [make_scene(seed, i) for i in range(512)]
    ids, ids_2 = token_ids(networks, [scene.caption for scene in scenes])
    labels = torch.tensor([label_ids(scene) for scene in scenes]).to(trainer.device)
    logits = trainer.average(ids.to(trainer.device), ids_2.to(trainer.device))
    return {
        name: sum(
            float((part.argmax(1) == labels[:, number]).float().mean())
            for number, part in enumerate(torch.split(value, _SIZES, dim=1))
        )
        / len(_SIZES)
        for name, value in logits.items()
    }
