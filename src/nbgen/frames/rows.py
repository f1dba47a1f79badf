"""Turns the rows of a table into requests, all of them or none."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbgen.errors import InvalidRequest, RowErrors, RowMistake
from nbgen.schema import (
    PICTURE_FIELDS,
    REQUEST_FIELDS,
    GenerationRequest,
    check_field,
    check_request_names,
)

_TEMPLATE_FIELDS = tuple(
    name
    for name, field in REQUEST_FIELDS.items()
    if field.kind is str and not field.is_picture
)
_ARGUMENTS = ("key", "overrides", "name", "priority")
_LONGEST_SLUG = 36
_MOST_ERRORS_TOLD = 3
_MOST_COLUMNS_TOLD = 10
_LONGEST_CELL_TOLD = 200
# A width of so many digits is more memory than a prompt may have characters.
_HUGE_WIDTH = re.compile(r"\d{5}")

Row = Mapping[str, Any]
Source = Callable[[Row], Any]
"""Returns what a field is in a row; raises ``ValueError`` where that is nothing."""
CheckPicture = Callable[[str, Any], Any]
"""Returns the name of the picture that stands for a field."""


class Rows(NamedTuple):
    """What a table asks for.

    Attributes:
        name: What the batch is called unless it is given a name: the same for the same
            arguments, whatever the rows.
        requests: What each row asks for, in their order, under names that stay the
            same as long as a row does.
    """

    name: str
    requests: dict[str, GenerationRequest]


def read_rows(
    df: pd.DataFrame,
    prompt: str,
    *,
    key: str | None,
    overrides: str | None,
    fields: Mapping[str, Any],
    check_picture: CheckPicture,
) -> Rows:
    """Read requests from the rows of a table; see ``Studio.generate_frame``.

    Raises:
        InvalidRequest: An argument is not allowed, for any row.
        RowErrors: Rows ask for what is not allowed.
    """
    cells = _cells(df)
    for argument, name in (("key", key), ("overrides", overrides)):
        if name is not None and (not isinstance(name, str) or name not in cells):
            raise InvalidRequest(argument, name, _a_column(name, cells))
    sources, told = {}, {}
    for field, value in {"prompt": prompt, **fields}.items():
        check_request_names([field], *_ARGUMENTS)
        if field == "prompt" or not _is_missing(value):
            sources[field], told[field] = _source(field, value, cells, check_picture)
        # Otherwise nothing stands for the field's default, as it does in a cell.
    requests: dict[str, GenerationRequest] = {}
    mistakes: list[RowMistake] = []
    seen = set[str]()
    same = Counter[str]()
    for number in range(len(df)):
        row = {name: values[number] for name, values in cells.items()}
        reading = _Reading(number, mistakes)
        if key is not None:
            reading.read_key(key, row[key], seen)
        own = {} if overrides is None else reading.overrides(overrides, row[overrides])
        values = own | reading.values(row, sources, but=own)
        request = reading.request(values, check_picture)
        if request is not None:
            requests[_row_name(reading.key, request, same)] = request
    if mistakes:
        raise _row_errors(mistakes, len(df))
    return Rows(f"frame-{_digest([told, key, overrides], 4)}", requests)


class _Reading:
    """The reading of one row, which notes the mistakes that it finds."""

    def __init__(self, number: int, mistakes: list[RowMistake]) -> None:
        self.key: str | None = None
        self._number = number
        self._mistakes = mistakes

    def read_key(self, name: str, value: Any, seen: set[str]) -> None:
        try:
            key = "" if value is None else str(value)
        except Exception as error:  # noqa: BLE001 - whatever is in a cell
            self._note(name, value, f"{name} cannot be a key: {_as_text(error)}.")
            return
        if not key.strip():
            self._note(name, None, f"{name} is empty, and it is the key of the row.")
            return
        self.key = key
        if key in seen:
            self._note(name, key, f"{name} is also the key of an earlier row.")
        seen.add(key)

    def values(
        self, row: Row, sources: Mapping[str, Source], but: Collection[str]
    ) -> dict[str, Any]:
        values = {}
        for field, source in sources.items():
            if field in but:
                continue
            try:
                value = source(row)
            except ValueError as error:
                self._note(field, None, f"{field}: {error}")
                continue
            if value is not None:
                values[field] = value
            elif field == "prompt":
                self._note(field, None, "prompt is empty, and every row needs one.")
            # Otherwise an empty cell is the field's default.
        return values

    def overrides(self, name: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if isinstance(value, str):
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        if not isinstance(value, Mapping):
            allowed = "an object of request fields, or one as JSON text"
            self._note(name, value, str(InvalidRequest(name, value, allowed)))
            return {}
        values = {}
        for field, inner in value.items():
            plain = _plain(inner)
            # Parquet gives each object the fields of all, with nothing in those that
            # it had not.
            if plain is None:
                continue
            try:
                check_request_names([field])
            except InvalidRequest as error:
                self._note(name, field, f"{name}: {error}")
                continue
            values[field] = plain
        return values

    def request(
        self, values: Mapping[str, Any], check_picture: CheckPicture
    ) -> GenerationRequest | None:
        noted = len(self._mistakes)
        checked = {}
        for field, value in values.items():
            try:
                checked[field] = _checked(field, value, check_picture)
            except InvalidRequest as error:
                self._note(field, value, str(error))
        if len(self._mistakes) > noted or "prompt" not in checked:
            return None
        try:
            return GenerationRequest(**checked)
        except InvalidRequest as error:  # of fields that do not go together
            self._note(error.field, checked.get(error.field), str(error))
        return None

    def _note(self, field: str, value: object, error: str) -> None:
        self._mistakes.append(
            RowMistake(
                self._number,
                None if self.key is None else _as_text(self.key),
                _as_text(field),
                "" if value is None else _as_text(value),
                error.encode("utf-8", "replace").decode(),
            )
        )


def _cells(df: object) -> dict[str, list[Any]]:
    """Return the columns as lists of Python's own values, None for a missing one."""
    if not isinstance(df, pd.DataFrame):
        raise InvalidRequest("df", df, "a pandas DataFrame")
    names = [str(name) for name in df.columns]
    if len(set(names)) < len(names):
        raise InvalidRequest("df", names, "a table whose columns have different names")
    return {
        name: [_plain(value) for value in df.iloc[:, place].tolist()]
        for place, name in enumerate(names)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) or not pd.api.types.is_scalar(value):
        return value
    if pd.isna(value):
        return None
    # A column of whole numbers with a gap is one of floats to pandas.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_missing(value: Any) -> bool:
    return _plain(value) is None


