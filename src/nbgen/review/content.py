"""The metadata of tasks that were made elsewhere: read and merged.

Pure functions, for any thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from nbgen.errors import InvalidRequest


def read_metadata(metadata: object) -> dict[str, Any]:
    """Return metadata as a dictionary of JSON values; it is a copy.

    Args:
        metadata: A mapping of JSON values, or a JSON object as text.

    Raises:
        InvalidRequest: It is neither.
    """
    value = metadata
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise InvalidRequest("metadata", metadata, "an object, or one as JSON text")
    try:
        copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        allowed = f"an object of JSON values ({error})"
        raise InvalidRequest("metadata", "an object", allowed) from error
    return copied


def merge_metadata(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return known metadata with the new: objects are merged, other values replaced."""
    merged = dict(known)
    for name, value in new.items():
        before = merged.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[name] = merge_metadata(before, value)
        else:
            merged[name] = value
    return merged
