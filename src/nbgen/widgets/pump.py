"""The one thread that writes a panel's traits after it was made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.1
_AFTER_FAILURE_S = 5.0


class Pump:
    """Calls ``render`` on a thread of its own, at most ten times a second.

    However often it is woken, the last state is always rendered. ``wake`` may be
    called from any thread and returns at once.

    Args:
        render: Brings the widgets to the present state; called only from here. It
            returns after how many seconds it wants to be called again without being
            woken, or None.
    """

    def __init__(self, render: Callable[[], float | None]) -> None:
        self._render = render
        self._changed = threading.Event()
        self._closed = threading.Event()
        # A daemon: a notebook's kernel must be able to exit at any time.
        self._thread = threading.Thread(
            target=self._run, name="nbgen-panel", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Have the present state rendered soon."""
        self._changed.set()

    def close(self) -> None:
        """Render what is left, then end the thread."""
        self._closed.set()
        self._changed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        closed = False
        again_s: float | None = None
        while not closed:
            self._changed.wait(again_s)
            # Before the rendering, so that what came before ``close`` is rendered.
            closed = self._closed.is_set()
            self._changed.clear()
            try:
                again_s = self._render()
            except Exception:  # one bad state must not freeze the panel for good
                logger.exception("A panel could not be brought up to date.")
                again_s = _AFTER_FAILURE_S
            self._closed.wait(_INTERVAL_S)
