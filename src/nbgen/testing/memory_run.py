"""Runs one task of a ``MemoryBackend`` through an engine, on the calling thread."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from nbgen.errors import NbgenError, WorkerDied
from nbgen.generation.engine import Cancelled, CancelToken, Engine
from nbgen.generation.events import (
    EngineEvent,
    Planned,
    PreviewMade,
    StageStarted,
    StepFinished,
    Warned,
)
from nbgen.generation.recipe import encode_picture
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationResult,
    ImageRecord,
    Outcome,
    Stage,
    TaskEnd,
    TaskRecord,
)
from nbgen.schema.checks import IMAGE_URL

NEVER_RAN = "Cancelled before it started."


class Reporter:
    """Brings an engine's events to the progress service.

    Args:
        task_id: The task.
        progress: Notifies watchers.
    """

    def __init__(self, task_id: str, progress: ProgressService) -> None:
        self.notes: list[str] = []
        self._task_id = task_id
        self._progress = progress
        self._steps = 0

    def report(self, event: EngineEvent) -> None:
        """Take an event, as ``nbgen.generation.engine.Reporter`` does."""
        match event:
            case StepFinished():
                self._steps += 1
                self._update(current_step=self._steps)
            case StageStarted(stage):
                message = stage.value.replace("_", " ").capitalize()
                self._update(current_stage=stage, message=message)
            case Planned(stages):
                self._update(plan=stages)
            case Warned(message):
                if message not in self.notes:
                    self.notes.append(message)
                self._update(message=message)
            case PreviewMade(preview):
                self._progress.previews.show(self._task_id, preview)

    def wants_preview(self) -> bool:
        """Return whether anybody looks at previews."""
        return self._progress.previews.wanted(self._task_id)

    def _update(self, **changes: Any) -> None:
        self._progress.update_progress(self._task_id, **changes)


def run_task(
    record: TaskRecord,
    engine: Engine,
    cancel: CancelToken,
    progress: ProgressService,
    *,
    read: Callable[[str], bytes],
    save: Callable[[bytes, str], str],
) -> TaskEnd:
    """Make the pictures of a task, save them and return how it ended; never raises.

    Args:
        record: The task.
        engine: Makes the pictures.
        cancel: Set to end the work.
        progress: Told how far the work is.
        read: Returns the bytes of a kept picture, by its name.
        save: Keeps the bytes of a picture of a kind, and returns its name.
    """
    request, reporter = record.request, Reporter(record.id, progress)
    pictures: list[Image.Image] = []
    error: BaseException | None = None
    result = None
    started_at_s = time.monotonic()
    try:
        reporter.report(StageStarted(Stage.LOAD))
        image, mask = (
            None if name is None else Image.open(io.BytesIO(read(name)))
            for name in (request.image, request.mask)
        )
        for picture in engine.generate(
            request,
            seed=record.seed,
            reporter=reporter,
            cancel=cancel,
            image=image,
            mask=mask,
        ):
            pictures.append(picture)  # noqa: PERF402 - those before an error are good
        cancel.raise_if_cancelled()
    except BaseException as raised:  # noqa: BLE001 - whatever an engine may raise
        error = raised
    if pictures and not isinstance(error, Cancelled):
        reporter.report(StageStarted(Stage.SAVE))
        result = GenerationResult(
            images=tuple(
                _save(picture, record, index, engine.facts(), save)
                for index, picture in enumerate(pictures)
            ),
            generation_time=time.monotonic() - started_at_s,
            notes=tuple(reporter.notes),
        )
    return _end(record, error, result, progress)


def _save(
    picture: Image.Image,
    record: TaskRecord,
    index: int,
    facts: dict[str, str],
    save: Callable[[bytes, str], str],
) -> ImageRecord:
    seed = record.seed + index
    data = encode_picture(picture, record.request, seed=seed, index=index, facts=facts)
    name = save(data, record.request.output_format)
    return ImageRecord(
        name=name,
        url=f"{IMAGE_URL}{name}",
        width=picture.width,
        height=picture.height,
        seed=seed,
    )


def _end(
    record: TaskRecord,
    error: BaseException | None,
    result: GenerationResult | None,
    progress: ProgressService,
) -> TaskEnd:
    if error is None:
        return TaskEnd(record.id, Outcome.SUCCEEDED, result=result)
    if isinstance(error, Cancelled):
        state = progress.get_progress(record.id)
        assert state is not None  # it runs
        text = f"Cancelled at step {state.current_step} of {state.total_steps}."
        return TaskEnd(record.id, Outcome.CANCELLED, text)
    text = str(error)
    if not isinstance(error, NbgenError):
        text = f"{type(error).__name__}: {text}"
    if result is not None:
        count, asked = len(result.images), record.request.num_images
        text = f"{text.rstrip('.')}. The first {count} of {asked} pictures were kept."
    outcome = Outcome.LOST if isinstance(error, WorkerDied) else Outcome.FAILED
    return TaskEnd(record.id, outcome, text, result, error)
