"""The commands that make pictures in a data folder, without a server.

``generate`` makes one; ``pull`` downloads the model for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nbgen.cli.options import takes_options
from nbgen.cli.terminal import (
    DataDir,
    QueueName,
    app,
    bar,
    clear_errors,
    console,
    note_if_paused,
)
from nbgen.schema import REQUEST_FIELDS

CheckpointName = Annotated[
    str,
    typer.Option(help="'auto', 'tiny', 'sdxl', a folder, a file or an id on the hub."),
]
_STEPS = REQUEST_FIELDS["num_inference_steps"]
Steps = Annotated[int, typer.Option("--steps", help=_STEPS.described)]
Prompt = Annotated[str, typer.Argument(help=REQUEST_FIELDS["prompt"].described)]


@app.command()
@takes_options(
    REQUEST_FIELDS,
    # The one is an argument, the other is the ending of --output.
    left_out=("prompt", "output_format"),
    names={
        "num_inference_steps": ("--steps",),
        "use_refinement": ("--refine/--no-refine",),
    },
)
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
    queue: QueueName = None,
    checkpoint: CheckpointName = "auto",
    **fields: Any,
) -> None:
    """Draw a picture here and now, without a server."""
    from nbgen.studio import Studio

    with clear_errors(), Studio(data_dir, checkpoint, queue=queue) as studio:
        note_if_paused(studio)
        with bar() as show:
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
    console.print(f"{name} is in {escape(str(folder))}", soft_wrap=True)
    console.print(f"Use it with: nbgen generate … --checkpoint {name}", soft_wrap=True)
