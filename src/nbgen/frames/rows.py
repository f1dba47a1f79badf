"""Turns the rows of a table into requests, all of them or none."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbgen.errors import InvalidRequest, RowErrors
from nbgen.schema import GenerationRequest, check_field

_FIELDS = GenerationRequest.__struct_fields__
_TEMPLATE_FIELDS = ("prompt", "negative_prompt")
_LONGEST_SLUG = 36
_MOST_ERRORS_TOLD = 3

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


class _Mistake(NamedTuple):
    row: int
    key: str | None
    field: str
    value: str
    error: str


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
        if name is not None and name not in cells:
            raise InvalidRequest(argument, name, _a_column(name, cells))
    sources, told = {}, {}
    for field, value in {"prompt": prompt, **fields}.items():
        _check_field_name(field)
        sources[field], told[field] = _source(field, value, cells, check_picture)
    requests: dict[str, GenerationRequest] = {}
    mistakes: list[_Mistake] = []
    seen = set[str]()
    for number in range(len(df)):
        row = {name: values[number] for name, values in cells.items()}
        row_key = None if key is None else row[key]
        reading = _Reading(number, None if row_key is None else str(row_key), mistakes)
        if key is not None:
            reading.check_key(key, seen)
        values = reading.values(row, sources)
        if overrides is not None:
            values |= reading.overrides(overrides, row[overrides])
        request = reading.request(values, check_picture)
        if request is not None:
            requests[_row_name(reading.key, request, requests)] = request
    if mistakes:
        raise _row_errors(mistakes, len(df))
    return Rows(f"frame-{_digest([told, key, overrides], 4)}", requests)


class _Reading:
    """The reading of one row, which notes the mistakes that it finds."""

    def __init__(self, number: int, key: str | None, mistakes: list[_Mistake]) -> None:
        self.key = key
        self._number = number
        self._mistakes = mistakes

    def check_key(self, name: str, seen: set[str]) -> None:
        if self.key is None:
            self._note(name, None, f"{name} is empty, and it is the key of the row.")
        elif self.key in seen:
            self._note(name, self.key, f"{name} is also the key of an earlier row.")
        else:
            seen.add(self.key)

    def values(self, row: Row, sources: Mapping[str, Source]) -> dict[str, Any]:
        values = {}
        for field, source in sources.items():
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
            try:
                _check_field_name(field)
            except InvalidRequest as error:
                self._note(name, field, f"{name}: {error}")
                continue
            values[field] = _plain(inner)
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
        shown = "" if value is None else str(value)
        self._mistakes.append(_Mistake(self._number, self.key, field, shown, error))


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
    if field == "prompt":
        allowed = (
            f"{_a_column(value, cells)}, or a template such as '{{{{name}}}}, red'"
        )
        raise InvalidRequest(
            field, value, allowed.replace("{{", "{").replace("}}", "}")
        )
    try:
        constant = _checked(field, _plain(value), check_picture)
    except InvalidRequest as error:
        if not isinstance(value, str):
            raise
        allowed = f"{error.allowed}, or {_a_column(value, cells)}"
        raise InvalidRequest(field, value, allowed) from None
    return lambda _row: constant, ["constant", str(constant)]


def _template(field: str, text: str, cells: Mapping[str, Any]) -> Source:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        allowed = f"a template with columns in braces ({error})"
        raise InvalidRequest(field, text, allowed) from None
    for _literal, name, _format, conversion in parts:
        if name is not None and (name not in cells or conversion):
            allowed = f"a template whose braces hold {_a_column(name, cells)}"
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
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name!r} cannot be written as {how!r}: {error}.") from None


def _checked(field: str, value: Any, check_picture: CheckPicture) -> Any:
    if field in ("image", "mask"):
        return check_picture(field, value)
    return check_field(field, value)


def _check_field_name(field: object) -> None:
    if field in _FIELDS:
        return
    close = difflib.get_close_matches(str(field), _FIELDS, 1)
    near = f"such as {close[0]!r}" if close else f"one of {', '.join(_FIELDS)}"
    raise InvalidRequest("the name of a field", field, f"that of a request, {near}")


def _a_column(name: object, cells: Iterable[str]) -> str:
    columns = list(cells)
    close = difflib.get_close_matches(str(name), columns, 1)
    if close:
        return f"the name of a column, such as {close[0]!r}"
    return f"the name of a column ({', '.join(map(repr, columns)) or 'there are none'})"


def _row_name(key: str | None, request: GenerationRequest, taken: Iterable[str]) -> str:
    """Return a name that this row has again, as long as it asks for the same."""
    plain = GenerationRequest(prompt=request.prompt)
    asked = {
        field: getattr(request, field)
        for field in _FIELDS
        if getattr(request, field) != getattr(plain, field)
    }
    # A field that later versions add changes no name as long as it has its default.
    digest = _digest([key, request.prompt, asked], 6)
    if key is not None:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:_LONGEST_SLUG]
        return f"{slug}-{digest}" if slug else digest
    name, again = digest, 1
    while name in taken:
        again += 1
        name = f"{digest}-{again}"
    return name


def _digest(value: object, size: int) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def _row_errors(mistakes: list[_Mistake], rows: int) -> RowErrors:
    table = pd.DataFrame(mistakes, columns=list(_Mistake._fields)).astype(
        {
            "row": "int64",
            "key": "string",
            "field": "string",
            "value": "string",
            "error": "string",
        }
    )
    bad = list(dict.fromkeys(mistake.row for mistake in mistakes))
    told = [
        f"Row {row}{'' if key is None else f' ({key})'}: {error}"
        for row, key, _field, _value, error in mistakes[:_MOST_ERRORS_TOLD]
    ]
    more = len(mistakes) - len(told)
    if more:
        told.append(f"And {more:,} more, in the table of this error.")
    message = (
        f"{len(bad):,} of {rows:,} rows ask for what is not allowed; none was queued."
    )
    return RowErrors("\n".join([message, *told]), table)
