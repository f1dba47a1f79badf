"""The part of the studio that runs many tasks as one batch.

Thread-safety: every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, cast

from nbgen.errors import DataFolderInUse, TaskConflict
from nbgen.handles.batch import Batch, is_missing
from nbgen.queueing import HIGHEST_PRIORITY, Queueing
from nbgen.schema import (
    GenerationRequest,
    TaskRecord,
    in_batch,
    new_child,
    new_record,
)
from nbgen.schema.checks import check_batch_name, check_int

if TYPE_CHECKING:
    from nbgen.studio import Studio


class Batching(Queueing):
    """Submits batches and finds them; ``Studio`` is one."""

    def submit_batch(
        self,
        requests: Mapping[str, GenerationRequest],
        *,
        batch_id: str,
        priority: int = 0,
    ) -> Batch:
        """Queue what is missing of a batch, all of it or, if that fails, nothing.

        Rows that wait, run or have their pictures are left alone; for rows that
        failed, were cancelled or lost, a retry is queued: of what a reviewer last asked
        for, if one requested changes.

        Args:
            requests: The rows: what to make, under names that stay the same when the
                same is submitted again; each 1 to 60 letters, digits, dots,
                underscores, colons or hyphens.
            batch_id: The name of the batch, likewise. The tasks of a new one have the
                ids ``batch_id:row``.
            priority: See ``Studio.generate``.

        Raises:
            InvalidRequest: A value is not allowed.
            TaskConflict: A row, or such a task id, stands for something else.
            DataFolderInUse: Another process runs the tasks of the data folder, and
                something is missing.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
        """
        check_batch_name("batch_id", batch_id)
        check_int("priority", priority, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)
        for name, request in requests.items():
            check_batch_name("row", name)
            self._check_pictures(request)
        try:
            with self._submission():
                records = self._missing(batch_id, requests, priority)
                if records:
                    self._add(records)
        except DataFolderInUse:
            if self._missing(batch_id, requests, priority):
                raise
            # All of it is made, or will be by who runs the tasks.
        return Batch(cast("Studio", self), batch_id, tuple(requests))

    def retry_rows(self, batch_id: str, names: Iterable[str]) -> None:
        """Queue those rows of a batch again that failed, were cancelled or lost.

        All of them or, if that fails, none. Each at the priority that it had.

        Args:
            batch_id: The batch.
            names: Of these rows of it.

        Raises:
            QueueFull: There is not room for all.
            DataFolderInUse: Another process runs the tasks of the data folder.
            StudioClosed: The studio is closed.
        """
        wanted = set(names)
        if not self._missing_ids(batch_id, wanted):
            return
        with self._submission():
            # Again: somebody may have been faster.
            missing = self._missing_ids(batch_id, wanted)
            lasts = self.get_records(missing)
            records = [new_child(last) for last in lasts]
            if records:
                self._add(records)

    def batch(self, batch_id: str) -> Batch:
        """Return a handle on all rows of a batch.

        Raises:
            UnknownBatch: There is no such batch.
        """
        rows = [row.name for row in self.batch_rows(batch_id)]
        return Batch(cast("Studio", self), batch_id, rows)

    def _missing(
        self, batch_id: str, requests: Mapping[str, GenerationRequest], priority: int
    ) -> list[TaskRecord]:
        """Return tasks that wait, for those rows that have and will have no pictures.

        Raises:
            TaskConflict: A row stands for something else.
        """
        rows = {row.name: row for row in self._store.tasks.list_rows(batch_id)}
        again = rows.keys() & requests.keys()
        last_ids = [rows[name].task_id for name in again]
        first_ids = [f"{batch_id}:{name}" for name in again]
        known = self._store.tasks.get_tasks([*first_ids, *last_ids])
        records = []
        for name, request in requests.items():
            row, first_id = rows.get(name), f"{batch_id}:{name}"
            if row is None:
                record = new_record(first_id, request, priority=priority)
                records.append(in_batch(record, batch_id, name))
            elif known[first_id].request != request:
                raise TaskConflict(first_id)
            elif is_missing(row):
                records.append(new_child(known[row.task_id], priority=priority))
        return records

    def _missing_ids(self, batch_id: str, names: Container[str]) -> list[str]:
        rows = self._store.tasks.list_rows(batch_id)
        return [row.task_id for row in rows if row.name in names and is_missing(row)]
