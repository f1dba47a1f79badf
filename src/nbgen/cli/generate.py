"""The commands that make pictures in a data folder, without a server.

``generate`` makes one; ``pull`` downloads the model for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nbgen.cli.terminal import DataDir, app, bar, clear_errors, console
from nbgen.schema import SchedulerName

CheckpointName = Annotated[
    str,
    typer.Option(help="'auto', 'tiny', 'sdxl', a folder, a file or an id on the hub."),
]
Steps = Annotated[int, typer.Option("--steps", help="Sampling steps, 1 to 150.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to save the picture.")
    ] = Path("image.png"),
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    width: Annotated[int | None, typer.Option(help="Pixels, times 8.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, times 8.")] = None,
    num_inference_steps: Steps = 50,
    guidance_scale: Annotated[float, typer.Option(help="0 to 20.")] = 8.0,
    seed: Annotated[int | None, typer.Option(help="Leave out to draw one.")] = None,
    refine: Annotated[bool, typer.Option(help="Use the refiner.")] = True,
    scheduler: Annotated[SchedulerName, typer.Option(help="The sampler.")] = (
        SchedulerName.EULER
    ),
    image: Annotated[Path | None, typer.Option(help="A picture to start from.")] = None,
    mask: Annotated[Path | None, typer.Option(help="White: draw here anew.")] = None,
    strength: Annotated[float, typer.Option(help="How far from --image.")] = 0.7,
    task_id: Annotated[str | None, typer.Option(help="An id of your own.")] = None,
    data_dir: DataDir = None,
    checkpoint: CheckpointName = "auto",
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
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            use_refinement=refine,
            scheduler=scheduler,
            image=image,
            mask=mask,
            strength=strength,
            on_progress=show,
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
