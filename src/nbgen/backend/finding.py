"""The protocols of what finds tasks and keeps pictures; see ``nbgen.backend``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nbgen.schema import (
    Attempt,
    BatchRow,
    ChangedRows,
    CheckReport,
    Position,
    TaskPage,
    TaskQuery,
    TaskRecord,
)


class Finding(Protocol):
    """Finds tasks."""

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of the tasks that the query asks for, newest first.

        Raises:
            InvalidRequest: The cursor is none of this backend's.
        """

    def get_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return tasks in the order of the ids.

        Raises:
            UnknownTask: There is no such task; the first that is missing.
        """

    def batch_rows(self, batch_id: str) -> list[BatchRow]:
        """Return where the rows of a batch stand, in the order of their first tasks.

        Raises:
            InvalidRequest: It is no id of a batch.
            UnknownBatch: There is no such batch.
        """

    def changed_rows(self, batch_id: str, since: Position | None) -> ChangedRows:
        """Return the rows of a batch that have changed since a place in the feed.

        It takes about as long for a large batch as for a small one, so that a bar may
        look often.

        Args:
            batch_id: The batch.
            since: The place, as an earlier call gave it; None for all rows.

        Returns:
            The rows that have changed; all of them where that is not known.

        Raises:
            InvalidRequest: It is no id of a batch.
            UnknownBatch: There is no such batch.
        """

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts at a task, the first one first; none before the first.

        Raises:
            UnknownTask: There is no such task.
        """


class Pictures(Protocol):
    """Keeps picture files under names made from their bytes."""

    def keep_picture(self, field: str, picture: str | bytes) -> str:
        """Return the name of a picture that a request may refer to.

        Args:
            field: The field of the request, for the error: ``image`` or ``mask``.
            picture: The name or ``/images/`` URL of a picture that is kept here, or the
                bytes of a PNG file to keep.

        Raises:
            InvalidRequest: No picture of that name is kept here.
            PictureDamaged: The file of that name is damaged.
        """

    def read_picture(self, name: str) -> bytes:
        """Return the bytes of a picture file.

        Raises:
            UnknownImage: There is no picture of that name.
            PictureDamaged: Its file is damaged.
        """

    def picture_path(self, name: str, *, check: bool = True) -> Path | None:
        """Return the file of a picture; None if it is not on this machine's disk.

        Args:
            name: The name of the picture.
            check: Whether to compare its bytes with its name, once in a process.

        Raises:
            PictureDamaged: Its file is damaged.
        """

    def collect_garbage(self, *, dry_run: bool = True) -> list[str]:
        """Remove picture files that nothing refers to; return their names.

        Files that were written within the last hour stay: they may belong to a task
        under way. Unfinished files are removed too.

        Args:
            dry_run: Whether to remove nothing and only return the names.

        Raises:
            ForeignPictures: Another database may refer to them.
        """

    def check_pictures(self, *, repair: bool = False) -> CheckReport:
        """Check all picture files, the rows that name them, and the database.

        Args:
            repair: Whether to take damaged files away. No row is changed.
        """
