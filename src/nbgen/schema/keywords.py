"""Shows the fields of a request in the signature and help of functions.

Pure functions, for any thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from nbgen.schema.fields import describe_fields
from nbgen.schema.request import REQUEST_FIELDS, RequestFields

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_request_fields(function: _Function) -> _Function:
    """Show the fields of a request in the signature and help of a function.

    The last parameter of the function is ``**fields: Unpack[RequestFields]``. In its
    place, help and completion show each field with its default. The function itself is
    returned.
    """
    signature = inspect.signature(function)
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_shown_default(name),
            annotation=getattr(annotation, "__forward_arg__", annotation),
        )
        for name, annotation in RequestFields.__annotations__.items()
    ]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *more])
    fields = describe_fields(REQUEST_FIELDS[parameter.name] for parameter in more)
    function.__doc__ = f"{inspect.getdoc(function)}\n\nFields:\n{fields}"
    return function


def _shown_default(name: str) -> Any:
    default = REQUEST_FIELDS[name].default
    return default.value if isinstance(default, StrEnum) else default
