"""Finds tasks and pictures that a store keeps.

Holds no state of its own, so any thread may call every method. It needs neither a
queue nor a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nbgen.errors import UnknownBatch, UnknownImage
from nbgen.images import Images, keep_picture
from nbgen.review.quorum import Quorum
from nbgen.review.rules import reviewed
from nbgen.schema import (
    PICTURE_FIELDS,
    Attempt,
    BatchRow,
    ChangedRows,
    CheckReport,
    GenerationRequest,
    Position,
    TaskPage,
    TaskQuery,
    TaskRecord,
)
from nbgen.schema.checks import check_batch_name
from nbgen.store import Store


class Archive:
    """Reads tasks, batches and pictures; see the protocols of ``nbgen.backend``.

    Args:
        store: The tasks and the decisions on them.
        images: The picture files.
        quorum: The approvals that a task needs.
    """

    def __init__(self, store: Store, images: Images, quorum: Quorum) -> None:
        self._store = store
        self._images = images
        self._quorum = quorum

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Return a page of tasks, newest first; see ``Finding.list_tasks``."""
        page = self._store.tasks.list_tasks(query)
        return TaskPage(map(self._reviewed, page), page.next_cursor)

    def get_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return tasks in the order of the ids; see ``Finding.get_tasks``."""
        return [self._reviewed(task) for task in self._store.tasks.get_known(task_ids)]

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts at a task; see ``Finding.attempts``."""
        return self._store.tasks.attempts(task_id)

    def find_task(self, task_id: str) -> TaskRecord | None:
        """Return the task of that id, or None."""
        task = self._store.tasks.get_task(task_id)
        return None if task is None else self._reviewed(task)

    def batch_rows(self, batch_id: str) -> list[BatchRow]:
        """Return the rows of a batch; see ``Finding.batch_rows``."""
        rows = self._store.tasks.list_rows(check_batch_name("batch_id", batch_id))
        if not rows:
            raise UnknownBatch(batch_id)
        return rows

    def changed_rows(self, batch_id: str, since: Position | None) -> ChangedRows:
        """Return what changed of a batch; see ``Finding.changed_rows``."""
        check_batch_name("batch_id", batch_id)
        found = self._store.tasks.changed_rows(batch_id, since)
        if found.is_whole and not found.rows:
            raise UnknownBatch(batch_id)
        return found

    def keep_picture(self, field: str, picture: str | bytes) -> str:
        """Return the name of a picture to refer to; see ``Pictures.keep_picture``."""
        return keep_picture(self._images, field, picture)

    def keep_pictures_of(self, request: GenerationRequest) -> None:
        """Reset the age of the pictures that a request refers to.

        Raises:
            InvalidRequest: One of them is not kept here.
            PictureDamaged: The file of one of them is damaged.
        """
        for field in PICTURE_FIELDS:
            name = getattr(request, field)
            if name is not None:
                self.keep_picture(field, name)

    def read_picture(self, name: str) -> bytes:
        """Return the bytes of a picture file; see ``Pictures.read_picture``."""
        data = self._images.read(name)
        if data is None:
            raise UnknownImage(name)
        return data

    def picture_path(self, name: str, *, check: bool) -> Path | None:
        """Return the file of a picture, or None; see ``Pictures.picture_path``."""
        return self._images.path(name, check=check)

    def collect_garbage(self, *, dry_run: bool) -> list[str]:
        """Remove unreferenced files; see ``Pictures.collect_garbage``."""
        return self._store.collect_garbage(self._images, dry_run=dry_run)

    def check_pictures(self, *, repair: bool) -> CheckReport:
        """Look at files, rows and database; see ``Pictures.check_pictures``."""
        return self._store.check_pictures(self._images, repair=repair)

    def _reviewed(self, record: TaskRecord) -> TaskRecord:
        return reviewed(record, self._quorum)
