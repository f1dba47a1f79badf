"""What the commands share: the terminal, the bar and clear errors."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
)

from nbgen.errors import NbgenError
from nbgen.settings import default_queue

if TYPE_CHECKING:
    from nbgen.schema import GenerationProgress
    from nbgen.studio import Studio

app = typer.Typer(
    name="nbgen",
    help="Make, watch and approve SDXL images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()
_errors = Console(stderr=True)

_COLOURS = {
    "completed": "green",
    "succeeded": "green",
    "approved": "green",
    "failed": "red",
    "rejected": "red",
    "generating": "cyan",
}

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where tasks and pictures are kept (default: your user data)."),
]

QueueName = Annotated[
    str | None,
    typer.Option(
        "--queue",
        envvar="NBGEN_QUEUE",
        help="The name of the queue.",
    ),
]


@contextmanager
def bar() -> Iterator[Callable[[GenerationProgress], None]]:
    """Show a bar; yield the function that moves it to a state."""
    columns = (
        SpinnerColumn(finished_text=" "),
        # As wide as the longest stage's. A note may quote a prompt, markup and all.
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[steps]}"),
    )
    with Progress(*columns, console=console) as shown:
        line = shown.add_task("Waiting", total=100, steps="")
        notes: list[str] = []

        def show(progress: GenerationProgress) -> None:
            steps = f"{progress.current_step}/{progress.total_steps}"
            if progress.remaining_known:
                steps += f" · {progress.estimated_remaining:.1f} s left"
            result = progress.result
            notes.extend(result.notes if result else ())
            shown.update(
                line,
                description="Done" if result else one_line(progress.message),
                completed=progress.overall_percentage,
                steps=steps,
            )

        yield show
    for note in notes:
        said = f"[yellow]Note:[/yellow] {escape(one_line(note))}"
        console.print(said, highlight=False, soft_wrap=True)


def note_if_paused(studio: Studio) -> None:
    """Say that nothing will begin, if the queue is paused."""
    state = studio.queue_state()
    if state.is_paused:
        said = f"[yellow]Note:[/yellow] {paused(state.name)}"
        console.print(said, highlight=False, soft_wrap=True)


def paused(queue: str) -> str:
    """Return the sentence that says so, and what to do."""
    return f"The queue is paused; 'nbgen resume{for_queue(queue)}' starts it again."


def for_queue(queue: str) -> str:
    """Return the option that a command needs for a queue; empty for the default."""
    return "" if queue == default_queue() else f" --queue {queue}"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an error that nbgen raises on purpose into one line and exit code 1."""
    try:
        yield
    except NbgenError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say what is wrong, in one line on standard error, and end with exit code 1."""
    said = f"[red]Error:[/red] {escape(message)}"
    _errors.print(said, highlight=False, soft_wrap=True)
    sys.exit(1)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 task", "2 tasks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def coloured(word: str) -> str:
    """Return a status, an outcome or a verdict in its colour."""
    colour = _COLOURS.get(word, "yellow")
    return f"[{colour}]{word.replace('_', ' ')}[/{colour}]"


def one_line(text: str) -> str:
    """Return the text without what would move the cursor or colour the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def local_time(moment: dt.datetime) -> str:
    """Return a time as the clock of this machine shows it, to the minute."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
