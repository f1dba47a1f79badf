"""A queue as whoever runs its tasks sees it: they begin, end and are given back.

Thread-safe: each change is one transaction. One process at a time runs the tasks of a
queue. Each taking of that turn raises the generation of the queue, and what an earlier
runner writes after that changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from nbgen.schema import (
    MOST_DEATHS,
    AttemptOutcome,
    GenerationResult,
    NewChange,
    Outcome,
    Status,
    TaskRecord,
    died_too_often,
    utc_now,
)
from nbgen.store.attempts import AGAIN, keep_attempts
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.tables import WAITS, queues, tasks
from nbgen.store.task_rows import (
    UNENDED,
    change_tasks,
    changed,
    lock_rows,
    owners_gone,
    read_task,
    to_json,
)

_RUNNER_GONE = "The process that ran it ended."
_CANCELLED = "Cancelled while it ran."


class Ending(NamedTuple):
    """How an attempt ended that ends its task.

    Attributes:
        outcome: How.
        error: Why it did not succeed.
        result: The pictures that were made.
        current_step: Sampling steps done.
        stages: The seconds that each stage took.
        step_times: The seconds that each sampling step took, by stage.
        made_with: What the pictures were made with.
    """

    outcome: Outcome
    error: str | None = None
    result: GenerationResult | None = None
    current_step: int = 0
    stages: Mapping[str, float] = {}
    step_times: Mapping[str, Sequence[float]] = {}
    made_with: Mapping[str, str] = {}


class RunStore:
    """The running of one queue of a database.

    Args:
        database: The database.
        name: The name of the queue, which exists.
        now: Returns the present time in UTC.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._name = name
        self._database = database
        self._now = now
        self._own = tasks.c.queue == name
        self._waits = sa.and_(self._own, WAITS)
        self._runs = sa.and_(self._own, tasks.c.status == Status.GENERATING)
        # These run for each task, so they are put together once.
        self._following = (
            sa.select(tasks.c.number)
            .join(queues, queues.c.name == tasks.c.queue)
            .where(
                self._waits,
                tasks.c.offered.is_(False),
                queues.c.generation == sa.bindparam("of_generation"),
                queues.c.paused.is_(False),
            )
            .order_by(tasks.c.priority.desc(), tasks.c.number)
            .limit(1)
        )
        # Nobody pauses the queue or takes the turn before the commit.
        self._next = self._following.with_for_update(of=queues)
        self._begin = (
            tasks.update()
            .where(tasks.c.number == sa.bindparam("of_number"), WAITS)
            .values(
                status=Status.GENERATING,
                started_at=sa.bindparam("now"),
                attempt=tasks.c.attempt + 1,
                generation=sa.bindparam("of_generation"),
                lane=sa.bindparam("on_lane"),
            )
            .returning(tasks)
        )

    def needs_runner(self, *, own_only: bool) -> bool:
        """Return whether there is something to run, or to end that ran.

        Args:
            own_only: Count only tasks that were submitted here.
        """
        query = sa.select(tasks.c.number).where(
            self._own, UNENDED, tasks.c.offered.is_(False)
        )
        if own_only:
            query = query.where(tasks.c.owner == self._database.owner)
        with self._database.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def begin(self, *, take_over: bool) -> int:
        """Begin to run the queue's tasks; return the new generation.

        What the last runner left running waits again: what its process ended with, as a
        lost attempt; three of these fail a task. Call it with the turn held.

        Args:
            take_over: Whether tasks run that were submitted in processes that have
                ended. Otherwise they are offered.
        """
        owner = self._database.owner
        with self._database.reading() as connection:
            last = connection.scalar(
                sa.select(queues.c.runner).where(queues.c.name == self._name)
            )
        has_died = last is not None and last != owner and self._database.is_gone(last)
        gone = owners_gone(self._database, self._own)
        now = self._now()
        with self._database.writing() as connection:
            generation: int = connection.execute(
                queues.update()
                .where(queues.c.name == self._name)
                .values(generation=queues.c.generation + 1, runner=owner)
                .returning(queues.c.generation)
            ).scalar_one()
            if take_over:
                which = sa.and_(self._waits, tasks.c.offered)
            else:
                theirs = sa.and_(tasks.c.owner.in_(gone), tasks.c.offered.is_(False))
                which = sa.and_(self._waits, theirs)
            lock_rows(connection, sa.or_(self._runs, which))
            news = self._take_back(connection, self._runs, now, has_died=has_died)
            news += change_tasks(
                connection, which, Status.PENDING, offered=not take_over
            )
            append(connection, news, now)
        return generation

    def has_next(self, generation: int) -> bool:
        """Return whether there is a task that ``claim`` would return."""
        with self._database.reading() as connection:
            found = connection.scalar(self._following, {"of_generation": generation})
        return found is not None

    def claim(self, generation: int, lane: str) -> TaskRecord | None:
        """Commit that the next task has begun, and return it; None for none.

        There is none while the queue is paused, or once another has the turn.
        """
        now = self._now()
        values = {"of_generation": generation, "on_lane": lane, "now": now}
        with self._database.writing() as connection:
            number = connection.scalar(self._next, values)
            if number is None:
                return None
            row = connection.execute(
                self._begin, {**values, "of_number": number}
            ).one_or_none()
            if row is None:  # in PostgreSQL, one that was cancelled meanwhile
                return None
            append(connection, changed([row], Status.GENERATING), now)
        return read_task(row, ())

    def end(
        self, task_id: str, generation: int, end: Ending, *, ended_at: dt.datetime
    ) -> bool:
        """Commit the end of a task that runs here; return False if it does not."""
        # Torch says its version in a class of its own, which JSON knows nothing of.
        facts = {name: str(value) for name, value in end.made_with.items()}
        rounded = {stage: round(took_s, 3) for stage, took_s in end.stages.items()}
        # Three digits tell what there is to tell, in half the room.
        steps = {
            stage: [float(f"{took_s:.3g}") for took_s in times]
            for stage, times in end.step_times.items()
        }
        with self._database.writing() as connection:
            news = change_tasks(
                connection,
                self._runs_here(task_id, generation),
                end.outcome,
                status=end.outcome.status,
                outcome=end.outcome,
                error=end.error,
                ended_at=_not_before_start(ended_at),
                current_step=end.current_step,
                result=None if end.result is None else to_json(end.result),
                stages=to_json(rounded) if rounded else None,
                step_times=to_json(steps) if steps else None,
                made_with=to_json(facts) if facts else None,
            )
            append(connection, news, self._now())
        return bool(news)

    def give_back(
        self, task_id: str, generation: int, *, died_of: str | None = None
    ) -> TaskRecord | None:
        """Commit that a task that runs here waits again; return it.

        Args:
            task_id: The task.
            generation: The generation that runs it.
            died_of: Why its process ended; None if it was stopped in an orderly way.
                The third attempt that ends with its process fails the task.

        Returns:
            The task as it is now; None if it does not run here any more.
        """
        which = self._runs_here(task_id, generation)
        now = self._now()
        with self._database.writing() as connection:
            lock_rows(connection, which)
            news = self._take_back(
                connection,
                which,
                now,
                has_died=died_of is not None,
                error=died_of or _RUNNER_GONE,
            )
            if not news:
                return None
            query = sa.select(tasks).where(tasks.c.id == task_id)
            row = connection.execute(query).one()
            append(connection, news, now)
        return read_task(row, ())

    def begun(self, generation: int) -> list[str]:
        """Return the ids of the tasks that run here, as far as the store knows."""
        return self._running_here(tasks.c.generation == generation)

    def asked_to_end(self, generation: int) -> list[str]:
        """Return the ids of the tasks that run here and were cancelled."""
        return self._running_here(
            sa.and_(tasks.c.generation == generation, tasks.c.cancel_asked)
        )

    def _running_here(self, which: sa.ColumnElement[bool]) -> list[str]:
        query = sa.select(tasks.c.id).where(self._runs, which)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def _take_back(
        self,
        connection: sa.Connection,
        which: sa.ColumnElement[bool],
        now: dt.datetime,
        *,
        has_died: bool,
        error: str = _RUNNER_GONE,
    ) -> list[NewChange]:
        """Have running tasks wait again, or end if they were cancelled or killed it.

        Their rows are locked: they neither end nor are cancelled in between.
        """
        cancelled = change_tasks(
            connection,
            sa.and_(which, tasks.c.cancel_asked),
            Outcome.CANCELLED,
            status=Outcome.CANCELLED.status,
            outcome=Outcome.CANCELLED,
            error=_CANCELLED,
            ended_at=_not_before_start(now),
        )
        if not has_died:
            how = AttemptOutcome.GIVEN_BACK
            keep_attempts(connection, which, outcome=how, ended_at=now)
            return cancelled + change_tasks(connection, which, Status.PENDING, **AGAIN)
        failed = change_tasks(
            connection,
            sa.and_(which, tasks.c.deaths >= MOST_DEATHS - 1),
            Outcome.FAILED,
            status=Outcome.FAILED.status,
            outcome=Outcome.FAILED,
            error=died_too_often(error),
            ended_at=_not_before_start(now),
            deaths=tasks.c.deaths + 1,
        )
        how = AttemptOutcome.LOST
        keep_attempts(connection, which, outcome=how, error=error, ended_at=now)
        again = {**AGAIN, "deaths": tasks.c.deaths + 1}
        return (
            cancelled
            + failed
            + change_tasks(connection, which, Status.PENDING, **again)
        )

    def _runs_here(self, task_id: str, generation: int) -> sa.ColumnElement[bool]:
        return sa.and_(
            tasks.c.id == task_id,
            tasks.c.status == Status.GENERATING,
            tasks.c.generation == generation,
        )


def _not_before_start(moment: dt.datetime) -> sa.ColumnElement[Any]:
    """Return the moment, or the start of the task if a clock was set back since."""
    bound = sa.bindparam(None, moment, tasks.c.ended_at.type)
    started = tasks.c.started_at
    return sa.case((started > bound, started), else_=bound)
