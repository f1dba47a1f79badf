"""Tables of what a studio keeps, with columns and dtypes that never vary.

Texts are ``string``, whole numbers ``Int64``, numbers ``float64``, true and false
``boolean``, times ``datetime64[us, UTC]``, also in a table without rows. What there is
not is missing (``pandas.NA``, ``NaN`` or ``NaT``); no text is empty, so that a CSV file
keeps the difference.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from nbgen.backend import Backend
from nbgen.errors import InvalidRequest
from nbgen.handles.pages import iter_tasks
from nbgen.schema import (
    Decision,
    GenerationRequest,
    ImageRecord,
    TaskRecord,
    make_query,
)
from nbgen.schema.checks import check_int
from nbgen.schema.fields import fields_of

_TEXT, _WHOLE, _NUMBER, _FLAG = "string", "Int64", "float64", "boolean"
_TIME = "datetime64[us, UTC]"

_DTYPES: Mapping[type, str] = {
    str: _TEXT,
    int: _WHOLE,
    float: _NUMBER,
    bool: _FLAG,
    tuple: _TEXT,
    dt.datetime: _TIME,
}


def _dtypes(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the columns that a struct's fields fill; a closed set is of texts."""
    return {
        name: _DTYPES.get(field.kind, _TEXT)
        for name, field in fields_of(struct).items()
    }


_REQUEST_COLUMNS = _dtypes(GenerationRequest)
# Of a task, it is the seed in use that is shown.
del _REQUEST_COLUMNS["seed"]

_TASK_COLUMNS = {
    "task_id": _TEXT,
    "batch_id": _TEXT,
    "parent_id": _TEXT,
    "status": _TEXT,
    "outcome": _TEXT,
    "error": _TEXT,
    "approval_status": _TEXT,
    "reviewer_id": _TEXT,
    "feedback": _TEXT,
    "image_name": _TEXT,
    "image_path": _TEXT,
    "seed": _WHOLE,
    **_REQUEST_COLUMNS,
    "priority": _WHOLE,
    "created_at": _TIME,
    "started_at": _TIME,
    "ended_at": _TIME,
    "took_s": _NUMBER,
    "checkpoint": _TEXT,
    "device": _TEXT,
}

_DECISION_COLUMNS = {
    "sequence": _WHOLE,
    "task_id": _TEXT,
    "version": _WHOLE,
    **{
        # As in the other tables.
        "image_name" if name == "image" else name: dtype
        for name, dtype in _dtypes(Decision).items()
    },
}

_IMAGE_COLUMNS = {
    "image_name": _TEXT,
    "image_path": _TEXT,
    "image_url": _TEXT,
    "task_id": _TEXT,
    "batch_id": _TEXT,
    "number": _WHOLE,
    "prompt": _TEXT,
    "seed": _WHOLE,
    "width": _WHOLE,
    "height": _WHOLE,
    "approval_status": _TEXT,
    "reviewer_id": _TEXT,
    "feedback": _TEXT,
    "made_at": _TIME,
}

# What a batch adds to the rows that it was made of.
MADE_COLUMNS = (
    "task_id",
    "seed",
    "image_path",
    "status",
    "error",
    "approval_status",
    "reviewer_id",
    "feedback",
)

_KINDS = (_TASK_COLUMNS, _DECISION_COLUMNS, _IMAGE_COLUMNS)


def tasks_frame(
    backend: Backend, *, limit: int | None = None, **filters: Any
) -> pd.DataFrame:
    """Return a table of tasks; see ``Studio.tasks_frame``."""
    records = _records(backend, limit, filters)
    return records_frame(backend, records)


def images_frame(
    backend: Backend, *, limit: int | None = None, **filters: Any
) -> pd.DataFrame:
    """Return a table of pictures; see ``Studio.images_frame``."""
    rows: list[dict[str, Any]] = []
    limit = _check_limit(limit)
    for record in _records(backend, None, filters):
        images = () if record.result is None else record.result.images
        for number, image in enumerate(images):
            row = {
                **_review_row(record, image),
                "image_name": image.name,
                "image_path": _path(backend, image.name),
                "image_url": image.url,
                "task_id": record.id,
                "batch_id": record.batch_id,
                "number": number,
                "prompt": record.request.prompt,
                "seed": image.seed,
                "width": image.width,
                "height": image.height,
                "made_at": record.ended_at,
            }
            rows.append(row)
        if limit is not None and len(rows) >= limit:
            break
    return _table(rows[:limit], _IMAGE_COLUMNS)


def decisions_frame(backend: Backend, task_id: str | None = None) -> pd.DataFrame:
    """Return the log of decisions; see ``Studio.decisions_frame``."""
    rows = [_decision_row(decision) for decision in backend.decisions(task_id)]
    return _table(rows, _DECISION_COLUMNS)


