"""The part of the studio that finds what it kept: tasks and pictures.

Thread-safety: every method may be called from any thread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from nbgen.atomic import write_atomic
from nbgen.errors import InvalidRequest, UnknownBatch, UnknownImage, UnknownTask
from nbgen.images import Images
from nbgen.review.quorum import Quorum
from nbgen.review.rules import fold
from nbgen.schema import (
    BatchRow,
    ContentTask,
    Decision,
    Review,
    Status,
    TaskPage,
    TaskRecord,
)
from nbgen.schema.checks import check_batch_name, check_choice, check_int, check_text
from nbgen.store import Store

_Record = TypeVar("_Record", TaskRecord, ContentTask)


class Keeping:
    """Finds tasks and pictures; ``Studio`` is one, and says where everything is."""

    _store: Store
    _images: Images
    _quorum: Quorum

    def tasks(
        self,
        *,
        status: str | None = None,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> TaskPage:
        """Return some of the tasks, newest first.

        Args:
            status: Only those that are ``"pending"``, ``"generating"``,
                ``"completed"`` or ``"failed"``.
            text: Only those with this text in their prompt, in whatever case.
            since: Only those submitted at this time, which names its zone, or later.
            batch_id: Only those of this batch.
            limit: How many at most, 1 to 1,000.
            cursor: The ``next_cursor`` of the page before.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        if since is not None and (
            not isinstance(since, dt.datetime) or since.tzinfo is None
        ):
            raise InvalidRequest("since", str(since), "a datetime with its time zone")
        if batch_id is not None and not isinstance(batch_id, str):
            allowed = "the id of a batch, such as that of batch.id"
            raise InvalidRequest("batch_id", batch_id, allowed)
        page = self._store.tasks.list_tasks(
            limit=check_int("limit", limit, 1, 1_000),
            status=None if status is None else check_choice("status", status, Status),
            text=None if text is None else check_text("text", text),
            since=since,
            batch_id=batch_id,
            cursor=cursor,
        )
        return TaskPage(map(self._reviewed, page), page.next_cursor)

    def get_record(self, task_id: str) -> TaskRecord:
        """Return the task as the store knows it.

        Raises:
            UnknownTask: There is no such task.
        """
        record = self._store.tasks.get_task(task_id)
        if record is None:
            raise UnknownTask(task_id)
        return self._reviewed(record)

    def get_records(self, task_ids: Iterable[str]) -> list[TaskRecord]:
        """Return many tasks as the store knows them, in the order of the ids.

        Raises:
            UnknownTask: There is no such task; the first that is missing.
        """
        wanted = list(task_ids)
        found = self._store.tasks.get_tasks(wanted)
        for task_id in wanted:
            if task_id not in found:
                raise UnknownTask(task_id)
        return [self._reviewed(found[task_id]) for task_id in wanted]

    def batch_rows(self, batch_id: str) -> list[BatchRow]:
        """Return where the rows of a batch stand, in the order of their first tasks.

        Raises:
            InvalidRequest: It is no id of a batch.
            UnknownBatch: There is no such batch.
        """
        rows = self._store.tasks.list_rows(check_batch_name("batch_id", batch_id))
        if not rows:
            raise UnknownBatch(batch_id)
        return rows

    def image_path(self, name: str) -> Path | None:
        """Return the file of a picture by its name, or None if it is not on this disk.

        ``read_image`` reads pictures wherever they are.
        """
        return self._images.path(name)

    def read_image(self, name: str) -> bytes:
        """Return the bytes of a picture's file.

        Raises:
            UnknownImage: There is no picture of that name.
        """
        data = self._images.read(name)
        if data is None:
            raise UnknownImage(name)
        return data

    def collect_garbage(self, *, dry_run: bool = True) -> list[str]:
        """Remove picture files that nothing refers to, and unfinished ones.

        Files that were written within the last hour stay: they may belong to a task
        under way.

        Args:
            dry_run: Whether to remove nothing and only say what would be.

        Returns:
            The names of the files.

        Raises:
            ForeignPictures: They are another database's, or several keep theirs in one
                place.
        """
        return self._store.collect_garbage(self._images, dry_run=dry_run)

    def _copy_picture(self, name: str, target: Path) -> None:
        data = self.read_image(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data)

    def _review(self, log: tuple[Decision, ...]) -> Review:
        return fold(log, self._quorum)

    def _reviewed(self, record: _Record) -> _Record:
        """Return the record with what its decisions come to."""
        review = self._review(record.decisions)
        return msgspec.structs.replace(
            record, decision=review.decision, approval_status=review.status
        )
