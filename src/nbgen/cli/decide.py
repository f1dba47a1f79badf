"""The commands that decide on what was made: ``approve | reject | undo``.

They load no model and start no task, so a studio or server beside them is undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from nbgen.cli.data_folder import AsJson, opened_studio, print_json
from nbgen.cli.terminal import DataDir, app, console
from nbgen.schema import DECISION_FIELDS, PublicationRecord, PublicationState, Verdict

if TYPE_CHECKING:
    from nbgen.schema import Decision
    from nbgen.studio import Studio

TaskId = Annotated[str, typer.Argument(help=DECISION_FIELDS["task_id"].described)]
Reviewer = Annotated[
    str,
    typer.Option(
        envvar="NBGEN_REVIEWER", help=DECISION_FIELDS["reviewer_id"].described
    ),
]
Feedback = Annotated[
    str | None, typer.Option(help=DECISION_FIELDS["feedback"].described)
]
Reason = Annotated[
    str | None,
    typer.Option("--feedback", "--reason", help=DECISION_FIELDS["feedback"].described),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help=f"{DECISION_FIELDS['tags'].described} May be repeated."),
]
Image = Annotated[str | None, typer.Option(help=DECISION_FIELDS["image"].described)]
FeaturedUrl = Annotated[
    str | None, typer.Option(help=DECISION_FIELDS["featured_image_url"].described)
]
Version = Annotated[
    int | None, typer.Option(help=DECISION_FIELDS["expect_version"].described)
]
# Longer than a webhook may take.
_PUBLISHING_PATIENCE_S = 15.0


@app.command()
def approve(
    task_id: TaskId,
    reviewer: Reviewer,
    feedback: Feedback = None,
    tag: Tags = None,
    image: Image = None,
    featured_image_url: FeaturedUrl = None,
    expect_version: Version = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Approve a task."""
    _decide(
        data_dir,
        lambda studio: studio.decide(
            task_id,
            Verdict.APPROVED,
            reviewer_id=reviewer,
            feedback=feedback,
            tags=tuple(tag or ()),
            image=image,
            featured_image_url=featured_image_url,
            expect_version=expect_version,
        ),
        as_json=as_json,
    )


@app.command()
def reject(
    task_id: TaskId,
    reviewer: Reviewer,
    feedback: Reason = None,
    tag: Tags = None,
    image: Image = None,
    featured_image_url: FeaturedUrl = None,
    expect_version: Version = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Reject a task."""
    _decide(
        data_dir,
        lambda studio: studio.decide(
            task_id,
            Verdict.REJECTED,
            reviewer_id=reviewer,
            feedback=feedback,
            tags=tuple(tag or ()),
            image=image,
            featured_image_url=featured_image_url,
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
