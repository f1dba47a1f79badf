"""The seams between a task and its pictures: ``Engine`` and ``EngineRunner``.

An engine draws. A runner has an engine draw, in this process or in another, encodes the
pictures and reports all of it as events.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from nbgen.generation.events import EngineEvent
from nbgen.schema import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image


class Cancelled(Exception):
    """The engine left a generation because its ``CancelToken`` was set."""


class CancelToken:
    """A flag that any thread may set and that the engine checks between steps.

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
        """Register a callback for the cancel; call it now if that has come.

        It is called once, on the thread that cancels, and must return quickly and not
        raise.
        """
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    @property
    def cancelled(self) -> bool:
        """Whether the token is set."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if the token is set."""
        if self._event.is_set():
            raise Cancelled


class Reporter(Protocol):
    """Takes an engine's events, from one thread at a time; previews from any thread.

    No method blocks, does I/O or raises.
    """

    def report(self, event: EngineEvent) -> None:
        """Take an event, of those that come from an engine (see ``events``)."""

    def wants_preview(self) -> bool:
        """Return whether a preview is wanted now; costs a dictionary lookup."""


class Engine(Protocol):
    """Draws the pictures of one request at a time, on one thread at a time.

    The least that one must do::

        class Red:
            def generate(self, request, *, seed, reporter, cancel, image, mask):
                for _ in range(request.num_inference_steps):
                    cancel.raise_if_cancelled()
                    reporter.report(StepFinished())
                for _ in range(request.num_images):
                    yield Image.new("RGB", (64, 64), "red")

            def facts(self):
                return {"checkpoint": "red"}

            def close(self):
                pass
    """

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        reporter: Reporter,
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
            reporter: Takes the events.
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
        libraries; no paths. Before the first pictures, what is known by then, such as
        the checkpoint and the device of a model that is loaded.
        """

    def close(self) -> None:
        """Free the memory; a later ``generate`` loads again. Not while it runs."""


def facts_of(engine: Engine) -> dict[str, str]:
    """Return the facts of an engine, as plain text that can cross a pipe.

    Text of a class of its own, such as torch's version, cannot.
    """
    return {str(name): str(fact) for name, fact in engine.facts().items()}


class Work(msgspec.Struct, frozen=True):
    """What a runner is to make.

    Attributes:
        request: What to make.
        seed: The seed of the first picture.
        image: The file of the picture that ``request.image`` names, or None.
        mask: The file of the picture that ``request.mask`` names, or None.
    """

    request: GenerationRequest
    seed: int
    image: bytes | None = None
    mask: bytes | None = None


class EngineRunner(Protocol):
    """Has an engine draw, encodes the pictures, and reports both as events.

    For one thread at a time. ``ThreadEngine`` runs the engine in this process,
    ``ProcessEngine`` in one of its own; nothing else tells them apart.
    """

    def run(
        self,
        work: Work,
        *,
        on_event: Callable[[EngineEvent], None],
        wants_preview: Callable[[], bool],
        cancel: CancelToken,
    ) -> None:
        """Make pictures; return as soon as the engine is free for the next ones.

        Pictures are encoded on another thread than the engine's, so the last ones and
        ``Ended`` may come after this has returned, while the next call is under way.
        Then ``StageStarted(Stage.SAVE)`` has come before it returned; without that,
        ``Ended`` has.

        Args:
            work: What to make.
            on_event: Takes the events, in order, on threads of the runner, one at a
                time (but for ``PreviewMade``, which may come at any time). It must
                return quickly. If it raises, the work ends with that error. ``Ended``
                comes exactly once, and last; after a cancel no other event comes.
            wants_preview: Returns whether a preview is wanted now.
            cancel: Set to end it, at any time until ``Ended``.
        """

    def kill(self) -> None:
        """End cancelled work by force, where that can be done; does not wait.

        Any thread may call it, also while nothing is under way.
        """

    def close(self) -> None:
        """Free the engine's memory, once all pictures are encoded.

        A later ``run`` starts again. Calling it again does nothing.
        """
