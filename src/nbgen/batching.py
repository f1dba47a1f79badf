"""The part of the studio that runs many tasks as one batch.

Thread-safety: every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from nbgen.batch import Batch, is_missing
from nbgen.checks import check_batch_name, check_whole
from nbgen.errors import TaskConflict
from nbgen.queueing import HIGHEST_PRIORITY, Queueing, in_batch, new_id, new_record
from nbgen.schema import GenerationRequest

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
            DataFolderInUse: Another process runs the tasks of the data folder.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
        """
        check_batch_name("batch_id", batch_id)
        check_whole("priority", priority, -HIGHEST_PRIORITY, HIGHEST_PRIORITY)
        for name, request in requests.items():
            check_batch_name("row", name)
            self._check_pictures(request)
        with self._submission():
            rows = {row.name: row for row in self._store.list_rows(batch_id)}
            again = rows.keys() & requests.keys()
            last_ids = [rows[name].task_id for name in again]
            first_ids = [f"{batch_id}:{name}" for name in again]
            known = self._store.get_tasks([*first_ids, *last_ids])
            records = []
            for name, request in requests.items():
                row, first_id = rows.get(name), f"{batch_id}:{name}"
                if row is None:
                    record = new_record(first_id, request, priority=priority)
                elif known[first_id].request != request:
                    raise TaskConflict(first_id)
                elif is_missing(row):
                    last = known[row.task_id]
                    record = new_record(
                        new_id(), last.request, last.id, priority=priority
                    )
                else:
                    continue
                records.append(in_batch(record, batch_id, name))
            self._add(records)
        return Batch(cast("Studio", self), batch_id, tuple(requests))

    def batch(self, batch_id: str) -> Batch:
        """Return a handle on all rows of a batch.

        Raises:
            UnknownBatch: There is no such batch.
        """
        rows = [row.name for row in self.batch_rows(batch_id)]
        return Batch(cast("Studio", self), batch_id, rows)
