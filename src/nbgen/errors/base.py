"""The base of all errors, and how values stand in their messages."""

from __future__ import annotations

from typing import Any

_LONGEST_VALUE_SHOWN = 80


class NbgenError(Exception):
    """The base of every error that nbgen raises on purpose.

    Example::

        try:
            studio.generate("a red circle", width=1_001)
        except NbgenError as error:
            print(error.code, error)

    Attributes:
        code: The stable name of the error on the wire.
    """

    code = "error"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default the message would be passed to __init__, which may want more.
        return _rebuilt, (type(self), self.args), self.__dict__


def shown(value: object) -> str:
    """Return the value as it may stand in a message: short, on one line."""
    if isinstance(value, str) and len(value) > _LONGEST_VALUE_SHOWN:
        return f"{len(value):,} characters"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - also of a number that Python will not write
        return f"a value of type {type(value).__name__} that cannot be shown"
    # What can be neither stored nor sent, of a class that shows itself with it.
    text = text.encode("utf-8", "replace").decode()
    if len(text) > _LONGEST_VALUE_SHOWN:
        return text[: _LONGEST_VALUE_SHOWN - 1] + "…"
    return text


def _rebuilt(kind: type[NbgenError], arguments: tuple[Any, ...]) -> NbgenError:
    error = kind.__new__(kind)
    error.args = arguments
    return error
