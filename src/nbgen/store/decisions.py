"""Decisions and what they are about, each change in one transaction.

Thread-safe, also between processes: whoever decides on a task keeps others from
deciding on it until the transaction ends, so each sees what all before it decided. The
rules themselves are in ``nbgen.review.rules``, and called from here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec
import sqlalchemy as sa

from nbgen.errors import NbgenError
from nbgen.review.content import merge_metadata
from nbgen.schema import (
    DEFAULT_QUEUE,
    ChangeKind,
    ContentTask,
    Decision,
    NewChange,
    Proposal,
    Ruling,
    Subject,
    changes_of_waiting,
    utc_now,
)
from nbgen.store import log
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.publications import cancel_publications, queue_publications
from nbgen.store.tables import content
from nbgen.store.task_rows import in_statements, insert_tasks, read_tasks

_DECIDING = 0x6E6267
"""Any number will do, as long as all processes take the same."""
_LOCKS = 256


class DecisionStore:
    """The decisions of one database, and the tasks that were made elsewhere."""

    def __init__(
        self,
        database: Database,
        queue: str = DEFAULT_QUEUE,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._database = database
        self._queue = queue
        self._now = now

    def decide(
        self, changes: Sequence[Proposal], publishers: Sequence[str]
    ) -> list[Decision | NbgenError]:
        """Commit the changes that are allowed, all in one transaction.

        Args:
            changes: What is asked for; a later one sees what an earlier one did.
            publishers: The names of those who publish what is approved.

        Returns:
            For each change the decision that stands, or why it was refused.
        """
        task_ids = sorted({change.task_id for change in changes})
        answers: list[Decision | NbgenError] = []
        entries: list[NewChange] = []
        with self._database.writing() as connection:
            lock_tasks(connection, task_ids)
            subjects = read_subjects(connection, task_ids)
            for change in changes:
                subject = subjects[change.task_id]
                try:
                    ruling = change.rule(subject)
                except NbgenError as error:
                    answers.append(error)
                    continue
                decision = ruling.decision
                if ruling.is_new:
                    decision = self._apply(
                        connection, change, ruling, publishers, entries
                    )
                    log_now = (*subject.log, decision)
                    subjects[change.task_id] = subject._replace(log=log_now)
                answers.append(decision)
            append(connection, entries, self._now())
        return answers

    def list_decisions(self, task_id: str | None) -> list[Decision]:
        """Return the log, oldest first: of one task, or all of it."""
        with self._database.reading() as connection:
            if task_id is None:
                return log.whole_log(connection)
            return log.logs_of(connection, [task_id]).get(task_id, [])

    def get_subjects(self, task_ids: Sequence[str]) -> dict[str, Subject]:
        """Return what there is to decide on under each of the ids."""
        with self._database.reading() as connection:
            return read_subjects(connection, task_ids)

    def put_content(
        self, task_id: str, metadata: dict[str, Any], featured_image_url: str | None
    ) -> ContentTask:
        """Register a task made elsewhere, or merge what is newly known of it."""
        now = self._now()
        with self._database.writing() as connection:
            lock_tasks(connection, [task_id])
            logs = log.logs_of(connection, [task_id])
            known = _read_content(connection, [task_id], logs).get(task_id)
            values: dict[str, Any] = {"updated_at": now}
            merged = merge_metadata(known.metadata if known else {}, metadata)
            values["metadata"] = msgspec.json.encode(merged).decode()
            if featured_image_url is not None:
                values["featured_image_url"] = featured_image_url
            statement: sa.Insert | sa.Update
            if known is None:
                statement = content.insert().values(task_id=task_id, created_at=now)
            else:
                statement = content.update().where(content.c.task_id == task_id)
            connection.execute(statement.values(values))
            kept = _read_content(connection, [task_id], logs)[task_id]
            append(connection, [NewChange(ChangeKind.CONTENT, task_id, "known")], now)
        return kept

    def _apply(
        self,
        connection: sa.Connection,
        change: Proposal,
        ruling: Ruling,
        publishers: Sequence[str],
        entries: list[NewChange],
    ) -> Decision:
        decision = ruling.decision
        if change.child is not None:
            decision = msgspec.structs.replace(decision, child_id=change.child.id)
        decision = log.append(connection, decision)
        entries.append(
            NewChange(ChangeKind.DECISION, decision.task_id, decision.verdict.value)
        )
        if change.child is not None:
            insert_tasks(connection, [change.child], self._database.owner, self._queue)
            entries.extend(changes_of_waiting([change.child]))
        if ruling.withdraws:
            entries.extend(cancel_publications(connection, change.task_id))
        if ruling.publishes is not None:
            is_this = ruling.publishes is ruling.decision
            approval = decision if is_this else ruling.publishes
            entries.extend(
                queue_publications(
                    connection, approval, publishers, at=decision.decided_at
                )
            )
        return decision


def lock_tasks(connection: sa.Connection, task_ids: Iterable[str]) -> None:
    """Keep others from deciding on the tasks until the transaction ends."""
    if connection.dialect.name != "postgresql":
        return  # SQLite has one writer, and that is us
    # By name rather than by row, so that a task that is not there yet is locked too; in
    # one order, or two bulks would wait for each other for ever; and each lock for many
    # names, as the server has room for a few thousand.
    for bucket in sorted({crc32(task_id.encode()) % _LOCKS for task_id in task_ids}):
        lock = sa.func.pg_advisory_xact_lock(_DECIDING, bucket)
        connection.execute(sa.select(lock))


def read_subjects(
    connection: sa.Connection, task_ids: Sequence[str]
) -> dict[str, Subject]:
    """Return what there is under each of the ids, within a transaction."""
    subjects = {}
    for some in in_statements(task_ids):
        logs = log.logs_of(connection, some)
        found = read_tasks(connection, some, logs)
        contents = _read_content(connection, some, logs)
        for task_id in some:
            subjects[task_id] = Subject(
                task_id,
                found.get(task_id),
                contents.get(task_id),
                tuple(logs.get(task_id, ())),
            )
    return subjects


def _read_content(
    connection: sa.Connection,
    task_ids: Sequence[str],
    logs: Mapping[str, Sequence[Decision]],
) -> dict[str, ContentTask]:
    found = {}
    query = sa.select(content).where(content.c.task_id.in_(task_ids))
    for row in connection.execute(query):
        values = dict(row._mapping)
        values["metadata"] = msgspec.json.decode(values["metadata"])
        values["decisions"] = tuple(logs.get(row.task_id, ()))
        found[row.task_id] = ContentTask(**values)
    return found
