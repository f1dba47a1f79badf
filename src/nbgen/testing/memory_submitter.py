"""Plans the tasks of a ``MemoryBackend``. Not thread-safe: the backend holds its lock.

The rules are those of ``nbgen.schema`` and ``nbgen.review``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from nbgen.errors import InvalidRequest, NbgenError, TaskConflict
from nbgen.review.changes import changed_request, check_same_changes
from nbgen.schema import (
    DecisionRequest,
    Draft,
    GenerationRequest,
    Plan,
    TaskRecord,
    check_replaceable,
    check_retried,
    new_child,
    new_record,
    plan_batch,
    revives,
)
from nbgen.schema.checks import check_batch_name, check_priority, check_task_id
from nbgen.testing.memory_finding import rows_of
from nbgen.testing.memory_pictures import MemoryPictures
from nbgen.testing.memory_queue import MemoryQueue
from nbgen.testing.memory_reviews import MemoryReviews


class MemorySubmitter:
    """Decides which tasks a submission makes, and queues them.

    Args:
        queue: Holds the tasks.
        pictures: Holds the pictures that requests refer to.
        reviews: Takes the decisions that request changes.
        draft: Draws the ids, seeds and times of new tasks.
    """

    def __init__(
        self,
        queue: MemoryQueue,
        pictures: MemoryPictures,
        reviews: MemoryReviews,
        draft: Draft,
    ) -> None:
        self._queue = queue
        self._tasks = queue.tasks
        self._pictures = pictures
        self._reviews = reviews
        self._draft = draft

    def submit(
        self,
        request: GenerationRequest,
        task_id: str | None,
        priority: int,
        *,
        replace: bool,
    ) -> str:
        """Queue a task, or another attempt at one that exists; return its id."""
        task_id = self._draft.new_id() if task_id is None else check_task_id(task_id)
        check_priority(priority)
        self._pictures.keep_pictures_of(request)
        new = new_record(task_id, request, priority=priority, draft=self._draft)
        self._queue.submit(self._plan(new, replace=replace))
        return task_id

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], priority: int
    ) -> None:
        """Queue what is missing of a batch."""
        check_batch_name("batch_id", batch_id)
        check_priority(priority)
        for name, request in rows.items():
            check_batch_name("row", name)
            self._pictures.keep_pictures_of(request)
        known = rows_of(self._queue.numbered(), batch_id)
        plan = plan_batch(
            batch_id, rows, known, self._tasks, priority=priority, draft=self._draft
        )
        self._queue.submit(plan)

    def retry(self, task_ids: Sequence[str]) -> None:
        """Queue another attempt at tasks that exist, all or none."""
        asked = list(dict.fromkeys(task_ids))
        for task_id in asked:
            check_retried(self._reviews.reviewed_task(self._tasks[task_id]))
        self._queue.submit(Plan(again=[self._tasks[task_id] for task_id in asked]))

    def retry_rows(self, batch_id: str, rows: Collection[str]) -> None:
        """Queue missing rows again."""
        present = rows_of(self._queue.numbered(), batch_id)
        missing = [row for row in present if row.name in rows and row.is_missing]
        self._queue.submit(Plan(again=[self._tasks[row.task_id] for row in missing]))

    def request_changes(
        self, request: DecisionRequest, prompt: str | None
    ) -> str | None:
        """Send a task back and queue its child; return the child's id, if it has one.

        A task that was made elsewhere has none.
        """
        if request.feedback is None:
            raise InvalidRequest("feedback", request.feedback, "what should change")
        parent = self._tasks.get(request.task_id)
        child = None
        if parent is not None:
            child = new_child(
                parent, changed_request(parent, prompt), draft=self._draft
            )
            self._queue.check_room(1)
        [answer] = self._reviews.decide([request], child)
        if isinstance(answer, NbgenError):
            raise answer
        if answer.child_id is None:
            return None
        if child is not None and answer.child_id == child.id:
            self._queue.submit(Plan(new=[child]))
        if prompt is not None and child is not None:
            check_same_changes(self._tasks[answer.child_id], child.request)
        return answer.child_id

    def _plan(self, new: TaskRecord, *, replace: bool) -> Plan:
        standing = self._tasks.get(new.id)
        if standing is None:
            return Plan(new=[new])
        if standing.request == new.request:
            return Plan(again=[standing] if revives(standing) else [])
        if not replace:
            raise TaskConflict(new.id)
        check_replaceable(self._reviews.reviewed_task(standing))
        other = msgspec.structs.replace(
            standing, request=new.request, seed=new.seed, priority=new.priority
        )
        return Plan(again=[other])
