"""Makes methods of a backend that one of its parts answers. Holds no state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

_Params = ParamSpec("_Params")
_Answer = TypeVar("_Answer")


def answered_by(
    part: str, method: Callable[Concatenate[Any, _Params], _Answer]
) -> Callable[Concatenate[Any, _Params], _Answer]:
    """Return a method that has a part of the backend do what its own does.

    It has the signature and the docstring of that method.

    Args:
        part: The name of the attribute that holds the part.
        method: The method of a protocol; the part has one of the same name.

    Example::

        class LocalBackend:
            pause = answered_by("_scheduler", Running.pause)
    """

    @functools.wraps(method)
    def ask(self: Any, /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Answer:
        answer: _Answer = getattr(getattr(self, part), method.__name__)(*args, **kwargs)
        return answer

    return ask
