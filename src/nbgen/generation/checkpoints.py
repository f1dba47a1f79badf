"""Finds the model that a name stands for. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from nbgen.errors import CheckpointNotFound

TINY_FOLDER = Path(__file__).parent / "tiny"
_VAE_FACTOR = 8


class Checkpoint(msgspec.Struct, frozen=True):
    """A model on this machine, in diffusers' folder layout.

    Attributes:
        folder: The folder of the base model.
        refiner_folder: The folder of the refiner, or None. It may leave out what it
            shares with the base: ``text_encoder_2``, ``tokenizer_2`` and ``vae``.
        default_size: Width and height in pixels that the base was trained on.
    """

    folder: Path
    refiner_folder: Path | None
    default_size: tuple[int, int]


def find_checkpoint(name: str | Path) -> Checkpoint:
    """Return the checkpoint that a name stands for.

    Args:
        name: ``"tiny"`` for the one that nbgen ships, or the path of a folder that
            ``StableDiffusionXLPipeline.save_pretrained`` wrote, with the refiner's
            in a folder ``refiner`` inside it.

    Raises:
        CheckpointNotFound: It is neither; the message says what it lacks.
    """
    folder = TINY_FOLDER if name == "tiny" else Path(name)
    if not folder.is_dir():
        raise CheckpointNotFound(
            f"There is no checkpoint {str(name)!r}. Use 'tiny', which comes with "
            "nbgen, or the path of a folder in diffusers' layout (with a "
            "model_index.json)."
        )
    if not (folder / "model_index.json").is_file():
        raise CheckpointNotFound(
            f"The folder {str(name)!r} is not a checkpoint: it has no "
            "model_index.json. Save one with StableDiffusionXLPipeline."
            "save_pretrained(folder)."
        )
    refiner = folder / "refiner"
    try:
        unet = json.loads((folder / "unet" / "config.json").read_text())
        side = int(unet["sample_size"]) * _VAE_FACTOR
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointNotFound(
            f"The checkpoint {str(name)!r} is broken: unet/config.json cannot be "
            f"read ({error}). Save or copy it again."
        ) from error
    return Checkpoint(
        folder=folder,
        refiner_folder=refiner if refiner.is_dir() else None,
        default_size=(side, side),
    )
