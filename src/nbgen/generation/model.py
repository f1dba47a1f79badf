"""Says what the checkpoint of a studio is like, without loading it. Imports no torch.

Thread-safe: what was read is kept in frozen values, each replaced as a whole. Threads
that are the first to ask may both read the files, which does no harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from nbgen.errors import CheckpointNotFound, InvalidRequest
from nbgen.generation.checkpoints import Checkpoint, find_checkpoint
from nbgen.generation.tokenizing import PromptReader, read_limit, tokenizer_folders
from nbgen.generation.vocabulary import describe_known
from nbgen.schema import ModelFacts, ModelSize, PromptLength

_NAMES = {"sdxl": "SDXL base 1.0"}
_SDXL_SIZES = tuple(
    ModelSize(ratio=ratio, width=width, height=height)
    for ratio, width, height in (
        ("1:1", 1024, 1024),
        ("4:3", 1152, 896),
        ("3:2", 1216, 832),
        ("16:9", 1344, 768),
        ("21:9", 1536, 640),
        ("3:4", 896, 1152),
        ("2:3", 832, 1216),
        ("9:16", 768, 1344),
        ("9:21", 640, 1536),
    )
)
"""The commonest of the sizes that SDXL was trained on, all of about one megapixel."""


class ModelDescription:
    """What is known of the checkpoint that a studio draws with.

    Where SDXL is on the machine, the engine alone knows which model ``"auto"`` stands
    for. Nothing is known of it then until ``loaded`` is called.

    Example::

        description = ModelDescription("tiny")
        description.model().native_size  # (128, 128)
        description.measure_prompt("a red circle").tokens  # 3

    Args:
        checkpoint: What ``find_checkpoint`` takes; None for an engine of which nothing
            is known.
    """

    def __init__(self, checkpoint: str | Path | None) -> None:
        self._wanted = checkpoint
        self._device: str | None = None
        self._found: _Found | None = None

    def loaded(self, facts: Mapping[str, str]) -> None:
        """Take what an engine says of what it has loaded; see ``Engine.facts``."""
        self._device = facts.get("device")
        name = facts.get("checkpoint")
        if self._wanted == "auto" and name is not None:
            self._found = _find(name)

    def model(self) -> ModelFacts | None:
        """Return the facts of the model; see ``nbgen.backend.Describing``."""
        found = self._look()
        if found is None:
            return None
        return msgspec.structs.replace(found.facts, device=self._device)

    def measure_prompt(self, text: str) -> PromptLength | None:
        """Return how long a text is; see ``nbgen.backend.Describing``."""
        if not isinstance(text, str):
            raise InvalidRequest("text", text, "a text")
        found = self._look()
        reader = None if found is None else found.reader
        return None if reader is None else reader.measure(text)

    def _look(self) -> _Found | None:
        if self._found is None and self._wanted is not None:
            self._found = _find(self._wanted)
        return self._found


class _Found:
    """A checkpoint that was found, and what its files say."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint.config_folder()
        self._tokenizers = [] if folder is None else tokenizer_folders(folder)
        self.facts = _describe(checkpoint, self._tokenizers)

    @cached_property
    def reader(self) -> PromptReader | None:
        """What measures prompts; None where the tokenizers cannot be read."""
        with contextlib.suppress(Exception):
            return PromptReader(self._tokenizers)
        return None


def _find(wanted: str | Path) -> _Found | None:
    try:
        found = find_checkpoint(wanted, gpu=True)
    except CheckpointNotFound:
        return None
    if wanted == "auto" and found.name != "tiny":
        return None
    return _Found(found)


def _describe(checkpoint: Checkpoint, tokenizers: list[Path]) -> ModelFacts:
    limit = None
    # Whatever a damaged file may hold; the engine says so when it loads the model.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        limit = read_limit(tokenizers)
    width, height = checkpoint.default_size
    sizes = (ModelSize(ratio="1:1", width=width, height=height),)
    return ModelFacts(
        name=_NAMES.get(checkpoint.name, checkpoint.name),
        native_size=checkpoint.default_size,
        # Models that were trained on from SDXL draw in its sizes too.
        sizes=_SDXL_SIZES if sizes[0] == _SDXL_SIZES[0] else sizes,
        knows=None if checkpoint.words is None else describe_known(checkpoint.words),
        prompt_limit=limit,
        has_refiner=checkpoint.refiner is not None,
        device=None,
    )
