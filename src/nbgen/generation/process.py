"""Runs an engine in a process of its own. Imports no torch.

The process is a fresh interpreter that knows nothing of the caller's ``__main__``, so
scripts, notebooks and servers need no precaution. It ends when its pipe does: by
``close``, and with the process that started it, however that one ends. In Linux another
pipe, the lifeline, has the kernel end it also in the middle of native code.

Thread-safety: a ``ProcessEngine`` is for one thread at a time, like any engine; the
``CancelToken`` of a generation may be set from any. During a generation the thread
``nbgen-cancel`` waits for that, and for a process that says nothing any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbgen.errors import WorkerDied
from nbgen.generation.child import Cancel, Event, Start, WantPreview
from nbgen.generation.engine import CancelToken, Engine, StepReporter
from nbgen.schema import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

    from nbgen.generation.memory_plan import MemoryPlan

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 10.0
"""How long a process may take to answer a cancel before it is killed."""
SILENCE_TIMEOUT_S = 3_600.0
"""How long a process may say nothing before it is killed as one that hangs.

Far longer than a step or a load takes, also of SDXL on a CPU.
"""
_CLOSE_TIMEOUT_S = 5.0
_MOST_LAST_WORDS = 4_000
_SIGKILL = 9
# With the module search path of this process, which a notebook may have changed.
_PROGRAM = (
    "import sys; lifeline = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "del sys.argv[1:]; "
    "from nbgen.generation.child import main; main(lifeline)"
)


def load_sdxl(
    checkpoint: str | Path,
    *,
    memory_plan: MemoryPlan | None = None,
    loras: Mapping[str | Path, float] | None = None,
) -> Engine:
    """Return an ``SDXLEngine`` that has loaded; imports torch, which takes seconds.

    Raises:
        CheckpointNotFound: Something is missing or broken.
    """
    from nbgen.generation.sdxl import SDXLEngine

    engine = SDXLEngine(checkpoint, memory_plan=memory_plan, loras=loras)
    engine.load()
    return engine


class ProcessEngine:
    """An engine whose work happens in one child process.

    A crash or an out-of-memory kill takes nothing else along, and ending the process
    gives all memory back. The process stays between generations, until ``close``; one
    that died is replaced by the next ``generate``. It prints nothing and is not
    interrupted by Ctrl-C.

    Args:
        make_engine: Called in the child as soon as it has started; what it needs
            long for is done ahead of need. If it raises, the next generation calls
            it again and raises that. It is pickled, so it is a function of a module,
            or a ``functools.partial`` of one.
    """

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._make_engine = pickle.dumps(make_engine)
        self._child: _Child | None = None
        self._facts: dict[str, str] = {}

    def start(self) -> None:
        """Start the process unless it runs, without waiting until it is ready."""
        self._running_child()

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
        """Make the pictures of a request; see ``Engine.generate``.

        A process that has not answered a cancel after ``CANCEL_TIMEOUT_S``, or said
        nothing for ``SILENCE_TIMEOUT_S``, is killed.

        Raises:
            Cancelled: ``cancel`` was set.
            WorkerDied: The process ended before it was done.
            EngineFailed: The engine raised something that is no ``NbgenError``.
            NbgenError: As the engine raised it.
        """
        cancel.raise_if_cancelled()
        child = self._running_child()
        wanted = reporter.wants_preview()
        ended = False
        start = Start(request, seed, image, mask, wanted)
        with _started(child, start, cancel) as give_up:
            try:
                while not ended:
                    name, *arguments = child.receive()
                    ended = name == "ended"
                    if cancel.cancelled:
                        continue
                    if ended:
                        _raise_failure(*arguments)
                    elif name == "picture":
                        picture, self._facts = arguments
                        yield picture
                    else:
                        getattr(reporter, name)(*arguments)
                    if wanted != reporter.wants_preview():
                        wanted = not wanted
                        child.send(WantPreview(wanted))
            except _ChildDied:
                ended = True
                self._child = None
                status = child.end()
                if not cancel.cancelled:
                    if said := child.last_words:
                        logger.error("The process said:\n%s", said)  # noqa: TRY400
                    raise WorkerDied(
                        _HUNG if child.hung else _obituary(status),
                        of_memory=status == -_SIGKILL and not child.hung,
                    ) from None
            finally:
                if not ended:  # the caller wants no more, or the reporter raised
                    give_up()
                    with contextlib.suppress(_ChildDied):
                        while child.receive()[0] != "ended":
                            pass
        cancel.raise_if_cancelled()

    def facts(self) -> dict[str, str]:
        """Return what the last pictures were made with; see ``Engine.facts``."""
        return dict(self._facts)

    def close(self) -> None:
        """End the process, by force if need be; a later ``generate`` starts another.

        Calling it again does nothing.
        """
        if self._child is not None:
            self._child.end()
            self._child = None

    def _running_child(self) -> _Child:
        if self._child is not None and not self._child.alive:
            self.close()
        if self._child is None:
            self._child = _Child(self._make_engine)
        return self._child


class _ChildDied(Exception):
    """The child's pipe ended."""


