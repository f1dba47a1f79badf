"""What the commands on a data folder share: how they open it, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nbgen.cli.terminal import clear_errors
from nbgen.errors import DataFolderUnusable
from nbgen.images import find_owners
from nbgen.settings import (
    DATABASE_FILE,
    default_data_dir,
    default_database,
    default_images,
)

if TYPE_CHECKING:
    from nbgen.review.publishers import Publisher
    from nbgen.studio import Studio

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def opened_studio(
    data_dir: Path | None,
    publishers: Sequence[Publisher] | None = (),
    *,
    queue: str | None = None,
) -> Iterator[Studio]:
    """Open what is kept in a data folder; no model is loaded and no task started.

    Args:
        data_dir: The folder; None for the user's.
        publishers: What publishes approvals; None for those of the settings.
        queue: The name of the queue; None for that of the settings.
    """
    with clear_errors():
        _check_is_there(data_dir)

    from nbgen.studio import Studio

    with (
        clear_errors(),
        Studio.open_library(data_dir, queue=queue, publishers=publishers) as studio,
    ):
        yield studio


def print_json(value: object) -> None:
    """Print JSON, past the console, which would fold and colour it."""
    typer.echo(json.dumps(value, indent=2))


def _check_is_there(data_dir: Path | None) -> None:
    """Refuse a folder where nothing is kept; a studio would create it."""
    folder = default_data_dir() if data_dir is None else data_dir
    if default_images() is None and find_owners(folder / "images"):
        return  # opening it says where the database might be
    if default_database() is None and not (folder / DATABASE_FILE).is_file():
        raise DataFolderUnusable(
            f"Nothing is kept in {str(folder)!r} yet. Check --data-dir or "
            "NBGEN_DATA_DIR; nbgen generate makes a first picture."
        )
