"""The commands on what was made: ``tasks | approve | reject | undo | gc | export``.

They load no model and run no task: a studio or server beside them goes on undisturbed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from nbgen.atomic import write_atomic
from nbgen.cli.terminal import DataDir, app, clear_errors, console, counted, fail
from nbgen.errors import DataFolderUnusable, InvalidRequest, UnknownImage
from nbgen.schema import ApprovalStatus, PublicationRecord, PublicationState
from nbgen.schema.checks import check_choice
from nbgen.settings import DATABASE_FILE, default_data_dir, default_database

if TYPE_CHECKING:
    from nbgen.review.publishers import Publisher
    from nbgen.schema import Decision, TaskRecord
    from nbgen.studio import Studio

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
TaskId = Annotated[str, typer.Argument(help="The id of the task.")]
Reviewer = Annotated[
    str, typer.Option(envvar="NBGEN_REVIEWER", help="Your name, for the record.")
]
Version = Annotated[
    int | None,
    typer.Option(help="How many decisions you know of; refused if there are more."),
]
# Longer than a webhook may take.
_PUBLISHING_PATIENCE_S = 15.0
_COLOURS = {
    "completed": "green",
    "approved": "green",
    "failed": "red",
    "rejected": "red",
    "generating": "cyan",
}


@app.command()
def tasks(
    status: Annotated[
        str | None, typer.Option(help="pending, generating, completed or failed.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A part of the prompt.")] = None,
    batch: Annotated[str | None, typer.Option(help="The id of a batch.")] = None,
    limit: Annotated[int, typer.Option(help="How many, 1 to 1,000.")] = 20,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the newest tasks."""
    with _studio(data_dir, publishers=()) as studio:
        page = studio.tasks(status=status, text=text, batch_id=batch, limit=limit)
    if as_json:
        _print_json([_plain(record) for record in page])
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
            _coloured(shown),
            _coloured(record.approval_status.value),
            f"{record.created_at.astimezone():%Y-%m-%d %H:%M}",
            escape(_one_line(record.request.prompt)),
        )
    console.print(table)
    if page.next_cursor:
        console.print("[dim]There are more; --limit shows them.[/dim]")


@app.command()
def approve(
    task_id: TaskId,
    reviewer: Reviewer,
    feedback: Annotated[str | None, typer.Option(help="What is good.")] = None,
    expect_version: Version = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Approve a task."""
    _decide(
        data_dir,
        lambda studio: studio.approve(
            task_id,
            reviewer_id=reviewer,
            feedback=feedback,
            expect_version=expect_version,
        ),
        as_json=as_json,
    )


@app.command()
def reject(
    task_id: TaskId,
    reviewer: Reviewer,
    feedback: Annotated[
        str | None, typer.Option("--feedback", "--reason", help="What is wrong.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    expect_version: Version = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Reject a task."""
    _decide(
        data_dir,
        lambda studio: studio.reject(
            task_id,
            reviewer_id=reviewer,
            feedback=feedback,
            tags=tag or (),
            expect_version=expect_version,
        ),
        as_json=as_json,
    )


@app.command()
def undo(
    task_id: TaskId,
    reviewer: Reviewer,
    expect_version: Version = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take your decision on a task back; with --expect-version, somebody else's."""
    _decide(
        data_dir,
        lambda studio: studio.undo(
            task_id, reviewer_id=reviewer, expect_version=expect_version
        ),
        as_json=as_json,
    )


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; otherwise only list them.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Find picture files that nothing refers to any more, an hour old or more."""
    with _studio(data_dir, publishers=()) as studio:
        names = studio.collect_garbage(dry_run=not delete)
    if as_json:
        _print_json({"deleted": delete, "files": names})
        return
    for name in names:
        console.print(escape(name), highlight=False)
    done = "removed" if delete else "found; --delete removes what is found"
    console.print(
        f"{counted(len(names), 'file')} {done}." if names else "Nothing to clear up."
    )


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
    described, files, gone = [], [], []
    with _studio(data_dir, publishers=()) as studio:
        if approval != "all":
            check_choice("approval", approval, ApprovalStatus)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for record in _all_tasks(studio):
                if approval not in ("all", record.approval_status.value):
                    continue
                described.append(_plain(record))
                for image in record.result.images if record.result else ():
                    if record.decision and not record.decision.is_about(image):
                        continue
                    try:
                        data = studio.read_image(image.name)
                    except UnknownImage:
                        gone.append(image.name)
                        continue
                    write_atomic(folder / image.name, data)
                    files.append(image.name)
            text = json.dumps(described, indent=2)
            write_atomic(folder / "tasks.json", f"{text}\n".encode())
    if as_json:
        _print_json({"tasks": len(described), "files": files, "missing": gone})
    else:
        what = (
            f"{counted(len(described), 'task')} with {counted(len(files), 'picture')}"
        )
        console.print(f"{what} exported to {escape(str(folder))}", soft_wrap=True)
    if gone:
        fail(f"{counted(len(gone), 'file')} missing: {', '.join(gone)}")


@contextmanager
def _studio(
    data_dir: Path | None, publishers: Sequence[Publisher] | None = None
) -> Iterator[Studio]:
    from nbgen.studio import Studio

    with clear_errors():
        _check_is_there(data_dir)
    with (
        clear_errors(),
        Studio.open_library(data_dir, publishers=publishers) as studio,
    ):
        yield studio


def _check_is_there(data_dir: Path | None) -> None:
    """Refuse to look where nothing was ever kept; a studio would begin to keep it."""
    folder = default_data_dir() if data_dir is None else data_dir
    if default_database() is None and not (folder / DATABASE_FILE).is_file():
        raise DataFolderUnusable(
            f"Nothing is kept in {str(folder)!r} yet. Check --data-dir or "
            "NBGEN_DATA_DIR; nbgen generate makes a first picture."
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(
            "folder", str(folder), f"a folder that can be written ({error})"
        ) from error


def _decide(
    data_dir: Path | None, decide: Callable[[Studio], Decision], *, as_json: bool
) -> None:
    with _studio(data_dir) as studio:
        decision = decide(studio)
        said = studio.decided(decision).message
        published = [
            record
            for record in studio.publications(
                decision.task_id, wait_s=_PUBLISHING_PATIENCE_S
            )
            if record.decision == decision.sequence
        ]
    if as_json:
        plain = msgspec.to_builtins(decision)
        _print_json({**plain, "publications": msgspec.to_builtins(published)})
        return
    console.print(escape(said), highlight=False)
    for record in published:
        console.print(escape(_told(record)), highlight=False, soft_wrap=True)


def _told(record: PublicationRecord) -> str:
    if record.state is PublicationState.PUBLISHED:
        where = f": {record.url}" if record.url else ""
        return f"Published by {record.publisher}{where}"
    why = f" ({record.error})" if record.error else ""
    return (
        f"Not yet published by {record.publisher}{why}. The next studio or server on "
        "this data goes on trying."
    )


def _all_tasks(studio: Studio) -> Iterator[TaskRecord]:
    cursor = None
    while True:
        page = studio.tasks(limit=1_000, cursor=cursor)
        yield from page
        cursor = page.next_cursor
        if cursor is None:
            return


def _plain(record: TaskRecord) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def _one_line(text: str) -> str:
    """Return the text without what would move the cursor or colour the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _coloured(word: str) -> str:
    colour = _COLOURS.get(word, "yellow")
    return f"[{colour}]{word.replace('_', ' ')}[/{colour}]"


def _print_json(value: object) -> None:
    # Past the console, which would fold and colour it.
    typer.echo(json.dumps(value, indent=2))
