"""The seam between running a task and making its pictures."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from nbgen.progress import Stage, StagePlan
    from nbgen.schema import GenerationRequest


class Cancelled(Exception):
    """The engine left a generation because its ``CancelToken`` was set."""


class CancelToken:
    """A flag that anyone may set and that the engine looks at between steps.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the engine to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if somebody asked."""
        if self._event.is_set():
            raise Cancelled


class StepReporter(Protocol):
    """What an engine tells while it works, from the thread it works on.

    No method blocks or does I/O.
    """

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Say what is ahead: called once, before the first step."""

    def start_stage(self, stage: Stage) -> None:
        """Say that a stage begins."""

    def finish_step(self) -> None:
        """Say that one more sampling step is done."""


class Engine(Protocol):
    """Makes the pictures of one request at a time, on one thread at a time."""

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: StepReporter,
        cancel: CancelToken,
    ) -> list[Image.Image]:
        """Make ``request.num_images`` RGB pictures; picture i is seeded ``seed + i``.

        Reports the stages ``load``, ``base_model``, ``refiner_model`` and ``decode``
        in that order, those that happen.

        Raises:
            Cancelled: ``cancel`` was set; at most two steps after that.
            NbgenError: The pictures cannot be made; the message is for the user.
        """

    def close(self) -> None:
        """Give memory back; a later ``generate`` loads again. Not while it runs."""
