"""Decides which tasks a submission makes: new ones, missing rows, retries, children.

Holds no state of its own, so any thread may call every method. What it plans is
committed by the scheduler, which has it plan anew if somebody else was faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nbgen.errors import InvalidRequest, TaskConflict
from nbgen.local.archive import Archive
from nbgen.local.reviews import Reviews, unless_refused
from nbgen.local.scheduler import Scheduler
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
from nbgen.store.tasks import TaskStore


class Submitter:
    """Submits tasks; see the protocol ``Running`` and ``Deciding.request_changes``.

    Args:
        tasks: The tasks that exist.
        archive: Keeps the pictures that requests refer to.
        reviews: Takes the decisions that request changes.
        scheduler: Commits what is planned here.
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
        self,
        request: GenerationRequest,
        *,
        task_id: str | None,
        priority: int,
        replace: bool = False,
    ) -> TaskRecord:
        """Queue a task; see ``Running.submit``."""
        new_id = check_task_id(self._draft.new_id() if task_id is None else task_id)
        check_priority(priority)
        self._archive.keep_pictures_of(request)
        self._scheduler.save_ends()
        new = new_record(new_id, request, priority=priority, draft=self._draft)
        standing: TaskRecord | None = None

        def make_plan() -> Plan:
            nonlocal standing
            known = None if task_id is None else self._archive.find_task(new_id)
            standing = known
            if known is None:
                self._scheduler.expect(new_id)
                return Plan(new=[new])
            if known.request != request:
                if not replace:
                    raise TaskConflict(new_id)
                check_replaceable(known)
                standing = msgspec.structs.replace(
                    known, request=request, seed=new.seed, priority=priority
                )
                return Plan(again=[standing])
            return Plan(again=[known] if revives(known) else [])

        try:
            plan = self._scheduler.add(make_plan)
        except BaseException:
            self._scheduler.expect_no_more(new_id)
            raise
        if standing is None:
            return new
        return self._tasks.get_known([new_id])[0] if plan.again else standing

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """Queue what is missing of a batch; see ``Running.submit_batch``."""
        check_batch_name("batch_id", batch_id)
        check_priority(priority)
        for name, request in rows.items():
            check_batch_name("row", name)
            self._archive.keep_pictures_of(request)
        self._scheduler.save_ends()

        def make_plan() -> Plan:
            known_rows = [r for r in self._tasks.list_rows(batch_id) if r.name in rows]
            ids = {row.task_id for row in known_rows}
            ids |= {f"{batch_id}:{row.name}" for row in known_rows}
            known = self._tasks.get_tasks(sorted(ids))
            return plan_batch(
                batch_id, rows, known_rows, known, priority=priority, draft=self._draft
            )

        self._scheduler.add(make_plan)

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Queue ended tasks again, all or none; see ``Running.retry``."""
        self._scheduler.save_ends()
        asked = list(dict.fromkeys(task_ids))

        def make_plan() -> Plan:
            olds = self._archive.get_tasks(asked)
            for old in olds:
                check_retried(old)
            return Plan(again=olds)

        self._scheduler.add(make_plan)
        return self._tasks.get_known(task_ids)

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """Queue missing rows of a batch again; see ``Running.retry_rows``."""
        wanted = frozenset(rows)
        self._scheduler.save_ends()

        def make_plan() -> Plan:
            standing = self._tasks.list_rows(batch_id)
            missing = [r.task_id for r in standing if r.name in wanted and r.is_missing]
            return Plan(again=self._tasks.get_known(missing))

        self._scheduler.add(make_plan)

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

        self._scheduler.check_room(1)
        standing = unless_refused(self._reviews.decide([request], child)[0]).child_id
        self._scheduler.wake()
        if standing is None or standing == child.id:
            return None if standing is None else child
        # The same was asked for before, so there is a child already.
        [earlier] = self._tasks.get_known([standing])
        if prompt is not None:
            check_same_changes(earlier, wanted)
        return earlier
