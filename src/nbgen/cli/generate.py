"""The commands that make pictures in a data folder, without a server.

``generate`` makes one; ``pull`` downloads the model for it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from nbgen.cli.terminal import DataDir, app, bar, clear_errors, console
from nbgen.schema import REQUEST_FIELDS
from nbgen.schema.fields import Field

CheckpointName = Annotated[
    str,
    typer.Option(help="'auto', 'tiny', 'sdxl', a folder, a file or an id on the hub."),
]
_STEPS = REQUEST_FIELDS["num_inference_steps"]
Steps = Annotated[int, typer.Option("--steps", help=_STEPS.described)]
Prompt = Annotated[str, typer.Argument(help=REQUEST_FIELDS["prompt"].described)]
_NO_OPTIONS = {"prompt": "is an argument", "output_format": "is the ending of --output"}
"""The fields of a request that have no option, and why."""

_Command = TypeVar("_Command", bound=Callable[..., None])


def _request_option(field: Field) -> inspect.Parameter:
    """Return the parameter of a command that typer makes the field's option from."""
    kind: Any = Path if field.is_picture else field.kind
    if field.optional:
        kind = kind | None
    name = field.extra.get("option", f"--{field.name.replace('_', '-')}")
    # Typer lists the members of a closed set itself.
    closed = issubclass(field.kind, StrEnum)
    option = typer.Option(
        name,
        help=f"{field.help}." if closed else field.described,
        show_default=field.extra.get("none", True),
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[kind, option],
    )


def takes_request_options(command: _Command) -> _Command:
    """Give a command an option for each field of a request.

    They take the place of its last parameter, ``**fields``.
    """
    signature = inspect.signature(command, eval_str=True)
    *own, _fields = signature.parameters.values()
    options = [
        _request_option(field)
        for name, field in REQUEST_FIELDS.items()
        if name not in _NO_OPTIONS
    ]
    vars(command)["__signature__"] = signature.replace(parameters=[*own, *options])
    return command


@app.command()
@takes_request_options
def generate(
    prompt: Prompt,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Where to save the picture; of several, the first, and all are kept "
            "with the tasks.",
        ),
    ] = Path("image.png"),
    task_id: Annotated[str | None, typer.Option(help="An id of your own.")] = None,
    data_dir: DataDir = None,
    checkpoint: CheckpointName = "auto",
    **fields: Any,
) -> None:
    """Draw a picture here and now, without a server."""
    from nbgen.studio import Studio

    with (
        clear_errors(),
        Studio(data_dir, checkpoint, take_over=False) as studio,
        bar() as show,
    ):
        drawing = studio.generate_image(
            prompt,
            output,
            task_id=task_id,
            on_progress=show,
            **fields,
        )
        asyncio.run(drawing)
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]", soft_wrap=True)


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="'sdxl', or a model's id on the hub (@revision).")
    ],
) -> None:
    """Download a model from the hub, so that it can be used without the network."""
    from nbgen.generation.checkpoints import find_checkpoint
    from nbgen.generation.checkpoints import pull as pull_model

    with clear_errors():
        pull_model(name)
        folder = find_checkpoint(name).base
    console.print(f"{name} lies in {escape(str(folder))}", soft_wrap=True)
    console.print(f"Use it with: nbgen generate … --checkpoint {name}", soft_wrap=True)
