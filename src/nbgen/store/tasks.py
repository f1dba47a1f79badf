"""Tasks: added, started, ended once, found again.

Thread-safe: each change is one transaction. Several processes may open the same
database; each runs the tasks that it submitted itself.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

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
                    made_with=_json(made_with) if made_with else None,
                )
            )
        return changed.rowcount == 1

    def get_task(self, task_id: str) -> TaskRecord | None:
        """Return the task of that id, or None."""
        with self._database.reading() as connection:
            return read_task(connection, task_id)

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
        newest_first = (tasks.c.created_at.desc(), tasks.c.number.desc())
        query = sa.select(tasks).order_by(*newest_first).limit(limit + 1)
        if status is not None:
            query = query.where(tasks.c.status == status)
        if since is not None:
            query = query.where(tasks.c.created_at >= since)
        if cursor is not None:
            order = sa.tuple_(tasks.c.created_at, tasks.c.number)
            query = query.where(order < sa.tuple_(*_read_cursor(cursor)))
        with self._database.reading() as connection:
            if text is not None:
                contains = sa.func.instr
                if connection.dialect.name == "postgresql":
                    contains = sa.func.strpos
                query = query.join(prompts, prompts.c.number == tasks.c.number).where(
                    contains(prompts.c.folded, text.casefold()) > 0
                )
            rows = connection.execute(query).all()
            shown = rows[:limit]
            logs = logs_of(connection, [row.id for row in shown])
        records = [_record(row, logs.get(row.id, ())) for row in shown]
        more = len(rows) > limit
        return TaskPage(records, _cursor(shown[-1]) if more else None)

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

    def end_lost_tasks(self) -> None:
        """End the tasks whose process is gone as ``lost``."""
        unfinished = tasks.c.outcome.is_(None)
        with self._database.writing() as connection:
            owners = connection.scalars(
                sa.select(tasks.c.owner).where(unfinished).distinct()
            ).all()
            for owner in owners:
                if not self._database.is_gone(owner):
                    continue
                connection.execute(
                    tasks.update()
                    .where(unfinished, tasks.c.owner == owner)
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
        "status": record.status,
        "created_at": record.created_at,
        "current_step": 0,
    }
    inserted = connection.execute(tasks.insert().values(values))
    [number] = inserted.inserted_primary_key or [None]
    folded = record.request.prompt.casefold()
    connection.execute(prompts.insert().values(number=number, folded=folded))


def read_task(connection: sa.Connection, task_id: str) -> TaskRecord | None:
    """Return the task of that id within a transaction, or None."""
    query = sa.select(tasks).where(tasks.c.id == task_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return _record(row, logs_of(connection, [task_id]).get(task_id, ()))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _record(row: Row, log: Iterable[Any]) -> TaskRecord:
    values = row._mapping
    return TaskRecord(
        id=values["id"],
        parent_id=values["parent_id"],
        request=msgspec.json.decode(values["request"], type=GenerationRequest),
        seed=values["seed"],
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
