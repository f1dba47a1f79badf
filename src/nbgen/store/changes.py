"""The change feed: every committed change, numbered in the order of the commits.

``append`` belongs to the transaction that makes the change, and comes last in it.
Every method of ``ChangeStore`` may be called from any thread. Several processes may
append and follow at the same time.

A change gets the number after the newest. Nobody else can append until the transaction
has ended: SQLite has one writer, and PostgreSQL a lock of nbgen's. So a number is never
visible before a smaller one, and a transaction that is rolled back leaves no gap.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from nbgen.schema import Change, ChangeKind, Changes, NewChange, Position, utc_now
from nbgen.store.database import APPENDED, Database
from nbgen.store.feed import FEED, NEXT_NUMBER
from nbgen.store.tables import Row, changes, feed

MOST_AT_ONCE = 1_000
"""How many changes one reading returns."""

KEPT_COUNT = 200_000
KEPT_FOR = dt.timedelta(days=7)
"""How many of the newest changes are kept, and for how long."""

_INSERT = changes.insert()
_APPEND_TO_FILE = _INSERT.values(number=NEXT_NUMBER).returning(changes.c.number)
# Made by a migration: it takes the lock, notifies and inserts, in one round trip.
_APPEND_TO_SERVER = sa.select(
    sa.func.nbgen_append(
        *(
            sa.bindparam(name, type_=changes.c[name].type)
            for name in ("kind", "id", "state", "batch_id", "at")
        )
    )
)

_PRUNE_EVERY = 1_000
_PRUNED_AT_ONCE = 5_000


def append(
    connection: sa.Connection,
    entries: Sequence[NewChange],
    at: dt.datetime | None = None,
) -> None:
    """Append changes to the feed, within the transaction that makes them.

    Call it last in the transaction: until the commit, nobody else can append.

    Args:
        connection: The transaction.
        entries: The changes, in their order.
        at: The present time in UTC, by which old changes are pruned later; None reads
            the clock.
    """
    if not entries:
        return
    now = at or utc_now()
    rows = [
        {
            "kind": entry.kind,
            "id": entry.id,
            "state": entry.state,
            "batch_id": entry.batch_id,
            "at": now,
        }
        for entry in entries
    ]
    connection.info[APPENDED] = True
    is_server = connection.dialect.name == "postgresql"
    append_one = _APPEND_TO_SERVER if is_server else _APPEND_TO_FILE
    first: int = connection.execute(append_one, rows[0]).scalar_one()
    if len(rows) > 1:
        others = [
            {"number": number, **row} for number, row in enumerate(rows[1:], first + 1)
        ]
        connection.execute(_INSERT, others)
    newest = first + len(rows) - 1
    if newest // _PRUNE_EVERY != (first - 1) // _PRUNE_EVERY:
        _prune(connection, newest, now)


class ChangeStore:
    """The change feed of one database; it implements ``ChangeSource``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self) -> Position:
        """Return the place behind the newest change."""
        with self._database.reading() as connection:
            row = connection.execute(FEED).one()
        return Position(row.epoch, row.newest)

    def read(self, since: Position) -> Changes:
        """Return up to ``MOST_AT_ONCE`` changes behind a place in the feed."""
        with self._database.reading() as connection:
            known = connection.execute(FEED).one()
            newest = Position(known.epoch, known.newest)
            if since == newest:
                return Changes(since)
            # In PostgreSQL this sees what was committed since the row was read.
            rows = connection.execute(
                sa.select(changes)
                .where(
                    changes.c.number > since.number, changes.c.number <= newest.number
                )
                .order_by(changes.c.number)
                .limit(MOST_AT_ONCE)
            ).all()
        # Pruned, or of another feed: there is no change that follows on this place.
        follows = rows and rows[0].number == since.number + 1
        if since.epoch != newest.epoch or not follows:
            return Changes(newest, missed=True)
        place = Position(newest.epoch, rows[-1].number)
        return Changes(place, tuple(_change(row) for row in rows))

    def record(self, entry: NewChange) -> None:
        """Append one change by itself: of what is in no table."""
        with self._database.writing() as connection:
            append(connection, [entry])

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one.

        It belongs to one thread at a time.

        Raises:
            DataFolderUnusable: The database cannot be reached, or has vanished.
            StudioClosed: The database is closed.
        """
        return self._database.wait_for_changes()

    def wake(self) -> None:
        """Have ``wait`` return now."""
        self._database.wake()

    def rest(self) -> None:
        """Release what waiting needs; nobody follows for now."""
        self._database.rest()


def _change(row: Row) -> Change:
    return Change(row.number, ChangeKind(row.kind), row.id, row.state, row.batch_id)


def _prune(connection: sa.Connection, newest: int, now: dt.datetime) -> None:
    """Forget old changes, some at a time, so that no transaction takes long."""
    pruned: int = connection.execute(sa.select(feed.c.pruned)).scalar_one()
    most = pruned + _PRUNED_AT_ONCE
    first_kept = (
        sa.select(changes.c.number)
        .where(changes.c.number <= most, changes.c.at >= now - KEPT_FOR)
        .order_by(changes.c.number)
        .limit(1)
    )
    first: int | None = connection.execute(first_kept).scalar()
    too_old = most if first is None else first - 1
    upto = min(max(too_old, newest - KEPT_COUNT), most)
    if upto > pruned:
        connection.execute(changes.delete().where(changes.c.number <= upto))
        connection.execute(feed.update().values(pruned=upto))
