"""Runs one task of a ``MemoryBackend`` through a runner, on the calling thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nbgen.generation.engine import Cancelled, CancelToken, EngineRunner, Work
from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    Planned,
    PreviewMade,
    StageStarted,
    StepFinished,
    Warned,
)
from nbgen.progress import ProgressService
from nbgen.schema import (
    GenerationResult,
    ImageRecord,
    Outcome,
    Stage,
    TaskEnd,
    TaskRecord,
    check_complete,
    describe_cancel,
    failed_end,
)
from nbgen.schema.checks import IMAGE_URL


class MemoryRun:
    """Collects the pictures of a task, and reports its progress.

    Args:
        record: The task.
        progress: Notifies watchers.
        read: Returns the bytes of a kept picture, by its name.
        save: Keeps the bytes of a picture of a kind, and returns its name.

    Attributes:
        facts: What the last picture was made with.
    """

    def __init__(
        self,
        record: TaskRecord,
        progress: ProgressService,
        *,
        read: Callable[[str], bytes],
        save: Callable[[bytes, str], str],
    ) -> None:
        self.facts: dict[str, str] = {}
        self._record = record
        self._progress = progress
        self._read = read
        self._save = save
        self._steps = 0
        self._images: list[ImageRecord] = []
        self._notes: list[str] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def run(self, runner: EngineRunner, cancel: CancelToken) -> TaskEnd:
        """Make the pictures, save them and return how the task ended; never raises.

        Args:
            runner: Makes the pictures.
            cancel: Set to end the work.
        """
        request, began_s = self._record.request, time.monotonic()
        result = None
        try:
            self._update(current_stage=Stage.LOAD)
            image, mask = (
                None if name is None else self._read(name)
                for name in (request.image, request.mask)
            )
            runner.run(
                Work(request, self._record.seed, image, mask),
                on_event=self._handle,
                wants_preview=self._wants_preview,
                cancel=cancel,
            )
            self._ended.wait()
            if self._images:
                result = GenerationResult(
                    images=tuple(self._images),
                    generation_time=time.monotonic() - began_s,
                    notes=tuple(self._notes),
                )
            if self._error is None:
                check_complete(result, request.num_images)
        except BaseException as error:  # noqa: BLE001 - whatever a runner may raise
            self._error = error
        return self._end(result)

    def _end(self, result: GenerationResult | None) -> TaskEnd:
        task_id, error = self._record.id, self._error
        if error is None:
            return TaskEnd(task_id, Outcome.SUCCEEDED, result=result)
        if isinstance(error, Cancelled):
            text = describe_cancel(self._progress.get_progress(task_id))
            return TaskEnd(task_id, Outcome.CANCELLED, text)
        return failed_end(task_id, error, result, self._record.request.num_images)

    def _handle(self, event: EngineEvent) -> None:
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
                if message not in self._notes:
                    self._notes.append(message)
                self._update(message=message)
            case PreviewMade(preview):
                self._progress.previews.show(self._record.id, preview)
            case PictureMade():
                self._keep(event)
            case Ended(error):
                self._error = error
                self._ended.set()

    def _keep(self, picture: PictureMade) -> None:
        name = self._save(picture.data, picture.output_format)
        image = ImageRecord(
            name=name,
            url=f"{IMAGE_URL}{name}",
            width=picture.width,
            height=picture.height,
            seed=picture.seed,
        )
        self._images.append(image)
        self.facts = picture.facts

    def _wants_preview(self) -> bool:
        return self._progress.previews.wanted(self._record.id)

    def _update(self, **changes: Any) -> None:
        self._progress.update_progress(self._record.id, **changes)
