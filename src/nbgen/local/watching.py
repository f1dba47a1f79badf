"""Shows the progress of tasks, also of those that another process runs.

Every method of ``Watching`` may be called from any thread. The list of followed tasks
belongs to its lock. While somebody watches a task of another process, the thread
``nbgen-watching`` reads it from the store once a second; watchers are called back on
``nbgen-progress``.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from nbgen.backend import PreviewCallback, ProgressCallback, StopWatching
from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress, progress_of_record
from nbgen.store.tasks import TaskStore
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)


class _Followed:
    """A task, the state that was published last, and how many watchers it has."""

    def __init__(self, told: GenerationProgress) -> None:
        self.told = told
        self.watchers = 0


class Watching:
    """Watches tasks; see the protocol of the same name in ``nbgen.backend``.

    Args:
        tasks: The tasks, looked at while somebody watches one of them.
        progress: Notifies watchers; it alone knows of a task that runs here.
        look_every_s: Seconds between two looks.
    """

    def __init__(
        self, tasks: TaskStore, progress: ProgressService, *, look_every_s: float = 1.0
    ) -> None:
        self._tasks = tasks
        self._progress = progress
        self._look_every_s = look_every_s
        self._changed = threading.Condition()
        self._followed: dict[str, _Followed] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task; see ``Watching.get_progress``."""
        progress = self._progress.get_progress(task_id)
        if progress is None:
            progress = progress_of_record(self._tasks.get_known([task_id])[0])
        return progress

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        """Call back with every state of a task; see ``Watching.watch``."""
        if self._progress.get_progress(task_id) is None:
            record = self._tasks.get_task(task_id)
            if record is not None and record.status.ended:
                callback(progress_of_record(record))
                return lambda: None
            if record is not None:
                return self._follow(progress_of_record(record), callback)
        return self._progress.register_callback(task_id, callback)

    def watch_previews(self, task_id: str, callback: PreviewCallback) -> StopWatching:
        """Call back with previews; see ``Watching.watch_previews``."""
        return self._progress.previews.register(task_id, callback)

    def _follow(
        self, present: GenerationProgress, callback: ProgressCallback
    ) -> StopWatching:
        task_id = present.task_id
        with self._changed:
            followed = self._followed.setdefault(task_id, _Followed(present))
            followed.watchers += 1
            # Under the lock, so that nothing is told between the two.
            stop = self._progress.register_callback(
                task_id, callback, elsewhere=followed.told
            )
            if self._thread is None and not self._closed:
                self._thread = start_thread("nbgen-watching", self._look)
        stopped = threading.Event()

        def unregister() -> None:
            stop()
            with self._changed:
                if not stopped.is_set():
                    stopped.set()
                    followed.watchers -= 1
                    if (
                        not followed.watchers
                        and self._followed.get(task_id) is followed
                    ):
                        del self._followed[task_id]
                        self._changed.notify()

        return unregister

    def close(self) -> None:
        """End the thread; tasks of other processes are followed no longer."""
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
                    lambda: self._closed or not self._followed, self._look_every_s
                ):
                    self._thread = None
                    return
                ids = list(self._followed)
            try:
                records = self._tasks.get_tasks(ids)
            except Exception as error:  # noqa: BLE001 - a second later it may be there
                logger.warning("Tasks of other processes cannot be read: %s", error)
                continue
            with self._changed:
                for task_id, record in records.items():
                    if task_id in self._followed:
                        self._compare(
                            self._followed[task_id], progress_of_record(record)
                        )

    def _compare(self, followed: _Followed, now: GenerationProgress) -> None:
        known = followed.told
        now = msgspec.structs.replace(now, seq=known.seq + 1)
        is_here = self._progress.get_progress(now.task_id) is not None
        if not is_here and now.status is not known.status:
            followed.told = now
            self._progress.publish_foreign(now)
        if is_here or now.status.ended:
            del self._followed[now.task_id]
