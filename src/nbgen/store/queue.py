"""A queue as whoever submits tasks sees it: they are added, ordered and cancelled.

Thread-safe, also between processes: each change is one transaction. What runs the tasks
learns of it from the change feed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from nbgen.errors import TaskConflict, UnknownTask
from nbgen.schema import (
    CANCELLING,
    NEVER_RAN,
    NewChange,
    Outcome,
    Plan,
    QueueState,
    Status,
    TaskRecord,
    changes_of_waiting,
    queue_change,
    utc_now,
)
from nbgen.store.attempts import AGAIN, keep_attempts
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.decisions import lock_tasks
from nbgen.store.tables import WAITS, Row, decisions, prompts, queues, tasks
from nbgen.store.task_rows import (
    UNENDED,
    change_tasks,
    changed,
    in_statements,
    insert_tasks,
    lock_rows,
    owners_gone,
    to_json,
)


class QueueStore:
    """One queue of a database.

    Args:
        database: The database.
        name: The name of the queue; it is made if there is none.
        now: Returns the present time in UTC.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.name = name
        self._database = database
        self._now = now
        self._own = tasks.c.queue == name
        self._waits = sa.and_(self._own, WAITS)
        with database.reading() as connection:
            known = sa.select(queues.c.name).where(queues.c.name == name)
            is_known = connection.scalar(known) is not None
        if not is_known:
            self._make()

    def submit(self, plan: Plan) -> None:
        """Commit what a plan wants, all or none.

        Raises:
            TaskConflict: There is a new task's id already, or a task that is to be made
                again has changed since it was read.
            UnknownTask: A parent was deleted meanwhile.
        """
        ended = [record for record in plan.again if record.status.ended]
        asked = [record.id for record in plan.again if not record.status.ended]
        left = self._left_behind(*map(tasks.c.id.in_, in_statements(asked)))
        if not plan.new and not ended and not left:
            return
        try:
            with self._database.writing() as connection:
                # Nobody decides on them meanwhile, or wants them again.
                lock_tasks(connection, [record.id for record in plan.again])
                insert_tasks(connection, plan.new, self._database.owner, self.name)
                for record in ended:
                    self._submit_again(connection, record)
                news = changes_of_waiting([*plan.new, *ended])
                news += self._adopt(connection, left)
                append(connection, news, self._now())
        except sa.exc.IntegrityError as error:
            raise self._what_is_wrong(plan.new) from error

    def cancel(self, task_ids: Sequence[str]) -> set[str]:
        """Cancel tasks that wait, and ask those that run to end.

        Returns:
            The ids of those that run, in whatever process.

        Raises:
            UnknownTask: There is no such task; none was cancelled.
        """
        now = self._now()
        running: list[Row] = []
        with self._database.writing() as connection:
            news: list[NewChange] = []
            for some in in_statements(task_ids):
                asked = tasks.c.id.in_(some)
                known = set(connection.scalars(sa.select(tasks.c.id).where(asked)))
                for task_id in some:
                    if task_id not in known:
                        raise UnknownTask(task_id)
                lock_rows(connection, asked)
                ended = connection.execute(
                    tasks.update()
                    .where(asked, tasks.c.status == Status.PENDING)
                    .values(
                        status=Outcome.CANCELLED.status,
                        outcome=Outcome.CANCELLED,
                        error=NEVER_RAN,
                        ended_at=now,
                        offered=False,
                    )
                    .returning(tasks.c.id, tasks.c.batch_id)
                )
                news += changed(ended, Outcome.CANCELLED)
                running += connection.execute(
                    tasks.update()
                    .where(asked, tasks.c.status == Status.GENERATING)
                    .values(cancel_asked=True)
                    .returning(tasks.c.id, tasks.c.batch_id)
                )
            append(connection, [*news, *changed(running, CANCELLING)], now)
        return {row.id for row in running}

    def prioritise(self, task_id: str, priority: int) -> bool:
        """Give a waiting task another priority; return whether it waits."""
        waits = sa.and_(tasks.c.id == task_id, tasks.c.status == Status.PENDING)
        return bool(self._change(waits, Status.PENDING, priority=priority))

    def run_offered(self) -> int:
        """Have the tasks run that wait from before; return how many there are."""
        left = self._left_behind(self._own)
        if left:
            with self._database.writing() as connection:
                append(connection, self._adopt(connection, left), self._now())
        return len(left)

    def set_paused(self, *, paused: bool) -> None:
        """Have no further task of the queue begin, or have tasks begin again."""
        with self._database.writing() as connection:
            turned = connection.execute(
                queues.update()
                .where(queues.c.name == self.name, queues.c.paused.is_not(paused))
                .values(paused=paused)
                .returning(queues.c.name)
            ).all()
            news = [queue_change(self.name, paused=paused)] if turned else []
            append(connection, news, self._now())

    def state(self) -> QueueState:
        """Return where the queue stands."""
        with self._database.reading() as connection:
            paused = sa.select(queues.c.paused).where(queues.c.name == self.name)
            is_paused = bool(connection.scalar(paused))
            counts = sa.select(tasks.c.status, tasks.c.offered, sa.func.count())
            counts = counts.where(self._own, UNENDED)
            counts = counts.group_by(tasks.c.status, tasks.c.offered)
            found = {
                (status, offered and status == Status.PENDING): count
                for status, offered, count in connection.execute(counts)
            }
        return QueueState(
            name=self.name,
            is_paused=is_paused,
            waiting=found.get((Status.PENDING, False), 0),
            running=found.get((Status.GENERATING, False), 0),
            offered=found.get((Status.PENDING, True), 0),
        )

    def waiting(self, *, offered: bool = False) -> list[str]:
        """Return the ids of the tasks that wait, the next one first.

        Args:
            offered: Return those that are offered, instead of those that will run.
        """
        query = (
            sa.select(tasks.c.id)
            .where(self._waits, tasks.c.offered.is_(offered))
            .order_by(tasks.c.priority.desc(), tasks.c.number)
        )
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def running(self) -> list[str]:
        """Return the ids of the tasks that run, the first one first."""
        query = (
            sa.select(tasks.c.id)
            .where(self._own, tasks.c.status == Status.GENERATING)
            .order_by(tasks.c.started_at, tasks.c.number)
        )
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def count_waiting(self) -> int:
        """Return how many tasks wait, offered or not."""
        query = sa.select(sa.func.count()).select_from(tasks).where(self._waits)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()

    def _make(self) -> None:
        row = {"name": self.name, "generation": 0, "paused": False, "beat": 0}
        try:
            with self._database.writing() as connection:
                connection.execute(queues.insert(), row)
        except sa.exc.IntegrityError:  # somebody else has made it meanwhile
            pass

    def _change(
        self, which: sa.ColumnElement[bool], state: str, **values: Any
    ) -> list[NewChange]:
        with self._database.writing() as connection:
            lock_rows(connection, which)
            news = change_tasks(connection, which, state, **values)
            append(connection, news, self._now())
        return news

    def _left_behind(self, *which: sa.ColumnElement[bool]) -> list[str]:
        """Return the ids of tasks that have not ended, and are nobody's who is there.

        They are offered, or will be when somebody takes the turn.

        Args:
            which: Which tasks: those of any of these conditions.
        """
        if not which:
            return []
        gone = owners_gone(self._database, self._own)
        is_left = sa.and_(UNENDED, tasks.c.offered | tasks.c.owner.in_(gone))
        found: list[str] = []
        with self._database.reading() as connection:
            for each in which:
                query = sa.select(tasks.c.id).where(self._own, each, is_left)
                found += connection.scalars(query)
        return found

    def _adopt(
        self, connection: sa.Connection, task_ids: Sequence[str]
    ) -> list[NewChange]:
        """Have tasks run as if they were submitted here."""
        waiting: list[Row] = []
        for some in in_statements(task_ids):
            lock_rows(connection, tasks.c.id.in_(some))
            rows = connection.execute(
                tasks.update()
                .where(tasks.c.id.in_(some), UNENDED)
                .values(offered=False, owner=self._database.owner)
                .returning(tasks.c.id, tasks.c.batch_id, tasks.c.status)
            )
            waiting += [row for row in rows if row.status == Status.PENDING]
        return changed(waiting, Status.PENDING)

    def _submit_again(self, connection: sa.Connection, record: TaskRecord) -> None:
        """Have a task that has ended wait for its next attempt.

        Raises:
            TaskConflict: It has changed since it was read.
        """
        same = sa.and_(tasks.c.id == record.id, tasks.c.attempt == record.attempt)
        decided = sa.select(sa.func.count()).where(decisions.c.task_id == record.id)
        which = sa.and_(
            same,
            tasks.c.outcome == record.outcome,
            decided.scalar_subquery() == record.version,
        )
        keep_attempts(connection, which)
        rows = connection.execute(
            tasks.update()
            .where(which)
            .values(
                **AGAIN,
                deaths=0,
                offered=False,
                owner=self._database.owner,
                queue=self.name,
                priority=record.priority,
                request=to_json(record.request),
                seed=record.seed,
            )
            .returning(tasks.c.number)
        ).all()
        if not rows:
            raise TaskConflict(record.id)
        connection.execute(
            prompts.update()
            .where(prompts.c.number == rows[0].number)
            .values(folded=record.request.prompt.casefold())
        )

    def _what_is_wrong(self, records: Sequence[TaskRecord]) -> Exception:
        """Return why tasks could not be added."""
        ids = {record.id for record in records}
        parents = {each.parent_id for each in records if each.parent_id}
        known: set[str] = set()
        with self._database.reading() as connection:
            for some in in_statements(sorted(ids | parents)):
                query = sa.select(tasks.c.id).where(tasks.c.id.in_(some))
                known.update(connection.scalars(query))
        taken, gone = sorted(ids & known), sorted(parents - known)
        if gone and not taken:
            return UnknownTask(gone[0])
        return TaskConflict(taken[0] if taken else records[0].id)
