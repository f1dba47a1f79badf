"""Makes new tasks: their ids, seeds and times, and the tasks of a batch.

Pure functions but for chance and the clock, which ``Draft`` holds; any thread may call
them.
"""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from nbgen.errors import DecisionConflict, TaskConflict, TaskNotEnded, TaskSucceeded
from nbgen.schema.checks import MAX_SEED
from nbgen.schema.request import GenerationRequest
from nbgen.schema.task import BatchRow, Outcome, Status, TaskRecord


def utc_now() -> dt.datetime:
    """Return the present time in UTC."""
    return dt.datetime.now(dt.UTC)


def new_id() -> str:
    """Return an id of 16 hexadecimal digits that no task has."""
    return uuid.uuid4().hex[:16]


class Plan(NamedTuple):
    """What a submission changes, all or none.

    Attributes:
        new: Tasks to add.
        again: Tasks that exist and are to wait for their next attempt, as they are to
            be made; or that have not ended, and are to run also if whoever submitted
            them is gone.
    """

    new: Sequence[TaskRecord] = ()
    again: Sequence[TaskRecord] = ()


class Draft(NamedTuple):
    """Draws what a new task needs; tests replace the parts that chance decides.

    Attributes:
        new_id: Returns an id that no task has.
        draw_below: Returns a random number from 0 up to, not including, its argument.
        now: Returns the present time in UTC.
    """

    new_id: Callable[[], str] = new_id
    draw_below: Callable[[int], int] = secrets.randbelow
    now: Callable[[], dt.datetime] = utc_now


DRAFT = Draft()
"""Draws by chance and by the clock, as everywhere but in tests."""


def new_record(
    task_id: str,
    request: GenerationRequest,
    parent_id: str | None = None,
    *,
    priority: int = 0,
    draft: Draft = DRAFT,
) -> TaskRecord:
    """Return a task that waits, with a drawn seed if the request names none."""
    seed = request.seed
    if seed is None:
        # So that the last picture of a batch has a seed that may be asked for, too.
        seed = draft.draw_below(MAX_SEED - request.num_images)
    return TaskRecord(
        id=task_id,
        parent_id=parent_id,
        request=request,
        seed=seed,
        priority=priority,
        status=Status.PENDING,
        created_at=draft.now(),
    )


def new_child(
    parent: TaskRecord,
    request: GenerationRequest | None = None,
    *,
    priority: int | None = None,
    draft: Draft = DRAFT,
) -> TaskRecord:
    """Return a task that waits and takes the place of another, in its batch too.

    Args:
        parent: The other task.
        request: What to make; None for the same.
        priority: Its priority; None for the same.
        draft: Draws its id, seed and time.
    """
    child = new_record(
        draft.new_id(),
        parent.request if request is None else request,
        parent.id,
        priority=parent.priority if priority is None else priority,
        draft=draft,
    )
    return in_batch(child, parent.batch_id, parent.batch_row)


def in_batch(
    record: TaskRecord, batch_id: str | None, batch_row: str | None
) -> TaskRecord:
    """Return the task as one for that row of a batch; None for no batch."""
    return msgspec.structs.replace(record, batch_id=batch_id, batch_row=batch_row)


def plan_batch(
    batch_id: str,
    requests: Mapping[str, GenerationRequest],
    rows: Collection[BatchRow],
    known: Mapping[str, TaskRecord],
    *,
    priority: int,
    draft: Draft = DRAFT,
) -> Plan:
    """Return what to queue, so that each row of a batch gets its pictures.

    What a person cancelled stays so.

    Args:
        batch_id: The batch.
        requests: The requests by the names of their rows.
        rows: The rows of the batch that exist.
        known: Tasks by their ids: at least the newest of each row, and the first unless
            it was deleted.
        priority: The priority of the new tasks.
        draft: Draws their ids, seeds and times.

    Raises:
        TaskConflict: A row exists with another request.
    """
    standing = {row.name: row for row in rows}
    new: list[TaskRecord] = []
    again: list[TaskRecord] = []
    for name, request in requests.items():
        row, first_id = standing.get(name), f"{batch_id}:{name}"
        if row is None:
            record = new_record(first_id, request, priority=priority, draft=draft)
            new.append(in_batch(record, batch_id, name))
        elif first_id in known and known[first_id].request != request:
            raise TaskConflict(first_id)
        elif revives(known[row.task_id]):
            again.append(known[row.task_id])
    return Plan(new, again)


def revives(standing: TaskRecord) -> bool:
    """Return whether a task is in the plan when it is submitted once more.

    So it is if it failed or was lost, but not if a person cancelled it. One that has
    not ended is in it, since it may be offered, or come to be.
    """
    return standing.outcome in (None, Outcome.FAILED, Outcome.LOST)


def check_retried(standing: TaskRecord) -> None:
    """Check that another attempt may be made at a task.

    Raises:
        TaskNotEnded: It waits or runs.
        TaskSucceeded: It has its pictures.
        DecisionConflict: A decision on it stands.
    """
    check_replaceable(standing)
    if standing.outcome is Outcome.SUCCEEDED:
        raise TaskSucceeded(standing.id)


def check_replaceable(standing: TaskRecord) -> None:
    """Check that a task may be made anew, with whatever request.

    Raises:
        TaskNotEnded: It waits or runs.
        DecisionConflict: A decision on it stands.
    """
    if not standing.status.ended:
        raise TaskNotEnded(standing.id)
    if standing.decision is not None:
        raise DecisionConflict(
            standing.id,
            f"There is a decision on task {standing.id!r}. Undo it before the task is "
            "made again, or make another task.",
        )
