"""The handle on many tasks that belong together. Any thread may call every method."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from nbgen.errors import TaskError, TaskUnfinished
from nbgen.schema import BatchRow, GenerationResult, Outcome, Status
from nbgen.task import ended_result

if TYPE_CHECKING:
    from nbgen.studio import Studio


# What a row came to.
RowResult = GenerationResult | TaskError


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Attributes:
        batch_id: The id of the batch.
        total: How many rows it has; those below add up to it.
        pending: Rows whose task waits.
        generating: Rows whose task runs.
        succeeded: Rows whose pictures are there.
        failed: Rows whose task failed.
        cancelled: Rows whose task was cancelled.
        lost: Rows whose process died.
        percentage: 0 to 100, of rows, with the share of those under way; 100 only
            when all have ended.
        estimated_remaining: Seconds until all have ended, from how long those of this
            batch took; 0.0 while that is not known.
        remaining_known: Whether it is.
    """

    batch_id: str
    total: int
    pending: int
    generating: int
    succeeded: int
    failed: int
    cancelled: int
    lost: int
    percentage: float
    estimated_remaining: float
    remaining_known: bool

    @property
    def ended(self) -> bool:
        """Whether nothing waits or runs any more."""
        return not self.pending and not self.generating


class Batch:
    """A handle on the tasks of a batch, one for each row.

    Of several tasks for one row, such as retries, the newest counts. Making or
    dropping a handle changes nothing.

    Attributes:
        id: The id of the batch.
        rows: The names of its rows, in their order.
    """

    def __init__(self, studio: Studio, batch_id: str, rows: Sequence[str]) -> None:
        self._studio = studio
        self.id = batch_id
        self.rows = tuple(rows)

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        noun = "row" if len(self.rows) == 1 else "rows"
        return f"{type(self).__name__}({len(self.rows):,} {noun})"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def task_ids(self) -> list[str]:
        """The ids of the tasks that count, one for each row."""
        return [row.task_id for row in self._standing()]

    @property
    def progress(self) -> BatchProgress:
        """The present state of the batch."""
        return self._progress_of(self._standing())

    def cancel(self) -> None:
        """Ask all of its tasks that have not ended to end.

        Raises:
            TaskError: Another process runs them.
        """
        self._studio.cancel_tasks(row.task_id for row in self._unfinished())

    def retry(self) -> None:
        """Queue the rows again that failed, were cancelled or lost.

        Raises:
            QueueFull: There is not room for all; none was queued.
            StudioClosed: The studio is closed.
        """
        missing = [row.task_id for row in self._standing() if is_missing(row)]
        self._studio.retry_tasks(missing)

    def result(self, timeout: float | None = None) -> list[RowResult]:
        """Wait for the end of all and return what each row came to.

        A ``KeyboardInterrupt`` while waiting cancels the batch.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.

        Returns:
            For each row, in their order, the result, or the error that
            ``Task.result`` would raise.

        Raises:
            TaskUnfinished: They have not all ended in that time, or run in another
                process; they go on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # Again, since a retry may have been queued meanwhile.
            while unfinished := self._unfinished():
                for row in unfinished:
                    left = None
                    if deadline is not None:
                        left = max(0.0, deadline - time.monotonic())
                    try:
                        self._studio.task(row.task_id).result(left)
                    except TaskUnfinished:
                        raise
                    except TaskError:
                        continue  # it has ended, which is what we wait for
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._results()

    def __await__(self) -> Generator[Any, None, list[RowResult]]:
        """Wait as ``result`` does, without blocking the loop."""
        return self._wait().__await__()

    def _results(self) -> list[RowResult]:
        results: list[RowResult] = []
        for record in self._studio.get_records(self.task_ids):
            try:
                results.append(ended_result(record))
            except TaskError as error:
                results.append(error)
        return results

    async def _wait(self) -> list[RowResult]:
        while unfinished := await asyncio.to_thread(self._unfinished):
            for row in unfinished:
                task = await asyncio.to_thread(self._studio.task, row.task_id)
                try:
                    await task
                except TaskUnfinished:
                    raise
                except TaskError:
                    continue  # it has ended, which is what we wait for
        return await asyncio.to_thread(self._results)

    def _unfinished(self) -> list[BatchRow]:
        return [row for row in self._standing() if not row.status.ended]

    def _standing(self) -> list[BatchRow]:
        if not self.rows:
            return []  # nothing of it is stored
        standing = {row.name: row for row in self._studio.batch_rows(self.id)}
        return [standing[name] for name in self.rows]

    def _progress_of(self, rows: Sequence[BatchRow]) -> BatchProgress:
        counts = dict.fromkeys((*Status, *Outcome), 0)
        under_way = 0.0
        took_s = []
        for row in rows:
            counts[row.outcome or row.status] += 1
            if row.status is Status.GENERATING:
                progress = self._studio.get_progress(row.task_id)
                under_way += progress.overall_percentage / 100
            if row.outcome is Outcome.SUCCEEDED and row.took_s is not None:
                took_s.append(row.took_s)
        left = counts[Status.PENDING] + counts[Status.GENERATING]
        known = bool(took_s and left)
        done = len(rows) - left + min(under_way, counts[Status.GENERATING])
        percentage = 100 * done / len(rows) if left else 100.0
        mean_s = sum(took_s) / len(took_s) if known else 0.0
        return BatchProgress(
            batch_id=self.id,
            total=len(rows),
            pending=counts[Status.PENDING],
            generating=counts[Status.GENERATING],
            succeeded=counts[Outcome.SUCCEEDED],
            failed=counts[Outcome.FAILED],
            cancelled=counts[Outcome.CANCELLED],
            lost=counts[Outcome.LOST],
            percentage=percentage if not left else min(percentage, 99.9),
            estimated_remaining=mean_s * max(left - under_way, 0.0),
            remaining_known=known,
        )


def is_missing(row: BatchRow) -> bool:
    """Say whether a row has ended without its pictures."""
    return row.outcome not in (None, Outcome.SUCCEEDED)
