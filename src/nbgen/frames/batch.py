"""Queues a table, and gives it back with what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbgen.batch import Batch
from nbgen.checks import check_batch_name
from nbgen.frames.rows import read_rows
from nbgen.frames.tables import MADE_COLUMNS, records_frame

if TYPE_CHECKING:
    from nbgen.studio import Studio


class FrameBatch(Batch):
    """A handle on the tasks of a table's rows."""

    def __init__(
        self, studio: Studio, batch_id: str, rows: Sequence[str], df: pd.DataFrame
    ) -> None:
        super().__init__(studio, batch_id, rows)
        # A copy: what the caller does to its own afterwards is not our concern.
        self._df = df.copy()

    def to_frame(self) -> pd.DataFrame:
        """Return the table as it was given, with what has come of each row so far.

        Adds ``task_id``, ``seed``, ``image_path`` (of the picture that a decision
        names, or the first), ``status``, ``error``, ``approval_status``,
        ``reviewer_id`` and ``feedback``. Where the table has such a column itself,
        that stays, and the added one is called ``nbgen_…``.
        """
        records = self._studio.get_records(self.task_ids)
        made = records_frame(self._studio, records)[list(MADE_COLUMNS)]
        frame = self._df.copy()
        for name in MADE_COLUMNS:
            free = f"nbgen_{name}" if name in self._df.columns else name
            # By place: the index of the table is the caller's, and may repeat itself.
            frame[free] = made[name].array
        return frame


def generate_frame(
    studio: Studio,
    df: pd.DataFrame,
    prompt: str,
    *,
    key: str | None,
    overrides: str | None,
    name: str | None,
    priority: int,
    fields: Mapping[str, Any],
) -> FrameBatch:
    """Queue a task for each row of a table; see ``Studio.generate_frame``."""

    def check_picture(field: str, value: Any) -> str | None:
        return None if value is None else studio.keep_picture(field, value)

    if name is not None:
        check_batch_name("name", name)
    rows = read_rows(
        df,
        prompt,
        key=key,
        overrides=overrides,
        fields=fields,
        check_picture=check_picture,
    )
    batch_id = rows.name if name is None else name
    batch = studio.submit_batch(rows.requests, batch_id=batch_id, priority=priority)
    return FrameBatch(studio, batch.id, batch.rows, df)
