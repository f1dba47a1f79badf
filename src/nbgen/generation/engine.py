"""The seam between running a task and making its pictures."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL import Image

    from nbgen.schema import GenerationRequest, Preview, Stage, StagePlan


class Cancelled(Exception):
    """The engine left a generation because its ``CancelToken`` was set."""


class CancelToken:
    """A flag that anyone may set and that the engine looks at between steps.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Ask the engine to stop."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have the callback called when somebody asks, or now if somebody did.

        It is called once, on the thread of whoever asks, and must return quickly and
        not raise.
        """
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if somebody asked."""
        if self._event.is_set():
            raise Cancelled


class StepReporter(Protocol):
    """What an engine tells while it works, from one thread at a time.

    No method blocks or does I/O.
    """

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Say what is ahead: called once, before the first step."""

    def start_stage(self, stage: Stage) -> None:
        """Say that a stage begins."""

    def finish_step(self) -> None:
        """Say that one more sampling step is done."""

    def warn(self, message: str) -> None:
        """Say something that the person should know, in a sentence."""

    def wants_preview(self) -> bool:
        """Whether anyone looks at previews now; costs a dictionary lookup."""

    def show_preview(self, preview: Preview) -> None:
        """Show what the first picture of the batch will look like; any thread."""


class Engine(Protocol):
    """Makes the pictures of one request at a time, on one thread at a time."""

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: StepReporter,
        cancel: CancelToken,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
    ) -> Iterator[Image.Image]:
        """Yield ``request.num_images`` RGB pictures; picture i is seeded ``seed + i``.

        Reports the stages ``load``, ``compile``, ``encode``, ``base_model``,
        ``refiner_model`` and ``decode`` in that order, those that happen. Pictures
        that were yielded before an error are good.

        Args:
            request: What to make.
            seed: The seed of the first picture.
            reporter: Told how far the work is.
            cancel: Set to end it.
            image: The picture that ``request.image`` names.
            mask: The picture that ``request.mask`` names.

        Raises:
            Cancelled: ``cancel`` was set; at most two steps after that.
            NbgenError: The pictures cannot be made; the message is for the user.
        """

    def facts(self) -> dict[str, str]:
        """Return what the last pictures were made with, for their recipe.

        The checkpoint, the device, the types of numbers and the versions of the
        libraries; no paths.
        """

    def close(self) -> None:
        """Give memory back; a later ``generate`` loads again. Not while it runs."""
