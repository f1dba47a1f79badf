"""A child process that makes pictures, and this side of the pipes to and from it.

Thread-safety: the work under way and the state of the process belong to a condition
that is held for microseconds; no callback is called under it. Three threads belong to
each process: ``nbgen-commands`` writes the pipe, so that a process that reads nothing
holds nobody up; ``nbgen-events`` reads it and passes the events on; ``nbgen-watchdog``
kills a process that hangs. All end with the process.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue

import msgspec

from nbgen.errors import WorkerDied
from nbgen.generation.drawing import Delivery
from nbgen.generation.engine import Work
from nbgen.generation.events import Ended, Silent, StageStarted
from nbgen.generation.ongoing import Ongoing
from nbgen.generation.pipe import (
    Cancel,
    Command,
    Load,
    Loaded,
    Message,
    Start,
    WantPreview,
    decode_message,
    encode,
)
from nbgen.generation.spawning import (
    forget_pipe,
    let_lifeline_go,
    start_child,
    take_pipes,
)
from nbgen.schema import Stage
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_MOST_LAST_WORDS = 4_000
_SIGKILL = 9


class ProcessTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for a process that does not answer.

    Attributes:
        quiet_s: Seconds without a word after which ``Silent`` tells of it; ten times
            what a step takes, if that is longer.
        cancel_s: Seconds that it may take to answer a cancel before it is killed. One
            that is silent is killed at once.
        silence_s: Seconds that it may say nothing while it works before it is killed
            as one that hangs. Far longer than a step or a load takes, also of SDXL on
            a CPU.
        close_s: Seconds that it may take to end before it is killed.
    """

    quiet_s: float = 10.0
    cancel_s: float = 10.0
    silence_s: float = 3_600.0
    close_s: float = 5.0


