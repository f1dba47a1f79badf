"""Where the featured image of a content task is, in metadata of many makers.

Holds no state, so any thread may call it.
"""

from __future__ import annotations

import json
from typing import Any

_PLACES = (
    ("featured_image_url",),
    ("image", "url"),
    ("image_url",),
    ("featured_image", "url"),
    ("image",),
    ("featured_image",),
)
_CONTAINERS = ("result", "content", "metadata", "image_metadata")


def find_image_url(metadata: object) -> str | None:
    """Return the first usable URL in the metadata, or None if it has none.

    Usable is a text that is not blank and can be stored; it is returned without the
    blanks around it. Whatever else stands in a place, the next place is tried. No JSON
    value raises.

    Args:
        metadata: The ``task_metadata``: an object, or one as JSON text.
    """
    top = _as_object(metadata)
    for container in (top, *(_as_object(top.get(name)) for name in _CONTAINERS)):
        for place in _PLACES:
            found: Any = container
            for name in place:
                found = found.get(name) if isinstance(found, dict) else None
            if isinstance(found, str) and _can_be_stored(found) and found.strip():
                return found.strip()
    return None


def searched_places() -> tuple[str, ...]:
    """Return the names of the places in the order of the search, for a message.

    ``result.*`` stands for all the first places once more, under ``result``.
    """
    places = tuple(".".join(place) for place in _PLACES)
    return places + tuple(f"{container}.*" for container in _CONTAINERS)


def _can_be_stored(text: str) -> bool:
    # JSON may spell out half a character, or the NUL that PostgreSQL refuses.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _as_object(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # broken, or nested without end
            return {}
    return value if isinstance(value, dict) else {}
