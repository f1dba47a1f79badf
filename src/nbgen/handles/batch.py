"""The handle on many tasks that belong together. Any thread may call every method."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nbgen.backend import Backend, StopWatching
from nbgen.errors import StudioClosed, TaskError, TaskUnfinished, UnknownTask
from nbgen.handles.batch_watch import BatchWatch
from nbgen.handles.tally import BatchTally
from nbgen.handles.task import result_of
from nbgen.schema import (
    BatchProgress,
    BatchRow,
    GenerationResult,
    Position,
    counted_rows,
)

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
        self._guard = threading.Lock()
        self._tally = BatchTally(batch_id, self.rows)
        self._seen: Position | None = None

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
        """The ids of the tasks that count, one for each row that has one."""
        with self._tallied() as tally:
            return [row.task_id for row in tally.rows()]

    @property
    def progress(self) -> BatchProgress:
        """The present state of the batch."""
        with self._tallied() as tally:
            running = list(tally.running.values())
        # Without the lock, as it may look into the store.
        shares = {row.name: self._share_of(row) for row in running}
        with self._guard:
            return tally.progress(lambda row: shares.get(row.name, 0.0))

    @property
    def newest_error(self) -> str | None:
        """Why the last row ended that failed or was lost; None if none did."""
        with self._tallied() as tally:
            return tally.newest_error()

    def watch(self, on_change: Callable[[], None]) -> StopWatching:
        """Call back whenever ``progress`` may have changed, whoever changed it.

        Args:
            on_change: Called on a thread of the backend, at each step of a row too; it
                must return quickly and call nothing of the batch.

        Returns:
            A function that ends the watching.

        Raises:
            DataFolderUnusable: The changes cannot be read.
            StudioClosed: The studio is closed.
        """
        watch = BatchWatch(self._backend, self.id, self._running_ids, on_change)
        return watch.stop

    def cancel(self) -> None:
        """Ask all of its tasks that have not ended to end."""
        self._backend.cancel([row.task_id for row in self._unfinished()])

    def retry(self) -> None:
        """Queue the rows again that failed, were cancelled or lost; none if none did.

        Raises:
            QueueFull: There is not room for all; none was queued.
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
            ``Task.result`` would raise; ``UnknownTask`` for one whose task was deleted.

        Raises:
            TaskUnfinished: They have not all ended in that time, and go on; or the
                studio was closed. Its ``task_id`` is that of one of them.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # Again, since a retry may have been queued or a task deleted meanwhile.
            while unfinished := self._unfinished():
                for row in unfinished:
                    left = None
                    if deadline is not None:
                        left = max(0.0, deadline - time.monotonic())
                    try:
                        end = self._backend.ended(row.task_id).result(left)
                    except TimeoutError:
                        left_now = _told(len(self._unfinished()))
                        raise TaskUnfinished(
                            row.task_id,
                            f"Batch {self.id!r} has not ended within {timeout} s: "
                            f"{left_now}. It goes on; ask again, or cancel() it.",
                        ) from None
                    if end.outcome is None:
                        self._check_open(unfinished)
                        break
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._results()

    def __await__(self) -> Generator[Any, None, list[RowResult]]:
        """Wait as ``result`` does, without blocking the loop."""
        return self._wait().__await__()

    def _results(self) -> list[RowResult]:
        with self._tallied() as tally:
            standing = {row.name: row.task_id for row in tally.rows()}
        records = self._backend.get_tasks(list(standing.values()))
        ends = {record.id: record.end for record in records}
        results: list[RowResult] = []
        for name in self.rows:
            try:
                if name not in standing:
                    raise UnknownTask(f"{self.id}:{name}")
                results.append(result_of(ends[standing[name]]))
            except TaskError as error:
                results.append(error)
        return results

    async def _wait(self) -> list[RowResult]:
        while unfinished := await asyncio.to_thread(self._unfinished):
            for row in unfinished:
                waiting = await asyncio.to_thread(self._backend.ended, row.task_id)
                if (await asyncio.wrap_future(waiting)).outcome is None:
                    await asyncio.to_thread(self._check_open, unfinished)
                    break
        return await asyncio.to_thread(self._results)

    def _check_open(self, unfinished: Sequence[BatchRow]) -> None:
        """Check that a task whose future resolved without an end was only deleted.

        Raises:
            TaskUnfinished: The studio was closed.
        """
        try:
            self._unfinished()
        except StudioClosed:
            raise TaskUnfinished(
                unfinished[0].task_id,
                f"Batch {self.id!r} has not ended: {_told(len(unfinished))}, and the "
                "studio was closed before. Open another one to follow it.",
            ) from None

    def _unfinished(self) -> list[BatchRow]:
        with self._tallied() as tally:
            return list(tally.unfinished.values())

    def _running_ids(self) -> list[str]:
        with self._tallied() as tally:
            return [row.task_id for row in tally.running.values()]

    def _share_of(self, row: BatchRow) -> float:
        return self._backend.get_progress(row.task_id).overall_percentage / 100

    @contextmanager
    def _tallied(self) -> Iterator[BatchTally]:
        """Hold the lock of the tally, brought up to date."""
        with self._guard:
            if self.rows:  # else nothing of it is stored
                found = self._backend.changed_rows(self.id, self._seen)
                if found.is_whole:
                    self._tally.reset(found.rows)
                else:
                    self._tally.update(found.rows)
                self._seen = found.position
            yield self._tally


def _told(count: int) -> str:
    return f"{counted_rows(count)} {'is' if count == 1 else 'are'} left"
