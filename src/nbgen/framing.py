"""The methods of ``Studio`` that take and give DataFrames.

Importing this module does not import pandas; the first call of a method does. Any
thread may call them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from nbgen.forwarding import Facade
from nbgen.schema import TaskFilters, takes_request_fields

if TYPE_CHECKING:
    import pandas as pd

    from nbgen.frames import FrameBatch


@takes_request_fields
def generate_frame(
    studio: Facade,
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

    A second call, for example by running its cell again, queues what is missing: new
    and changed rows, and rows whose task failed, was cancelled or lost.
    ``nbgen.frames.generate_frame`` describes all options and errors.

    Args:
        studio: The studio that makes the pictures.
        df: The rows.
        prompt: The name of a column, or a template: ``"{headline}, watercolor"``.
        key: The column whose values, each once, tell the rows apart; None tells them
            apart by their requests.
        overrides: A column of objects with request fields of that row.
        name: The id of the batch; None derives one from the other arguments.
        priority: -1,000 to 1,000; tasks of a higher one run first.
        fields: Fields of a request, each the name of a column or a value for all rows.

    Returns:
        A handle on the batch; ``to_frame()`` is the table with what came of it.
    """
    from nbgen import frames

    return frames.generate_frame(
        studio.backend,
        df,
        prompt,
        key=key,
        overrides=overrides,
        name=name,
        priority=priority,
        **fields,
    )


def tasks_frame(
    studio: Facade, *, limit: int | None = None, **filters: Unpack[TaskFilters]
) -> pd.DataFrame:
    """Return a table of tasks, newest first, with the same columns and dtypes always.

    Args:
        studio: The studio that keeps the tasks.
        limit: How many at most; None for all.
        filters: ``status``, ``text``, ``since``, ``batch_id``; see ``Studio.tasks``.

    Raises:
        InvalidRequest: A value or the name of a filter is not allowed.
    """
    from nbgen import frames

    return frames.tasks_frame(studio.backend, limit=limit, **filters)


def images_frame(
    studio: Facade, *, limit: int | None = None, **filters: Unpack[TaskFilters]
) -> pd.DataFrame:
    """Return a table of pictures, newest tasks first; see ``tasks_frame``.

    A decision stands beside the pictures that it is about.
    """
    from nbgen import frames

    return frames.images_frame(studio.backend, limit=limit, **filters)


def decisions_frame(studio: Facade, task_id: str | None = None) -> pd.DataFrame:
    """Return the log of decisions as a table, oldest first: of one task, or all."""
    from nbgen import frames

    return frames.decisions_frame(studio.backend, task_id)
