"""Shows the progress of tasks, also of those that another process runs.

Every method of ``Watching`` may be called from any thread. The list of followed tasks
belongs to its condition. While somebody watches a task that does not run here, the
thread ``nbgen-watching`` reads that task from the store whenever the change feed names
it, and its live states five times a second while it runs. Watchers are called back on
``nbgen-progress``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence

import msgspec

from nbgen.backend import PreviewCallback, ProgressCallback, StopWatching
from nbgen.errors import DataFolderUnusable, StudioClosed
from nbgen.local.silence import (
    ABANDONED,
    LOOK_EVERY_S,
    SILENT_AFTER_S,
    Silence,
    describe_silence,
)
from nbgen.progress import ChangeFollower, ProgressService
from nbgen.schema import (
    ChangeKind,
    Changes,
    GenerationProgress,
    Status,
    TaskRecord,
    progress_of_record,
)
from nbgen.store import Store
from nbgen.store.turn import Turn
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)

_RETRY_S = 1.0


class Watching:
    """Watches tasks; see the protocol of the same name in ``nbgen.backend``.

    Args:
        store: The tasks and the live states of those that run elsewhere.
        turn: Tells whether the process that runs the queue gives signs of life.
        progress: Notifies watchers; it alone knows of a task that runs here.
        changes: Tells of tasks that other processes change.
        look_every_s: Seconds between two looks at the live states.
    """

    def __init__(
        self,
        store: Store,
        turn: Turn,
        progress: ProgressService,
        changes: ChangeFollower,
        *,
        look_every_s: float = 0.2,
    ) -> None:
        self._tasks = store.tasks
        self._live = store.live
        self._silence = Silence(turn)  # the thread's, as is the next
        self._was_silent = False
        self._progress = progress
        self._follower = changes
        self._look_every_s = look_every_s
        self._changed = threading.Condition()
        self._followed: dict[str, set[object]] = {}  # the watchers of each task
        self._stale: set[str] = set()  # followed tasks that have to be read
        self._running: set[str] = set()  # followed tasks that run
        self._problem: str | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task; see ``Watching.get_progress``."""
        progress = self._own_progress(task_id)
        if progress is None:
            [record] = self._tasks.get_known([task_id])
            progress = self._newest([record])[task_id]
        return progress

    def with_live_steps(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Return tasks with the steps that they have reached by now."""
        running = [r for r in records if r.status is Status.GENERATING]
        if not running:
            return list(records)
        newest = self._newest(running)
        return [
            msgspec.structs.replace(record, current_step=newest[record.id].current_step)
            if record.id in newest
            else record
            for record in records
        ]

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        """Call back with every state of a task; see ``Watching.watch``."""
        own = self._own_progress(task_id)
        if own is not None and own.status.ended:
            return self._progress.register_callback(task_id, callback)
        record = None if own is not None else self._tasks.get_task(task_id)
        if record is not None and record.status.ended:
            callback(progress_of_record(record))
            return lambda: None
        # Before it is followed, or an end that is found at once would not be told.
        stop = self._progress.register_callback(task_id, callback)
        try:
            watcher = self._follow(task_id)
        except StudioClosed:
            stop()
            raise

        def unregister() -> None:
            stop()
            self._unfollow(task_id, watcher)

        return unregister

    def watch_previews(self, task_id: str, callback: PreviewCallback) -> StopWatching:
        """Call back with previews; see ``Watching.watch_previews``."""
        return self._progress.previews.register(task_id, callback)

    def close(self) -> None:
        """End the thread; tasks of other processes are followed no longer."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _own_progress(self, task_id: str) -> GenerationProgress | None:
        """Return the state of a task that runs or ended here, or None."""
        attempt = self._progress.get_attempt(task_id)
        if attempt is None:
            return None
        state, began_at = attempt
        if not state.status.ended:
            return state
        try:
            record = self._tasks.get_task(task_id)
        except DataFolderUnusable:
            return state  # the end was told, and stays
        # Compared for equality alone: a clock may be set back.
        if record is not None and record.started_at == began_at:
            return state
        # It was deleted, its id is used again, or there is a later attempt.
        self._progress.forget(task_id)
        return None

    def _newest(self, records: Iterable[TaskRecord]) -> dict[str, GenerationProgress]:
        """Return the present states of tasks whose records were just read."""
        states = {}
        live: dict[str, GenerationProgress] | None = None
        for record in records:
            state = self._progress.get_progress(record.id)
            if state is None and record.status is Status.GENERATING:
                live = self._read_live() if live is None else live
                state = live.get(record.id)
            states[record.id] = state or progress_of_record(record)
        return states

    def _read_live(self) -> dict[str, GenerationProgress]:
        try:
            return self._live.read()
        except Exception as error:  # noqa: BLE001 - the records tell the rest
            logger.warning("The live states cannot be read: %s", error)
            return {}

    def _follow(self, task_id: str) -> object:
        """Follow a task for one watcher more; return what that watcher is known by."""
        watcher = object()
        with self._changed:
            if self._closed:
                raise StudioClosed
            self._followed.setdefault(task_id, set()).add(watcher)
            self._stale.add(task_id)
            if self._thread is None:
                self._thread = start_thread("nbgen-watching", self._work)
            self._changed.notify()
        return watcher

    def _unfollow(self, task_id: str, watcher: object) -> None:
        """Follow a task for one watcher less; no-op if it is not one any more."""
        with self._changed:
            watchers = self._followed.get(task_id, set())
            # A task of that id may be followed anew, by others.
            if watcher in watchers:
                watchers.remove(watcher)
                if not watchers:
                    self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        """Follow a task no longer; with the condition held."""
        del self._followed[task_id]
        self._stale.discard(task_id)
        self._running.discard(task_id)
        self._progress.forget_foreign(task_id)
        self._changed.notify()

    def _on_changes(self, changes: Changes) -> None:
        """Note what has to be read; on the thread that follows the feed."""
        with self._changed:
            if changes.reads_anew:
                self._stale.update(self._followed)
            for change in changes.changes:
                if change.kind is ChangeKind.TASK and change.id in self._followed:
                    self._stale.add(change.id)
            self._problem = changes.problem
            self._changed.notify()

    def _work(self) -> None:
        stop: StopWatching | None = None
        while self._wait():
            try:
                if stop is None:
                    stop = self._follower.watch(self._on_changes)
                self._look()
            except StudioClosed:
                break
            except Exception as error:  # noqa: BLE001 - a second later it may be there
                logger.warning("Tasks of other processes cannot be read: %s", error)
                with self._changed:
                    self._stale.update(self._followed)
                    self._changed.wait_for(lambda: self._closed, _RETRY_S)
        if stop is not None:
            stop()

    def _wait(self) -> bool:
        """Wait until there is something to read; return False when nobody watches."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._followed or self._stale,
                self._look_every_s if self._running else LOOK_EVERY_S,
            )
            if self._closed or not self._followed:
                self._thread = None
                return False
            return True

    def _look(self) -> None:
        """Read what has changed, and the live states of what runs; tell what is new."""
        with self._changed:
            stale, self._stale = self._stale, set()
            running = self._running - stale
            problem = self._problem
        if problem is not None:
            for task_id in stale:
                self._progress.warn_foreign(task_id, problem)
            return
        records = self._tasks.get_tasks(sorted(stale)) if stale else {}
        for state in self._newest(records.values()).values():
            self._publish(state)
        if self._tell_silence():
            return
        if running:
            live = self._read_live()
            for task_id in running & live.keys():
                self._publish(live[task_id])

    def _tell_silence(self) -> bool:
        """Tell the watchers if the runner gives no sign of life; return whether so."""
        silence = self._silence
        silence.look()
        with self._changed:
            followed, running = set(self._followed), set(self._running)
        if silence.silent_s > SILENT_AFTER_S:
            warned = dict.fromkeys(followed, describe_silence(silence.silent_s))
        elif silence.absent_s > SILENT_AFTER_S:
            warned = dict.fromkeys(running, ABANDONED)
        else:
            warned = {}
            if self._was_silent:  # what they are told is over
                with self._changed:
                    self._stale.update(self._followed)
        for task_id, warning in warned.items():
            self._progress.warn_foreign(task_id, warning)
        self._was_silent = bool(warned)
        return self._was_silent

    def _publish(self, state: GenerationProgress) -> None:
        """Tell a new state of a followed task, unless it runs here by now."""
        task_id = state.task_id
        with self._changed:
            if task_id not in self._followed:
                return
            if self._progress.get_progress(task_id) is not None:
                # It runs here for now, or has ended here, which is told there.
                self._running.discard(task_id)
                return
            self._progress.publish_foreign(state)
            if state.status.ended:
                self._drop(task_id)
            elif state.status is Status.GENERATING:
                self._running.add(task_id)
            else:
                self._running.discard(task_id)
