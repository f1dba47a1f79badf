"""The commands that delete and keep: ``delete | gc | backup | restore``.

They load no model and start no task, so a studio or server beside them is undisturbed.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.terminal import DataDir, app, clear_errors, console, counted
from nbgen.errors import InvalidRequest

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

TaskIds = Annotated[list[str], typer.Argument(help="The ids of the tasks.")]


def _read_age(text: str) -> dt.timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if found is None:
        raise typer.BadParameter("must be a number with h, d or w, such as 90d")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


@app.command()
def delete(
    task_ids: TaskIds,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is published or approved.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete tasks with the decisions on them; gc removes their pictures.

    All are deleted or none. A task that waits or runs has to be cancelled first.
    """
    with opened_studio(data_dir) as studio:
        studio.delete(task_ids, force=force)
    count = counted(len(set(task_ids)), "task")
    console.print(f"{count} deleted. nbgen gc --delete removes unused pictures.")


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; otherwise only list them.")
    ] = False,
    older_than: Annotated[
        dt.timedelta | None,
        typer.Option(
            parser=_read_age,
            metavar="AGE",
            help="Also tasks that ended that long ago: 90d, 12h, 6w.",
        ),
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Of those, only rejected ones.")
    ] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Of those, only failed, cancelled or lost ones."),
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Find picture files that nothing refers to any more, an hour old or more.

    With --older-than, find old tasks too. Those that are published or approved stay.
    """
    with opened_studio(data_dir) as studio:
        try:
            ids, names = studio.clear_up(
                older_than=older_than,
                rejected=rejected,
                failed=failed,
                dry_run=not delete,
            )
        except InvalidRequest as error:
            raise typer.BadParameter(str(error)) from error
    if as_json:
        found = {"deleted": delete, "files": names}
        print_json(found if older_than is None else {**found, "tasks": ids})
        return
    for line in (*ids, *names):
        console.print(escape(line), highlight=False)
    if not ids and not names:
        console.print("Nothing to clear up.")
        return
    what = [counted(len(names), "file")] if names else []
    if ids:
        also = "" if delete else " (and the files that only they use)"
        what.insert(0, f"{counted(len(ids), 'task')}{also}")
    done = "removed" if delete else "found; --delete removes what is found"
    console.print(f"{' and '.join(what)} {done}.", soft_wrap=True)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, such as a.zip.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is there.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write all tasks, decisions and pictures into one file, while others go on."""
    with opened_studio(data_dir) as studio:
        done = studio.backup(file, force=force)
    if as_json:
        print_json(done._asdict())
        return
    held = f"{counted(done.tasks, 'task')} and {counted(done.pictures, 'picture')}"
    console.print(f"{held} backed up to {escape(str(file))}", soft_wrap=True)
    if done.missing:
        gone = ", ".join(done.missing)
        count = counted(len(done.missing), "picture")
        console.print(
            f"[yellow]Note:[/yellow] the files of {count} are gone or damaged, and "
            f"not in the backup: {gone}",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that nbgen backup wrote.")],
    data_dir: DataDir = None,
) -> None:
    """Unpack a backup into a data folder that is new or empty."""
    from nbgen.keeping import restore as restore_backup

    with clear_errors():
        folder = restore_backup(file, data_dir)
    console.print(f"Restored to {escape(str(folder))}", soft_wrap=True)
