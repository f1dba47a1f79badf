"""Measures how long the process that runs a queue has given no sign of life.

Not thread-safe: it belongs to the thread that looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nbgen.store.turn import Turn

SILENT_AFTER_S = 10.0
"""A runner that gives no sign of life for so long is shown to be silent."""
LOOK_EVERY_S = 1.0
# So that whoever was asleep itself does not take the other for silent.
_LONGEST_STEP_S = 1.5


class Silence:
    """The silence of whoever runs a queue, and the absence of anybody who does.

    Args:
        turn: Tells of the signs of life.
        clock: Seconds on a clock that never goes back.

    Attributes:
        silent_s: Seconds for which whoever has the turn has given no sign of life.
        absent_s: Seconds for which nobody has had the turn.

    Example::

        silence = Silence(turn)
        silence.look()  # about once a second
        if silence.silent_s > SILENT_AFTER_S:
            print("It may be stopped or asleep.")
    """

    def __init__(self, turn: Turn, clock: Callable[[], float] = time.monotonic) -> None:
        self.silent_s = 0.0
        self.absent_s = 0.0
        self._turn = turn
        self._clock = clock
        self._beat: object = None
        self._looked_at_s = float("-inf")

    def look(self) -> None:
        """Look for a sign of life, if the last look is a second ago.

        Raises:
            DataFolderUnusable: The database fails.
        """
        now_s = self._clock()
        step_s = min(now_s - self._looked_at_s, _LONGEST_STEP_S)
        if step_s < LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        last, self._beat = self._beat, self._turn.last_beat()
        if self._beat is None:
            self.silent_s, self.absent_s = 0.0, self.absent_s + step_s
        else:
            is_silent = self._beat == last
            self.silent_s = self.silent_s + step_s if is_silent else 0.0
            self.absent_s = 0.0


def describe_silence(silent_s: float) -> str:
    """Return a sentence for a person who waits for a task."""
    return (
        f"The process that runs the tasks has given no sign of life for {silent_s:.0f} "
        "s. It may be stopped or asleep. Once it goes on or ends, the tasks go on."
    )


ABANDONED = (
    "The process that ran it has ended, and no other runs the tasks. Start 'nbgen "
    "serve', or open a studio in a notebook."
)
"""What is said of a task that runs, of a queue that nobody runs."""
