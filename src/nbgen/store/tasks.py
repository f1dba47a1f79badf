"""Tasks: added, started, ended once, found again.

Thread-safe: each change is one transaction. Several processes may open the same
database; each runs the tasks that it submitted itself.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from nbgen.decision import Decision
from nbgen.errors import InvalidRequest
from nbgen.schema import (
    GenerationRequest,
    GenerationResult,
    Outcome,
    Status,
    TaskPage,
    TaskRecord,
)
from nbgen.store.database import Database
from nbgen.store.log import logs_of
from nbgen.store.tables import Row, prompts, tasks

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# No longer than what a time and a number can be.
_CURSOR = re.compile(r"([0-9a-f]{1,14})-([0-9a-f]{1,8})")


class TaskStore:
    """The tasks of one database.

    A part of ``Store``, which says what database that is.
    """

    _database: Database

    def add_task(self, record: TaskRecord) -> bool:
        """Commit a new task; return False if there is one of that id already."""
        try:
            with self._database.writing() as connection:
                insert_task(connection, record, self._database.owner)
        except sa.exc.IntegrityError:
            return False
        return True

    def start_task(self, task_id: str) -> None:
        """Commit that the work on a task has begun."""
        with self._database.writing() as connection:
            connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, tasks.c.outcome.is_(None))
                .values(status=Status.GENERATING, started_at=dt.datetime.now(dt.UTC))
            )

    def end_task(
        self,
        task_id: str,
        outcome: Outcome,
        *,
        ended_at: dt.datetime,
        current_step: int,
        error: str | None = None,
        result: GenerationResult | None = None,
        stages: Mapping[str, float] | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> bool:
        """Commit the end of a task; return False if it has ended already."""
        # Torch says its version in a class of its own, which JSON knows nothing of.
        facts = {name: str(value) for name, value in (made_with or {}).items()}
        rounded = {stage: round(took_s, 3) for stage, took_s in (stages or {}).items()}
        with self._database.writing() as connection:
            changed = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, tasks.c.outcome.is_(None))
                .values(
                    status=outcome.status,
                    outcome=outcome,
                    error=error,
                    ended_at=ended_at,
                    current_step=current_step,
                    result=None if result is None else _json(result),
                    stages=_json(rounded) if rounded else None,
                    made_with=_json(facts) if facts else None,
                )
            )
        return changed.rowcount == 1

    def get_task(self, task_id: str) -> TaskRecord | None:
        """Return the task of that id, or None."""
        with self._database.reading() as connection:
            logs = logs_of(connection, [task_id])
            return read_tasks(connection, [task_id], logs).get(task_id)

    def list_tasks(
        self,
        *,
        limit: int,
        status: Status | None = None,
        text: str | None = None,
        since: dt.datetime | None = None,
        cursor: str | None = None,
    ) -> TaskPage:
        """Return some of the tasks, newest first.

        Args:
            limit: How many at most.
            status: Only those of this status.
            text: Only those with this text in their prompt, in whatever case.
            since: Only those submitted at this time or later.
            cursor: The ``next_cursor`` of the page before.

        Raises:
            InvalidRequest: The cursor is none of ours.
        """
        with self._database.reading() as connection:
            # Either holds the order of the page, so that reading can stop when it is
            # full: searching for a text, from the prompts to their tasks.
            table = tasks if text is None else prompts
            order = (table.c.created_at.desc(), table.c.number.desc())
            query = sa.select(table.c.number).order_by(*order).limit(limit + 1)
            if text is not None:
                query = query.where(_contains(connection, prompts.c.folded, text))
            if status is not None:
                query = query.where(_status(table) == status)
            if since is not None:
                query = query.where(table.c.created_at >= since)
            if cursor is not None:
                place = sa.tuple_(table.c.created_at, table.c.number)
                query = query.where(place < sa.tuple_(*_read_cursor(cursor)))
            numbers = connection.scalars(query).all()
            shown = numbers[:limit]
            newest_first = (tasks.c.created_at.desc(), tasks.c.number.desc())
            rows = connection.execute(
                sa.select(tasks)
                .where(tasks.c.number.in_(shown))
                .order_by(*newest_first)
            ).all()
            logs = logs_of(connection, [row.id for row in rows])
        records = [_record(row, logs.get(row.id, ())) for row in rows]
        more = len(numbers) > limit
        return TaskPage(records, _cursor(rows[-1]) if more else None)

    def find_child(self, task_id: str) -> str | None:
        """Return the id of the newest task that was made of this one, or None."""
        query = (
            sa.select(tasks.c.id)
            .where(tasks.c.parent_id == task_id)
            .order_by(tasks.c.number.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            found: str | None = connection.scalar(query)
            return found

    def set_priority(self, task_id: str, priority: int) -> None:
        """Commit the priority of a task."""
        with self._database.writing() as connection:
            connection.execute(
                tasks.update().where(tasks.c.id == task_id).values(priority=priority)
            )

    def adopt_waiting(self) -> list[TaskRecord]:
        """Make the waiting tasks of processes that are gone this one's.

        Returns:
            Those tasks, oldest first.
        """
        waiting = tasks.c.status == Status.PENDING
        with self._database.writing() as connection:
            adopted = [
                task_id
                for owner in self._gone_owners(connection, waiting)
                for task_id in connection.scalars(
                    sa.select(tasks.c.id).where(waiting, tasks.c.owner == owner)
                ).all()
            ]
            connection.execute(
                tasks.update()
                .where(tasks.c.id.in_(adopted))
                .values(owner=self._database.owner)
            )
            records = read_tasks(connection, adopted, {})
        return sorted(records.values(), key=lambda record: record.created_at)

    def _gone_owners(
        self, connection: sa.Connection, which: sa.ColumnElement[bool]
    ) -> list[str]:
        """Return whose tasks there are, of those whose process has ended."""
        owners = connection.scalars(sa.select(tasks.c.owner).where(which).distinct())
        return [owner for owner in owners.all() if self._database.is_gone(owner)]

    def end_lost_tasks(self) -> None:
        """End the tasks that ran in a process that is gone as ``lost``."""
        running = tasks.c.status == Status.GENERATING
        with self._database.writing() as connection:
            for owner in self._gone_owners(connection, running):
                connection.execute(
                    tasks.update()
                    .where(running, tasks.c.owner == owner)
                    .values(
                        status=Status.FAILED,
                        outcome=Outcome.LOST,
                        error="The process that ran this task ended. Submit it again.",
                        ended_at=dt.datetime.now(dt.UTC),
                    )
                )


def insert_task(connection: sa.Connection, record: TaskRecord, owner: str) -> None:
    """Add a task within a transaction.

    Raises:
        sqlalchemy.exc.IntegrityError: There is one of that id.
    """
    values = {
        "id": record.id,
        "parent_id": record.parent_id,
        "owner": owner,
        "request": _json(record.request),
        "seed": record.seed,
        "priority": record.priority,
        "status": record.status,
        "created_at": record.created_at,
        "current_step": 0,
    }
    inserted = connection.execute(tasks.insert().values(values))
    [number] = inserted.inserted_primary_key or [None]
    folded = record.request.prompt.casefold()
    values = {"created_at": record.created_at, "number": number, "folded": folded}
    connection.execute(prompts.insert().values(values))


def read_tasks(
    connection: sa.Connection,
    task_ids: Sequence[str],
    logs: Mapping[str, Sequence[Decision]],
) -> dict[str, TaskRecord]:
    """Return the tasks of those ids that there are, with their decisions."""
    query = sa.select(tasks).where(tasks.c.id.in_(task_ids))
    return {
        row.id: _record(row, logs.get(row.id, ())) for row in connection.execute(query)
    }


def _contains(
    connection: sa.Connection, column: sa.Column[Any], text: str
) -> sa.ColumnElement[bool]:
    # Not LIKE, to which some of the text would be a wildcard, and which in SQLite knows
    # the small letters of English alone.
    postgresql = connection.dialect.name == "postgresql"
    place = sa.func.strpos if postgresql else sa.func.instr
    return place(column, text.casefold()) > 0


def _status(table: sa.Table) -> sa.ColumnElement[str]:
    if table is tasks:
        return tasks.c.status
    # Not a join, which SQLite might begin at the tasks and then search each prompt.
    return (
        sa.select(tasks.c.status)
        .where(tasks.c.number == table.c.number)
        .scalar_subquery()
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _record(row: Row, log: Iterable[Decision]) -> TaskRecord:
    values = row._mapping
    return TaskRecord(
        id=values["id"],
        parent_id=values["parent_id"],
        request=msgspec.json.decode(values["request"], type=GenerationRequest),
        seed=values["seed"],
        priority=values["priority"],
        status=Status(values["status"]),
        outcome=values["outcome"] and Outcome(values["outcome"]),
        error=values["error"],
        created_at=values["created_at"],
        started_at=values["started_at"],
        ended_at=values["ended_at"],
        current_step=values["current_step"],
        stages=msgspec.json.decode(values["stages"] or "{}"),
        made_with=msgspec.json.decode(values["made_with"] or "{}"),
        result=values["result"]
        and msgspec.json.decode(values["result"], type=GenerationResult),
        decisions=tuple(log),
    )


def _cursor(row: Row) -> str:
    return f"{(row.created_at - _EPOCH) // _MICROSECOND:x}-{row.number:x}"


def _read_cursor(cursor: str) -> tuple[sa.ColumnElement[Any], int]:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        allowed = "the next_cursor of a page, or left out"
        raise InvalidRequest("cursor", cursor, allowed)
    microseconds, number = (int(part, 16) for part in found.groups())
    created_at = _EPOCH + microseconds * _MICROSECOND
    return sa.bindparam("created_at", created_at, tasks.c.created_at.type), number