def _as_text(value: object) -> str:
    """Return a value as a message and a table can hold it, whatever it is."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - also of a number that Python will not write
        text = f"a value of type {type(value).__name__} that cannot be shown"
    if len(text) > _LONGEST_CELL_TOLD:
        text = text[: _LONGEST_CELL_TOLD - 1] + "…"
    # A lone surrogate can be neither stored nor sent.
    return text.encode("utf-8", "replace").decode()


def _source(
    field: str,
    value: Any,
    cells: Mapping[str, Any],
    check_picture: CheckPicture,
) -> tuple[Source, list[str]]:
    """Return what reads a field from a row, and what to tell it from others by."""
    if isinstance(value, str) and value in cells:
        return lambda row: row[value], ["column", value]
    if isinstance(value, str) and field in _TEMPLATE_FIELDS and "{" in value:
        return _template(field, value, cells), ["template", value]
    if field == "prompt" and not _is_phrase(value, cells):
        template = "a template such as '{name}, red'"
        allowed = f"{_a_column(value, cells)}, {template}, or a text of several words"
        raise InvalidRequest(field, value, allowed)
    try:
        constant = _checked(field, _plain(value), check_picture)
    except InvalidRequest as error:
        if not isinstance(value, str):
            raise
        allowed = f"{error.allowed}, or {_a_column(value, cells)}"
        raise InvalidRequest(field, value, allowed) from None
    return lambda _row: constant, ["constant", str(constant)]


def _is_phrase(value: object, cells: Mapping[str, Any]) -> bool:
    """Say whether a text is a prompt, rather than a column's name gone wrong."""
    return (
        isinstance(value, str)
        and len(value.split()) > 1
        and not difflib.get_close_matches(value, cells, 1)
    )


