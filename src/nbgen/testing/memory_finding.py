"""Finds tasks in a list of records. Pure functions, for any thread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbgen.errors import InvalidRequest, UnknownBatch
from nbgen.schema import (
    BatchRow,
    ChangedRows,
    Changes,
    Position,
    TaskPage,
    TaskQuery,
    TaskRecord,
)


class Numbered(NamedTuple):
    """A task with its place in the order of submission."""

    number: int
    record: TaskRecord


def page_of(tasks: Iterable[Numbered], query: TaskQuery) -> TaskPage:
    """Return the page of the tasks that a query asks for, newest first.

    Args:
        tasks: All tasks, in the order in which they were added.
        query: Its cursor is the number of the last task of the page before.

    Raises:
        InvalidRequest: The cursor is no such number.
    """
    found = [task for task in tasks if _matches(task.record, query)]
    if query.cursor is not None:
        last = _read_cursor(query.cursor)
        found = [task for task in found if task.number < last]
    found.reverse()
    shown = found[: query.limit]
    more = len(found) > query.limit
    cursor = f"{shown[-1].number:x}" if more else None
    return TaskPage((task.record for task in shown), cursor)


def rows_of(tasks: Iterable[Numbered], batch_id: str) -> list[BatchRow]:
    """Return the rows of a batch, in the order of their first tasks."""
    rows: dict[str, BatchRow] = {}
    for number, record in tasks:
        if record.batch_id == batch_id and record.batch_row is not None:
            rows[record.batch_row] = BatchRow(
                record.batch_row,
                record.id,
                record.status,
                record.outcome,
                record.error,
                record.took_s,
                record.ended_at,
                number,
            )
    return list(rows.values())


def changed_rows_of(
    tasks: Iterable[Numbered], batch_id: str, since: Position | None, news: Changes
) -> ChangedRows:
    """Return the rows of a batch that have changed since a place in the feed.

    Args:
        tasks: All tasks, in the order in which they were added.
        batch_id: The batch.
        since: The place; None for all rows.
        news: What the feed says since then.

    Raises:
        UnknownBatch: There is no such batch.
    """
    rows = rows_of(tasks, batch_id)
    if not rows:
        raise UnknownBatch(batch_id)
    of_batch = [change for change in news.changes if change.batch_id == batch_id]
    is_deleted = any(change.state == "deleted" for change in of_batch)
    if since is None or news.missed or is_deleted:
        return ChangedRows(rows, news.position, is_whole=True)
    ids = {change.id for change in of_batch}
    changed = [row for row in rows if row.task_id in ids]
    return ChangedRows(changed, news.position, is_whole=False)


def _matches(record: TaskRecord, query: TaskQuery) -> bool:
    return (
        query.status in (None, record.status)
        and query.batch_id in (None, record.batch_id)
        and (query.since is None or record.created_at >= query.since)
        and (query.text or "").casefold() in record.request.prompt.casefold()
    )


def _read_cursor(cursor: str) -> int:
    try:
        return int(cursor, 16)
    except ValueError:
        allowed = "the next_cursor of a page, or left out"
        raise InvalidRequest("cursor", cursor, allowed) from None
