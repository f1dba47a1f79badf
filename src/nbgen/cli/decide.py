"""The commands that decide on what was made: ``approve | reject | undo``.

They load no model and start no task, so a studio or server beside them is undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.options import takes_options
from nbgen.cli.terminal import DataDir, app, console
from nbgen.schema import DECISION_FIELDS, PublicationRecord, PublicationState

if TYPE_CHECKING:
    from nbgen.schema import Decision
    from nbgen.studio import Studio

TaskId = Annotated[str, typer.Argument(help=DECISION_FIELDS["task_id"].described)]
# Longer than a webhook may take.
_PUBLISHING_PATIENCE_S = 15.0


_takes_options = partial(
    takes_options,
    DECISION_FIELDS,
    picture=str,
    names={
        "reviewer_id": ("--reviewer",),
        "feedback": ("--feedback", "--reason"),
        "tags": ("--tag",),
    },
    envvars={"reviewer_id": "NBGEN_REVIEWER"},
)
# The one is an argument, the other is the command.
_takes_decision_options = _takes_options(left_out=("task_id", "verdict"))


@app.command()
@_takes_decision_options
def approve(
    task_id: TaskId, as_json: AsJson = False, data_dir: DataDir = None, **fields: Any
) -> None:
    """Approve a task."""
    _decide(data_dir, lambda studio: studio.approve(task_id, **fields), as_json=as_json)


@app.command()
@_takes_decision_options
def reject(
    task_id: TaskId, as_json: AsJson = False, data_dir: DataDir = None, **fields: Any
) -> None:
    """Reject a task."""
    _decide(data_dir, lambda studio: studio.reject(task_id, **fields), as_json=as_json)


@app.command()
@_takes_options(left_out=DECISION_FIELDS.keys() - {"reviewer_id", "expect_version"})
def undo(
    task_id: TaskId, as_json: AsJson = False, data_dir: DataDir = None, **fields: Any
) -> None:
    """Take your decision on a task back; with --expect-version, somebody else's."""
    _decide(data_dir, lambda studio: studio.undo(task_id, **fields), as_json=as_json)


def _decide(
    data_dir: Path | None, decide: Callable[[Studio], Decision], *, as_json: bool
) -> None:
    with opened_studio(data_dir, publishers=None) as studio:
        decision = decide(studio)
        done = studio.decided(decision, wait_s=_PUBLISHING_PATIENCE_S)
    if as_json:
        plain = msgspec.to_builtins(decision)
        print_json({**plain, "publications": msgspec.to_builtins(done.publications)})
        return
    console.print(escape(done.message), highlight=False)
    for record in done.publications:
        console.print(escape(_describe(record)), highlight=False, soft_wrap=True)


def _describe(record: PublicationRecord) -> str:
    if record.state is PublicationState.PUBLISHED:
        where = f": {record.url}" if record.url else ""
        return f"Published by {record.publisher}{where}"
    why = f" ({record.error})" if record.error else ""
    return (
        f"Not yet published by {record.publisher}{why}. The next studio or server on "
        "this data goes on trying."
    )
