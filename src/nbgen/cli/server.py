"""The commands that serve, or that speak to a server: ``serve | watch | demo``."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nbgen.cli.generate import CheckpointName, Prompt, Steps
from nbgen.cli.terminal import (
    DataDir,
    QueueName,
    app,
    bar,
    clear_errors,
    console,
    note_if_paused,
)
from nbgen.errors import TaskError, UnknownTask
from nbgen.handles.task import result_of
from nbgen.schema import GenerationResult, TaskEnd, new_id

if TYPE_CHECKING:
    from nbgen.wire.http import GenerateBody

_TINY_GUIDANCE_SCALE = 4.5
"""The tiny checkpoint draws best with this, as its model card says."""

Url = Annotated[str, typer.Option(help="The address of the server.")]
Token = Annotated[
    str | None, typer.Option(envvar="NBGEN_TOKEN", help="The server's token.")
]


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
    queue: QueueName = None,
    checkpoint: CheckpointName = "auto",
    finish: Annotated[
        bool, typer.Option("--finish", help="Let the running task end when stopping.")
    ] = False,
) -> None:
    """Serve the progress protocol and the HTTP API until Ctrl+C or SIGTERM.

    It runs the tasks of the queue, also those that wait from before. When it is
    stopped, the running task waits again, for the next one that serves. With --finish
    it goes on to its end, and a second Ctrl+C or SIGTERM stops it.
    """
    from nbgen.server import Server
    from nbgen.studio import Studio

    with (
        _hearing_signals() as wait_for_signal,
        clear_errors(),
        Studio(data_dir, checkpoint, queue=queue, take_over=True) as studio,
        Server(
            studio,
            host=host,
            port=port,
            allow_origins=tuple(allow_origin or ()),
            token=token,
        ) as server,
    ):
        console.print(f"nbgen serves on {server.url} (Ctrl+C ends it)")
        note_if_paused(studio)
        wait_for_signal()
        if finish:
            console.print("Stopping, once the running task has ended.")
            # The server stays open, so that clients see that end.
            studio.close(finish=True)
        else:
            console.print("Stopping.")


@contextmanager
def _hearing_signals() -> Iterator[Callable[[], None]]:
    """Yield a function that waits for SIGINT or SIGTERM, also if it came before.

    From the second one on they raise ``KeyboardInterrupt``, which ends the process.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    heard, told = socket.socketpair()

    def wait_for_signal() -> None:
        heard.recv(1)

    def let_the_next_one_raise(*_args: object) -> None:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    with heard, told:
        told.setblocking(False)
        # Not an Event: its lock may be held where the handler interrupts the waiting,
        # and then the signal is lost. Python itself writes here for each signal.
        before = signal.set_wakeup_fd(told.fileno())
        for number in numbers:
            signal.signal(number, let_the_next_one_raise)
        try:
            yield wait_for_signal
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        finally:
            signal.set_wakeup_fd(before)


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
    from nbgen.wire.http import GenerateBody

    with (
        clear_errors(),
        Studio(data_dir, checkpoint="tiny") as studio,
        Server(studio) as server,
    ):
        note_if_paused(studio)
        console.print(f"Drawing “{prompt}” with the tiny SDXL checkpoint.")
        console.print(f"Serving on {server.url}, following it over its WebSocket:")
        task_id = new_id()
        body = GenerateBody(
            task_id=task_id,
            prompt=prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=_TINY_GUIDANCE_SCALE,
        )
        try:
            picture = asyncio.run(_draw_remotely(server.url, body))
        except KeyboardInterrupt:
            with suppress(UnknownTask):
                studio.cancel(task_id)
            raise
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(picture)
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]", soft_wrap=True)
    console.print("Next: [bold]make lab[/bold] opens the same in JupyterLab.")


async def _watch(url: str, task_id: str, token: str | None) -> GenerationResult:
    """Show the bar of a task and return what it made, or raise why it made nothing."""
    from nbgen.remote.client import watch_task

    last = None
    with bar() as show:
        async for progress in watch_task(url, task_id, token=token):
            show(progress)
            last = progress
    if last is None or not last.status.ended:
        raise TaskError(task_id, "The server ended the connection before the task.")
    return result_of(TaskEnd(task_id, last.outcome, last.error, last.result))


async def _draw_remotely(url: str, body: GenerateBody) -> bytes:
    from nbgen.remote.client import fetch_image, submit

    task = await submit(url, body)
    result = await _watch(url, task.task_id, None)
    return await fetch_image(url, result.images[0].url)
