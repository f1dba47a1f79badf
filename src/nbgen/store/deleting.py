"""Deletes tasks with all that belongs to them, but for their pictures.

Thread-safe, also between processes: nobody decides on a task while it is deleted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from nbgen.schema import ChangeKind, NewChange, PublicationState, Subject
from nbgen.store.changes import append
from nbgen.store.database import Database
from nbgen.store.decisions import lock_tasks, read_subjects
from nbgen.store.tables import (
    attempts,
    content,
    decisions,
    prompts,
    publications,
    tasks,
)
from nbgen.store.task_rows import in_statements

CheckDeletable = Callable[[Subject, Sequence[str]], None]
"""Raises if a task may not be deleted; it takes the task and its publishers."""

IsOld = Callable[[Subject, Sequence[str]], bool]
"""Returns whether a task is old enough to be deleted."""

_MOST_AT_ONCE = 500
"""Deleted in one transaction, so that those who wait to write do not wait for long."""


def delete_tasks(
    database: Database, task_ids: Sequence[str], check: CheckDeletable
) -> None:
    """Delete tasks, all or none; ``check`` raises what keeps one from being deleted."""
    ids = list(dict.fromkeys(task_ids))
    with database.writing() as connection:
        _lock(connection, ids)
        published_by = _publishers(connection, ids)
        subjects = read_subjects(connection, ids)
        for task_id in ids:
            check(subjects[task_id], published_by.get(task_id, ()))
        _delete(connection, ids)


def delete_old(
    database: Database,
    is_old: IsOld,
    *,
    ended_before: dt.datetime,
    dry_run: bool,
) -> list[str]:
    """Delete the ended tasks that are old; return their ids, the first one first.

    Args:
        database: Where they are.
        is_old: Returns whether a task is to go.
        ended_before: Only tasks that had ended by then are looked at.
        dry_run: Whether to delete nothing.
    """
    deleted: list[str] = []
    number = 0
    while True:
        with database.reading() as connection:
            some = connection.execute(
                sa.select(tasks.c.number, tasks.c.id)
                .where(tasks.c.ended_at <= ended_before, tasks.c.number > number)
                .order_by(tasks.c.number)
                .limit(_MOST_AT_ONCE)
            ).all()
            if not some:
                return deleted
            found = _choose(connection, [row.id for row in some], is_old)
        number = some[-1].number
        if found and not dry_run:
            with database.writing() as connection:
                _lock(connection, found)
                # Somebody may have decided on one meanwhile.
                found = _choose(connection, found, is_old)
                _delete(connection, found)
        deleted += found


def _lock(connection: sa.Connection, task_ids: Sequence[str]) -> None:
    """Keep others from deciding on the tasks, and from adding children to them."""
    lock_tasks(connection, task_ids)
    for some in in_statements(task_ids):
        # Nothing to SQLite. In one order, or two who delete parents and children of
        # each other's tasks would wait for each other for ever.
        rows = (
            sa.select(tasks.c.number)
            .where(tasks.c.id.in_(some) | tasks.c.parent_id.in_(some))
            .order_by(tasks.c.number)
            .with_for_update()
        )
        connection.execute(rows)


def _choose(
    connection: sa.Connection, task_ids: Sequence[str], is_old: IsOld
) -> list[str]:
    published_by = _publishers(connection, task_ids)
    subjects = read_subjects(connection, task_ids)
    return [
        task_id
        for task_id in task_ids
        if is_old(subjects[task_id], published_by.get(task_id, ()))
    ]


def _publishers(
    connection: sa.Connection, task_ids: Sequence[str]
) -> dict[str, list[str]]:
    """Return who has published the tasks, by their ids."""
    found: dict[str, list[str]] = {}
    for some in in_statements(task_ids):
        query = (
            sa.select(publications.c.task_id, publications.c.publisher)
            .where(
                publications.c.task_id.in_(some),
                publications.c.state == PublicationState.PUBLISHED,
            )
            .distinct()
            .order_by(publications.c.publisher)
        )
        for row in connection.execute(query):
            found.setdefault(row.task_id, []).append(row.publisher)
    return found


def _delete(connection: sa.Connection, task_ids: Sequence[str]) -> None:
    """Delete the rows of the tasks, and append that to the feed."""
    entries: list[NewChange] = []
    for some in in_statements(task_ids):
        numbers = sa.select(tasks.c.number).where(tasks.c.id.in_(some))
        for statement in (
            prompts.delete().where(prompts.c.number.in_(numbers)),
            attempts.delete().where(attempts.c.task.in_(numbers)),
            publications.delete().where(publications.c.task_id.in_(some)),
            decisions.delete().where(decisions.c.task_id.in_(some)),
            tasks.update().where(tasks.c.parent_id.in_(some)).values(parent_id=None),
            decisions.update()
            .where(decisions.c.child_id.in_(some))
            .values(child_id=None),
        ):
            connection.execute(statement)
        gone = connection.execute(
            tasks.delete()
            .where(tasks.c.id.in_(some))
            .returning(tasks.c.id, tasks.c.batch_id)
        ).all()
        registered = connection.scalars(
            content.delete()
            .where(content.c.task_id.in_(some))
            .returning(content.c.task_id)
        ).all()
        entries += [
            NewChange(ChangeKind.TASK, row.id, "deleted", row.batch_id) for row in gone
        ]
        kind = ChangeKind.CONTENT
        entries += [NewChange(kind, task_id, "deleted") for task_id in registered]
    append(connection, entries)
