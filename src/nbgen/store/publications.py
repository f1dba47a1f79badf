"""Publications: approvals on their way out, which survive a restart.

Thread-safe, also between processes. A publication is lent to one caller at a time: who
takes it moves its next attempt into the future, so that another may take it should the
first die.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from nbgen.schema import (
    ChangeKind,
    Decision,
    NewChange,
    PublicationRecord,
    PublicationState,
)
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.tables import Row, publications


class PublicationStore:
    """The publications of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_publications(self, task_id: str) -> list[PublicationRecord]:
        """Return the publications of a task, oldest first."""
        query = (
            sa.select(publications)
            .where(publications.c.task_id == task_id)
            .order_by(publications.c.number)
        )
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def take_publication(
        self, publishers: Sequence[str], *, now: dt.datetime, until: dt.datetime
    ) -> PublicationRecord | None:
        """Take one publication that is due; nobody else gets it for a while.

        Args:
            publishers: Only for these.
            now: What counts as due.
            until: When others may take it, should this attempt never end.

        Returns:
            The publication with this attempt counted, or None if none is due.
        """
        query = (
            sa.select(publications)
            .where(*_pending(publishers), publications.c.next_at <= now)
            .order_by(publications.c.next_at)
            .limit(1)
            # Nothing to SQLite, where the whole database has one writer.
            .with_for_update(skip_locked=True)
        )
        with self._database.writing() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            connection.execute(
                publications.update()
                .where(publications.c.number == row.number)
                .values(attempts=row.attempts + 1, next_at=until)
            )
            taken = sa.select(publications).where(publications.c.number == row.number)
            record = _record(connection.execute(taken).one())
            append(connection, [_entry(record.task_id, record.state)])
            return record

    def next_publication_at(self, publishers: Sequence[str]) -> dt.datetime | None:
        """Return when the next publication is due, or None if there is none."""
        earliest = sa.func.min(publications.c.next_at)
        query = sa.select(earliest).where(*_pending(publishers))
        with self._database.reading() as connection:
            found: dt.datetime | None = connection.scalar(query)
            return found

    def end_publication(self, number: int, url: str | None) -> None:
        """Commit that a publication is out, even if it was cancelled meanwhile.

        Nothing changes if its task was deleted meanwhile.
        """
        with self._database.writing() as connection:
            task_ids = connection.scalars(
                publications.update()
                .where(publications.c.number == number)
                .values(state=PublicationState.PUBLISHED, url=url, error=None)
                .returning(publications.c.task_id)
            ).all()
            published = PublicationState.PUBLISHED
            append(connection, [_entry(task_id, published) for task_id in task_ids])

    def postpone_publication(
        self, record: PublicationRecord, error: str, at: dt.datetime
    ) -> None:
        """Commit that an attempt failed, and when the next one is due.

        Nothing changes if somebody else has taken it meanwhile, or it is out.
        """
        with self._database.writing() as connection:
            postponed = connection.execute(
                publications.update()
                .where(
                    publications.c.number == record.number,
                    publications.c.attempts == record.attempts,
                    publications.c.state != PublicationState.PUBLISHED,
                )
                .values(error=error, next_at=at)
                .returning(publications.c.task_id, publications.c.state)
            )
            entries = [_entry(row.task_id, row.state) for row in postponed]
            append(connection, entries)


def queue_publications(
    connection: sa.Connection,
    approval: Decision,
    publishers: Sequence[str],
    *,
    at: dt.datetime,
) -> list[NewChange]:
    """Have an approval published, within a transaction, where it is not out already.

    It is published again where another picture of the task was published since.

    Returns:
        The entries for the feed.
    """
    known = (
        sa.select(publications)
        .where(publications.c.task_id == approval.task_id)
        .order_by(publications.c.number)
    )
    own: dict[str, int] = {}
    last_out: dict[str, int] = {}
    for row in connection.execute(known):
        if row.decision == approval.sequence:
            own[row.publisher] = row.number
        if row.state == PublicationState.PUBLISHED:
            last_out[row.publisher] = row.decision
    entries = []
    for publisher in publishers:
        values = {
            "decision": approval.sequence,
            "task_id": approval.task_id,
            "publisher": publisher,
            "state": PublicationState.PENDING,
            "attempts": 0,
            "next_at": at,
            "error": None,
        }
        if publisher not in own:
            connection.execute(publications.insert().values(values))
            entries.append(_entry(approval.task_id, PublicationState.PENDING))
        elif last_out.get(publisher) != approval.sequence:
            connection.execute(
                publications.update()
                .where(publications.c.number == own[publisher])
                .values(values)
            )
            entries.append(_entry(approval.task_id, PublicationState.PENDING))
    return entries


def cancel_publications(connection: sa.Connection, task_id: str) -> list[NewChange]:
    """Cancel, within a transaction, what is not out yet of a task.

    Returns:
        The entries for the feed.
    """
    cancelled = connection.execute(
        publications.update()
        .where(
            publications.c.task_id == task_id,
            publications.c.state == PublicationState.PENDING,
        )
        .values(state=PublicationState.CANCELLED)
    )
    return [_entry(task_id, PublicationState.CANCELLED)] * cancelled.rowcount


def _entry(task_id: str, state: str) -> NewChange:
    return NewChange(ChangeKind.PUBLICATION, task_id, state)


def _pending(publishers: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        publications.c.state == PublicationState.PENDING,
        publications.c.publisher.in_(publishers),
    )


def _record(row: Row) -> PublicationRecord:
    values = dict(row._mapping)
    values["state"] = PublicationState(values["state"])
    return PublicationRecord(**values)
