"""Removes picture files that nothing refers to.

Thread-safe, also beside running tasks, whose files are too young to be looked at.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

import sqlalchemy as sa

from nbgen.checks import IMAGE_NAME
from nbgen.store.images import Images
from nbgen.store.tables import content, decisions, tasks

if TYPE_CHECKING:
    from nbgen.store.database import Database

# A picture is saved before the row that refers to it is committed; a file that young
# may yet be wanted.
_YOUNG = dt.timedelta(hours=1)

_MENTION = re.compile(rf"(?<![0-9a-f]){IMAGE_NAME.pattern}")


def collect_garbage(database: Database, images: Images, *, dry_run: bool) -> list[str]:
    """Remove pictures and unfinished files that are an hour old and not referred to.

    A name that is mentioned anywhere counts: in a request, a result, a decision or
    the metadata of a task made elsewhere.

    Args:
        database: What refers to pictures.
        images: Where they lie.
        dry_run: Whether to leave them where they are.

    Returns:
        The names of the files.
    """
    old = dt.datetime.now(dt.UTC) - _YOUNG
    # The files first: one that is saved and referred to meanwhile is not among them.
    found = [file.name for file in images.files() if file.written_at < old]
    mentioned = _mentioned(database) if found else set()
    garbage = [name for name in found if name not in mentioned]
    for name in () if dry_run else garbage:
        images.discard(name)
    return garbage


def _mentioned(database: Database) -> set[str]:
    queries = (
        sa.select(tasks.c.request, tasks.c.result),
        sa.select(decisions.c.image, decisions.c.featured_image_url),
        sa.select(content.c.metadata, content.c.featured_image_url),
    )
    names: set[str] = set()
    with database.reading() as connection:
        for query in queries:
            for row in connection.execute(query.execution_options(yield_per=1_000)):
                for text in row:
                    names.update(match[0] for match in _MENTION.finditer(text or ""))
    return names
