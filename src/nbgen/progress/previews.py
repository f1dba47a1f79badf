"""Delivers previews of unfinished pictures to callbacks.

Thread-safety: every method may be called from any thread. Callbacks run on the thread
that calls ``show``, which is never the one that makes the picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from nbgen.schema import Preview

logger = logging.getLogger(__name__)

PreviewCallback = Callable[[Preview], None]


class PreviewHub:
    """Holds the callbacks that take previews of each task; keeps no preview.

    It has no thread, so there is nothing to close.

    Example::

        hub = PreviewHub()
        unregister = hub.register("hero-1", lambda preview: print(preview.width))
        if hub.wanted("hero-1"):
            hub.show("hero-1", preview)
        unregister()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced, never changed, so that it may be read without the lock.
        self._watchers: dict[str, tuple[PreviewCallback, ...]] = {}

    def register(self, task_id: str, callback: PreviewCallback) -> Callable[[], None]:
        """Call back with the previews of a task, which need not exist yet.

        Previews are made only while a callback is registered.

        Returns:
            A function that ends the registration; idempotent.
        """
        # A callback may be registered twice; this registration is this object.
        own = partial(callback)
        with self._lock:
            present = self._watchers.get(task_id, ())
            self._watchers[task_id] = (*present, own)

        def unregister() -> None:
            with self._lock:
                others = [c for c in self._watchers.get(task_id, ()) if c is not own]
                self._watchers.pop(task_id, None)
                if others:
                    self._watchers[task_id] = tuple(others)

        return unregister

    def wanted(self, task_id: str) -> bool:
        """Return whether a task has callbacks; takes no lock."""
        return task_id in self._watchers

    def show(self, task_id: str, preview: Preview) -> None:
        """Call the callbacks of a task with a preview."""
        for callback in self._watchers.get(task_id, ()):
            try:
                callback(preview)
            except Exception:  # a callback that raises must not end the others'
                logger.exception("A preview callback of task %s raised.", task_id)

    def forget(self, task_id: str) -> None:
        """Drop the callbacks of a task that has ended."""
        with self._lock:
            self._watchers.pop(task_id, None)
