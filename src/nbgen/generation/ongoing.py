"""What is known, on this side, of the work that a child process does.

An ``Ongoing`` belongs to the condition of its ``WorkerProcess``, but for its pace,
which the thread that reads the events owns; the watchdog reads one number of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from nbgen.generation.drawing import Delivery
from nbgen.generation.events import EngineEvent, StageStarted, StepFinished

_MANY_STEPS = 10


class Ongoing:
    """The work of one ``Start``, as this side knows it.

    Attributes:
        deliver: Takes its events.
        wants_preview: Returns whether a preview is wanted now.
        preview_wanted: What the process knows of that.
        drawn: Set when the engine is free for the next work.
        cancelled_at_s: When the process was told to cancel it, on the clock of
            ``time.monotonic``; None before that.
        usual_gap_s: Ten times the time that a step of this stage takes; infinite while
            there was none, because loading and compiling may be silent for long.
    """

    def __init__(self, deliver: Delivery, wants_preview: Callable[[], bool]) -> None:
        self.deliver = deliver
        self.wants_preview = wants_preview
        self.preview_wanted = wants_preview()
        self.drawn = threading.Event()
        self.cancelled_at_s: float | None = None
        self.usual_gap_s = math.inf
        self._stage_began_s = 0.0
        self._steps = 0

    def keep_pace(self, event: EngineEvent, now_s: float) -> None:
        """Learn from an event how long a step takes."""
        if isinstance(event, StepFinished):
            self._steps += 1
            took_s = (now_s - self._stage_began_s) / self._steps
            self.usual_gap_s = _MANY_STEPS * took_s
        elif isinstance(event, StageStarted):
            self._stage_began_s, self._steps = now_s, 0
            self.usual_gap_s = math.inf
