"""Reads the tokenizers of a checkpoint from its files. Imports no torch.

The package ``transformers`` makes the same tokenizers for the pipelines, but to import
it takes seconds and memory, which a kernel is to be spared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgen.generation.prompt_length import MARKS, measure
from nbgen.schema import PromptLength

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_DEFAULTS = {
    "bos_token": _BEGIN,
    "eos_token": _END,
    "unk_token": _END,
    "pad_token": _END,
}
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|"
    r"[^\s\p{L}\p{N}]+"
)


def tokenizer_folders(folder: Path) -> list[Path]:
    """Return the folders of the tokenizers in the folder of a base model."""
    both = (folder / name for name in ("tokenizer", "tokenizer_2"))
    return [each for each in both if each.is_dir()]


def read_limit(folders: Sequence[Path]) -> int:
    """Return how many tokens of a text are read, without the marks of begin and end.

    Args:
        folders: The folders of a model's tokenizers, one or two.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is broken, or there is no folder.
        KeyError: A file does not say how long a text may be.
    """
    return min(int(_read_config(each)["model_max_length"]) for each in folders) - MARKS


class PromptReader:
    """Tells how much of a prompt a model reads.

    Thread-safe. Making one reads the vocabularies, which takes up to a second for
    SDXL's. To measure a prompt takes some milliseconds.

    Example::

        reader = PromptReader(tokenizer_folders(TINY_FOLDER))
        reader.measure("a red circle").tokens  # 3

    Args:
        folders: The folders of the model's tokenizers, one or two.

    Raises:
        Exception: A file is missing or broken; the errors share no other base.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.limit = read_limit(folders)
        self._tokenizers = [_read_tokenizer(folder) for folder in folders]

    def measure(self, text: str) -> PromptLength:
        """Return the length of a text."""
        # A lone surrogate, which a request replaces too; all else stays in its place.
        text = text.encode("utf-8", "replace").decode()
        encodings = (
            tokenizer.encode(text, add_special_tokens=False)
            for tokenizer in self._tokenizers
        )
        return measure([encoding.offsets for encoding in encodings], self.limit)


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer that ``transformers.CLIPTokenizer`` makes of a folder."""
    # Slow to import, and needed only by those who measure a prompt.
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    file = _read_json(folder / "tokenizer.json")
    model = file.get("model")
    if model is None:
        vocabulary: Any = str(folder / "vocab.json")
        merges: Any = str(folder / "merges.txt")
    else:
        vocabulary, merges = model["vocab"], [_pair(each) for each in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=_END
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_tokens(_added_tokens(folder, file))
    return tokenizer


def _added_tokens(folder: Path, file: dict[str, Any]) -> list[AddedToken]:
    """Return the texts that are one token wherever they stand, such as SDXL's "!"."""
    config = _read_config(folder)
    listed = config.get("added_tokens_decoder")
    if listed is None:
        listed = {each.pop("id"): each for each in file.get("added_tokens", [])}
        config |= _read_json(folder / "special_tokens_map.json")
    found = [_token(listed[key]) for key in sorted(listed, key=int)]
    known = {token.content for token in found}
    named = [_token(config.get(name) or text) for name, text in _DEFAULTS.items()]
    return [*found, *(token for token in named if token.content not in known)]


def _token(told: str | dict[str, Any]) -> AddedToken:
    from tokenizers import AddedToken

    if isinstance(told, str):
        return AddedToken(told, special=True)
    fields = {name: value for name, value in told.items() if name != "__type"}
    return AddedToken(**{"special": True, **fields})


def _pair(merge: str | list[str]) -> tuple[str, ...]:
    return tuple(merge.split(" ") if isinstance(merge, str) else merge)


def _read_config(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "tokenizer_config.json")


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing if it is not there."""
    if not path.exists():
        return {}
    return dict(json.loads(path.read_text("utf-8")))
