"""Delivers states to callbacks, on a thread of its own.

Thread-safety: every method of ``Dispatcher`` may be called from any thread and only
puts a value into a queue: it waits for no callback and wakes no event loop. The thread
``nbgen-progress`` takes the values out; it alone owns the list of watchers and runs
their callbacks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from nbgen.errors import StudioClosed
from nbgen.schema import GenerationProgress
from nbgen.threads import start_thread

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
    """A watcher that was unregistered."""

    watcher: _Watcher


class Dispatcher:
    """Brings states to callbacks in the order in which they were published.

    The thread starts with the first watcher, and ends with ``close``.

    Example::

        dispatcher = Dispatcher()
        unregister = dispatcher.register("hero-1", print, None)
        dispatcher.publish(progress)
        unregister()
        dispatcher.close()
    """

    def __init__(self) -> None:
        self._events: SimpleQueue[_Published | _Joined | _Left | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def publish(self, progress: GenerationProgress) -> None:
        """Have the new state of a task delivered to its watchers; no-op if closed."""
        self._put(_Published(progress))

    def register(
        self,
        task_id: str,
        callback: ProgressCallback,
        present: GenerationProgress | None,
    ) -> Callable[[], None]:
        """Deliver ``present`` to the callback, then every later state of the task.

        Returns:
            A function that ends the registration; idempotent.

        Raises:
            StudioClosed: The dispatcher is closed.
        """
        watcher = _Watcher(task_id, callback)

        def unregister() -> None:
            watcher.gone = True
            self._put(_Left(watcher))

        with self._lock:
            if self._closed:
                raise StudioClosed
            if self._thread is None:
                self._thread = start_thread("nbgen-progress", self._dispatch)
            # Under the lock, so that ``close`` finds it in the queue.
            self._events.put(_Joined(watcher, present))
        return unregister

    def close(self) -> None:
        """Deliver what was published, then end the thread.

        A second call waits for the first. Called from a callback, it does not wait.
        """
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            self._events.put(None)
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _put(self, event: _Published | _Left) -> None:
        # Without the thread nobody watches, and nobody would empty the queue.
        if self._thread is not None and not self._closed:
            self._events.put(event)

    def _dispatch(self) -> None:
        watchers: dict[str, list[_Watcher]] = {}
        while (event := self._events.get()) is not None:
            match event:
                case _Published(progress):
                    for watcher in watchers.get(progress.task_id, ()):
                        _deliver(watcher, progress)
                    if progress.status.ended:
                        watchers.pop(progress.task_id, None)
                case _Joined(watcher, present):
                    if present is not None:
                        _deliver(watcher, present)
                    if present is None or not present.status.ended:
                        watchers.setdefault(watcher.task_id, []).append(watcher)
                case left:
                    task_id = left.watcher.task_id
                    others = watchers.get(task_id, [])
                    if left.watcher in others:
                        others.remove(left.watcher)
                    if not others:
                        watchers.pop(task_id, None)


def _deliver(watcher: _Watcher, progress: GenerationProgress) -> None:
    if watcher.gone:
        return
    try:
        watcher.callback(progress)
    except Exception:  # a callback that raises must not end the others' deliveries
        logger.exception("A progress callback of task %s raised.", progress.task_id)
