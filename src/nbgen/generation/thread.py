"""Runs an engine in this process, on the thread that asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from nbgen.generation.drawing import Delivery, Drawing
from nbgen.generation.engine import CancelToken, Engine, Work, facts_of
from nbgen.generation.events import EngineEvent


class ThreadEngine:
    """Runs an engine in this process; see ``EngineRunner``.

    For debugging, and where no process can be started: ``run`` draws on the caller's
    thread, and a crash in native code ends this process. The pictures are encoded on
    the thread ``nbgen-encoder``, which ``close`` ends.

    Args:
        make_engine: Returns the engine; called by the first ``run``, and again by the
            next one if it raises.
        on_loaded: Takes the facts of the engine when it is made; see ``Engine.facts``.
            It is called on the thread that runs the engine.

    Example::

        runner = ThreadEngine(PatternEngine)
        runner.run(
            Work(GenerationRequest(prompt="a cat"), seed=7),
            on_event=print,
            wants_preview=lambda: False,
            cancel=CancelToken(),
        )
        runner.close()
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        on_loaded: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._on_loaded = on_loaded
        self._engine: Engine | None = None
        self._encoder: ThreadPoolExecutor | None = None

    def run(
        self,
        work: Work,
        *,
        on_event: Callable[[EngineEvent], None],
        wants_preview: Callable[[], bool],
        cancel: CancelToken,
    ) -> None:
        """Make pictures; see ``EngineRunner.run``."""
        if self._encoder is None:
            self._encoder = ThreadPoolExecutor(1, "nbgen-encoder")
        drawing = Drawing(
            work,
            Delivery(on_event, cancel),
            wants_preview=wants_preview,
            encoder=self._encoder,
        )
        drawing.run(self._get_engine)

    def kill(self) -> None:
        """Do nothing: a thread cannot be ended, and the engine obeys its cancel."""

    def close(self) -> None:
        """Free the engine's memory, once all pictures are encoded."""
        if self._encoder is not None:
            self._encoder.shutdown()
            self._encoder = None
        if self._engine is not None:
            self._engine.close()

    def _get_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._make_engine()
            if self._on_loaded is not None:
                self._on_loaded(facts_of(self._engine))
        return self._engine
