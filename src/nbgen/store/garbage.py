"""Removes picture files that nothing refers to.

Thread-safe, also beside running tasks, whose files are too young to be looked at.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from nbgen.errors import ForeignPictures
from nbgen.images import Images
from nbgen.schema import utc_now
from nbgen.schema.checks import IMAGE_NAME
from nbgen.store.tables import attempts, content, decisions, tasks

if TYPE_CHECKING:
    from nbgen.store.database import Database

# A picture is saved, or its age is reset, before the row that refers to it is
# committed. So the row of a young file may not be there yet.
_YOUNG = dt.timedelta(hours=1)

_EVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def collect_garbage(
    database: Database,
    images: Images,
    *,
    dry_run: bool,
    now: Callable[[], dt.datetime] = utc_now,
) -> list[str]:
    """Remove pictures and unfinished files that are an hour old and not referred to.

    A name that is mentioned anywhere counts: in a request, a result, a decision or
    the metadata of a task made elsewhere.

    Args:
        database: What refers to pictures.
        images: Where the files are.
        dry_run: Whether to only return the names and remove nothing.
        now: Returns the present time in UTC.

    Returns:
        The names of the files.

    Raises:
        ForeignPictures: Another database may refer to them.
    """
    old = now() - _YOUNG
    # The files first: one that is saved and referred to meanwhile is not among them.
    found = [file.name for file in images.files() if file.written_at < old]
    mentioned = _mentioned(database) if found else set()
    garbage = [name for name in found if name not in mentioned]
    if not garbage:
        return []
    _check_owner(database.identity, images.owners())
    if dry_run:
        return garbage
    # While all was read, somebody may have referred to an old file.
    mentioned = _mentioned(database, since=old)
    return [
        name
        for name in garbage
        if name not in mentioned and images.discard(name, written_before=old)
    ]


def check_owner(database: Database, images: Images) -> None:
    """Check that no other database refers to the pictures, if there are any.

    Raises:
        ForeignPictures: Another database may refer to them.
    """
    if any(True for _ in images.files()):
        _check_owner(database.identity, images.owners())


def _check_owner(identity: str, owners: set[str]) -> None:
    others = ", ".join(f"owner-{owner}" for owner in sorted(owners - {identity}))
    if not owners:
        raise ForeignPictures(
            "These pictures carry no owner mark: an older nbgen saved them. So the "
            "pictures of this database cannot be told from those of another. Make a "
            "picture with the studio that they belong to, then run gc again."
        )
    if identity not in owners:
        raise ForeignPictures(
            "These pictures belong to another database, and only that one knows which "
            "of them are in use. Open it with --data-dir or NBGEN_DATABASE. If it is "
            "gone for good, make a picture with this one, and remove the marks beside "
            f"the pictures: {others}."
        )
    if others:
        raise ForeignPictures(
            "Several databases keep their pictures here, and none knows which pictures "
            "the others use. Give each its own place with NBGEN_IMAGES. If the others "
            f"are gone for good, remove their marks beside the pictures: {others}."
        )


def _mentioned(database: Database, since: dt.datetime = _EVER) -> set[str]:
    """Return the names in all rows that changed since then."""
    with database.reading() as connection:
        return names_in_rows(connection, since)


def names_in_rows(connection: sa.Connection, since: dt.datetime = _EVER) -> set[str]:
    """Return the names of pictures in all rows that changed since then.

    Any text that looks like the name of a picture counts.
    """
    queries = (
        sa.select(tasks.c.request, tasks.c.result).where(
            sa.or_(tasks.c.created_at >= since, tasks.c.ended_at >= since)
        ),
        sa.select(attempts.c.request, attempts.c.result),
        sa.select(decisions.c.image, decisions.c.featured_image_url).where(
            decisions.c.decided_at >= since
        ),
        sa.select(content.c.metadata, content.c.featured_image_url).where(
            content.c.updated_at >= since
        ),
    )
    names: set[str] = set()
    for query in queries:
        for row in connection.execute(query.execution_options(yield_per=1_000)):
            for text in row:
                names.update(match[0] for match in IMAGE_NAME.finditer(text or ""))
    return names
