"""Tasks: added, started, ended once, found again.

Thread-safe: each change is one transaction. Several processes may open the same
database; each runs the tasks that it submitted itself.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from nbgen.errors import InvalidRequest, TaskConflict, UnknownTask
from nbgen.schema import (
    BatchRow,
    ChangedRows,
    GenerationResult,
    Outcome,
    Position,
    Status,
    TaskPage,
    TaskQuery,
    TaskRecord,
    changes_of_new,
    utc_now,
)
from nbgen.store.batch_rows import changed_rows, list_rows
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.log import logs_of
from nbgen.store.tables import Row, prompts, tasks
from nbgen.store.task_rows import (
    changed,
    in_statements,
    insert_tasks,
    read_task,
    read_tasks,
    to_json,
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

    def add_tasks(self, records: Sequence[TaskRecord]) -> None:
        """Commit new tasks, all or none.

        Raises:
            TaskConflict: There is one of such an id already.
            UnknownTask: A parent was deleted meanwhile.
        """
        try:
            with self._database.writing() as connection:
                insert_tasks(connection, records, self._database.owner)
                append(connection, changes_of_new(records), self._now())
        except sa.exc.IntegrityError as error:
            taken = self.find_taken(records)
            parents = {each.parent_id for each in records if each.parent_id}
            gone = sorted(parents - self.get_tasks(sorted(parents)).keys())
            if taken is None and gone:
                raise UnknownTask(gone[0]) from error
            raise TaskConflict(taken or records[0].id) from error

    def find_taken(self, records: Sequence[TaskRecord]) -> str | None:
        """Return the first of the records' ids that there is already, or None."""
        ids = [record.id for record in records]
        taken = self.get_tasks(ids)
        return next((task_id for task_id in ids if task_id in taken), None)

    def start_task(self, task_id: str) -> bool:
        """Commit that the work on a task has begun; return False if it may not begin.

        It may not if it has ended, or if another process has taken it over.
        """
        self._database.renew_ownership()
        own = tasks.c.owner == self._database.owner
        now = self._now()
        with self._database.writing() as connection:
            started = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, own, tasks.c.outcome.is_(None))
                .values(status=Status.GENERATING, started_at=now)
                .returning(tasks.c.id, tasks.c.batch_id)
            ).all()
            append(connection, changed(started, Status.GENERATING), now)
        return bool(started)

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
        step_times: Mapping[str, Sequence[float]] | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> bool:
        """Commit the end of a task; return False if it has ended already."""
        # Torch says its version in a class of its own, which JSON knows nothing of.
        facts = {name: str(value) for name, value in (made_with or {}).items()}
        rounded = {stage: round(took_s, 3) for stage, took_s in (stages or {}).items()}
        # Three digits tell what there is to tell, in half the room.
        steps = {
            stage: [float(f"{took_s:.3g}") for took_s in times]
            for stage, times in (step_times or {}).items()
        }
        with self._database.writing() as connection:
            ended = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, tasks.c.outcome.is_(None))
                .values(
                    status=outcome.status,
                    outcome=outcome,
                    error=error,
                    ended_at=_not_before_start(ended_at),
                    current_step=current_step,
                    result=None if result is None else to_json(result),
                    stages=to_json(rounded) if rounded else None,
                    step_times=to_json(steps) if steps else None,
                    made_with=to_json(facts) if facts else None,
                )
                .returning(tasks.c.id, tasks.c.batch_id)
            ).all()
            append(connection, changed(ended, outcome), self._now())
        return bool(ended)

    def give_back_task(self, task_id: str) -> TaskRecord | None:
        """Commit that a task of this process waits again; None if it has ended."""
        mine = tasks.c.owner == self._database.owner
        with self._database.writing() as connection:
            row = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id, mine, tasks.c.outcome.is_(None))
                .values(status=Status.PENDING, started_at=None)
                .returning(tasks)
            ).one_or_none()
            if row is None:
                return None
            append(connection, changed([row], Status.PENDING), self._now())
        return read_task(row, ())

    def end_tasks(
        self,
        task_ids: Sequence[str],
        outcome: Outcome,
        *,
        ended_at: dt.datetime,
        error: str,
    ) -> set[str]:
        """Commit the same end, without a result, of many tasks that are run here.

        Returns:
            The ids of those that ended by it, which had not before.
        """
        ended: list[Row] = []
        with self._database.writing() as connection:
            for some in in_statements(task_ids):
                rows = connection.execute(
                    tasks.update()
                    .where(
                        tasks.c.id.in_(some),
                        tasks.c.owner == self._database.owner,
                        tasks.c.outcome.is_(None),
                    )
                    .values(
                        status=outcome.status,
                        outcome=outcome,
                        error=error,
                        ended_at=_not_before_start(ended_at),
                    )
                    .returning(tasks.c.id, tasks.c.batch_id)
                )
                ended.extend(rows)
            append(connection, changed(ended, outcome), self._now())
        return {row.id for row in ended}

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

    def set_priority(self, task_id: str, priority: int) -> None:
        """Commit the priority of a task."""
        with self._database.writing() as connection:
            moved = connection.execute(
                tasks.update()
                .where(tasks.c.id == task_id)
                .values(priority=priority)
                .returning(tasks.c.id, tasks.c.batch_id, tasks.c.status)
            ).all()
            for row in moved:
                append(connection, changed([row], row.status), self._now())

    def adopt_tasks(self, *, rerun_lost: bool = False) -> list[TaskRecord]:
        """Make the tasks of processes that are gone this one's.

        Args:
            rerun_lost: Whether those that ran wait again; otherwise they end as
                ``lost``.

        Returns:
            The tasks that wait now, in the order in which they were submitted.
        """
        waiting = tasks.c.status == Status.PENDING
        running = tasks.c.status == Status.GENERATING
        now = self._now()
        lost = {
            "status": Status.FAILED,
            "outcome": Outcome.LOST,
            "error": "The process that ran this task ended. Submit it again.",
            "ended_at": _not_before_start(now),
        }
        again = {"status": Status.PENDING, "started_at": None}
        with self._database.writing() as connection:
            owners = connection.scalars(
                sa.select(tasks.c.owner).where(waiting | running).distinct()
            )
            gone = [owner for owner in owners.all() if self._database.is_gone(owner)]
            theirs = tasks.c.owner.in_(gone)
            left = connection.execute(
                tasks.update()
                .where(running, theirs)
                .values(again if rerun_lost else lost)
                .returning(tasks.c.id, tasks.c.batch_id)
            ).all()
            # In one statement: of two that take over at the same moment, each gets
            # what the other has not got.
            rows = connection.execute(
                tasks.update()
                .where(waiting, theirs)
                .values(owner=self._database.owner)
                .returning(tasks)
            ).all()
            became = Status.PENDING if rerun_lost else Outcome.LOST
            append(connection, changed(left, became), now)
        rows = sorted(rows, key=attrgetter("number"))
        return [read_task(row, ()) for row in rows]


def _not_before_start(moment: dt.datetime) -> sa.ColumnElement[Any]:
    """Return the moment, or the start of the task if a clock was set back since."""
    bound = sa.bindparam(None, moment, tasks.c.ended_at.type)
    started = tasks.c.started_at
    return sa.case((started > bound, started), else_=bound)


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
