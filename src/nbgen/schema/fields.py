"""Reads what a struct says of its fields: types, limits, defaults, labels and help.

Each limit stands once, in the ``msgspec.Meta`` of the field's type. The checks, the
form of the panel, the command line, the tables of pandas and the JSON schema are
derived from it. Pure functions, for any thread.

A ``Meta`` says: ``title``, the label in forms; ``description``, one sentence of help;
the limits (``ge``, ``le``, ``gt``, ``lt``, ``multiple_of``, ``min_length``,
``max_length``); and in ``extra``:

- ``check``: a function that returns the checked value, where the type does not say all;
- ``none``: what an empty field stands for, such as ``"random"``;
- ``labels``: what forms call the members of a closed set;
- ``picture``: true for the name of a picture file.
"""

from __future__ import annotations

import datetime as dt
import difflib
import textwrap
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

from nbgen.errors import InvalidRequest
from nbgen.schema.checks import (
    check_choice,
    check_flag,
    check_int,
    check_number,
    check_side,
    check_text,
)

_KINDS: dict[type[types.Type], type] = {
    types.StrType: str,
    types.IntType: int,
    types.FloatType: float,
    types.BoolType: bool,
    types.VarTupleType: tuple,
    types.DateTimeType: dt.datetime,
}


class Field(NamedTuple):
    """One field of a struct.

    Attributes:
        name: Its name.
        kind: The type of its values: ``str``, ``int``, ``float``, ``bool``, ``tuple``,
            ``datetime`` or a ``StrEnum``.
        optional: Whether it may be None.
        default: The default; ``msgspec.NODEFAULT`` if a value is required.
        label: What forms call it.
        help: What it is, as a sentence.
        limits: The limits, by the names that ``msgspec.Meta`` has for them.
        extra: What else its ``Meta`` says; see the module.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    label: str
    help: str
    limits: Mapping[str, Any]
    extra: Mapping[str, Any]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is msgspec.NODEFAULT

    @property
    def is_picture(self) -> bool:
        """Whether its value names a picture file."""
        return bool(self.extra.get("picture"))

    @property
    def allowed(self) -> str:
        """The values that are allowed, as a short phrase; "" if the type says it."""
        if issubclass(self.kind, StrEnum):
            return ", ".join(self.kind)
        limits = self.limits
        if "max_length" in limits:
            noun = "characters" if self.kind is str else "words"
            least = f"{limits['min_length']:,}" if "min_length" in limits else "up"
            return f"{least} to {limits['max_length']:,} {noun}"
        if "gt" in limits:
            return f"more than {limits['gt']:,}, less than {limits['lt']:,}"
        if "ge" not in limits:
            return ""
        span = f"{limits['ge']:,} to {limits['le']:,}"
        multiple = limits.get("multiple_of")
        return f"a multiple of {multiple} from {span}" if multiple else span

    @property
    def described(self) -> str:
        """Its help with the values that are allowed, as one sentence."""
        what, semicolon, more = self.help.partition(";")
        span = f" ({self.allowed})" if self.allowed else ""
        return f"{what}{span}{semicolon}{more}."

    def check(self, value: Any) -> Any:
        """Return the value as the struct holds it.

        Raises:
            InvalidRequest: The value is not allowed.
        """
        if value is None and self.optional:
            return None
        if "check" in self.extra:
            return self.extra["check"](value)
        return _check(self, value)


@cache
def fields_of(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    """Return the fields of a struct by their names, in their order."""
    described = types.type_info(struct)
    assert isinstance(described, types.StructType)
    return {field.name: _field(field) for field in described.fields}


def check_field_names(
    names: Iterable[object], known: Mapping[str, Field], *also: str
) -> None:
    """Refuse names that no field has, and say which name comes closest.

    Args:
        names: The names.
        known: The fields that there are. What forms call them is understood too, so
            that ``steps`` leads to ``num_inference_steps``.
        also: Further names that are allowed.

    Raises:
        InvalidRequest: It names the first that is not known.
    """
    called = {_plain(field.label): name for name, field in known.items()}
    called |= {name: name for name in (*also, *known)}
    for name in names:
        if name not in known and name not in also:
            raise unknown_name("a field", name, called, known)


def unknown_name(
    kind: str, name: object, called: Mapping[str, str], known: Iterable[str]
) -> InvalidRequest:
    """Return the error for a name that is not known, with the one that comes closest.

    Args:
        kind: What is named, with its article.
        name: The name.
        called: What names are called, in small letters, and the names themselves.
        known: All names.
    """
    close = difflib.get_close_matches(_plain(name), called, 1)
    allowed = f"one of {', '.join(known)}"
    if close:
        allowed = f"a known one, such as {called[close[0]]!r}"
    return InvalidRequest(f"the name of {kind}", name, allowed)


def describe_fields(fields: Iterable[Field]) -> str:
    """Return the fields as a docstring lists them."""
    return "\n".join(
        textwrap.fill(
            f"{field.name}: {field.described}",
            width=80,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
        )
        for field in fields
    )


def _field(field: types.Field) -> Field:
    described, says, extra = field.type, dict[str, Any](), dict[str, Any]()
    if isinstance(described, types.Metadata):
        says = described.extra_json_schema or {}
        extra = described.extra or {}
        described = described.type
    optional = isinstance(described, types.UnionType)
    if isinstance(described, types.UnionType):
        described, *more = (
            each for each in described.types if not isinstance(each, types.NoneType)
        )
        assert not more, f"{field.name} is one of several types"
    if isinstance(described, types.EnumType):
        kind: type = described.cls
    else:
        kind = _KINDS[type(described)]
    names = ("ge", "le", "gt", "lt", "multiple_of", "min_length", "max_length")
    limits = {name: getattr(described, name, None) for name in names}
    return Field(
        name=field.name,
        kind=kind,
        optional=optional,
        default=field.default,
        label=says.get("title", field.name),
        help=says.get("description", ""),
        limits={name: limit for name, limit in limits.items() if limit is not None},
        extra=extra,
    )


def _check(field: Field, value: Any) -> Any:  # noqa: PLR0911 - one for each kind
    name, kind, limits = field.name, field.kind, field.limits
    if issubclass(kind, StrEnum):
        return check_choice(name, value, kind)
    if kind is bool:
        return check_flag(name, value)
    if kind is str:
        shortest, longest = limits.get("min_length", 0), limits["max_length"]
        text = check_text(name, value, shortest=shortest, longest=longest)
        return text or None if field.optional else text
    if "multiple_of" in limits:
        least, most, multiple = limits["ge"], limits["le"], limits["multiple_of"]
        return check_side(name, value, least, most, multiple)
    if kind is int:
        return check_int(name, value, limits["ge"], limits["le"])
    assert kind is float, f"{name} needs a check of its own"
    if "gt" in limits:
        return check_number(name, value, limits["gt"], limits["lt"], ends=False)
    return check_number(name, value, limits["ge"], limits["le"])


def _plain(name: object) -> str:
    """Return a name as a field's could be written, whatever it is."""
    try:
        return str(name).strip().lower().replace(" ", "_").replace("-", "_")
    except Exception:  # noqa: BLE001 - whatever a table has as a name
        return ""
