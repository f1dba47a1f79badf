"""Shows the fields of requests and decisions in the signature and help of functions.

Pure functions, for any thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from nbgen.schema.fields import Field, describe_fields
from nbgen.schema.request import REQUEST_FIELDS, RequestFields
from nbgen.schema.review import DECISION_FIELDS, DecisionFields

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_request_fields(function: _Function) -> _Function:
    """Show the fields of a request in the signature and help of a function.

    The last parameter of the function is ``**fields: Unpack[RequestFields]``. In its
    place, help and completion show each field with its default. The function itself is
    returned.
    """
    return _show(function, RequestFields.__annotations__, REQUEST_FIELDS)


def takes_decision_fields(function: _Function) -> _Function:
    """Show the fields of a decision, as ``takes_request_fields`` does of a request.

    The last parameter of the function is ``**fields: Unpack[DecisionFields]``.
    """
    return _show(function, DecisionFields.__annotations__, DECISION_FIELDS)


def _show(
    function: _Function, keywords: Mapping[str, Any], fields: Mapping[str, Field]
) -> _Function:
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
            default=_shown_default(fields[name]),
            annotation=_shown_type(annotation),
        )
        for name, annotation in keywords.items()
        if name not in signature.parameters
    ]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *more])
    told = describe_fields(fields[parameter.name] for parameter in more)
    function.__doc__ = f"{inspect.getdoc(function)}\n\nFields:\n{told}"
    return function


def _shown_default(field: Field) -> Any:
    if field.required:
        return inspect.Parameter.empty
    return field.default.value if isinstance(field.default, StrEnum) else field.default


def _shown_type(annotation: Any) -> Any:
    """Return the type of a keyword, as a module with late annotations writes it."""
    written: str = annotation.__forward_arg__
    required = written.startswith("Required[")
    return written[len("Required[") : -1] if required else written