class _Child:
    """A process and the pipes to and from it.

    ``send`` and ``kill`` may be called from any thread.

    Attributes:
        heard_s: When it last said something, or was asked to begin, on the clock of
            ``time.monotonic``.
        hung: Whether it was killed because it said nothing any more.
        last_words: What one that ended before it could begin wrote to its standard
            error, or the end of that.
    """

    def __init__(self, make_engine: bytes) -> None:
        with contextlib.ExitStack() as opened:
            self._errors = opened.enter_context(tempfile.TemporaryFile())
            end, self._lifeline = os.pipe()
            _lifelines.add(self._lifeline)
            opened.callback(self._let_lifeline_go)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                    [sys.executable, "-c", _PROGRAM, str(end), *map(str, sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    pass_fds=(end,) if os.name == "posix" else (),
                    # Out of reach of what a terminal or a kernel's manager sends to a
                    # group.
                    start_new_session=True,
                )
            finally:
                os.close(end)
            opened.pop_all()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._events = self._process.stdin, self._process.stdout
        self._sending = threading.Lock()
        self.heard_s = time.monotonic()
        self.hung = False
        self.last_words = ""
        _lifelines.add(self._commands.fileno())
        self.send(make_engine)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, command: object) -> None:
        """Send a command, which is lost on a child that has died."""
        data = pickle.dumps(command, pickle.HIGHEST_PROTOCOL)
        with self._sending, contextlib.suppress(OSError):
            self._commands.write(data)
            self._commands.flush()

    def receive(self) -> Event:
        """Wait for the next event.

        Raises:
            _ChildDied: There will be none.
        """
        try:
            event: Event = pickle.load(self._events)  # noqa: S301 - from our own child
        except (EOFError, pickle.UnpicklingError):  # at its end, or in the middle
            raise _ChildDied from None
        self.heard_s = time.monotonic()
        return event

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Close the pipe, wait until the process has ended and return its status."""
        _lifelines.discard(self._commands.fileno())
        with contextlib.suppress(OSError):
            self._commands.close()
        try:
            status = self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        self._let_lifeline_go()
        self._events.close()
        with self._errors:
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - _MOST_LAST_WORDS))
            self.last_words = self._errors.read().decode(errors="replace").strip()
        return status

    def _let_lifeline_go(self) -> None:
        _lifelines.discard(self._lifeline)
        os.close(self._lifeline)


@contextlib.contextmanager
def _started(
    child: _Child, start: Start, cancel: CancelToken
) -> Iterator[Callable[[], None]]:
    """Start a generation, and pass a cancel on to the child until it is over.

    A child that does not answer, or says nothing any more, is killed. This happens on
    a thread of its own, so that whoever cancels never waits for the child.

    Yields:
        A function that cancels what the child does and leaves the token alone.
    """
    sent, woken, ended = threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        while not woken.wait(child.heard_s + SILENCE_TIMEOUT_S - time.monotonic()):
            if time.monotonic() >= child.heard_s + SILENCE_TIMEOUT_S:
                logger.warning("A process that says nothing any more is killed.")
                child.hung = True
                child.kill()
                return
        # A cancel that overtook its start would be for the generation before.
        if sent.wait(CANCEL_TIMEOUT_S) and not ended.is_set():
            child.send(Cancel())
        if not ended.wait(CANCEL_TIMEOUT_S if sent.is_set() else 0):
            logger.warning("A process that did not answer a cancel is killed.")
            child.kill()

    child.heard_s = time.monotonic()
    thread = threading.Thread(target=watch, name="nbgen-cancel", daemon=True)
    thread.start()
    cancel.on_cancel(woken.set)
    try:
        child.send(start)
        sent.set()
        yield woken.set
    finally:
        for event in (ended, sent, woken):
            event.set()
        thread.join()


def _raise_failure(error: Exception | None, details: str | None) -> None:
    if details is not None:
        logger.error("The engine failed in its process:\n%s", details)
    if error is not None:
        raise error


_HUNG = (
    "The process that makes the pictures said nothing for "
    f"{SILENCE_TIMEOUT_S / 60:.0f} minutes and was ended. Submit the task again; if "
    "that happens again, look at the GPU and its driver."
)


def _obituary(status: int) -> str:
    if status == -_SIGKILL:
        return (
            "The process that makes the pictures was killed, most likely by the "
            "system because memory ran out. Submit the task again; if that happens "
            "again, make the picture smaller or end other programs."
        )
    with contextlib.suppress(ValueError):
        how = signal.Signals(-status).name
        return (
            f"The process that makes the pictures died ({how}). Submit the task again."
        )
    return (
        f"The process that makes the pictures ended (exit status {status}). Submit "
        "the task again."
    )


# Descriptors whose closing ends a child.
_lifelines: set[int] = set()


def _let_go() -> None:
    """Close, in a fork of this process, what would keep children alive after it."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _lifelines:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
