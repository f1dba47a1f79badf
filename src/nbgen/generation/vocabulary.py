"""Says which words a model with a small vocabulary knows, and which it does not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_MOST_NAMED = 5
_EXAMPLES = 8


def unknown_words(prompt: str, known: Sequence[str]) -> list[str]:
    """Return the words of a prompt that are not among the known ones, each once."""
    vocabulary = set(known)
    words = re.findall(r"[^\W_]+(?:'\w+)?", prompt.lower())
    return list(dict.fromkeys(word for word in words if word not in vocabulary))


def describe_known(known: Sequence[str]) -> str:
    """Return a sentence on what the tiny model draws, with words that it knows."""
    return (
        f"Shapes, colours and simple scenes, from {len(known)} words such as "
        f"{', '.join(known[:_EXAMPLES])}."
    )


def describe_unknown(unknown: Sequence[str], known: Sequence[str]) -> str:
    """Return a sentence that names unknown words, and known ones to use instead."""
    named = ", ".join(repr(word) for word in unknown[:_MOST_NAMED])
    if len(unknown) > _MOST_NAMED:
        named += f" and {len(unknown) - _MOST_NAMED} more"
    near = [
        match
        for word in unknown
        for match in difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    ]
    examples = list(dict.fromkeys([*near, *known[:_EXAMPLES]]))[:_EXAMPLES]
    return (
        f"The tiny model does not know {named}. It knows words such as "
        f"{', '.join(examples)}."
    )
