"""Values for fields, made from what the schema says of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from nbgen.schema.fields import Field


def another(  # noqa: PLR0911 - one for each kind
    field: Field, picture: str
) -> Any:
    """Return a value that is allowed and not the default; the picture for pictures."""
    limits = field.limits
    if field.is_picture:
        return picture
    if field.kind is bool:
        return not field.default
    if issubclass(field.kind, StrEnum):
        return next(choice for choice in field.kind if choice != field.default)
    if field.kind is int:
        value = limits["ge"] + limits.get("multiple_of", 1)
        return value if value != field.default else value + limits.get("multiple_of", 1)
    if field.kind is float:
        least, most = limits.get("ge", limits.get("gt")), limits.get("le", 1)
        return (least + most) / 2
    if field.kind is tuple:
        return ("hands", "too dark")
    return f"Another {field.label.lower()}"


def all_changed(fields: Mapping[str, Field], picture: str) -> dict[str, Any]:
    """Return a value for each field, none of which is its default."""
    values = {name: another(field, picture) for name, field in fields.items()}
    assert all(values[name] != field.default for name, field in fields.items())
    return values
