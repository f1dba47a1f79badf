"""Resolves futures when tasks end, in whatever process.

Thread-safe: the futures belong to a lock, and are resolved without it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from nbgen.errors import StudioClosed
from nbgen.progress import ChangeFollower
from nbgen.schema import (
    CANCELLING,
    ChangeKind,
    Changes,
    Status,
    TaskEnd,
    resolved,
)
from nbgen.store.tasks import TaskStore

logger = logging.getLogger(__name__)

_KNOWN_ENDS = 256
_UNENDED = (Status.PENDING, Status.GENERATING, CANCELLING)


class Ends:
    """The futures of ends that somebody waits for.

    Args:
        tasks: Where the ends are read that other processes commit.
        changes: Tells of these ends.
        runs_here: Returns whether a task runs here. Whoever runs it calls ``tell``.

    Example::

        ends = Ends(store.tasks, changes, runner.runs)
        future = ends.of("hero-1")
        ends.tell(end)
        assert future.result() is end
    """

    def __init__(
        self,
        tasks: TaskStore,
        changes: ChangeFollower,
        runs_here: Callable[[str], bool],
    ) -> None:
        self._tasks = tasks
        self._changes = changes
        self._runs_here = runs_here
        self._lock = threading.Lock()
        self._waited: dict[str, Future[TaskEnd]] = {}
        # The last that ended here: with their causes, which no store keeps.
        self._told: OrderedDict[str, TaskEnd] = OrderedDict()
        self._expected: set[str] = set()  # that may not be in the store yet
        self._is_following = False
        self._closed = False

    def expect(self, task_id: str) -> None:
        """Make the future of a task that is about to be submitted.

        So ``of`` need not look whether the task has ended meanwhile.
        """
        self._follow()
        with self._lock:
            self._told.pop(task_id, None)
            if not self._closed:
                self._future(task_id)
                self._expected.add(task_id)

    def expect_no_more(self, task_id: str) -> None:
        """Forget the future of a task that was not submitted."""
        with self._lock:
            if task_id in self._expected:
                self._expected.discard(task_id)
                self._waited.pop(task_id, None)

    def of(self, task_id: str) -> Future[TaskEnd]:
        """Return a future that resolves with a task's end, once it is committed.

        Raises:
            UnknownTask: There is no such task.
            StudioClosed: It is closed, and the task did not end here lately.
        """
        with self._lock:
            if self._closed:
                told = self._told.get(task_id)
                if told is None:
                    raise StudioClosed
                return resolved(told)
            future = self._waited.get(task_id)
            self._expected.discard(task_id)
        if future is not None:
            return future
        self._follow()
        with self._lock:  # before it is read, so that no end falls in between
            future = self._future(task_id)
        try:
            [record] = self._tasks.get_known([task_id])
        except BaseException:
            self._drop(task_id)
            raise
        if record.status.ended:
            with self._lock:
                told = self._told.get(task_id)
            is_same = told is not None and told[:3] == record.end[:3]
            self._resolve(told if told is not None and is_same else record.end)
        return future

    def tell(self, end: TaskEnd) -> None:
        """Resolve the future of a task that ended here."""
        with self._lock:
            self._told[end.task_id] = end
            self._told.move_to_end(end.task_id)
            if len(self._told) > _KNOWN_ENDS:
                self._told.popitem(last=False)
        self._resolve(end)

    def close(self) -> None:
        """Resolve all futures; the tasks have not ended."""
        with self._lock:
            self._closed = True
            waited = list(self._waited)
        for task_id in waited:
            self._resolve(TaskEnd(task_id, None))

    def _future(self, task_id: str) -> Future[TaskEnd]:
        """Return the future of a task, made if there is none; with the lock held."""
        if self._closed:
            raise StudioClosed
        future = self._waited.get(task_id)
        if future is None:
            future = self._waited[task_id] = Future()
            # From here on nobody who waits for the future can cancel it.
            future.set_running_or_notify_cancel()
        return future

    def _drop(self, task_id: str) -> None:
        with self._lock:
            self._waited.pop(task_id, None)
            self._expected.discard(task_id)

    def _resolve(self, end: TaskEnd) -> None:
        with self._lock:
            future = self._waited.pop(end.task_id, None)
            self._expected.discard(end.task_id)
        if future is not None:
            future.set_result(end)

    def _follow(self) -> None:
        with self._lock:
            is_first, self._is_following = not self._is_following, True
        if is_first:
            try:
                self._changes.watch(self._on_changes)
            except BaseException:
                self._is_following = False
                raise

    def _on_changes(self, changes: Changes) -> None:
        """Look at the tasks that have ended; on the thread that follows the changes."""
        with self._lock:
            waited = set(self._waited)
        if not changes.reads_anew:
            waited &= {
                change.id
                for change in changes.changes
                if change.kind is ChangeKind.TASK and change.state not in _UNENDED
            }
        elsewhere = [task_id for task_id in waited if not self._runs_here(task_id)]
        if elsewhere:
            self._look(elsewhere)

    def _look(self, task_ids: Iterable[str]) -> None:
        asked = sorted(task_ids)
        try:
            records = self._tasks.get_tasks(asked)
        except Exception as error:  # noqa: BLE001 - the changes tell that it fails
            logger.warning("Ends of tasks cannot be read: %s", error)
            return
        for task_id in asked:
            record = records.get(task_id)
            if record is None:
                with self._lock:
                    was_deleted = task_id not in self._expected
                if was_deleted:
                    self._resolve(TaskEnd(task_id, None))
            elif record.status.ended:
                self._resolve(record.end)
