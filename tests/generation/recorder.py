"""A reporter that remembers what an engine told it, and ways to run one."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from PIL import Image

from nbgen.generation.engine import CancelToken, Engine, EngineRunner, Work
from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    Planned,
    PreviewMade,
    Silent,
    StageStarted,
    StepFinished,
    Warned,
)
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
        self.pictures: list[PictureMade] = []
        self.silences: SimpleQueue[float] = SimpleQueue()
        self.ended: list[Ended] = []
        self.has_ended = threading.Event()
        self._looks = looks
        self._cancel_after = cancel_after
        self._cancel_at = cancel_at

    @property
    def facts(self) -> dict[str, str]:
        """What the last picture was made with."""
        return self.pictures[-1].facts

    def report(self, event: EngineEvent) -> None:
        if isinstance(event, Planned):
            self.plan(event.stages)
        elif isinstance(event, StageStarted):
            self.start_stage(event.stage)
        elif isinstance(event, StepFinished):
            self.finish_step()
        elif isinstance(event, Warned):
            self.warnings.append(event.message)
        elif isinstance(event, PreviewMade):
            self.previews.put(event.preview)
        elif isinstance(event, PictureMade):
            self.pictures.append(event)
        elif isinstance(event, Silent):
            self.silences.put(event.for_s)
        else:
            self.ended.append(event)
            self.has_ended.set()

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

    def wants_preview(self) -> bool:
        return self._looks


def run(
    engine: Engine,
    recorder: Recorder,
    seed: int = 7,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    **fields: Any,
) -> list[Image.Image]:
    """Make pictures of a red circle on blue, or of what the fields say."""
    request = make_request(image, mask, **fields)
    made = engine.generate(
        request,
        seed=seed,
        reporter=recorder,
        cancel=recorder.cancel,
        image=image,
        mask=mask,
    )
    return list(made)


def run_in(
    runner: EngineRunner,
    recorder: Recorder,
    seed: int = 7,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    **fields: Any,
) -> list[Image.Image]:
    """Make the same pictures in a runner, and raise what ended that."""
    start_in(runner, recorder, seed, image, mask, **fields)
    assert recorder.has_ended.wait(30)
    [ended] = recorder.ended
    if ended.error is not None:
        raise ended.error
    return [Image.open(io.BytesIO(made.data)) for made in recorder.pictures]


def start_in(
    runner: EngineRunner,
    recorder: Recorder,
    seed: int = 7,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    **fields: Any,
) -> None:
    """Draw the same pictures in a runner; the last may not be encoded yet."""
    request = make_request(image, mask, **fields)
    runner.run(
        Work(
            request,
            seed,
            None if image is None else to_png(image),
            None if mask is None else to_png(mask),
        ),
        on_event=recorder.report,
        wants_preview=recorder.wants_preview,
        cancel=recorder.cancel,
    )


def make_request(
    image: Image.Image | None = None, mask: Image.Image | None = None, **fields: Any
) -> GenerationRequest:
    """Return a request for a red circle on blue, or for what the fields say."""
    return GenerationRequest(
        **{
            "prompt": "a red circle on a blue background",
            "image": None if image is None else "0" * 32 + ".png",
            "mask": None if mask is None else "0" * 32 + ".png",
            **fields,
        }
    )


def to_png(picture: Image.Image) -> bytes:
    """Return the file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