def _template(field: str, text: str, cells: Mapping[str, Any]) -> Source:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        allowed = f"a template with columns in braces ({error})"
        raise InvalidRequest(field, text, allowed) from None
    for _literal, name, how, conversion in parts:
        if name is None:
            continue
        if name not in cells:
            allowed = f"a template whose braces hold {_a_column(name, cells)}"
        elif conversion:
            allowed = f"a template without conversions such as !{conversion}"
        elif how and "{" in how:
            allowed = "a template whose formats hold no braces of their own"
        elif how and _HUGE_WIDTH.search(how):
            allowed = "a template whose formats hold numbers of up to four digits"
        else:
            continue
        raise InvalidRequest(field, text, allowed)

    def fill(row: Row) -> str:
        return "".join(
            literal + ("" if name is None else _filled(name, row[name], how or ""))
            for literal, name, how, _conversion in parts
        )

    return fill


def _filled(name: str, value: Any, how: str) -> str:
    if value is None:
        raise ValueError(f"the column {name!r}, which the template needs, is empty.")
    try:
        return format(value, how)
    except Exception as error:  # noqa: BLE001 - whatever is in a cell
        said = _as_text(error)
        raise ValueError(f"{name!r} cannot be written as {how!r}: {said}.") from None


def _checked(field: str, value: Any, check_picture: CheckPicture) -> Any:
    if field in PICTURE_FIELDS:
        return check_picture(field, value)
    try:
        return check_field(field, value)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever is in a cell
        raise InvalidRequest(field, value, "a value that can be read") from error


def _a_column(name: object, cells: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(_as_text(name), cells, 1)
    if close:
        return f"the name of a column, such as {close[0]!r}"
    told = [repr(column) for column in cells][:_MOST_COLUMNS_TOLD]
    if len(cells) > len(told):
        told.append(f"and {len(cells) - len(told):,} more")
    return f"the name of a column ({', '.join(told) or 'there are none'})"


def _row_name(key: str | None, request: GenerationRequest, same: Counter[str]) -> str:
    """Return a name that this row has again, as long as it asks for the same."""
    plain = GenerationRequest(prompt=request.prompt)
    asked = {
        field: getattr(request, field)
        for field in REQUEST_FIELDS
        if getattr(request, field) != getattr(plain, field)
    }
    # A field that later versions add changes no name as long as it has its default.
    digest = _digest([key, request.prompt, asked], 6)
    if key is not None:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:_LONGEST_SLUG]
        return f"{slug}-{digest}" if slug else digest
    same[digest] += 1
    return digest if same[digest] == 1 else f"{digest}-{same[digest]}"


def _digest(value: object, size: int) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def _row_errors(mistakes: list[RowMistake], rows: int) -> RowErrors:
    bad = list(dict.fromkeys(mistake.row for mistake in mistakes))
    told = [
        f"Row {row}{'' if key is None else f' ({key})'}: {error}"
        for row, key, _field, _value, error in mistakes[:_MOST_ERRORS_TOLD]
    ]
    more = len(mistakes) - len(told)
    if more:
        told.append(f"And {more:,} more, in the table of this error.")
    noun = "row" if rows == 1 else "rows"
    ask = "asks" if len(bad) == 1 else "ask"
    message = (
        f"{len(bad):,} of {rows:,} {noun} {ask} for what is not allowed; none was "
        "queued."
    )
    return RowErrors("\n".join([message, *told]), mistakes)
