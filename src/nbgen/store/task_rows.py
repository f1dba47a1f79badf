"""Rows of tasks, read and written within a transaction of the caller's.

Thread-safe as far as the transaction is one thread's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from nbgen.schema import (
    ChangeKind,
    Decision,
    GenerationRequest,
    GenerationResult,
    NewChange,
    Outcome,
    Status,
    TaskRecord,
)
from nbgen.store.database import Database
from nbgen.store.tables import Row, prompts, tasks

UNENDED = tasks.c.status.in_([Status.PENDING, Status.GENERATING])
"""Whether a task waits or runs."""

_MOST_AT_ONCE = 1_000
_StepTimes = dict[str, tuple[float, ...]]


def in_statements(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the ids in parts, since a statement takes so many values and no more."""
    for start in range(0, len(task_ids), _MOST_AT_ONCE):
        yield task_ids[start : start + _MOST_AT_ONCE]


def insert_tasks(
    connection: sa.Connection, records: Sequence[TaskRecord], owner: str, queue: str
) -> None:
    """Add tasks within a transaction, in their order.

    Raises:
        sqlalchemy.exc.IntegrityError: There is one of such an id.
    """
    if not records:
        return
    rows = [
        {
            "id": record.id,
            "parent_id": record.parent_id,
            "batch_id": record.batch_id,
            "batch_row": record.batch_row,
            "owner": owner,
            "queue": queue,
            "request": to_json(record.request),
            "seed": record.seed,
            "priority": record.priority,
            "status": record.status,
            "created_at": record.created_at,
            "current_step": 0,
        }
        for record in records
    ]
    numbered = tasks.insert().returning(tasks.c.number, sort_by_parameter_order=True)
    numbers = connection.scalars(numbered, rows).all()
    found = [
        {
            "number": number,
            "folded": record.request.prompt.casefold(),
        }
        for number, record in zip(numbers, records, strict=True)
    ]
    connection.execute(prompts.insert(), found)


def changed(rows: Iterable[Row], state: str) -> list[NewChange]:
    """Return the entries of the feed for tasks that have come into another state."""
    return [NewChange(ChangeKind.TASK, row.id, state, row.batch_id) for row in rows]


def change_tasks(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    state: str,
    **values: Any,
) -> list[NewChange]:
    """Change rows of tasks, and return the entries of the feed for that."""
    rows = connection.execute(
        tasks.update()
        .where(which)
        .values(**values)
        .returning(tasks.c.id, tasks.c.batch_id)
    )
    return changed(rows, state)


def owners_gone(database: Database, which: sa.ColumnElement[bool]) -> list[str]:
    """Return the owners of unended tasks whose processes have ended.

    Args:
        database: The database; no transaction is under way.
        which: Which tasks.
    """
    query = sa.select(tasks.c.owner).where(which, UNENDED).distinct()
    with database.reading() as connection:
        owners = connection.scalars(query).all()
    return [owner for owner in owners if database.is_gone(owner)]


def lock_rows(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Keep others from changing rows of tasks until the transaction ends."""
    if connection.dialect.name != "postgresql":
        return  # SQLite has one writer, and that is us
    # In one order, or two would wait for each other for ever.
    rows = sa.select(tasks.c.number).where(which).order_by(tasks.c.number)
    connection.execute(rows.with_for_update())


def read_tasks(
    connection: sa.Connection,
    task_ids: Sequence[str],
    logs: Mapping[str, Sequence[Decision]],
) -> dict[str, TaskRecord]:
    """Return the tasks of those ids that there are, with their decisions."""
    query = sa.select(tasks).where(tasks.c.id.in_(task_ids))
    return {
        row.id: read_task(row, logs.get(row.id, ()))
        for row in connection.execute(query)
    }


def to_json(value: object) -> str:
    """Return the value as the text of a column."""
    return msgspec.json.encode(value).decode()


def read_task(row: Row, log: Iterable[Decision]) -> TaskRecord:
    """Return the task of a row, with its log of decisions."""
    values = row._mapping
    return TaskRecord(
        id=values["id"],
        parent_id=values["parent_id"],
        batch_id=values["batch_id"],
        batch_row=values["batch_row"],
        request=msgspec.json.decode(values["request"], type=GenerationRequest),
        seed=values["seed"],
        priority=values["priority"],
        attempt=values["attempt"],
        lane=values["lane"],
        is_offered=values["offered"],
        status=Status(values["status"]),
        outcome=values["outcome"] and Outcome(values["outcome"]),
        error=values["error"],
        created_at=values["created_at"],
        started_at=values["started_at"],
        ended_at=values["ended_at"],
        current_step=values["current_step"],
        stages=msgspec.json.decode(values["stages"] or "{}"),
        step_times=msgspec.json.decode(values["step_times"] or "{}", type=_StepTimes),
        made_with=msgspec.json.decode(values["made_with"] or "{}"),
        result=values["result"]
        and msgspec.json.decode(values["result"], type=GenerationResult),
        decisions=tuple(log),
    )
