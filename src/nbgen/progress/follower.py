"""Follows a change feed and calls back with each change, on a thread of its own.

Thread-safety: every method of ``ChangeFollower`` may be called from any thread. The
thread ``nbgen-changes`` alone owns the list of watchers, reads the feed and runs the
callbacks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from nbgen.errors import StudioClosed
from nbgen.schema import Changes, Position
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)

ChangesCallback = Callable[[Changes], None]

_RETRY_S = 1.0
# Where hundreds of changes are committed a second, several are read at a time.
_READ_EVERY_S = 0.005


class ChangeSource(Protocol):
    """A change feed that can be read and waited for."""

    def position(self) -> Position:
        """Return the place behind the newest change; any thread may ask."""

    def read(self, since: Position) -> Changes:
        """Return the changes behind a place, up to some number of them.

        ``Changes.missed`` is set if they are not known any more.
        """

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one."""

    def wake(self) -> None:
        """Have ``wait`` return now; any thread may ask."""

    def rest(self) -> None:
        """Release what waiting needs; nobody follows for now."""


class _Watcher:
    """One callback; owned by the following thread, but for ``gone``."""

    def __init__(self, callback: ChangesCallback, position: Position) -> None:
        self.callback = callback
        self.position = position
        self.gone = False

    def tell(self, changes: Changes) -> None:
        self.position = changes.position
        if self.gone:
            return
        try:
            self.callback(changes)
        except Exception:  # a callback that raises must not end the others' deliveries
            logger.exception("A callback for changes raised.")


class ChangeFollower:
    """Calls back with the changes of a feed, in order, none twice and none left out.

    Nobody reads the feed while nobody watches it. The thread starts with the first
    watcher, and ends with ``close``.

    Args:
        source: The feed.

    Example::

        follower = ChangeFollower(store.changes)
        stop = follower.watch(print)
        stop()
        follower.close()
    """

    def __init__(self, source: ChangeSource) -> None:
        self._source = source
        self._joined: SimpleQueue[_Watcher | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._problem: str | None = None  # the thread's

    def watch(
        self, callback: ChangesCallback, since: Position | None = None
    ) -> Callable[[], None]:
        """Call back with every change behind a place; see ``Watching.watch_changes``.

        Args:
            callback: Called first with the place where it begins, then with changes.
            since: The place; None begins with what is committed after this call.

        Returns:
            A function that ends the watching; idempotent.

        Raises:
            DataFolderUnusable: The feed cannot be read.
            StudioClosed: The follower is closed.
        """
        # On the caller's thread: what is committed after this call must not be missed.
        watcher = _Watcher(callback, since or self._source.position())

        def stop() -> None:
            watcher.gone = True
            self._source.wake()

        with self._lock:
            if self._closed.is_set():
                raise StudioClosed
            # Under the lock, so that ``close`` finds it in the queue.
            self._joined.put(watcher)
            if self._thread is None:
                self._thread = start_thread("nbgen-changes", self._follow)
        self._source.wake()
        return stop

    def close(self) -> None:
        """End the thread. Called from a callback, it does not wait for it."""
        with self._lock:
            self._closed.set()
            self._joined.put(None)
            thread = self._thread
        if thread is None:
            return
        self._source.wake()
        if thread is not threading.current_thread():
            thread.join()

    def _follow(self) -> None:
        watchers: list[_Watcher] = []
        may_have_changed = False
        while not self._closed.is_set():
            watchers = [watcher for watcher in watchers if not watcher.gone]
            if not watchers:
                self._source.rest()
            joined = self._take_joined(wait=not watchers)
            watchers += joined
            try:
                self._tell_changes(watchers if may_have_changed else joined)
                if may_have_changed:
                    self._closed.wait(_READ_EVERY_S)
                may_have_changed = bool(watchers) and self._source.wait()
            except StudioClosed:
                return
            except Exception as error:  # noqa: BLE001 - it may be there a second later
                self._tell_problem(watchers, str(error))
                may_have_changed = True
                self._closed.wait(_RETRY_S)

    def _take_joined(self, *, wait: bool) -> list[_Watcher]:
        """Return who has joined, each told where it begins; wait for one if asked."""
        joined: list[_Watcher] = []
        try:
            while True:
                watcher = self._joined.get(block=wait and not joined)
                if watcher is None:
                    break
                watcher.tell(Changes(watcher.position, problem=self._problem))
                joined.append(watcher)
        except Empty:
            pass
        return joined

    def _tell_changes(self, watchers: list[_Watcher]) -> None:
        """Bring each watcher to the end of the feed."""
        news: dict[Position, Changes] = {}  # most are at the same place
        for watcher in watchers:
            while not (watcher.gone or self._closed.is_set()):
                place = watcher.position
                if place not in news:
                    news[place] = self._source.read(place)
                if self._problem is not None:
                    self._tell_problem(watchers, None)
                if news[place].position == place:
                    break
                watcher.tell(news[place])

    def _tell_problem(self, watchers: list[_Watcher], problem: str | None) -> None:
        """Tell that the feed cannot be read, or, with None, that it can be again."""
        if problem == self._problem:
            return
        if problem is not None:
            logger.warning("Changes cannot be followed: %s", problem)
        self._problem = problem
        for watcher in watchers:
            watcher.tell(Changes(watcher.position, problem=problem))
