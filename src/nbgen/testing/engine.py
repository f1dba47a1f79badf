"""Helpers for tests of code that uses nbgen: an engine without torch."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw

from nbgen.generation.engine import CancelToken, Reporter
from nbgen.generation.events import Planned, PreviewMade, StageStarted, StepFinished
from nbgen.schema import GenerationRequest, Preview, Stage, rough_plan

_DEFAULT_SIDE = 64
_PREVIEW_SIDE = 8


class PatternEngine:
    """Draws a pattern of discs that a seed and a prompt determine exactly.

    Needs no torch, no weights and no GPU, and reports stages and steps as the real
    engine does: base and refiner split the steps as the request says.

    Args:
        before_step: Called before each step with its number, from 1. Tests hold a
            generation at a known place with it (``threading.Event.wait``), or have it
            fail by raising.

    Example::

        with Studio(engine=PatternEngine()) as studio:
            studio.generate("a red circle", num_inference_steps=4).result()
    """

    def __init__(self, before_step: Callable[[int], None] | None = None) -> None:
        self._before_step = before_step

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: Reporter,
        cancel: CancelToken,
        image: Image.Image | None = None,  # noqa: ARG002
        mask: Image.Image | None = None,  # noqa: ARG002
    ) -> Iterator[Image.Image]:
        """Make the pictures of a request; see ``Engine.generate``.

        The pattern shows nothing of the picture to start from and the mask.
        """
        reporter.report(StageStarted(Stage.LOAD))
        stages = rough_plan(request)
        reporter.report(Planned(stages))
        step = 0
        for planned in stages:
            reporter.report(StageStarted(planned.stage))
            for _ in range(planned.steps):
                step += 1
                if self._before_step is not None:
                    self._before_step(step)
                cancel.raise_if_cancelled()
                reporter.report(StepFinished())
                if reporter.wants_preview():
                    preview = _preview(f"{seed} {request.prompt}")
                    reporter.report(PreviewMade(preview))
        reporter.report(StageStarted(Stage.DECODE))
        width = request.width or _DEFAULT_SIDE
        height = request.height or _DEFAULT_SIDE
        for index in range(request.num_images):
            yield _pattern(f"{seed + index} {request.prompt}", width, height)

    def facts(self) -> dict[str, str]:
        """Return what the pictures were made with."""
        return {"checkpoint": "pattern"}

    def close(self) -> None:
        """Do nothing: there is no memory to give back."""


def _preview(key: str) -> Preview:
    buffer = io.BytesIO()
    _pattern(key, _PREVIEW_SIDE, _PREVIEW_SIDE).save(buffer, "JPEG")
    return Preview(buffer.getvalue(), _PREVIEW_SIDE, _PREVIEW_SIDE)


def _pattern(key: str, width: int, height: int) -> Image.Image:
    # Seeded with text, random.Random draws the same numbers on every machine.
    draw_number = random.Random(key).randrange  # noqa: S311 - a pattern, not a secret
    picture = Image.new("RGB", (width, height), _colour(draw_number))
    canvas = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y = draw_number(width), draw_number(height)
        radius = draw_number(1, max(width, height) // 3 + 1)
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, fill=_colour(draw_number))
    return picture


def _colour(draw_number: Callable[[int], int]) -> tuple[int, int, int]:
    return draw_number(256), draw_number(256), draw_number(256)
