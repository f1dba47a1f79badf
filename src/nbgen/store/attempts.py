"""The attempts at tasks, kept and read within a transaction of the caller's.

The last attempt at a task stands in the row of the task. Whatever follows on it keeps
it in a table of its own first. Thread-safe as far as the transaction is one thread's
own.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import sqlalchemy as sa

from nbgen.schema import (
    Attempt,
    AttemptOutcome,
    GenerationRequest,
    GenerationResult,
)
from nbgen.store.tables import attempts, tasks

AGAIN = {
    "status": "pending",
    "outcome": None,
    "error": None,
    "started_at": None,
    "ended_at": None,
    "current_step": 0,
    "stages": None,
    "step_times": None,
    "made_with": None,
    "result": None,
    "cancel_asked": False,
}
"""The values of a task that waits for its next attempt."""


_COPIED = (
    *("request", "seed", "lane", "started_at"),
    *("ended_at", "outcome", "error", "result"),
)


def keep_attempts(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    *,
    outcome: AttemptOutcome | None = None,
    error: str | None = None,
    ended_at: dt.datetime | None = None,
) -> None:
    """Keep the last attempts at some tasks, before something else takes their place.

    Args:
        connection: The transaction.
        which: Which tasks; those whose attempt has not begun are left out.
        outcome: How the attempts ended; None where the tasks say so.
        error: Why they ended; None where the tasks say so.
        ended_at: When they ended; None where the tasks say so.
    """
    given: dict[str, Any] = {"outcome": outcome, "error": error, "ended_at": ended_at}
    columns = [
        tasks.c[name]
        if given.get(name) is None
        else sa.literal(given[name], tasks.c[name].type).label(name)
        for name in _COPIED
    ]
    query = sa.select(tasks.c.number, tasks.c.attempt, *columns).where(
        which, tasks.c.started_at.is_not(None)
    )
    names = [column.name for column in attempts.columns]
    connection.execute(attempts.insert().from_select(names, query))


def read_attempts(connection: sa.Connection, task_id: str) -> list[Attempt]:
    """Return the attempts at a task that were kept, the first one first."""
    query = (
        sa.select(attempts)
        .join(tasks, tasks.c.number == attempts.c.task)
        .where(tasks.c.id == task_id)
        .order_by(attempts.c.attempt)
    )
    return [
        Attempt(
            number=row.attempt,
            request=msgspec.json.decode(row.request, type=GenerationRequest),
            seed=row.seed,
            lane=row.lane,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=AttemptOutcome(row.outcome),
            error=row.error,
            result=row.result
            and msgspec.json.decode(row.result, type=GenerationResult),
        )
        for row in connection.execute(query)
    ]
