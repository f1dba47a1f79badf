"""What is deleted, and what a backup holds. Frozen values, for any thread."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import msgspec

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import check_flag


class OldTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are old enough to be deleted.

    With neither ``rejected`` nor ``failed``, these are all tasks of that age. With
    both, these are the tasks that are one or the other. Tasks that are published or
    approved never count.

    Example::

        OldTasks(older_than=dt.timedelta(days=90), failed=True)

    Attributes:
        older_than: How long ago they ended, at least.
        rejected: Only tasks that are rejected.
        failed: Only tasks that failed, were cancelled or lost.

    Raises:
        InvalidRequest: A value is not allowed.
    """

    older_than: dt.timedelta
    rejected: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        age: object = self.older_than
        if not isinstance(age, dt.timedelta) or age < dt.timedelta():
            allowed = "a timedelta of 0 or more, such as timedelta(days=90)"
            raise InvalidRequest("older_than", str(age), allowed)
        check_flag("rejected", self.rejected)
        check_flag("failed", self.failed)

    def ended_before(self, now: dt.datetime) -> dt.datetime:
        """Return the time by which such tasks had ended."""
        try:
            return now - self.older_than
        except OverflowError:  # longer ago than there are years
            return dt.datetime.min.replace(tzinfo=dt.UTC)


class ClearedUp(NamedTuple):
    """What a clearing up removed, or would remove.

    Attributes:
        tasks: The ids of the tasks, the oldest first.
        files: The names of the picture files.
    """

    tasks: tuple[str, ...]
    files: tuple[str, ...]


class BackedUp(NamedTuple):
    """What a backup holds.

    Attributes:
        tasks: How many tasks.
        pictures: How many picture files.
        missing: The names of pictures that are needed and not in it: their files are
            gone or damaged.
    """

    tasks: int
    pictures: int
    missing: tuple[str, ...]
