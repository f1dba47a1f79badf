"""The tokenizers: byte-level BPE as CLIP's, with the grammar's words as tokens.

A word outside the grammar falls back to its letters, as in CLIP, so no prompt fails.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise, zip_longest
from typing import Any

from transformers import CLIPTokenizer

from tools.tiny.scenes import (
    COLOURS,
    GROUNDS,
    LANDMARKS,
    SHAPES,
    TIMES,
    make_scene,
)

# CLIP's own limit is 77 tokens. The grammar's captions have fewer than 30, and the
# stock pipelines pad to whatever the tokenizer says, at the price of time.
MAX_TOKENS = 40
START, END = "<|startoftext|>", "<|endoftext|>"


def grammar_words(captions: int = 20_000) -> Counter[str]:
    """Return how often each word of the grammar occurs in so many captions."""
    counts: Counter[str] = Counter()
    for index in range(captions):
        counts.update(re.findall(r"[a-z]+|,", make_scene(0, index).caption))
    return counts


def known_words() -> list[str]:
    """Return the words of the grammar, those that a person would try first in front."""
    groups = zip_longest(LANDMARKS, SHAPES, COLOURS, GROUNDS)
    first = [word for group in groups for word in group if word]
    first += ["sun", "moon", "stars", *TIMES]
    counts = grammar_words()
    others = sorted(word for word in counts if word.isalpha() and word not in first)
    return [*first, *others]


def _byte_symbols() -> list[str]:
    """Return CLIP's 256 printable stand-ins for bytes, in its order."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in codes]
    free = (chr(256 + number) for number in range(256))
    return symbols + [next(free) for code in range(256) if code not in codes]


def _merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Merge the commonest pair of symbols until every word is one symbol."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(words)}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            split[word] = merged


def make_tokenizers() -> tuple[Any, Any]:
    """Return the tokenizers of the two text encoders.

    They differ in what they pad with, as SDXL's do: the end token, and "!".
    """
    merges = _merges(grammar_words())
    symbols = _byte_symbols()
    names = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    names += [a + b for a, b in merges if a + b not in names]
    vocabulary = {name: number for number, name in enumerate([*names, START, END])}
    return tuple(
        CLIPTokenizer(
            vocab=vocabulary,
            merges=merges,  # type: ignore[arg-type]
            model_max_length=MAX_TOKENS,
            pad_token=pad,
        )
        for pad in (END, "!")
    )  # type: ignore[return-value]
