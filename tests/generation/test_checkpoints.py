"""A checkpoint is found by name or place, or its lack is said at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nbgen.errors import CheckpointNotFound, InvalidRequest
from nbgen.generation.checkpoints import (
    SDXL_BASE,
    SDXL_PREVIEWS,
    SDXL_REFINER,
    SDXL_VAE,
    TINY_FOLDER,
    HubModel,
    find_checkpoint,
    pull,
)
from tests.generation.hub import COMMIT, UNET, Hub, cached, put_sdxl


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


def test_a_folder_without_its_name_in_the_path_has_one(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    assert find_checkpoint(".").name == "copied"


def test_the_weights_of_a_refiner_inside_count_once() -> None:
    weights = TINY_FOLDER.rglob("*.safetensors")
    expected = sum(file.stat().st_size for file in weights)
    assert find_checkpoint("tiny").weights_bytes() == expected


def test_auto_is_sdxl_only_where_it_is_and_a_gpu_too(cache: Path) -> None:
    assert find_checkpoint("auto", gpu=True).name == "tiny"
    put_sdxl(cache)
    assert find_checkpoint("auto", gpu=True).name == "sdxl"
    assert find_checkpoint("auto", gpu=False).name == "tiny"


def test_sdxl_is_put_together_from_its_parts(cache: Path) -> None:
    put_sdxl(cache)
    found = find_checkpoint("sdxl")
    assert found.base == cached(cache, SDXL_BASE)
    assert found.refiner == cached(cache, SDXL_REFINER)
    assert found.vae == cached(cache, SDXL_VAE)
    assert (found.previews, found.words) == (None, None)
    previews = cached(cache, SDXL_PREVIEWS)
    previews.mkdir(parents=True)
    assert find_checkpoint("sdxl").previews == previews


@pytest.mark.parametrize("missing", [SDXL_BASE, SDXL_REFINER, SDXL_VAE])
def test_sdxl_wants_all_its_parts(cache: Path, missing: HubModel) -> None:
    put_sdxl(cache)
    shutil.rmtree(cached(cache, missing))
    with pytest.raises(CheckpointNotFound, match=r"12 GB\) with: nbgen pull sdxl$"):
        find_checkpoint("sdxl")
    assert find_checkpoint("auto", gpu=True).name == "tiny"


@pytest.mark.parametrize("model", [SDXL_BASE, SDXL_REFINER])
def test_a_half_copied_sdxl_is_said(cache: Path, model: HubModel) -> None:
    put_sdxl(cache)
    (cached(cache, model) / "unet" / f"{UNET}.safetensors").unlink()
    with pytest.raises(CheckpointNotFound, match="not whole: unet has no"):
        find_checkpoint("sdxl")


def test_a_single_file_is_a_checkpoint_without_a_refiner(tmp_path: Path) -> None:
    file = tmp_path / "mine.SafeTensors"
    file.write_bytes(b"12345")
    found = find_checkpoint(str(file))
    assert (found.name, found.base, found.refiner) == ("mine.SafeTensors", file, None)
    assert found.default_size == (1024, 1024)
    assert found.weights_bytes() == 5


@pytest.mark.parametrize("name", ["old.ckpt", "old.bin", "old.PT", "old.pkl"])
def test_a_pickle_is_refused_whether_it_is_there_or_not(
    tmp_path: Path, name: str
) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointNotFound, match=f"^'{name}' is refused: a pickle"):
            find_checkpoint(tmp_path / name)
        (tmp_path / name).touch()


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    with pytest.raises(CheckpointNotFound, match=r"'cat\.png' is not a checkpoint"):
        find_checkpoint(tmp_path / "cat.png")


def test_a_name_too_long_for_a_path_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointNotFound, match="There is no checkpoint"):
        find_checkpoint("x" * 5000)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "refiner/unet"])
def test_a_folder_with_pickled_weights_is_refused(copied: Path, part: str) -> None:
    [weights] = (copied / part).glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    said = f"'copied/{part}/{weights.stem}.bin' is refused"
    with pytest.raises(CheckpointNotFound, match=said):
        find_checkpoint(copied)


def test_pickled_weights_beside_safe_ones_do_no_harm(copied: Path) -> None:
    (copied / "unet" / f"{UNET}.bin").touch()
    assert find_checkpoint(copied).name == "copied"


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"unet": ', r"is broken: model_index\.json cannot be read"),
        ("[]", "holds no SDXL model"),
        ("{}", "holds no SDXL model"),
        ('{"unet": ["diffusers", "X"]}', "no text_encoder_2"),
    ],
)
def test_a_broken_or_strange_index_is_said(copied: Path, index: str, said: str) -> None:
    (copied / "model_index.json").write_text(index)
    with pytest.raises(CheckpointNotFound, match=said):
        find_checkpoint(copied)


def test_a_part_that_the_index_leaves_out_needs_no_weights(copied: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    index["text_encoder"] = [None, None]
    (copied / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(copied / "text_encoder")
    assert find_checkpoint(copied).name == "copied"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["owner/name", "owner/name@v1", "a--b/c..d"])
def test_a_model_of_the_hub_that_is_not_here_says_how_to_get_it(name: str) -> None:
    with pytest.raises(CheckpointNotFound, match=f"with: nbgen pull {name}$"):
        find_checkpoint(name)


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_model_of_the_hub_is_found_at_its_revision(
    cache: Path, revision: str | None
) -> None:
    model = HubModel("owner/name", revision)
    folder = shutil.copytree(TINY_FOLDER, cached(cache, model))
    name = "owner/name" if revision is None else f"owner/name@{revision}"
    found = find_checkpoint(name)
    assert (found.name, found.base) == (name, folder)
    other = "owner/name@other" if revision is None else "owner/name"
    with pytest.raises(CheckpointNotFound, match="nbgen pull"):
        find_checkpoint(other)


@pytest.mark.parametrize("name", ["auto", "tiny", "nope", "./owner/name", "", "a/b@"])
def test_only_a_name_of_the_hub_is_pulled(name: str) -> None:
    with pytest.raises(InvalidRequest, match="'owner/name@revision'"):
        pull(name)


@pytest.mark.usefixtures("cache")
def test_finding_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub({"owner/name": TINY_FOLDER}) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        for name in ("owner/name", "owner/name@v1", "sdxl"):
            with pytest.raises(CheckpointNotFound):
                find_checkpoint(name)
        find_checkpoint("auto", gpu=True)
        assert hub.requests == []
        # It would have been heard.
        with pytest.raises(CheckpointNotFound, match="no model 'owner/other' for you"):
            pull("owner/other")
        assert hub.requests != []
