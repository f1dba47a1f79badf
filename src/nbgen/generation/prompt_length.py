"""Measures a prompt in the tokens of a model. Pure functions, for any thread.

nbgen cuts a prompt where its model does, as plain diffusers does: it reads no second
part of a prompt, and takes weights such as ``(red:1.2)`` for words and punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbgen.schema import PromptLength

Spans = Sequence[tuple[int, int]]
"""Where each token of a text begins and ends, in characters."""

MARKS = 2
"""The tokens that a tokenizer adds to each text: one for the begin, one for the end."""

_MOST_QUOTED = 60


def measure(readings: Sequence[Spans], limit: int) -> PromptLength:
    """Return the length of a text.

    Args:
        readings: The tokens of the text, as each tokenizer of the model makes them.
        limit: How many of them the model reads.
    """
    tokens = min(map(len, readings))
    cut_at = None
    if tokens > limit:
        # What one text encoder still reads changes the picture.
        cut_at = max(spans[limit][0] for spans in readings)
    return PromptLength(tokens=tokens, limit=limit, cut_at=cut_at)


def describe_cut(name: str, text: str, length: PromptLength) -> str:
    """Return a note that says which part of a text the model does not read.

    Args:
        name: What the person calls the text: ``"prompt"``.
        text: The text.
        length: Its length, which is beyond the limit.
    """
    assert length.cut_at is not None
    before, after = text[: length.cut_at], text[length.cut_at :]
    quoted = " ".join(after.split())
    if len(quoted) > _MOST_QUOTED:
        quoted = quoted[:_MOST_QUOTED].rsplit(" ", 1)[0] + " …"
    gap = " " if before != before.rstrip() else ""  # none inside a word
    return (
        f"The model reads {length.limit} of the {name}'s {length.tokens} tokens. "
        f"Left out: '…{gap}{quoted}'."
    )
