"""Decides which tasks a submission makes: new ones, missing rows, retries, children.

Holds no state of its own, so any thread may call every method. What it plans is
committed and queued by the scheduler, whose lock is held while a plan is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nbgen.errors import (
    DataFolderInUse,
    InvalidRequest,
    TaskConflict,
    TaskNotEnded,
)
from nbgen.local.archive import Archive
from nbgen.local.reviews import Reviews, unless_refused
from nbgen.local.scheduler import Scheduler
from nbgen.review.changes import changed_request, check_same_changes
from nbgen.schema import (
    DecisionRequest,
    Draft,
    GenerationRequest,
    TaskRecord,
    new_child,
    new_record,
    plan_batch,
)
from nbgen.schema.checks import check_batch_name, check_priority, check_task_id
from nbgen.store.tasks import TaskStore


class Submitter:
    """Submits tasks; see the protocol ``Running`` and ``Deciding.request_changes``.

    Args:
        tasks: The tasks that exist.
        archive: Keeps the pictures that requests refer to.
        reviews: Takes the decisions that request changes.
        scheduler: Commits, queues and runs what is planned here.
        draft: Draws the ids, seeds and times of new tasks.
    """

    def __init__(
        self,
        tasks: TaskStore,
        archive: Archive,
        reviews: Reviews,
        scheduler: Scheduler,
        draft: Draft,
    ) -> None:
        self._tasks = tasks
        self._archive = archive
        self._reviews = reviews
        self._scheduler = scheduler
        self._draft = draft

    def submit(
        self, request: GenerationRequest, *, task_id: str | None, priority: int
    ) -> TaskRecord:
        """Queue a task; see ``Running.submit``."""
        new_id = check_task_id(self._draft.new_id() if task_id is None else task_id)
        check_priority(priority)
        self._archive.keep_pictures_of(request)
        standing: TaskRecord | None = None

        def plan() -> list[TaskRecord]:
            nonlocal standing
            standing = self._find_same(new_id, request)
            if standing is not None:
                return []
            return [new_record(new_id, request, priority=priority, draft=self._draft)]

        records = self._add_missing(plan)
        return standing or records[0]

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """Queue what is missing of a batch; see ``Running.submit_batch``."""
        check_batch_name("batch_id", batch_id)
        check_priority(priority)
        for name, request in rows.items():
            check_batch_name("row", name)
            self._archive.keep_pictures_of(request)

        def plan() -> list[TaskRecord]:
            known_rows = [r for r in self._tasks.list_rows(batch_id) if r.name in rows]
            ids = {row.task_id for row in known_rows}
            ids |= {f"{batch_id}:{row.name}" for row in known_rows}
            known = self._tasks.get_tasks(sorted(ids))
            return plan_batch(
                batch_id, rows, known_rows, known, priority=priority, draft=self._draft
            )

        self._add_missing(plan)

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Queue ended tasks again, all or none; see ``Running.retry``."""
        self._scheduler.save_ends()
        olds = self._tasks.get_known(task_ids)
        for old in olds:
            if not old.status.ended:
                raise TaskNotEnded(old.id)
        if not olds:
            return []
        children = [new_child(old, draft=self._draft) for old in olds]
        return list(self._scheduler.add(lambda: children))

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """Queue missing rows of a batch again; see ``Running.retry_rows``."""
        wanted = frozenset(rows)

        def plan() -> list[TaskRecord]:
            standing = self._tasks.list_rows(batch_id)
            missing = [r.task_id for r in standing if r.name in wanted and r.is_missing]
            lasts = self._tasks.get_known(missing)
            return [new_child(last, draft=self._draft) for last in lasts]

        self._add_missing(plan)

    def request_changes(
        self, request: DecisionRequest, *, prompt: str | None
    ) -> TaskRecord | None:
        """Send a task back and queue its child; see ``Deciding.request_changes``."""
        if request.feedback is None:
            raise InvalidRequest("feedback", request.feedback, "what should change")
        parent = self._tasks.get_task(request.task_id)
        if parent is None:
            unless_refused(self._reviews.decide([request])[0])
            return None
        wanted = changed_request(parent, prompt)
        child = new_child(parent, wanted, draft=self._draft)

        def commit() -> str | None:
            return unless_refused(self._reviews.decide([request], child)[0]).child_id

        standing = self._scheduler.add_child(child, commit)
        if standing is None or standing == child.id:
            return None if standing is None else child
        # The same was asked for before, so there is a child already.
        [earlier] = self._tasks.get_known([standing])
        if prompt is not None:
            check_same_changes(earlier, wanted)
        return earlier

    def _add_missing(
        self, plan: Callable[[], list[TaskRecord]]
    ) -> Sequence[TaskRecord]:
        """Queue what a plan finds missing; see ``Scheduler.add``.

        Raises:
            DataFolderInUse: Another process runs the tasks, and something is missing.
        """
        try:
            return self._scheduler.add(plan)
        except DataFolderInUse:
            missing = plan()
            if missing:
                raise
            # All of it is made, or the process that runs tasks will make it.
            return missing

    def _find_same(self, task_id: str, request: GenerationRequest) -> TaskRecord | None:
        """Return the task of that id, if there is one.

        Raises:
            TaskConflict: It has another request.
        """
        standing = self._tasks.get_task(task_id)
        if standing is not None and standing.request != request:
            raise TaskConflict(task_id)
        return standing
