"""A reporter that remembers what an engine told it."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from PIL import Image

from nbgen.generation.engine import CancelToken, Engine
from nbgen.schema import GenerationRequest, Preview, Stage, StagePlan


class Recorder:
    """Remembers stages and steps, and cancels after a step or at a stage if asked.

    Args:
        cancel_after: The step after which to cancel.
        cancel_at: The stage at whose start to cancel.
        looks: Whether to ask for previews.
    """

    def __init__(
        self,
        cancel_after: int | None = None,
        cancel_at: Stage | None = None,
        *,
        looks: bool = False,
    ) -> None:
        self.cancel = CancelToken()
        self.planned: list[StagePlan] = []
        self.stages: list[Stage] = []
        self.steps: list[Stage] = []
        self.warnings: list[str] = []
        self.previews: SimpleQueue[Preview] = SimpleQueue()
        self._looks = looks
        self._cancel_after = cancel_after
        self._cancel_at = cancel_at

    def plan(self, stages: Sequence[StagePlan]) -> None:
        self.planned = list(stages)

    def start_stage(self, stage: Stage) -> None:
        self.stages.append(stage)
        if stage is self._cancel_at:
            self.cancel.cancel()

    def finish_step(self) -> None:
        self.steps.append(self.stages[-1])
        if len(self.steps) == self._cancel_after:
            self.cancel.cancel()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def wants_preview(self) -> bool:
        return self._looks

    def show_preview(self, preview: Preview) -> None:
        self.previews.put(preview)


def run(
    engine: Engine,
    recorder: Recorder,
    seed: int = 7,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    **fields: Any,
) -> list[Image.Image]:
    """Make pictures of a red circle on blue, or of what the fields say."""
    request = GenerationRequest(
        **{
            "prompt": "a red circle on a blue background",
            "image": None if image is None else "0" * 32 + ".png",
            "mask": None if mask is None else "0" * 32 + ".png",
            **fields,
        }
    )
    made = engine.generate(
        request,
        seed=seed,
        reporter=recorder,
        cancel=recorder.cancel,
        image=image,
        mask=mask,
    )
    return list(made)
