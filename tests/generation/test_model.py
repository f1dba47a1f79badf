"""A checkpoint is described from its files, without loading it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbgen.errors import InvalidRequest
from nbgen.generation.checkpoints import SDXL_BASE, TINY_FOLDER, find_checkpoint
from nbgen.generation.model import ModelDescription
from nbgen.schema import ModelFacts, ModelSize
from tests.generation.hub import cached, put_sdxl

CPU = {"checkpoint": "tiny", "device": "CPU"}


def facts_of(checkpoint: str | Path) -> ModelFacts:
    facts = ModelDescription(checkpoint).model()
    assert facts is not None
    return facts


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(TINY_FOLDER, tmp_path / "my model")


def set_native_side(folder: Path, pixels: int) -> None:
    config = folder / "unet" / "config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "sample_size": pixels // 8}))


def test_the_tiny_one() -> None:
    assert facts_of("tiny") == ModelFacts(
        name="tiny",
        native_size=(128, 128),
        sizes=(ModelSize(ratio="1:1", width=128, height=128),),
        knows="Shapes, colours and simple scenes, from 80 words such as house, circle, "
        "red, hills, tree, square, orange, field.",
        prompt_limit=38,
        has_refiner=True,
        device=None,
    )
    assert repr(facts_of("tiny")) == "ModelFacts('tiny', 128x128)"


def test_auto_is_the_tiny_one_where_there_is_no_other(cache: Path) -> None:
    assert not any(cache.iterdir())
    assert facts_of("auto") == facts_of("tiny")


def test_a_folder_has_its_name_and_no_more_is_known(copied: Path) -> None:
    shutil.rmtree(copied / "refiner")
    facts = facts_of(copied)
    assert (facts.name, facts.knows, facts.has_refiner) == ("my model", None, False)
    assert (facts.native_size, facts.prompt_limit) == ((128, 128), 38)


def test_a_model_of_sdxls_size_has_the_sizes_of_sdxl(copied: Path) -> None:
    set_native_side(copied, 1024)
    facts = facts_of(copied)
    assert facts.native_size == (1024, 1024)
    sizes = {size.ratio: (size.width, size.height) for size in facts.sizes}
    assert sizes["1:1"] == facts.native_size
    assert sizes["16:9"] == (1344, 768)
    for ratio, (width, height) in sizes.items():
        across, down = map(int, ratio.split(":"))
        assert abs(width / height / (across / down) - 1) < 0.04
        assert abs(width * height / 2**20 - 1) < 0.07
        assert sizes[f"{down}:{across}"] == (height, width)
        assert width % 64 == height % 64 == 0


def test_a_model_of_another_size_has_that_one(copied: Path) -> None:
    set_native_side(copied, 512)
    assert facts_of(copied).sizes == (ModelSize(ratio="1:1", width=512, height=512),)


def test_sdxl_has_a_name_for_people(cache: Path) -> None:
    put_sdxl(cache)
    set_native_side(cached(cache, SDXL_BASE), 1024)
    facts = facts_of("sdxl")
    assert (facts.name, facts.native_size) == ("SDXL base 1.0", (1024, 1024))
    assert (facts.has_refiner, len(facts.sizes), facts.prompt_limit) == (True, 9, 38)


def test_only_the_engine_knows_which_model_auto_is(cache: Path) -> None:
    put_sdxl(cache)
    description = ModelDescription("auto")
    assert description.model() is None
    assert description.measure_prompt("a cat") is None
    description.loaded(CPU)
    facts = description.model()
    assert facts is not None
    assert (facts.name, facts.device) == ("tiny", "CPU")
    description.loaded({"checkpoint": "sdxl", "device": "NVIDIA H200"})
    facts = description.model()
    assert facts is not None
    assert (facts.name, facts.device) == ("SDXL base 1.0", "NVIDIA H200")
    length = description.measure_prompt("a cat")
    assert length is not None


def test_an_engine_says_its_device(copied: Path) -> None:
    description = ModelDescription(copied)
    description.loaded({"checkpoint": "my model", "device": "CPU"})
    facts = description.model()
    assert facts is not None
    assert (facts.name, facts.device) == ("my model", "CPU")


def test_of_a_single_file_the_limit_is_that_of_sdxl(
    cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"12345")
    without = facts_of(file)
    assert (without.name, without.native_size) == ("mine.safetensors", (1024, 1024))
    assert without.prompt_limit is None
    assert ModelDescription(file).measure_prompt("a cat") is None
    put_sdxl(cache)
    assert facts_of(file).prompt_limit == 38
    assert ModelDescription(file).measure_prompt("a red circle") is not None


def test_nothing_is_known_of_a_model_that_is_not_here(tmp_path: Path) -> None:
    description = ModelDescription(tmp_path / "model")
    assert description.model() is None
    assert description.measure_prompt("a cat") is None
    shutil.copytree(TINY_FOLDER, tmp_path / "model")
    facts = description.model()
    assert facts is not None
    assert facts.name == "model"


def test_nothing_is_known_of_an_engine_of_ones_own() -> None:
    description = ModelDescription(None)
    description.loaded(CPU)
    assert description.model() is None
    assert description.measure_prompt("a cat") is None


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 5}'])
def test_a_broken_tokenizer_measures_nothing(
    copied: Path, file: str, content: str
) -> None:
    (copied / "tokenizer" / file).write_text(content)
    description = ModelDescription(copied)
    assert description.model() is not None
    assert description.measure_prompt("a cat") is None


def test_a_model_without_tokenizers_measures_nothing(copied: Path) -> None:
    shutil.rmtree(copied / "tokenizer")
    shutil.rmtree(copied / "tokenizer_2")
    description = ModelDescription(copied)
    assert facts_of(copied).prompt_limit is None
    assert description.measure_prompt("a cat") is None


@pytest.mark.parametrize("text", [None, 5, b"a cat"])
def test_only_a_text_is_measured(text: object) -> None:
    with pytest.raises(InvalidRequest, match="text must be a text"):
        ModelDescription("tiny").measure_prompt(text)  # type: ignore[arg-type]


def test_the_folder_of_the_json_files(cache: Path, tmp_path: Path) -> None:
    assert find_checkpoint("tiny").config_folder() == TINY_FOLDER
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"12345")
    assert find_checkpoint(file).config_folder() is None
    put_sdxl(cache)
    assert find_checkpoint(file).config_folder() == cached(cache, SDXL_BASE)


def test_describing_and_measuring_loads_no_torch() -> None:
    """Nor does a process that forks afterwards say a word, as tokenizers might."""
    program = (
        "import os, sys\n"
        "from nbgen.generation.model import ModelDescription\n"
        "description = ModelDescription('tiny')\n"
        "assert description.model().prompt_limit == 38\n"
        "assert description.measure_prompt('a cat').tokens == 3\n"
        "if os.fork() == 0:\n"
        "    assert description.measure_prompt('a dog').tokens == 4\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'huggingface_hub'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""
