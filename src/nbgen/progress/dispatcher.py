"""Tells those who watch, on a thread of its own.

Thread-safety: every method of ``Dispatcher`` may be called from any thread and only
puts a value into a queue: it waits for no watcher and wakes no event loop. The thread
``nbgen-progress`` takes the values out, alone owns the list of watchers and runs their
callbacks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from nbgen.schema import GenerationProgress

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[GenerationProgress], None]


class _Watcher:
    """One registered callback; owned by the dispatching thread, but for ``gone``."""

    def __init__(self, task_id: str, callback: ProgressCallback) -> None:
        self.task_id = task_id
        self.callback = callback
        self.gone = False


class _Published(NamedTuple):
    """A new state for all watchers of its task."""

    progress: GenerationProgress


class _Joined(NamedTuple):
    """A new watcher and the state it starts from, None while the task is unknown."""

    watcher: _Watcher
    present: GenerationProgress | None


class _Left(NamedTuple):
    """A watcher that wants no more."""

    watcher: _Watcher


class Dispatcher:
    """Brings states to callbacks in the order in which they were published.

    The thread starts with the first watcher.
    """

    def __init__(self) -> None:
        self._events: SimpleQueue[_Published | _Joined | _Left | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def publish(self, progress: GenerationProgress) -> None:
        """Have all watchers of the task told of its new state."""
        # Without the thread nobody watches, and nobody would empty the queue.
        if self._thread is not None:
            self._events.put(_Published(progress))

    def register(
        self,
        task_id: str,
        callback: ProgressCallback,
        present: GenerationProgress | None,
    ) -> Callable[[], None]:
        """Have the callback told of ``present``, then of every later state.

        Returns:
            A function that ends the registration.
        """
        watcher = _Watcher(task_id, callback)

        def unregister() -> None:
            watcher.gone = True
            self._events.put(_Left(watcher))

        with self._lock:
            if self._thread is None:
                # A daemon: a notebook's kernel must be able to exit at any time.
                self._thread = threading.Thread(
                    target=self._dispatch, name="nbgen-progress", daemon=True
                )
                self._thread.start()
        self._events.put(_Joined(watcher, present))
        return unregister

    def close(self) -> None:
        """Tell what is left to tell, then end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._events.put(None)
        if thread is not threading.current_thread():
            thread.join()

    def _dispatch(self) -> None:
        watchers: dict[str, list[_Watcher]] = {}
        while (event := self._events.get()) is not None:
            match event:
                case _Published(progress):
                    for watcher in watchers.get(progress.task_id, ()):
                        _tell(watcher, progress)
                    if progress.status.ended:
                        watchers.pop(progress.task_id, None)
                case _Joined(watcher, present):
                    if present is not None:
                        _tell(watcher, present)
                    if present is None or not present.status.ended:
                        watchers.setdefault(watcher.task_id, []).append(watcher)
                case _Left(watcher):
                    others = watchers.get(watcher.task_id, [])
                    if watcher in others:
                        others.remove(watcher)
                    if not others:
                        watchers.pop(watcher.task_id, None)


def _tell(watcher: _Watcher, progress: GenerationProgress) -> None:
    if watcher.gone:
        return
    try:
        watcher.callback(progress)
    except Exception:  # a watcher's fault must not end the others' news
        logger.exception("A progress callback of task %s raised.", progress.task_id)
