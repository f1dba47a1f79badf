"""The commands on what was made: ``tasks | check | export``.

They load no model and start no task, so a studio or server beside them is undisturbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.terminal import (
    DataDir,
    app,
    coloured,
    console,
    counted,
    fail,
    local_time,
    one_line,
)
from nbgen.schema import ApprovalStatus, CheckReport
from nbgen.schema.checks import MOST_LISTED


@app.command()
def tasks(
    status: Annotated[
        str | None, typer.Option(help="pending, generating, completed or failed.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A part of the prompt.")] = None,
    batch: Annotated[str | None, typer.Option(help="The id of a batch.")] = None,
    limit: Annotated[int, typer.Option(help=f"How many, 1 to {MOST_LISTED:,}.")] = 20,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the newest tasks."""
    with opened_studio(data_dir) as studio:
        page = studio.tasks(status=status, text=text, batch_id=batch, limit=limit)
    if as_json:
        print_json(msgspec.to_builtins(list(page)))
        return
    if not page:
        console.print("There are no such tasks.")
        return
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("task", "status", "review", "made"):
        table.add_column(name, no_wrap=True)
    # What does not fit is cut from the prompt, which a person knows by its beginning.
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for record in page:
        outcome = record.outcome.value if record.outcome else record.status.value
        shown = "completed" if outcome == "succeeded" else outcome
        table.add_row(
            escape(record.id),
            coloured(shown),
            coloured(record.approval_status.value),
            local_time(record.created_at),
            escape(one_line(record.request.prompt)),
        )
    console.print(table)
    if page.next_cursor:
        console.print("[dim]There are more; --limit shows them.[/dim]")


@app.command()
def check(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Take damaged files away; no task changes."),
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Read all picture files and the database, and say what is damaged or missing.

    With --repair, damaged files are moved into the folder "damaged" beside the
    pictures (in a bucket they are removed). Then nothing serves them, and the next good
    picture of the name takes the place. The exit code is 1 if anything is wrong and
    left.
    """
    with opened_studio(data_dir) as studio:
        report = studio.check(repair=repair)
    if as_json:
        print_json({"sound": report.is_sound, **msgspec.to_builtins(report)})
    else:
        _show_report(report)
    if report.advice:
        fail(" ".join(report.advice))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if missing.")],
    approval: Annotated[
        str,
        typer.Option(help="approved, rejected, pending, changes_requested or all."),
    ] = ApprovalStatus.APPROVED.value,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Copy pictures into a folder, with tasks.json that says what each is.

    Of an approved task that is the picture that was approved. Files are written whole
    or not at all; those that are there already are replaced.
    """
    with opened_studio(data_dir) as studio:
        done = studio.export(folder, approval=approval)
    if as_json:
        print_json({"tasks": done.tasks, "files": done.files, "missing": done.missing})
    else:
        what = (
            f"{counted(done.tasks, 'task')} with {counted(len(done.files), 'picture')}"
        )
        console.print(f"{what} exported to {escape(str(folder))}", soft_wrap=True)
    if done.missing:
        gone = ", ".join(done.missing)
        fail(f"{counted(len(done.missing), 'file')} missing or damaged: {gone}")


def _show_report(report: CheckReport) -> None:
    for what, pictures in (
        ("damaged", report.damaged),
        ("set aside", report.set_aside),
        ("missing", report.missing),
    ):
        for picture in pictures:
            needed = ", ".join(picture.task_ids) or "no task"
            line = f"{what}: {picture.name}, needed by {needed}"
            console.print(escape(line), highlight=False, soft_wrap=True)
    for fault in report.faults:
        console.print(escape(fault), highlight=False, soft_wrap=True)
    sound = "All is sound. " if report.is_sound else ""
    console.print(f"{sound}{counted(report.files, 'picture')} checked.")
