"""The log of decisions, read and written within a transaction of the caller's.

Thread-safe as far as the transaction is one thread's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from nbgen.schema import Decision, Verdict
from nbgen.store.tables import Row, decisions


def logs_of(
    connection: sa.Connection, task_ids: Sequence[str]
) -> dict[str, list[Decision]]:
    """Return the decisions on each of the tasks that has any, oldest first."""
    query = (
        sa.select(decisions)
        .where(decisions.c.task_id.in_(task_ids))
        .order_by(decisions.c.task_id, decisions.c.version)
    )
    logs: dict[str, list[Decision]] = {}
    for row in connection.execute(query):
        logs.setdefault(row.task_id, []).append(_decision(row))
    return logs


def whole_log(connection: sa.Connection) -> list[Decision]:
    """Return all decisions there are, oldest first."""
    query = sa.select(decisions).order_by(decisions.c.sequence)
    return [_decision(row) for row in connection.execute(query)]


def append(connection: sa.Connection, decision: Decision) -> Decision:
    """Add a decision to the log and return it with its sequence.

    Raises:
        sqlalchemy.exc.IntegrityError: Its version is taken.
    """
    values = msgspec.structs.asdict(decision)
    del values["sequence"]
    values["tags"] = msgspec.json.encode(decision.tags).decode()
    inserted = connection.execute(decisions.insert().values(values))
    assert inserted.inserted_primary_key is not None
    [sequence] = inserted.inserted_primary_key
    return msgspec.structs.replace(decision, sequence=sequence)


def _decision(row: Row) -> Decision:
    values = dict(row._mapping)
    values["verdict"] = Verdict(values["verdict"])
    values["tags"] = msgspec.json.decode(values["tags"], type=tuple[str, ...])
    return Decision(**values)