class WorkerProcess:
    """A process that makes pictures, from its start to its end.

    Args:
        make_engine: The pickled function that makes the engine there.
        timing: How long to wait for it.
        on_loaded: Takes the facts of the engine once it is made, or None.

    Attributes:
        heard_s: When it last said something, or got work, on the clock of
            ``time.monotonic``.
    """

    def __init__(
        self,
        make_engine: bytes,
        timing: ProcessTiming,
        on_loaded: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self._timing = timing
        self._on_loaded = on_loaded
        self._changed = threading.Condition()
        self._active: dict[int, Ongoing] = {}
        self._last_number = 0
        self._died: WorkerDied | None = None
        self._is_ending = False
        self._is_delivering = False
        self._killed_for: str | None = None
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._commands.put(Load(make_engine))
        self.heard_s = time.monotonic()
        self._errors, self._lifeline, self._process = start_child()
        try:
            self._output, self._input = take_pipes(self._process)
            self._threads = (
                start_thread("nbgen-commands", self._write),
                start_thread("nbgen-events", self._read),
                start_thread("nbgen-watchdog", self._watch),
            )
        except BaseException:
            # Nobody would ever close this; threads that have started end by themselves.
            self._process.kill()
            self._process.wait()
            self._commands.put(None)
            let_lifeline_go(self._lifeline)
            self._errors.close()
            raise

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it takes work."""
        # In this order: while another thread waits for the process, ``poll`` knows
        # nothing, but by then the process is known to end.
        return self._process.poll() is None and not self._is_ending

    def run(
        self, work: Work, deliver: Delivery, wants_preview: Callable[[], bool]
    ) -> None:
        """Have pictures made, and return when the engine there is free again."""
        generation = Ongoing(deliver, wants_preview)
        with self._changed:
            died = self._died
            number = self._last_number + 1
            if died is None:
                self._last_number = number
                self._active[number] = generation
                self.heard_s = time.monotonic()
                self._changed.notify_all()
        if died is not None:
            deliver(Ended(died))
            return
        self._commands.put(Start(number, work, generation.preview_wanted))
        # After the start, which a cancel must not overtake.
        deliver.stop.on_cancel(partial(self._cancel, number))
        try:
            generation.drawn.wait()
        except BaseException:  # a KeyboardInterrupt: the caller wants no more
            deliver.stop.cancel()
            raise

    def kill(self) -> None:
        """Kill the process; any thread may call it."""
        self._killed_for = _ASKED
        self._process.kill()

    def close(self) -> None:
        """Wait until all pictures are encoded, then end the process and the threads.

        Not from a callback of its events.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._active)
        self._commands.put(None)
        self._wait_ended()
        for thread in self._threads:
            thread.join()
        self._input.close()
        let_lifeline_go(self._lifeline)
        self._errors.close()

    def _cancel(self, number: int) -> None:
        with self._changed:
            generation = self._active.get(number)
            if generation is None:
                return
            generation.cancelled_at_s = time.monotonic()
            self._changed.notify_all()
        self._commands.put(Cancel(number))

    def _write(self) -> None:
        while (command := self._commands.get()) is not None:
            # A command is lost on a process that has died.
            with contextlib.suppress(OSError):
                self._output.send_bytes(encode(command))
        forget_pipe(self._output)

    def _read(self) -> None:
        try:
            while True:
                self._take(decode_message(self._input.recv_bytes()))
        except (EOFError, OSError):
            pass
        except Exception:
            logger.exception("What the process says cannot be understood.")
            self._killed_for = _GARBLED
            self._process.kill()
        self._is_ending = True
        self._bury(self._wait_ended())

    def _take(self, message: Message) -> None:
        """Pass an event on."""
        self.heard_s = time.monotonic()
        event = message.event
        if isinstance(event, Loaded):
            if self._on_loaded is not None:
                self._on_loaded(event.facts)
            return
        generation = self._active.get(message.number)
        if generation is None:  # a preview that comes too late
            return
        if isinstance(event, Ended):
            if event.traceback is not None and not generation.deliver.stop.cancelled:
                logger.error("The engine failed in its process:\n%s", event.traceback)
            self._end(message.number, event)
            return
        generation.keep_pace(event, self.heard_s)
        self._is_delivering = True
        generation.deliver(event)  # which may take its time: it calls back
        self._is_delivering = False
        self.heard_s = time.monotonic()
        if isinstance(event, StageStarted) and event.stage is Stage.SAVE:
            generation.drawn.set()
        wanted = generation.wants_preview()
        if wanted != generation.preview_wanted:
            generation.preview_wanted = wanted
            self._commands.put(WantPreview(message.number, wanted))

    def _end(self, number: int, event: Ended) -> None:
        self._active[number].deliver(event)
        with self._changed:
            generation = self._active.pop(number)
            self._changed.notify_all()
        generation.drawn.set()

    def _bury(self, status: int) -> None:
        """End what was under way when the process died."""
        text = self._killed_for or _obituary(status)
        of_memory = status == -_SIGKILL and self._killed_for is None
        with self._changed:
            self._died = WorkerDied(text, of_memory=of_memory)
            lost = dict(self._active)
            self._changed.notify_all()
        cancelled = [lost[number].deliver.stop.cancelled for number in lost]
        if not all(cancelled) and (said := self._last_words()):
            logger.error("The process said:\n%s", said)
        for number in lost:
            self._end(number, Ended(WorkerDied(text, of_memory=of_memory)))

    def _last_words(self) -> str:
        """Return the end of what it wrote to its standard error before it began."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _MOST_LAST_WORDS))
        return self._errors.read().decode(errors="replace").strip()

    def _watch(self) -> None:
        """Kill the process when it hangs, and tell of it before."""
        while (quiet := self._wait_for_quiet()) is not None:
            # Without the condition: it calls back.
            for generation in quiet:
                if self._is_quiet(generation):  # still
                    generation.deliver(Silent(time.monotonic() - self.heard_s))

    def _wait_for_quiet(self) -> list[Ongoing] | None:
        """Wait until there is quiet to tell of; return None once the process ends."""
        look_at_s = 0.0  # each second, since any event may move the moments below
        with self._changed:
            while self._died is None:
                now_s = time.monotonic()
                silent_at_s = self._silent_at_s()
                if now_s >= silent_at_s:
                    logger.warning("A process that says nothing any more is killed.")
                    self._killed_for = _HUNG.format(self._timing.silence_s / 60)
                    self._process.kill()
                    return None
                cancel_late_at_s = self._cancel_late_at_s()
                if now_s >= cancel_late_at_s:
                    logger.warning("A process that did not answer a cancel is killed.")
                    self._killed_for = _DEAF
                    self._process.kill()
                    return None
                quiet = [each for each in self._active.values() if self._is_quiet(each)]
                if quiet and now_s >= look_at_s > 0:
                    return quiet
                look_at_s = now_s + _LOOK_EVERY_S
                wait_s = min(silent_at_s, cancel_late_at_s, look_at_s) - now_s
                is_watched = bool(self._active)
                self._changed.wait(wait_s if is_watched else None)
                if is_watched and time.monotonic() > look_at_s + _LOOK_EVERY_S:
                    # This process was stopped itself, and has not read what was said.
                    self.heard_s = time.monotonic()
        return None

    def _is_quiet(self, generation: Ongoing) -> bool:
        """Return whether a process has said nothing for longer than is usual."""
        if self._is_delivering:
            return False
        gap_s = max(self._timing.quiet_s, generation.usual_gap_s)
        return time.monotonic() - self.heard_s >= gap_s

    def _silent_at_s(self) -> float:
        """Return when it is to be killed unless it says something."""
        return self.heard_s + self._timing.silence_s if self._active else math.inf

    def _cancel_late_at_s(self) -> float:
        """Return when it is to be killed unless it answers a cancel.

        What was drawn before the cancel only waits for its encoder, so the process is
        not killed for that while it works for somebody else.
        """
        late_at_s = math.inf
        active = self._active.values()
        is_wanted = any(generation.cancelled_at_s is None for generation in active)
        for generation in active:
            since_s = generation.cancelled_at_s
            if since_s is None:
                continue
            if self._is_quiet(generation):
                return since_s
            if generation.drawn.is_set():
                since_s = math.inf if is_wanted else max(since_s, self.heard_s)
            late_at_s = min(late_at_s, since_s + self._timing.cancel_s)
        return late_at_s

    def _wait_ended(self) -> int:
        """Wait until the process has ended, by force if need be; return its status."""
        try:
            return self._process.wait(self._timing.close_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


_HUNG = (
    "The process that makes the pictures said nothing for {:.0f} minutes and was "
    "ended. Submit the task again; if that happens again, look at the GPU and its "
    "driver."
)
_ASKED = "The process that makes the pictures was ended. Submit the task again."
_GARBLED = (
    "The process that makes the pictures said what cannot be understood and was ended. "
    "Submit the task again."
)
_DEAF = (
    "The process that makes the pictures did not answer the cancel of another task and "
    "was ended. Submit the task again."
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
