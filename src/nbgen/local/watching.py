"""Follows tasks that another process runs, for those who watch them here.

Thread-safety: every method of ``Watching`` may be called from any thread. What is
followed belongs to its lock; the thread ``nbgen-followed`` looks at the store once a
second while somebody watches, and has ``nbgen-progress`` tell.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec

from nbgen.progress import ProgressService
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.schema import GenerationProgress, progress_of_record
from nbgen.store import Store

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class _Followed:
    """A task, the state that was told last, and how many watch."""

    def __init__(self, told: GenerationProgress) -> None:
        self.told = told
        self.watchers = 0


class Watching:
    """The tasks that somebody watches here and another process runs.

    Args:
        store: Where they are looked at.
        progress: Who tells; once a task runs here, it alone knows.
    """

    def __init__(self, store: Store, progress: ProgressService) -> None:
        self._store = store
        self._progress = progress
        self._changed = threading.Condition()
        self._tasks: dict[str, _Followed] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(
        self, present: GenerationProgress, callback: ProgressCallback
    ) -> Callable[[], None]:
        """Have the callback told of the present state and of what the store says later.

        Returns:
            A function that ends it.
        """
        task_id = present.task_id
        with self._changed:
            followed = self._tasks.setdefault(task_id, _Followed(present))
            followed.watchers += 1
            # Under the lock, so that nothing is told between the two.
            stop = self._progress.register_callback(
                task_id, callback, elsewhere=followed.told
            )
            if self._thread is None and not self._closed:
                # A daemon: a notebook's kernel must be able to exit at any time.
                self._thread = threading.Thread(
                    target=self._look, name="nbgen-followed", daemon=True
                )
                self._thread.start()
        stopped = threading.Event()

        def unregister() -> None:
            stop()
            with self._changed:
                if not stopped.is_set():
                    stopped.set()
                    followed.watchers -= 1
                    if not followed.watchers and self._tasks.get(task_id) is followed:
                        del self._tasks[task_id]
                        self._changed.notify()

        return unregister

    def close(self) -> None:
        """End the thread; nothing more is told of what runs elsewhere."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _look(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(
                    lambda: self._closed or not self._tasks, _LOOK_EVERY_S
                ):
                    self._thread = None
                    return
                ids = list(self._tasks)
            try:
                records = self._store.tasks.get_tasks(ids)
            except Exception as error:  # noqa: BLE001 - a second later it may be there
                logger.warning("Tasks of other processes cannot be read: %s", error)
                continue
            with self._changed:
                for task_id, record in records.items():
                    if task_id in self._tasks:
                        self._compare(self._tasks[task_id], progress_of_record(record))

    def _compare(self, followed: _Followed, now: GenerationProgress) -> None:
        known = followed.told
        now = msgspec.structs.replace(now, seq=known.seq + 1)
        is_here = self._progress.get_progress(now.task_id) is not None
        if not is_here and now.status is not known.status:
            followed.told = now
            self._progress.publish_foreign(now)
        if is_here or now.status.ended:
            del self._tasks[now.task_id]
