"""Tells when something of a batch changes: an end of a row, a retry, a step.

The watches belong to a lock, and only the thread ``nbgen-changes`` adds to them. The
callback runs on that thread or on ``nbgen-progress``, without the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from nbgen.backend import Backend, StopWatching
from nbgen.errors import StudioClosed
from nbgen.schema import CANCELLING, ChangeKind, Changes, Status


class BatchWatch:
    """Follows the tasks of a batch: all in the change feed, running ones step by step.

    Args:
        backend: Where the batch is.
        batch_id: The id of the batch.
        running_ids: Returns the ids of its tasks that run.
        on_change: Called without arguments; it must return quickly.

    Raises:
        DataFolderUnusable: The feed cannot be read.
        StudioClosed: The backend is closed.
    """

    def __init__(
        self,
        backend: Backend,
        batch_id: str,
        running_ids: Callable[[], Iterable[str]],
        on_change: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._batch_id = batch_id
        self._running_ids = running_ids
        self._on_change = on_change
        self._lock = threading.Lock()
        self._watches: dict[str, StopWatching] = {}
        self._stopped = False
        self._stop_changes = backend.watch_changes(self._take_in)

    def stop(self) -> None:
        """End all watches; idempotent."""
        self._stop_changes()
        with self._lock:
            self._stopped = True
            watches, self._watches = self._watches, {}
        for stop in watches.values():
            stop()

    def _take_in(self, changes: Changes) -> None:
        own = {
            change.id: change.state
            for change in changes.changes
            if change.kind is ChangeKind.TASK and change.batch_id == self._batch_id
        }
        running = (Status.GENERATING, CANCELLING)
        runs = {task_id for task_id, state in own.items() if state in running}
        with self._lock:
            ended = [self._watches.pop(i, _nothing) for i in own.keys() - runs]
        for stop in ended:
            stop()
        if own or changes.reads_anew:
            self._on_change()
        with suppress(StudioClosed):  # meanwhile: there is nothing more to follow
            if changes.reads_anew and changes.problem is None:
                runs = set(self._running_ids())
            for task_id in runs:
                self._follow(task_id)

    def _follow(self, task_id: str) -> None:
        """Follow each step of a running task."""
        with self._lock:
            if self._stopped or task_id in self._watches:
                return
        stop = self._backend.watch(task_id, lambda _progress: self._on_change())
        with self._lock:
            is_wanted = not self._stopped
            if is_wanted:
                self._watches[task_id] = stop
        if not is_wanted:
            stop()


def _nothing() -> None:
    """Do nothing."""
