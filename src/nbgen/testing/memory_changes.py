"""The change feed of a ``MemoryBackend``.

Thread-safe: the list of changes belongs to the feed's own lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from nbgen.schema import Change, Changes, NewChange, Position, new_id

_LONGEST_WAIT_S = 1.0


class MemoryChanges:
    """Keeps all changes, in a list; a source for ``ChangeFollower``.

    Example::

        feed = MemoryChanges()
        place = feed.position()
        feed.append([NewChange(ChangeKind.TASK, "a", "pending")])
        [change] = feed.read(place).changes
    """

    def __init__(self) -> None:
        self._epoch = new_id()
        self._changes: list[Change] = []
        self._changed = threading.Condition()
        self._is_woken = False
        self._waited = 0

    def append(self, new: Iterable[NewChange]) -> None:
        """Append changes, and tell whoever waits."""
        with self._changed:
            for each in new:
                self._changes.append(Change(len(self._changes) + 1, *each))
        self.wake()

    def position(self) -> Position:
        """Return the place behind the newest change."""
        with self._changed:
            return Position(self._epoch, len(self._changes))

    def read(self, since: Position) -> Changes:
        """Return all changes behind a place."""
        with self._changed:
            newest = Position(self._epoch, len(self._changes))
            if since.epoch != newest.epoch or since.number > newest.number:
                return Changes(newest, missed=True)
            return Changes(newest, tuple(self._changes[since.number :]))

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_woken, _LONGEST_WAIT_S)
            self._is_woken = False
            last, self._waited = self._waited, len(self._changes)
            return self._waited != last

    def rest(self) -> None:
        """Do nothing: waiting needs nothing."""

    def wake(self) -> None:
        """Have ``wait`` return now."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()
