"""The commands that make pictures: ``demo | generate | serve | watch | pull``."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from nbgen.cli.terminal import DataDir, app, bar, clear_errors, console
from nbgen.errors import NbgenError
from nbgen.schema import REQUEST_FIELDS
from nbgen.schema.fields import Field

_TINY_GUIDANCE_SCALE = 4.5
"""The tiny checkpoint draws best with this, as its model card says."""

CheckpointName = Annotated[
    str,
    typer.Option(help="'auto', 'tiny', 'sdxl', a folder, a file or an id on the hub."),
]
Url = Annotated[str, typer.Option(help="The address of the server.")]
Token = Annotated[
    str | None, typer.Option(envvar="NBGEN_TOKEN", help="The server's token.")
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
def demo(
    prompt: Prompt = "a red circle on a blue background",
    output: Annotated[Path, typer.Option(help="Where to save the picture.")] = Path(
        "outputs/demo.png"
    ),
    num_inference_steps: Steps = 30,
    data_dir: DataDir = None,
) -> None:
    """Draw a picture with the tiny checkpoint and follow it over the WebSocket."""
    from nbgen.server import Server
    from nbgen.studio import Studio

    request = {
        "prompt": prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": _TINY_GUIDANCE_SCALE,
    }
    with (
        clear_errors(),
        Studio(data_dir, checkpoint="tiny", take_over=False) as studio,
        Server(studio) as server,
    ):
        console.print(f"Drawing “{prompt}” with the tiny SDXL checkpoint.")
        console.print(f"Serving on {server.url}, following it over its WebSocket:")
        picture = asyncio.run(_draw_remotely(server.url, request))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(picture)
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]", soft_wrap=True)
    console.print("Next: [bold]make lab[/bold] opens the same in JupyterLab.")


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
    from nbgen.wire.progress import progress_message

    with (
        clear_errors(),
        Studio(data_dir, checkpoint, take_over=False) as studio,
        bar() as show,
    ):
        drawing = studio.generate_image(
            prompt,
            output,
            task_id=task_id,
            on_progress=lambda progress: show(progress_message(progress)),
            **fields,
        )
        asyncio.run(drawing)
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]", soft_wrap=True)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin whose pages may connect; may be repeated."),
    ] = None,
    token: Token = None,
    data_dir: DataDir = None,
    checkpoint: CheckpointName = "auto",
) -> None:
    """Serve the progress protocol and the HTTP API until interrupted."""
    from nbgen.server import Server
    from nbgen.studio import Studio

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with (
        clear_errors(),
        Studio(data_dir, checkpoint) as studio,
        Server(
            studio,
            host=host,
            port=port,
            allow_origins=tuple(allow_origin or ()),
            token=token,
        ) as server,
    ):
        console.print(f"nbgen serves on {server.url} (Ctrl+C ends it)")
        stop.wait()
        console.print("Stopping.")


@app.command()
def watch(
    task_id: Annotated[str, typer.Argument(help="The id of the task.")],
    url: Url = "http://127.0.0.1:8000",
    token: Token = None,
) -> None:
    """Follow a task on a server until it ends, also before it has started."""
    with clear_errors():
        asyncio.run(_watch(url, task_id, token))


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


async def _watch(url: str, task_id: str, token: str | None) -> dict[str, Any]:
    """Show the bar of a task and return its last message."""
    from nbgen.remote.client import watch_task

    message: dict[str, Any] = {}
    with bar() as show:
        async for message in watch_task(url, task_id, token=token):
            show(message)
    if message.get("error"):
        raise NbgenError(message["error"])
    return message


async def _draw_remotely(url: str, request: dict[str, Any]) -> bytes:
    from nbgen.remote.client import fetch_image, submit

    task = await submit(url, request)
    end = await _watch(url, task["task_id"], None)
    return await fetch_image(url, end["result"]["images"][0]["url"])
