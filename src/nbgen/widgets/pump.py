"""The thread that writes a panel's traits; no other does, once the panel is made.

Any thread may call ``wake`` and ``close``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from nbgen.threads import start_thread

logger = logging.getLogger(__name__)


class Pump:
    """Calls ``render`` on a thread of its own, at most ten times a second.

    However often it is woken, the last state is always rendered.

    Args:
        render: Brings the widgets to the present state; called on the pump's thread
            only. It returns the seconds until it is to be called again, or None to be
            called when woken.
        interval_s: The shortest time between two calls, in seconds.
        after_failure_s: The time until ``render`` is called again after it raised, in
            seconds.

    Example::

        pump = Pump(panel.render)
        pump.wake()
        pump.close()
    """

    def __init__(
        self,
        render: Callable[[], float | None],
        *,
        interval_s: float = 0.1,
        after_failure_s: float = 5.0,
    ) -> None:
        self._render = render
        self._interval_s = interval_s
        self._after_failure_s = after_failure_s
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._thread = start_thread("nbgen-panel", self._run)

    def wake(self) -> None:
        """Have the present state rendered soon; returns at once."""
        self._changed.set()

    def close(self) -> None:
        """Render once more, then end the thread; idempotent."""
        self._closed.set()
        self._changed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        closed = False
        again_s: float | None = None
        while not closed:
            self._changed.wait(again_s)
            # Before the rendering, so that a state from before ``close`` is rendered.
            closed = self._closed.is_set()
            self._changed.clear()
            try:
                again_s = self._render()
            except Exception:  # one bad state must not freeze the panel for good
                logger.exception("A panel could not be brought up to date.")
                again_s = self._after_failure_s
            self._closed.wait(self._interval_s)
