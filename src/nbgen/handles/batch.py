"""The handle on many tasks that belong together. Any thread may call every method."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import statistics
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from nbgen.backend import Backend
from nbgen.errors import TaskError, TaskUnfinished
from nbgen.handles.task import result_of
from nbgen.schema import (
    BatchProgress,
    BatchRow,
    GenerationResult,
    Outcome,
    Status,
    counted_rows,
    shown_percentage,
)

_LAST_ROWS = 10

# What a row came to.
RowResult = GenerationResult | TaskError


class Batch:
    """A handle on the tasks of a batch, one for each row.

    Example::

        batch = studio.batch("spring")
        print(batch.progress)
        results = batch.result()

    Of several tasks for one row, such as retries, the newest counts. Making or
    dropping a handle changes nothing.

    Attributes:
        id: The id of the batch.
        rows: The names of its rows, in their order.
    """

    def __init__(self, backend: Backend, batch_id: str, rows: Sequence[str]) -> None:
        self._backend = backend
        self.id = batch_id
        self.rows = tuple(rows)

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"{type(self).__name__}({counted_rows(len(self.rows))})"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def backend(self) -> Backend:
        """The backend that has the batch."""
        return self._backend

    @property
    def task_ids(self) -> list[str]:
        """The ids of the tasks that count, one for each row."""
        return [row.task_id for row in self._standing()]

    @property
    def progress(self) -> BatchProgress:
        """The present state of the batch."""
        return self._progress_of(self._standing())

    @property
    def newest_error(self) -> str | None:
        """Why the last row ended that failed or was lost; None if none did."""
        standing = self._standing()
        failed = [r for r in standing if r.outcome in (Outcome.FAILED, Outcome.LOST)]
        return max(failed, key=_ended_at).error if failed else None

    def cancel(self) -> None:
        """Ask all of its tasks that have not ended to end.

        Raises:
            TaskError: Another process runs them.
        """
        self._backend.cancel([row.task_id for row in self._unfinished()])

    def retry(self) -> None:
        """Queue the rows again that failed, were cancelled or lost; none if none did.

        Raises:
            QueueFull: There is not room for all; none was queued.
            DataFolderInUse: Another process runs the tasks of the data folder.
            StudioClosed: The studio is closed.
        """
        self._backend.retry_rows(self.id, self.rows)

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
                process; they go on. Its ``task_id`` is that of one of them.
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
                        end = self._backend.ended(row.task_id).result(left)
                    except TimeoutError:
                        raise self._still_left(row, timeout) from None
                    if end.outcome is None:
                        raise self._still_left(row, None)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._results()

    def __await__(self) -> Generator[Any, None, list[RowResult]]:
        """Wait as ``result`` does, without blocking the loop."""
        return self._wait().__await__()

    def _results(self) -> list[RowResult]:
        results: list[RowResult] = []
        for record in self._backend.get_tasks(self.task_ids):
            try:
                results.append(result_of(record.end))
            except TaskError as error:
                results.append(error)
        return results

    async def _wait(self) -> list[RowResult]:
        while unfinished := await asyncio.to_thread(self._unfinished):
            for row in unfinished:
                waiting = await asyncio.to_thread(self._backend.ended, row.task_id)
                if (await asyncio.wrap_future(waiting)).outcome is None:
                    raise await asyncio.to_thread(self._still_left, row, None)
        return await asyncio.to_thread(self._results)

    def _still_left(self, row: BatchRow, waited: float | None) -> TaskUnfinished:
        """Return the error of a wait in vain; ``waited`` if that is why, else None."""
        count = len(self._unfinished())
        left = f"{counted_rows(count)} {'is' if count == 1 else 'are'} left"
        if waited is not None:
            message = (
                f"Batch {self.id!r} has not ended within {waited} s: {left}. It goes "
                "on; ask again, or cancel() it."
            )
        else:
            message = (
                f"Batch {self.id!r} has not ended: {left}, and not all run here: "
                "another process has them, or they wait for one since their studio "
                "was closed. Its results can be read once it has ended."
            )
        return TaskUnfinished(row.task_id, message)

    def _unfinished(self) -> list[BatchRow]:
        return [row for row in self._standing() if not row.status.ended]

    def _standing(self) -> list[BatchRow]:
        if not self.rows:
            return []  # nothing of it is stored
        standing = {row.name: row for row in self._backend.batch_rows(self.id)}
        return [standing[name] for name in self.rows]

    def _progress_of(self, rows: Sequence[BatchRow]) -> BatchProgress:
        counts = dict.fromkeys((*Status, *Outcome), 0)
        under_way = 0.0
        for row in rows:
            counts[row.outcome or row.status] += 1
            if row.status is Status.GENERATING:
                progress = self._backend.get_progress(row.task_id)
                under_way += progress.overall_percentage / 100
        left = counts[Status.PENDING] + counts[Status.GENERATING]
        # The first rows may have waited for the model to load, and a middle one for
        # whatever else the machine did.
        took_s = _took_last_s(rows) if left else []
        done = len(rows) - left + under_way
        status = Status.GENERATING if left else Status.COMPLETED
        usual_s = statistics.median(took_s) if took_s else 0.0
        return BatchProgress(
            batch_id=self.id,
            total=len(rows),
            pending=counts[Status.PENDING],
            generating=counts[Status.GENERATING],
            succeeded=counts[Outcome.SUCCEEDED],
            failed=counts[Outcome.FAILED],
            cancelled=counts[Outcome.CANCELLED],
            lost=counts[Outcome.LOST],
            percentage=shown_percentage(done, len(rows), status),
            estimated_remaining=usual_s * (left - under_way),
            remaining_known=bool(took_s),
        )


def _took_last_s(rows: Iterable[BatchRow]) -> list[float]:
    succeeded = [row for row in rows if row.outcome is Outcome.SUCCEEDED]
    last = heapq.nlargest(_LAST_ROWS, succeeded, key=_ended_at)
    return [row.took_s for row in last if row.took_s is not None]


def _ended_at(row: BatchRow) -> dt.datetime:
    assert row.ended_at is not None  # of a row that has ended
    return row.ended_at
