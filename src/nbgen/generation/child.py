"""The process that ``ProcessEngine`` starts: makes pictures until its pipe ends.

Commands come in on what was its standard input, messages go out on what was its
standard output (see ``pipe``). The main thread runs the engine, ``nbgen-encoder``
encodes the pictures, ``nbgen-commands`` reads, and ``nbgen-events`` writes what does
not fit into the pipe at once. So neither does a cancel wait for a step, nor a step for
an encoder or a parent that is busy.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from nbgen.errors import NbgenError
from nbgen.generation.drawing import Delivery, Drawing
from nbgen.generation.engine import Cancelled, CancelToken, Engine, facts_of
from nbgen.generation.events import Ended, EngineEvent
from nbgen.generation.pipe import (
    Cancel,
    Load,
    Loaded,
    Message,
    Outbox,
    PipeEnd,
    Start,
    decode_command,
)
from nbgen.threads import start_thread


def main(lifeline: int) -> None:
    """Serve the parent until it closes its pipe or dies; never returns.

    Args:
        lifeline: The reading end of a pipe on which nothing is ever written. Only the
            parent has its other end.
    """
    _die_with(lifeline)
    # Ctrl-C is for the parent, which cancels what is to be cancelled.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands, messages = _take_over(0), _take_over(1)
    # Until here it went to the parent, which logs why a process did not start.
    _silence(2)
    make_engine = _first_command(commands)
    started: SimpleQueue[_Generation] = SimpleQueue()
    outbox = Outbox(messages)
    start_thread(
        "nbgen-commands", lambda: _or_exit(lambda: _receive(commands, started, outbox))
    )
    start_thread("nbgen-events", lambda: _or_exit(outbox.send_waiting))
    encoder = ThreadPoolExecutor(1, "nbgen-encoder")
    engine: Engine | None = None

    def get_engine() -> Engine:
        nonlocal engine
        if engine is None:
            engine = make_engine()
            outbox.put(Message(0, Loaded(facts_of(engine))))
        return engine

    # Whatever it raises: the first generation tries again and reports that.
    with contextlib.suppress(BaseException):
        get_engine()
    while True:
        generation = started.get()
        Drawing(
            generation.start.work,
            Delivery(generation.tell, generation.cancel),
            wants_preview=generation.wants_preview,
            encoder=encoder,
        ).run(get_engine)


class _Generation:
    """The work of one ``Start``: what is known of it, and where it reports."""

    def __init__(self, start: Start, outbox: Outbox) -> None:
        self.start = start
        self.cancel = CancelToken()
        self.preview_wanted = start.wants_preview
        self.ended = False
        self._outbox = outbox

    def wants_preview(self) -> bool:
        return self.preview_wanted

    def tell(self, event: EngineEvent) -> None:
        if isinstance(event, Ended):
            self.ended = True
            error = event.error
            if error is not None and not isinstance(error, (Cancelled, NbgenError)):
                event = Ended(error, "".join(traceback.format_exception(error)))
        self._outbox.put(Message(self.start.number, event))


def _take_over(descriptor: int) -> PipeEnd:
    """Return the pipe under a descriptor, and put the null device in its place."""
    pipe = PipeEnd(descriptor)
    _silence(descriptor)
    return pipe


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


def _first_command(commands: PipeEnd) -> Callable[[], Engine]:
    """Return what makes the engine; it raises, when called, if it is not there."""
    try:
        load = decode_command(commands.recv_bytes())
    except EOFError:  # closed at once
        os._exit(0)
    assert isinstance(load, Load)

    def make_engine() -> Engine:
        # Here, so that one that cannot be imported is reported as an error.
        make: Callable[[], Engine] = pickle.loads(load.make_engine)  # noqa: S301
        return make()

    return make_engine


def _receive(
    commands: PipeEnd,
    started: SimpleQueue[_Generation],
    outbox: Outbox,
) -> None:
    known: dict[int, _Generation] = {}
    while True:
        command = decode_command(commands.recv_bytes())
        if isinstance(command, Start):
            # Pictures of earlier ones may still wait for the encoder.
            known = {number: g for number, g in known.items() if not g.ended}
            known[command.number] = _Generation(command, outbox)
            started.put(known[command.number])
        elif isinstance(command, Cancel):
            if command.number in known:
                known[command.number].cancel.cancel()
        elif not isinstance(command, Load) and command.number in known:
            known[command.number].preview_wanted = command.wanted


def _or_exit(work: Callable[[], None]) -> None:
    """End the process when a pipe has: nobody is left to work for."""
    try:
        work()
    finally:
        # Also in the middle of a step, which sys.exit would wait for.
        os._exit(0)
