"""A checkpoint is found by name or folder, or its lack is said at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nbgen.errors import CheckpointNotFound
from nbgen.generation.checkpoints import TINY_FOLDER, find_checkpoint


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(TINY_FOLDER, tmp_path / "copied")


def test_the_tiny_one_ships_with_the_package() -> None:
    checkpoint = find_checkpoint("tiny")
    assert checkpoint.base == TINY_FOLDER
    assert checkpoint.refiner == TINY_FOLDER / "refiner"
    assert checkpoint.default_size == (128, 128)


def test_a_folder_is_a_checkpoint(copied: Path) -> None:
    assert find_checkpoint(copied).base == copied
    assert find_checkpoint(str(copied)).base == copied
    shutil.rmtree(copied / "refiner")
    assert find_checkpoint(copied).refiner is None


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="There is no checkpoint 'nope'"):
        find_checkpoint("nope")
    with pytest.raises(CheckpointNotFound, match="it has no model_index"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("config", [None, "", "[]", "{}", '{"sample_size": "x"}'])
def test_a_broken_config_is_said(copied: Path, config: str | None) -> None:
    path = copied / "unet" / "config.json"
    path.unlink()
    if config is not None:
        path.write_text(config)
    with pytest.raises(CheckpointNotFound, match=r"config\.json cannot be read"):
        find_checkpoint(copied)
