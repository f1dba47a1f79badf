"""One piece of work on its way through an engine, and the encoding of its pictures.

``Drawing.run`` belongs to the thread of the engine. The pictures are encoded on a
thread of their own, ``nbgen-encoder``, in the order in which they were drawn.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from functools import partial

from PIL import Image

from nbgen.generation.engine import Cancelled, CancelToken, Engine, Work, facts_of
from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    PreviewMade,
    StageStarted,
)
from nbgen.generation.recipe import encode_picture
from nbgen.schema import Stage


class Delivery:
    """Passes the events of one piece of work on, with ``Ended`` once and last.

    After a cancel it passes on nothing but ``Ended``, and that with ``Cancelled``. A
    callback that raises ends the work with that error. Thread-safe.

    Args:
        on_event: The callback.
        cancel: The caller's token.

    Attributes:
        stop: Is set with the caller's token, and when the callback has raised.
    """

    def __init__(
        self, on_event: Callable[[EngineEvent], None], cancel: CancelToken
    ) -> None:
        self.stop = CancelToken()
        self._on_event = on_event
        self._cancel = cancel
        self._lock = threading.Lock()
        self._fault: Exception | None = None
        self._ended = False
        cancel.on_cancel(self.stop.cancel)

    def __call__(self, event: EngineEvent) -> None:
        """Pass an event on, unless it comes too late."""
        if isinstance(event, PreviewMade):
            # Without the lock, or a slow watcher of previews would hold up the steps.
            if not self._ended and not self.stop.cancelled:
                self._pass_on(event)
            return
        with self._lock:
            if self._ended:
                return
            if isinstance(event, Ended):
                self._ended = True
                event = self._last(event)
            elif self.stop.cancelled:
                return
            self._pass_on(event)
            if self._ended:
                # The caller's token may live long, and keeps this alive.
                self._on_event = _drop

    def _last(self, event: Ended) -> Ended:
        if self._cancel.cancelled:
            return Ended(Cancelled())
        return event if self._fault is None else Ended(self._fault)

    def _pass_on(self, event: EngineEvent) -> None:
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - of whoever takes the events
            self._fault = error
            self.stop.cancel()


def _drop(_event: EngineEvent) -> None:
    pass


class Drawing:
    """One piece of work, and the reporter of the engine that works on it.

    Args:
        work: What to make.
        deliver: Takes the events.
        wants_preview: Returns whether a preview is wanted now.
        encoder: The one thread on which the pictures are encoded.
    """

    def __init__(
        self,
        work: Work,
        deliver: Delivery,
        *,
        wants_preview: Callable[[], bool],
        encoder: Executor,
    ) -> None:
        self.report = deliver
        self.wants_preview = wants_preview
        self._work = work
        self._stop = deliver.stop
        self._encoder = encoder
        self._error: BaseException | None = None
        self._handed_over: Future[None] | None = None

    def run(self, get_engine: Callable[[], Engine]) -> None:
        """Draw the pictures and have them encoded; never raises.

        Args:
            get_engine: Returns the engine; what it raises ends the work.
        """
        work = self._work
        count = 0
        error: BaseException | None = None
        try:
            engine = get_engine()
            for picture in engine.generate(
                work.request,
                seed=work.seed,
                reporter=self,
                cancel=self._stop,
                image=_open(work.image),
                mask=_open(work.mask),
            ):
                do = partial(self._encode, picture, count, facts_of(engine))
                self._hand_over(do)
                count += 1
        except BaseException as raised:  # noqa: BLE001 - whatever a model may raise
            error = raised
        if count:
            self.report(StageStarted(Stage.SAVE))
        if not count or isinstance(error, Cancelled):
            # At once: the encoder may still be busy with what was drawn before.
            self._end(error)
        else:
            self._hand_over(partial(self._end, error))
        # The error refers to this frame, and the frame to the pictures.
        del error

    def _hand_over(self, do: Callable[[], None]) -> None:
        """Have something done by the encoder's thread, after what it has to do."""
        try:
            self._handed_over = self._encoder.submit(do)
        except RuntimeError:  # the interpreter exits, and starts no more threads
            if self._handed_over is not None:
                wait([self._handed_over])
            do()

    def _encode(self, picture: Image.Image, index: int, facts: dict[str, str]) -> None:
        if self._error is not None or self._stop.cancelled:
            return
        request, seed = self._work.request, self._work.seed + index
        try:
            data = encode_picture(picture, request, seed=seed, index=index, facts=facts)
        except BaseException as error:  # noqa: BLE001 - the end says it
            self._error = error
            return
        self.report(
            PictureMade(
                index=index,
                seed=seed,
                width=picture.width,
                height=picture.height,
                output_format=request.output_format,
                data=data,
                facts=facts,
            )
        )

    def _end(self, error: BaseException | None) -> None:
        self.report(Ended(self._error or error))


def _open(data: bytes | None) -> Image.Image | None:
    if data is None:
        return None
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture
