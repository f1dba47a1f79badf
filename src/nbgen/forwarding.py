"""Makes methods of a facade that call the same method of its backend.

Holds no state, so any thread may call it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from nbgen.backend import Backend

_Params = ParamSpec("_Params")
_Answer = TypeVar("_Answer")


class Facade(Protocol):
    """What has a backend."""

    @property
    def backend(self) -> Backend:
        """The backend that does the work."""


def forwarded(
    method: Callable[Concatenate[Any, _Params], _Answer], name: str | None = None
) -> Callable[Concatenate[Facade, _Params], _Answer]:
    """Return a method that calls a method of the backend and returns its answer.

    It has the signature and the docstring of that method.

    Args:
        method: The method of a protocol of the backend.
        name: The name of the facade's method, if it has another one.

    Example::

        class Studio:
            pause = forwarded(Running.pause)
    """

    @functools.wraps(method)
    def forward(
        self: Facade, /, *args: _Params.args, **kwargs: _Params.kwargs
    ) -> _Answer:
        answer: _Answer = getattr(self.backend, method.__name__)(*args, **kwargs)
        return answer

    if name is not None:
        forward.__name__ = name
    return forward
