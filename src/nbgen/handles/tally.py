"""Counts where the rows of a batch stand, and keeps the counts up to date.

Not thread-safe: its owner holds a lock.
"""

from __future__ import annotations

import datetime as dt
import heapq
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from nbgen.schema import (
    BatchProgress,
    BatchRow,
    Outcome,
    Status,
    shown_percentage,
)

_LAST_ROWS = 10


class BatchTally:
    """Where some rows of a batch stand. A look costs what has changed since the last.

    Example::

        tally = BatchTally("spring", ["cat", "dog"])
        tally.update(backend.batch_rows("spring"))
        tally.progress(share_of)

    Args:
        batch_id: The id of the batch.
        rows: The names of the rows that count.

    Attributes:
        unfinished: The rows that wait or run, by their names.
        running: The rows that run, by their names.
    """

    def __init__(self, batch_id: str, rows: Sequence[str]) -> None:
        self._batch_id = batch_id
        self._rows: dict[str, BatchRow | None] = dict.fromkeys(rows)
        self._counts: Counter[Status | Outcome] = Counter()
        # The times of the last rows that succeeded, the oldest first.
        self._last: list[tuple[dt.datetime, float]] = []
        self.unfinished: dict[str, BatchRow] = {}
        self.running: dict[str, BatchRow] = {}
        self._failed: dict[str, BatchRow] = {}

    def reset(self, rows: Iterable[BatchRow]) -> None:
        """Count anew, from all rows of the batch."""
        self._rows = dict.fromkeys(self._rows)
        self._counts.clear()
        self._last.clear()
        self.unfinished.clear()
        self.running.clear()
        self._failed.clear()
        self.update(rows)

    def update(self, rows: Iterable[BatchRow]) -> None:
        """Take in how rows stand now; those of an older task say nothing new."""
        for row in rows:
            if row.name not in self._rows:
                continue
            known = self._rows[row.name]
            if known is not None:
                if known.number > row.number:
                    continue
                self._counts[known.outcome or known.status] -= 1
            self._rows[row.name] = row
            self._counts[row.outcome or row.status] += 1
            _put(self.unfinished, row, is_in=not row.status.ended)
            _put(self.running, row, is_in=row.status is Status.GENERATING)
            _put(self._failed, row, is_in=row.outcome in (Outcome.FAILED, Outcome.LOST))
            if row.outcome is Outcome.SUCCEEDED and known != row:
                self._keep_time(row)

    def rows(self) -> list[BatchRow]:
        """Return the rows, in their order; those without a task are left out."""
        return [row for row in self._rows.values() if row is not None]

    def newest_error(self) -> str | None:
        """Return why the last row ended that failed or was lost; None if none did."""
        if not self._failed:
            return None
        return max(self._failed.values(), key=_ended_at).error

    def progress(self, share_of: Callable[[BatchRow], float]) -> BatchProgress:
        """Return the state of the batch.

        Args:
            share_of: Returns how much of a running row is done, 0.0 to 1.0.
        """
        # Without the rows whose tasks were deleted.
        counts, total = self._counts, self._counts.total()
        left = counts[Status.PENDING] + counts[Status.GENERATING]
        under_way = sum(map(share_of, self.running.values()))
        # The first rows may have waited for the model to load, and a middle one for
        # whatever else the machine did.
        took_s = [took_s for _, took_s in self._last] if left else []
        usual_s = statistics.median(took_s) if took_s else 0.0
        status = Status.GENERATING if left else Status.COMPLETED
        return BatchProgress(
            batch_id=self._batch_id,
            total=total,
            pending=counts[Status.PENDING],
            generating=counts[Status.GENERATING],
            succeeded=counts[Outcome.SUCCEEDED],
            failed=counts[Outcome.FAILED],
            cancelled=counts[Outcome.CANCELLED],
            lost=counts[Outcome.LOST],
            percentage=shown_percentage(total - left + under_way, total, status),
            estimated_remaining=usual_s * (left - under_way),
            remaining_known=bool(took_s),
        )

    def _keep_time(self, row: BatchRow) -> None:
        if row.took_s is None:
            return
        heapq.heappush(self._last, (_ended_at(row), row.took_s))
        if len(self._last) > _LAST_ROWS:
            heapq.heappop(self._last)


def _put(rows: dict[str, BatchRow], row: BatchRow, *, is_in: bool) -> None:
    if is_in:
        rows[row.name] = row
    else:
        rows.pop(row.name, None)


def _ended_at(row: BatchRow) -> dt.datetime:
    assert row.ended_at is not None  # of a row that has ended
    return row.ended_at
