"""The model that draws, and how much of a prompt it reads. Frozen values."""

from __future__ import annotations

import msgspec


class ModelSize(msgspec.Struct, frozen=True, kw_only=True):
    """A size of pictures that a model was trained on.

    Attributes:
        ratio: The usual ratio of width to height that comes closest: ``"3:2"``.
        width: Width in pixels.
        height: Height in pixels.
    """

    ratio: str
    width: int
    height: int


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model that a studio draws with.

    Example::

        facts = studio.model()
        if facts is not None:
            print(facts.name, *facts.native_size)

    Attributes:
        name: What a person calls it: ``"tiny"``, ``"SDXL base 1.0"``, the name of a
            folder or a file, or an id on the hub. Never a path.
        native_size: Width and height in pixels of a picture whose request names none.
        sizes: The sizes that it was trained on, the native one first.
        knows: A sentence on what it draws; None where that is not known.
        prompt_limit: How many tokens of a prompt it reads, without the marks of begin
            and end; None where its tokenizers cannot be read.
        has_refiner: Whether a refiner comes with it.
        device: What it runs on, such as ``"CPU"``; None until the engine has said it.
    """

    name: str
    native_size: tuple[int, int]
    sizes: tuple[ModelSize, ...]
    knows: str | None
    prompt_limit: int | None
    has_refiner: bool
    device: str | None

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        width, height = self.native_size
        return f"ModelFacts({self.name!r}, {width}x{height})"


class PromptLength(msgspec.Struct, frozen=True, kw_only=True):
    """How long a prompt is for a model, and where the model stops reading it.

    A model with two text encoders reads what either of them reads. Their tokenizers
    differ in few texts, such as those with ``!!!``.

    Example::

        length = studio.measure_prompt(text)
        if length is not None and length.cut_at is not None:
            print("Left out:", text[length.cut_at :])

    Attributes:
        tokens: How many tokens it has, without the marks of begin and end: words,
            parts of words and punctuation.
        limit: How many of them the model reads.
        cut_at: The index of the first character that the model does not read whole;
            None if it reads all. It may lie inside a word, whose beginning is read
            then.
    """

    tokens: int
    limit: int
    cut_at: int | None
