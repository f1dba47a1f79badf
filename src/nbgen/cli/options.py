"""Makes options of commands from the fields of requests and of decisions.

Typer reads the signature of a command. So a field that is added to the schema becomes
an option by itself, with its help, its limits and its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nbgen.schema.fields import Field

_Command = TypeVar("_Command", bound=Callable[..., None])


def takes_options(
    fields: Mapping[str, Field],
    *,
    left_out: Collection[str],
    picture: type = Path,
    names: Mapping[str, tuple[str, ...]] | None = None,
    envvars: Mapping[str, str] | None = None,
) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a command an option for each field.

    The options take the place of the command's last parameter, ``**fields``.

    Args:
        fields: The fields, by their names.
        left_out: The names of fields without an option.
        picture: The type of options for pictures: a file, or the name of a picture.
        names: What options are called that are not called after their field.
        envvars: Environment variables that give an option its value.
    """
    options = [
        _option(
            field,
            picture,
            (names or {}).get(name, (f"--{name.replace('_', '-')}",)),
            (envvars or {}).get(name),
        )
        for name, field in fields.items()
        if name not in left_out
    ]

    def give(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        *own, _fields = signature.parameters.values()
        vars(command)["__signature__"] = signature.replace(parameters=[*own, *options])
        return command

    return give


def _option(
    field: Field, picture: type, names: tuple[str, ...], envvar: str | None
) -> inspect.Parameter:
    """Return the parameter of a command that typer makes the field's option from."""
    kind: Any = picture if field.is_picture else field.kind
    default: Any = inspect.Parameter.empty if field.required else field.default
    help_text = field.described
    if kind is tuple:
        kind, default = list[str], []
        help_text += " May be repeated."
    if field.optional:
        kind |= None
    if inspect.isclass(kind) and issubclass(kind, StrEnum):
        help_text = f"{field.help}."  # typer lists the members of a closed set itself
    option = typer.Option(
        *names,
        help=help_text,
        envvar=envvar,
        show_default=field.extra.get("none", True),
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
