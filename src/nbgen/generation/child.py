"""The process that ``ProcessEngine`` starts: makes pictures until its pipe ends.

What it is told comes in on what was its standard input, what it tells goes out on what
was its standard output; both are sequences of pickles. The main thread runs the engine,
``nbgen-commands`` reads and ``nbgen-events`` writes, so that neither a cancel waits for
a step nor a step for a parent that is busy.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from nbgen.errors import EngineFailed, NbgenError
from nbgen.generation.engine import Cancelled, CancelToken, Engine
from nbgen.schema import GenerationRequest, Preview, Stage, StagePlan

if TYPE_CHECKING:
    from PIL import Image

Event = tuple[Any, ...]
"""The name of something that happened, and its arguments."""


class Start(NamedTuple):
    """Asks for the pictures of a request; the arguments of ``Engine.generate``."""

    request: GenerationRequest
    seed: int
    image: Image.Image | None
    mask: Image.Image | None
    wants_preview: bool


class Cancel(NamedTuple):
    """Ends the generation that was started last."""


class WantPreview(NamedTuple):
    """Says whether anyone looks at previews of the generation started last."""

    wanted: bool


def main(lifeline: int) -> None:
    """Serve the parent until it closes its pipe or dies; never returns.

    Args:
        lifeline: The reading end of a pipe on which nothing is ever written, and whose
            other end the parent alone has.
    """
    _die_with(lifeline)
    # Ctrl-C is for the parent, who cancels what it wants cancelled.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands, events = _take_over(0, "rb"), _take_over(1, "wb")
    # Until here it went to the parent, who wants to know why one does not start.
    _silence(2)
    make_engine = _first_command(commands)
    generations: SimpleQueue[_Generation] = SimpleQueue()
    outbox: SimpleQueue[Event] = SimpleQueue()
    for name, target in (
        ("nbgen-commands", lambda: _receive(commands, generations, outbox)),
        ("nbgen-events", lambda: _send(outbox, events)),
    ):
        threading.Thread(target=_or_exit, args=(target,), name=name).start()
    engine: Engine | None = None
    # Whatever it is: the first generation tries again and tells.
    with contextlib.suppress(BaseException):
        engine = make_engine()
    while True:
        generation = generations.get()
        try:
            if engine is None:
                engine = make_engine()
            generation.run(engine)
        except (Cancelled, NbgenError) as error:
            generation.end(error)
        except BaseException as error:  # noqa: BLE001 - whatever a model may raise
            text = f"{type(error).__name__}: {error}"
            generation.end(EngineFailed(text), traceback.format_exc())
        else:
            generation.end()


class _Generation:
    """One request, and the reporter of the engine that works on it.

    ``run`` and ``end`` belong to the main thread; the rest may be called from any.
    """

    def __init__(self, start: Start, outbox: SimpleQueue[Event]) -> None:
        self.cancel = CancelToken()
        self.preview_wanted = start.wants_preview
        self._start = start
        self._outbox = outbox
        self._lock = threading.Lock()
        self._ended = False

    def run(self, engine: Engine) -> None:
        for picture in engine.generate(
            self._start.request,
            seed=self._start.seed,
            reporter=self,
            cancel=self.cancel,
            image=self._start.image,
            mask=self._start.mask,
        ):
            self._tell("picture", picture, engine.facts())

    def end(self, error: Exception | None = None, details: str | None = None) -> None:
        with self._lock:
            self._ended = True
            self._outbox.put(("ended", _portable(error), details))

    def plan(self, stages: Sequence[StagePlan]) -> None:
        self._tell("plan", tuple(stages))

    def start_stage(self, stage: Stage) -> None:
        self._tell("start_stage", stage)

    def finish_step(self) -> None:
        self._tell("finish_step")

    def warn(self, message: str) -> None:
        self._tell("warn", message)

    def wants_preview(self) -> bool:
        return self.preview_wanted

    def show_preview(self, preview: Preview) -> None:
        self._tell("show_preview", preview)

    def _tell(self, *event: Any) -> None:
        # A preview that is ready late must not be taken for the next picture's.
        with self._lock:
            if not self._ended:
                self._outbox.put(event)


def _take_over(descriptor: int, mode: str) -> BinaryIO:
    """Return the pipe under a descriptor, and put the null device in its place."""
    pipe = os.fdopen(os.dup(descriptor), mode)
    _silence(descriptor)
    return pipe  # type: ignore[return-value]


def _silence(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def _die_with(lifeline: int) -> None:
    """Have the kernel end this process once nobody holds the pipe's other end.

    No thread of Python's would do for that: while native code keeps the interpreter's
    lock, as a load or a compilation may for minutes, none of them runs.
    """
    if sys.platform == "linux":
        # Imported here, since other systems lack it.
        from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)  # which is to end
        fcntl(lifeline, F_SETOWN, os.getpid())
        fcntl(lifeline, F_SETFL, fcntl(lifeline, F_GETFL) | os.O_ASYNC)


def _portable(error: Exception | None) -> Exception | None:
    """Return the error as one that reaches the parent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever its attributes may raise
        return EngineFailed(f"{type(error).__name__}: {error}")
    return error


def _first_command(commands: BinaryIO) -> Callable[[], Engine]:
    """Return what makes the engine; it raises, when called, if it is not there."""
    # Pickled twice, so that one that cannot be imported here is told as an error.
    pickled = pickle.load(commands)  # noqa: S301 - from our own parent

    def make_engine() -> Engine:
        make: Callable[[], Engine] = pickle.loads(pickled)  # noqa: S301 - likewise
        return make()

    return make_engine


def _receive(
    commands: BinaryIO,
    generations: SimpleQueue[_Generation],
    outbox: SimpleQueue[Event],
) -> None:
    generation: _Generation | None = None
    while True:
        command = pickle.load(commands)  # noqa: S301 - from our own parent
        if isinstance(command, Start):
            generation = _Generation(command, outbox)
            generations.put(generation)
        elif isinstance(command, Cancel):
            assert generation is not None
            generation.cancel.cancel()
        else:
            assert generation is not None
            generation.preview_wanted = command.wanted


def _send(outbox: SimpleQueue[Event], events: BinaryIO) -> None:
    while True:
        pickle.dump(outbox.get(), events, pickle.HIGHEST_PROTOCOL)
        events.flush()


def _or_exit(work: Callable[[], None]) -> None:
    """End the process when a pipe has: nobody is left to work for."""
    try:
        work()
    finally:
        # Also in the middle of a step, which sys.exit would wait for.
        os._exit(0)
