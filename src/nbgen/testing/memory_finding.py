"""Finds tasks in a list of records. Pure functions, for any thread."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from nbgen.errors import InvalidRequest
from nbgen.schema import BatchRow, TaskPage, TaskQuery, TaskRecord


def page_of(records: Iterable[TaskRecord], query: TaskQuery) -> TaskPage:
    """Return the page of the records that a query asks for, newest first.

    Args:
        records: All tasks, in the order in which they were added.
        query: Its cursor is the place of the last task of the page before.

    Raises:
        InvalidRequest: The cursor is no such place.
    """
    places = {_place(record, n): record for n, record in enumerate(records)}
    if query.cursor not in (None, *map(_cursor, places)):
        allowed = "the next_cursor of a page, or left out"
        raise InvalidRequest("cursor", query.cursor, allowed)
    newest_first = sorted(places, reverse=True)
    if query.cursor is not None:
        seen = [_cursor(place) for place in newest_first].index(query.cursor) + 1
        newest_first = newest_first[seen:]
    found = [place for place in newest_first if _matches(places[place], query)]
    shown = found[: query.limit]
    more = len(found) > query.limit
    cursor = _cursor(shown[-1]) if more else None
    return TaskPage((places[place] for place in shown), cursor)


def rows_of(records: Iterable[TaskRecord], batch_id: str) -> list[BatchRow]:
    """Return the rows of a batch, in the order of their first tasks."""
    rows: dict[str, BatchRow] = {}
    for number, record in enumerate(records):
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


def _matches(record: TaskRecord, query: TaskQuery) -> bool:
    return (
        query.status in (None, record.status)
        and query.batch_id in (None, record.batch_id)
        and (query.since is None or record.created_at >= query.since)
        and (query.text or "").casefold() in record.request.prompt.casefold()
    )


def _place(record: TaskRecord, number: int) -> tuple[dt.datetime, int]:
    return record.created_at, number


def _cursor(place: tuple[dt.datetime, int]) -> str:
    return f"{place[1]:x}"
