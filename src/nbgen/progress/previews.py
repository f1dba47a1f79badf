"""Brings previews of unfinished pictures to those who look at them.

Thread-safety: every method may be called from any thread. Callbacks run on the thread
that shows a preview, which is never the one that makes the picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from nbgen.schema import Preview

logger = logging.getLogger(__name__)


PreviewCallback = Callable[[Preview], None]


class PreviewHub:
    """Knows who looks at which task; keeps no preview."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced, never changed, so that it may be read without the lock.
        self._watchers: dict[str, tuple[PreviewCallback, ...]] = {}

    def register(self, task_id: str, callback: PreviewCallback) -> Callable[[], None]:
        """Have the callback shown the previews of a task, which need not exist yet.

        Previews are made only while somebody looks.

        Returns:
            A function that ends it; calling it again does nothing.
        """
        with self._lock:
            present = self._watchers.get(task_id, ())
            self._watchers[task_id] = (*present, callback)

        def unregister() -> None:
            with self._lock:
                others = [c for c in self._watchers.get(task_id, ()) if c != callback]
                self._watchers.pop(task_id, None)
                if others:
                    self._watchers[task_id] = tuple(others)

        return unregister

    def wanted(self, task_id: str) -> bool:
        """Whether somebody looks at a task; takes no lock."""
        return task_id in self._watchers

    def show(self, task_id: str, preview: Preview) -> None:
        """Show a preview to those who look at the task."""
        for callback in self._watchers.get(task_id, ()):
            try:
                callback(preview)
            except Exception:  # a watcher's fault must not end the others' previews
                logger.exception("A preview callback of task %s raised.", task_id)

    def forget(self, task_id: str) -> None:
        """Drop those who look at a task that has ended."""
        with self._lock:
            self._watchers.pop(task_id, None)
