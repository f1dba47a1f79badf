"""Rows of batches, read within a transaction of the caller's.

Thread-safe as far as the transaction is one thread's own.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from nbgen.schema import BatchRow, ChangedRows, Outcome, Position, Status
from nbgen.store.feed import FEED
from nbgen.store.tables import Row, changes, feed, tasks

# Beyond that it is faster to read the whole batch.
_MOST_CHANGED = 500

_COLUMNS = (
    tasks.c.number,
    tasks.c.batch_row,
    tasks.c.id,
    tasks.c.status,
    tasks.c.outcome,
    tasks.c.error,
    tasks.c.started_at,
    tasks.c.ended_at,
)


def list_rows(connection: sa.Connection, batch_id: str) -> list[BatchRow]:
    """Return where the rows of a batch stand, in the order of their first tasks.

    Of several tasks for one row, the newest counts.
    """
    query = (
        sa.select(*_COLUMNS)
        .where(tasks.c.batch_id == batch_id)
        .order_by(tasks.c.number)
    )
    return _newest(connection.execute(query))


def changed_rows(
    connection: sa.Connection, batch_id: str, since: Position | None
) -> ChangedRows:
    """Return the rows whose tasks have changed since a place in the feed.

    These are all rows of the batch where the feed cannot tell: without a place, after a
    deletion, or when it has forgotten what came after that place.
    """
    if since is None:
        found = connection.execute(FEED).all()
    else:
        # In one statement: in PostgreSQL, a second one would not see what was
        # forgotten since the first.
        of_batch = sa.and_(
            changes.c.batch_id == batch_id, changes.c.number > since.number
        )
        query = FEED.add_columns(changes.c.id, changes.c.state)
        query = query.select_from(feed.outerjoin(changes, of_batch))
        found = connection.execute(query.limit(_MOST_CHANGED + 1)).all()
    known = found[0]
    position = Position(known.epoch, known.newest)
    if (
        since is not None
        and since.epoch == known.epoch
        and known.pruned <= since.number <= known.newest
        and len(found) <= _MOST_CHANGED
        and all(row.state != "deleted" for row in found)
    ):
        ids = {row.id for row in found if row.id is not None}
        if not ids:
            return ChangedRows([], position, is_whole=False)
        some = sa.select(*_COLUMNS).where(tasks.c.id.in_(ids)).order_by(tasks.c.number)
        rows = _newest(connection.execute(some))
        return ChangedRows(rows, position, is_whole=False)
    return ChangedRows(list_rows(connection, batch_id), position, is_whole=True)


def _newest(rows: Iterable[Row]) -> list[BatchRow]:
    newest = {row.batch_row: row for row in rows}
    return [
        BatchRow(
            name,
            row.id,
            Status(row.status),
            row.outcome and Outcome(row.outcome),
            row.error,
            (row.ended_at - row.started_at).total_seconds()
            if row.started_at and row.ended_at
            else None,
            row.ended_at,
            row.number,
        )
        for name, row in newest.items()
    ]
