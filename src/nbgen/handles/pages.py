"""Reads tasks page by page, to the end. Holds no state; any thread may call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from nbgen.schema import TaskPage, TaskQuery, TaskRecord

_PAGE = 1_000


class Paged(Protocol):
    """What has pages of tasks: any backend."""

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of tasks; see ``nbgen.backend.Finding``."""


def iter_tasks(
    backend: Paged, query: TaskQuery | None = None, limit: int | None = None
) -> Iterator[TaskRecord]:
    """Yield the tasks that a query asks for, newest first, however many there are.

    Args:
        backend: Where the tasks are.
        query: The filters; its own limit and cursor have no effect.
        limit: How many at most; None for all.
    """
    query = query or TaskQuery()
    cursor, left = None, limit
    while left is None or left > 0:
        some = _PAGE if left is None else min(left, _PAGE)
        page = backend.list_tasks(
            msgspec.structs.replace(query, limit=some, cursor=cursor)
        )
        yield from page
        cursor = page.next_cursor
        if cursor is None:
            return
        left = None if left is None else left - len(page)