def records_frame(backend: Backend, records: Iterable[TaskRecord]) -> pd.DataFrame:
    """Return a table of the tasks, in their order."""
    rows = [_task_row(backend, record) for record in records]
    return _table(rows, _TASK_COLUMNS)


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a table that was written as Parquet or CSV, with its dtypes.

    For what ``to_parquet`` and ``to_csv(index=False)`` wrote of the studio's tables.
    Parquet knows all dtypes. From CSV, the columns of the studio's names have their
    dtypes, unless they hold what cannot have it; such a column, and any other, is as
    pandas reads it.

    Args:
        path: A file that ends in ``.parquet`` or ``.csv``.

    Raises:
        InvalidRequest: It ends otherwise.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(path)
    if suffix == ".csv":
        return _read_csv(path)
    raise InvalidRequest("path", str(path), "a file that ends in .parquet or .csv")


def _read_csv(path: str | Path) -> pd.DataFrame:
    header = pd.read_csv(path, nrows=0, lineterminator="\n").columns
    windows = str(header[-1]).endswith("\r")
    # A name means the same in every table that has it.
    dtypes: dict[str, Any]
    dtypes = {name: dtype for kind in _KINDS for name, dtype in kind.items()}
    frame = pd.read_csv(
        path,
        dtype={name: _TEXT for name in header if dtypes.get(name) == _TEXT},
        # A prompt may well be "None" or "nan".
        keep_default_na=False,
        na_values=[""],
        # So that a carriage return alone ends no row.
        lineterminator=None if windows else "\n",
    )
    for name in frame.columns.intersection(list(dtypes)):
        # A column that only has our name is left alone.
        with suppress(ValueError, TypeError):
            column = frame[name]
            if dtypes[name] == _TIME:
                column = pd.to_datetime(column, utc=True, format="ISO8601")
            frame[name] = column.astype(dtypes[name])
    return frame


def _records(
    backend: Backend, limit: int | None, filters: Mapping[str, Any]
) -> Iterable[TaskRecord]:
    return iter_tasks(backend, make_query(filters), _check_limit(limit))


def _check_limit(limit: int | None) -> int | None:
    return None if limit is None else check_int("limit", limit, 0, 2**31)


def _task_row(backend: Backend, record: TaskRecord) -> dict[str, Any]:
    image = _shown_image(record)
    return {
        **{name: getattr(record.request, name) for name in _REQUEST_COLUMNS},
        **_review_row(record),
        "task_id": record.id,
        "batch_id": record.batch_id,
        "parent_id": record.parent_id,
        "status": record.status,
        "outcome": record.outcome,
        "error": record.error,
        "image_name": image,
        "image_path": image and _path(backend, image),
        "seed": record.seed,
        "priority": record.priority,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "took_s": record.took_s,
        "checkpoint": record.made_with.get("checkpoint"),
        "device": record.made_with.get("device"),
    }


def _review_row(record: TaskRecord, image: ImageRecord | None = None) -> dict[str, Any]:
    """Return what was decided on a task, or of that on one of its pictures."""
    decision = record.decision
    if decision and image and not decision.is_about(image):
        return dict.fromkeys(("approval_status", "reviewer_id", "feedback"))
    return {
        "approval_status": record.approval_status,
        "reviewer_id": decision and decision.reviewer_id,
        "feedback": decision and decision.feedback,
    }


def _decision_row(decision: Decision) -> dict[str, Any]:
    row = {name: getattr(decision, name, None) for name in _DECISION_COLUMNS}
    return {**row, "tags": "; ".join(decision.tags), "image_name": decision.image}


def _shown_image(record: TaskRecord) -> str | None:
    """Return the first picture that the decision is about, or the first."""
    if record.result is None:
        return None
    images, decision = record.result.images, record.decision
    about = (image for image in images if decision and decision.is_about(image))
    return next(about, images[0]).name


def _path(backend: Backend, name: str) -> str | None:
    path = backend.picture_path(name, check=False)  # a table may name thousands
    return None if path is None else str(path)


def _table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: pd.Series(
                [_CELLS[dtype](row[name]) for row in rows],
                dtype=dtype,
            )
            for name, dtype in columns.items()
        }
    )


def _text(value: str | None) -> str | None:
    # Also of a closed set, whose members would print as themselves.
    return str(value) if value else None


def _same(value: Any) -> Any:
    return value


_CELLS: dict[str, Callable[[Any], Any]] = {
    _TEXT: _text,
    _WHOLE: _same,
    _NUMBER: _same,
    _FLAG: _same,
    _TIME: _same,  # pandas takes it to UTC
}
