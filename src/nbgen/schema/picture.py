"""What a task made: pictures and their facts. Frozen values, for any thread."""

from __future__ import annotations

import msgspec


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished picture.

    Attributes:
        name: The name of the file in the studio's image folder.
        url: The path under which a server serves it.
        width: Width in pixels.
        height: Height in pixels.
        seed: The seed that it was made from.
    """

    name: str
    url: str
    width: int
    height: int
    seed: int


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a task made.

    Example::

        result = studio.generate("a red circle").result()
        names = [image.name for image in result.images]

    Attributes:
        images: The pictures, in the order of their seeds.
        generation_time: Seconds from the start of the work to the saved files.
        notes: What the person should know, in sentences; often empty.
    """

    images: tuple[ImageRecord, ...]
    generation_time: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        first = self.images[0]
        seeds = ", ".join(str(image.seed) for image in self.images)
        noun = "image" if len(self.images) == 1 else "images"
        return (
            f"GenerationResult({len(self.images)} {noun}, "
            f"{first.width}x{first.height}, seed {seeds})"
        )
