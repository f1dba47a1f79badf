"""Finds tasks, their attempts and the rows of their batches.

Thread-safe. ``nbgen.store.queue`` and ``nbgen.store.running`` change them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from nbgen.errors import InvalidRequest, UnknownTask
from nbgen.schema import (
    Attempt,
    BatchRow,
    ChangedRows,
    Position,
    TaskPage,
    TaskQuery,
    TaskRecord,
    present_attempt,
    utc_now,
)
from nbgen.store.attempts import read_attempts
from nbgen.store.batch_rows import changed_rows, list_rows
from nbgen.store.database import Database
from nbgen.store.log import logs_of
from nbgen.store.tables import Row, prompts, tasks
from nbgen.store.task_rows import (
    in_statements,
    read_task,
    read_tasks,
)

# No longer than what a number can be.
_CURSOR = re.compile(r"[0-9a-f]{1,8}")


class TaskStore:
    """The tasks of one database."""

    def __init__(
        self, database: Database, now: Callable[[], dt.datetime] = utc_now
    ) -> None:
        self._database = database
        self._now = now

    def get_task(self, task_id: str) -> TaskRecord | None:
        """Return the task of that id, or None."""
        with self._database.reading() as connection:
            logs = logs_of(connection, [task_id])
            return read_tasks(connection, [task_id], logs).get(task_id)

    def get_tasks(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Return the tasks of those ids that there are."""
        found: dict[str, TaskRecord] = {}
        with self._database.reading() as connection:
            for some in in_statements(task_ids):
                found |= read_tasks(connection, some, logs_of(connection, some))
        return found

    def get_known(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return tasks in the order of the ids.

        Raises:
            UnknownTask: There is no such task; the first that is missing.
        """
        found = self.get_tasks(task_ids)
        for task_id in task_ids:
            if task_id not in found:
                raise UnknownTask(task_id)
        return [found[task_id] for task_id in task_ids]

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of the tasks that the query asks for, newest first.

        Raises:
            InvalidRequest: The cursor is none of ours.
        """
        with self._database.reading() as connection:
            # Either holds the order of the page, so that reading can stop when it is
            # full: searching for a text, from the prompts to their tasks.
            table = tasks if query.text is None else prompts
            statement = (
                sa.select(table.c.number)
                .order_by(table.c.number.desc())
                .limit(query.limit + 1)
            )
            if query.text is not None:
                statement = statement.where(
                    _contains(connection, prompts.c.folded, query.text)
                )
            if query.status is not None:
                statement = statement.where(
                    _of_task(table, tasks.c.status) == query.status
                )
            if query.batch_id is not None:
                statement = statement.where(
                    _of_task(table, tasks.c.batch_id) == query.batch_id
                )
            if query.since is not None:
                oldest = sa.select(sa.func.min(tasks.c.number)).where(
                    tasks.c.created_at >= query.since
                )
                statement = statement.where(
                    table.c.number >= oldest.scalar_subquery(),
                    _of_task(table, tasks.c.created_at) >= query.since,
                )
            if query.cursor is not None:
                statement = statement.where(table.c.number < _read_cursor(query.cursor))
            numbers = connection.scalars(statement).all()
            shown = numbers[: query.limit]
            rows = connection.execute(
                sa.select(tasks)
                .where(tasks.c.number.in_(shown))
                .order_by(tasks.c.number.desc())
            ).all()
            logs = logs_of(connection, [row.id for row in rows])
        records = [read_task(row, logs.get(row.id, ())) for row in rows]
        more = len(numbers) > query.limit
        return TaskPage(records, _cursor(rows[-1]) if more else None)

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts at a task, the first one first.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._database.reading() as connection:
            record = read_tasks(connection, [task_id], {}).get(task_id)
            if record is None:
                raise UnknownTask(task_id)
            # In PostgreSQL the last one may have been kept since it was read.
            found = [*present_attempt(record), *read_attempts(connection, task_id)]
        last = {attempt.number: attempt for attempt in found}
        return [last[number] for number in sorted(last)]

    def list_rows(self, batch_id: str) -> list[BatchRow]:
        """Return where the rows of a batch stand, in the order of their first tasks.

        Of several tasks for one row, the newest counts. Empty if there is no such
        batch.
        """
        with self._database.reading() as connection:
            return list_rows(connection, batch_id)

    def changed_rows(self, batch_id: str, since: Position | None) -> ChangedRows:
        """Return the rows of a batch that have changed since a place in the feed."""
        with self._database.reading() as connection:
            return changed_rows(connection, batch_id, since)


def _contains(
    connection: sa.Connection, column: sa.Column[Any], text: str
) -> sa.ColumnElement[bool]:
    # Not LIKE, to which some of the text would be a wildcard, and which in SQLite knows
    # the small letters of English alone.
    postgresql = connection.dialect.name == "postgresql"
    place = sa.func.strpos if postgresql else sa.func.instr
    return place(column, text.casefold()) > 0


def _of_task(table: sa.Table, column: sa.Column[str]) -> sa.ColumnElement[str]:
    if table is tasks:
        return column
    # Not a join, which SQLite might begin at the tasks and then search each prompt.
    return sa.select(column).where(tasks.c.number == table.c.number).scalar_subquery()


def _cursor(row: Row) -> str:
    return f"{row.number:x}"


def _read_cursor(cursor: str) -> int:
    if _CURSOR.fullmatch(cursor) is None:
        allowed = "the next_cursor of a page, or left out"
        raise InvalidRequest("cursor", cursor, allowed)
    return int(cursor, 16)
