"""The part of the studio that takes and gives DataFrames.

Thread-safety: every method may be called from any thread. pandas is imported by the
first that is called.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, cast

from nbgen.batching import Batching

if TYPE_CHECKING:
    import pandas as pd

    from nbgen.frames import FrameBatch
    from nbgen.studio import Studio


class Framing(Batching):
    """Turns tables into tasks and back; ``Studio`` is one."""

    def generate_frame(
        self,
        df: pd.DataFrame,
        prompt: str = "prompt",
        *,
        key: str | None = None,
        overrides: str | None = None,
        name: str | None = None,
        priority: int = 0,
        **column_or_constant: Any,
    ) -> FrameBatch:
        """Queue a task for each row of a table, and return at once.

        All rows are checked before the first is queued. Called again, for example by
        running its cell again, it queues what is missing: rows that are new or were
        changed, and those whose task failed, was cancelled or lost.

        Args:
            df: The rows.
            prompt: The name of a column, or a template with columns in braces, such as
                ``"{headline}, watercolor"``; formats such as ``{price:.2f}`` work. A
                text of several words that is like no column's name is the prompt of
                all rows.
            key: The column whose values, each once, tell the rows apart, so that a row
                that was changed is known from a new one by a person who looks at the
                task ids; None tells them apart by what they ask for.
            overrides: A column of objects (dictionaries or JSON texts) with request
                fields of that row, which take the place of what is said here; a field
                that is None there does not.
            name: Tells this batch from others, 1 to 60 letters, digits, dots,
                underscores, colons or hyphens. By default one that the other arguments
                determine. Give another to make the same pictures anew.
            priority: See ``generate``.
            column_or_constant: Further fields of ``GenerationRequest``: the name of a
                column, or a value for all rows. An empty cell, and None for all rows,
                stands for the field's default. ``negative_prompt`` may be a template
                too.

        Returns:
            A handle on the batch; ``to_frame()`` is the table with what came of it.

        Raises:
            InvalidRequest: An argument is not allowed, for any row.
            RowErrors: Rows ask for what is not allowed; its ``table`` lists them all.
            TaskConflict: A task id of the batch stands for something else.
            DataFolderInUse: Another process runs the tasks of the data folder, and
                something is missing.
            QueueFull: There is not room for all.
            StudioClosed: The studio is closed.
        """
        from nbgen import frames

        return frames.generate_frame(
            cast("Studio", self),
            df,
            prompt,
            key=key,
            overrides=overrides,
            name=name,
            priority=priority,
            fields=column_or_constant,
        )

    def tasks_frame(
        self,
        *,
        status: str | None = None,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a table of tasks, newest first; see ``tasks`` for the filters.

        The columns and their dtypes are always the same; see ``nbgen.frames.tables``.

        Args:
            status: See ``tasks``.
            text: See ``tasks``.
            since: See ``tasks``.
            batch_id: See ``tasks``.
            limit: How many at most; None for all.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        from nbgen import frames

        return frames.tasks_frame(
            cast("Studio", self),
            status=status,
            text=text,
            since=since,
            batch_id=batch_id,
            limit=limit,
        )

    def images_frame(
        self,
        *,
        text: str | None = None,
        since: dt.datetime | None = None,
        batch_id: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a table of the pictures that were made, newest tasks first.

        What was decided stands beside the pictures that the decision is about.

        Args:
            text: See ``tasks``.
            since: See ``tasks``.
            batch_id: See ``tasks``.
            limit: How many at most; None for all.

        Raises:
            InvalidRequest: A value is not allowed.
        """
        from nbgen import frames

        return frames.images_frame(
            cast("Studio", self),
            text=text,
            since=since,
            batch_id=batch_id,
            limit=limit,
        )

    def decisions_frame(self, task_id: str | None = None) -> pd.DataFrame:
        """Return the log of decisions as a table, oldest first.

        Args:
            task_id: Only those on this task; None for all.
        """
        from nbgen import frames

        return frames.decisions_frame(cast("Studio", self), task_id)
