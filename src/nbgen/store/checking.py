"""Checks that the database is whole, and that its pictures are there and sound.

Thread-safe, also beside running tasks. It changes no row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from nbgen.errors import DataFolderUnusable
from nbgen.images import Images
from nbgen.images.checking import check_files, names_mentioned
from nbgen.schema import CheckReport
from nbgen.store.tables import attempts, content, decisions, tasks

if TYPE_CHECKING:
    from nbgen.store.database import Database

_MOST_FAULTS = 20

# The texts that may name pictures by their URL.
_TEXTS = (
    (decisions, decisions.c.featured_image_url),
    (content, content.c.featured_image_url),
    (content, content.c.metadata),
)


class _Request(msgspec.Struct):
    """What a stored request says of pictures."""

    image: str | None = None
    mask: str | None = None


class _Image(msgspec.Struct):
    """What a stored result says of one picture."""

    name: str


class _Result(msgspec.Struct):
    """What a stored result says of pictures."""

    images: tuple[_Image, ...] = ()


def check_pictures(database: Database, images: Images, *, repair: bool) -> CheckReport:
    """Look at all picture files, the rows that name them, and the database.

    Args:
        database: What refers to pictures.
        images: Where the files are.
        repair: Whether to take damaged files away.

    Raises:
        StudioClosed: The database is closed.
    """
    faults: list[str] = []
    needed: defaultdict[str, set[str]] = defaultdict(set)
    try:
        faults += _database_faults(database)
        # The rows first: the file of each was written before the row was committed.
        with database.reading() as connection:
            for name, task_id in names_needed(connection):
                needed[name].add(task_id)
    except DataFolderUnusable as error:  # the pictures can be checked all the same
        faults.append(str(error))
    except msgspec.MsgspecError as error:
        faults.append(f"The database is damaged: a row cannot be read ({error}).")
    return check_files(images, needed, faults, repair=repair)


def _database_faults(database: Database) -> list[str]:
    """Return what SQLite finds wrong in its file; PostgreSQL guards its own."""
    if not database.is_file:
        return []
    with database.reading() as connection:
        pragma = f"PRAGMA integrity_check({_MOST_FAULTS})"
        found = connection.exec_driver_sql(pragma).scalars().all()
        orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    faults = [line for line in found if line != "ok"]
    faults += dict.fromkeys(
        f"a row of {table} refers to a row of {parent} that is not there"
        for table, _rowid, parent, _key in orphans
    )
    return [f"The database is damaged: {fault}." for fault in faults]


def names_needed(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    """Yield the names of pictures that rows refer to, each with the id of its task."""
    requests, results = msgspec.json.Decoder(_Request), msgspec.json.Decoder(_Result)
    lazily = connection.execution_options(yield_per=1_000)
    made = sa.select(tasks.c.id, tasks.c.request, tasks.c.result)
    earlier = sa.select(tasks.c.id, attempts.c.request, attempts.c.result).join(
        attempts, attempts.c.task == tasks.c.number
    )
    for task_id, request, result in lazily.execute(made.union_all(earlier)):
        asked = requests.decode(request)
        yield from ((name, task_id) for name in (asked.image, asked.mask) if name)
        if result is not None:
            yield from ((i.name, task_id) for i in results.decode(result).images)
    approved = sa.select(decisions.c.task_id, decisions.c.image).where(
        decisions.c.image.is_not(None)
    )
    for task_id, name in lazily.execute(approved):
        yield name, task_id
    for table, column in _TEXTS:
        for task_id, text in lazily.execute(sa.select(table.c.task_id, column)):
            yield from ((name, task_id) for name in names_mentioned(text or ""))
