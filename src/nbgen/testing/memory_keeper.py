"""Deletes tasks in memory. Not thread-safe: ``MemoryBackend`` holds its lock.

The rules are those of ``nbgen.review``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import msgspec

from nbgen.review.deleting import check_deletable, is_old
from nbgen.review.quorum import Quorum
from nbgen.schema import (
    ChangeKind,
    ContentTask,
    Decision,
    NewChange,
    OldTasks,
    TaskRecord,
)
from nbgen.testing.memory_queue import MemoryQueue
from nbgen.testing.memory_reviews import MemoryReviews


class MemoryKeeper:
    """Deletes tasks with all that belongs to them, but for their pictures.

    Args:
        queue: Holds the tasks.
        reviews: Holds the decisions and publications.
        quorum: The approvals that a task needs.
        now: Returns the present time in UTC.
    """

    def __init__(
        self,
        queue: MemoryQueue,
        reviews: MemoryReviews,
        quorum: Quorum,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._queue = queue
        self._reviews = reviews
        self._quorum = quorum
        self._now = now

    def delete(self, task_ids: Sequence[str], *, force: bool) -> None:
        """Delete tasks, all or none; see ``Keeping.delete``."""
        ids = list(dict.fromkeys(task_ids))
        for task_id in ids:
            check_deletable(
                self._reviews.subject(task_id),
                self._reviews.published_by(task_id),
                self._quorum,
                force=force,
            )
        for task_id in ids:
            self._delete(task_id)

    def delete_old(self, old: OldTasks, *, dry_run: bool) -> list[str]:
        """Delete tasks that ended long ago; see ``Keeping.delete_old``."""
        found = [
            task_id
            for task_id in self._queue.tasks
            if is_old(
                self._reviews.subject(task_id),
                self._reviews.published_by(task_id),
                self._quorum,
                old=old,
                now=self._now(),
            )
        ]
        for task_id in () if dry_run else found:
            self._delete(task_id)
        return found

    def referring(self) -> list[TaskRecord | Decision | ContentTask]:
        """Return all values that may refer to pictures."""
        reviews, tasks = self._reviews, self._queue.tasks
        earlier = [
            msgspec.structs.replace(
                tasks[task_id], request=attempt.request, result=attempt.result
            )
            for task_id, attempts in self._queue.attempts.items()
            for attempt in attempts
        ]
        return [*tasks.values(), *earlier, *reviews.log, *reviews.content.values()]

    def _delete(self, task_id: str) -> None:
        self._queue.delete(task_id)
        if self._reviews.delete(task_id):
            self._queue.changes.append(
                [NewChange(ChangeKind.CONTENT, task_id, "deleted")]
            )
