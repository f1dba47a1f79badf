"""Queues a table, and gives it back with what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import pandas as pd

from nbgen.backend import Backend
from nbgen.frames.rows import read_rows
from nbgen.frames.tables import MADE_COLUMNS, records_frame
from nbgen.handles.batch import Batch
from nbgen.images import read_source
from nbgen.schema import takes_request_fields
from nbgen.schema.checks import check_batch_name


class FrameBatch(Batch):
    """A handle on the tasks of a table's rows."""

    def __init__(
        self, backend: Backend, batch_id: str, rows: Sequence[str], df: pd.DataFrame
    ) -> None:
        super().__init__(backend, batch_id, rows)
        # A copy: what the caller does to its own afterwards is not our concern.
        self._df = df.copy()

    def to_frame(self) -> pd.DataFrame:
        """Return the table as it was given, with what has come of each row so far.

        Adds ``task_id``, ``seed``, ``image_path`` (of the picture that a decision is
        about, or the first), ``status``, ``error``, ``approval_status``,
        ``reviewer_id`` and ``feedback``. Where the table has such a column itself,
        that stays, and the added one is called ``nbgen_…``; one that is called so
        already is replaced. A table that has all eight is taken for one that came from
        here, and they are replaced.
        """
        records = self.backend.get_tasks(self.task_ids)
        made = records_frame(self.backend, records)[list(MADE_COLUMNS)]
        frame = self._df.copy()
        for name, added in _added_columns(frame).items():
            # By place: the index of the table is the caller's, and may repeat itself.
            frame[added] = made[name].array
        return frame


def _added_columns(frame: pd.DataFrame) -> dict[str, str]:
    """Return what the added columns are called in a table."""
    second = {name: f"nbgen_{name}" for name in MADE_COLUMNS}
    ours = {
        name: other if other in frame.columns else name
        for name, other in second.items()
    }
    if all(name in frame.columns for name in ours.values()):
        return ours
    return {
        name: other if name in frame.columns else name for name, other in second.items()
    }


class _Pictures:
    """Keeps the pictures of a table, each once, however many rows name it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # With each source, which must not make room for another of the same id.
        self._kept: dict[str | int, tuple[object, str]] = {}

    def keep(self, field: str, source: Any) -> str | None:
        if source is None:
            return None
        named = isinstance(source, (str, PathLike))
        known = str(source) if named else id(source)
        if known not in self._kept:
            name = self._backend.keep_picture(field, read_source(field, source))
            self._kept[known] = source, name
        return self._kept[known][1]


@takes_request_fields
def generate_frame(
    backend: Backend,
    df: pd.DataFrame,
    prompt: str = "prompt",
    *,
    key: str | None = None,
    overrides: str | None = None,
    name: str | None = None,
    priority: int = 0,
    **fields: Any,
) -> FrameBatch:
    """Queue a task for each row of a table, and return at once.

    All rows are checked before the first is queued. Called again, for example by
    running its cell again, it queues what is missing: rows that are new or were
    changed, and those whose task failed, was cancelled or lost.

    Args:
        backend: Where the tasks are queued.
        df: The rows.
        prompt: The name of a column, or a template with columns in braces, such as
            ``"{headline}, watercolor"``; formats such as ``{price:.2f}`` work. A
            prompt with spaces is used for every row, unless a column has that name.
        key: The column whose values, each once, tell the rows apart, so that a row
            that was changed is known from a new one by a person who looks at the
            task ids; None tells them apart by what they ask for.
        overrides: A column of objects (dictionaries or JSON texts) with request
            fields of that row. A row's override wins; None in it means no override.
        name: Tells this batch from others, 1 to 60 letters, digits, dots,
            underscores, colons or hyphens. By default one that the other arguments
            determine. Give another to make the same pictures anew.
        priority: -1,000 to 1,000; tasks of a higher one run first.
        fields: Further fields of ``GenerationRequest``: the name of a
            column, or a value for all rows. An empty cell, and None for all rows,
            stands for the field's default. ``negative_prompt`` may be a template
            too.

    Returns:
        A handle on the batch; ``to_frame()`` is the table with what came of it.

    Raises:
        InvalidRequest: An argument is not allowed, for any row.
        RowErrors: Rows ask for what is not allowed; its ``table`` lists them all.
        TaskConflict: A task id of the batch stands for something else.
        QueueFull: There is not room for all.
        StudioClosed: The studio is closed.
    """
    if name is not None:
        check_batch_name("name", name)
    rows = read_rows(
        df,
        prompt,
        key=key,
        overrides=overrides,
        fields=fields,
        check_picture=_Pictures(backend).keep,
    )
    batch_id = rows.name if name is None else name
    backend.submit_batch(batch_id, rows.requests, priority=priority)
    return FrameBatch(backend, batch_id, tuple(rows.requests), df)
