"""Looks at a SQLite file before it is opened, and says what to do about a damaged one.

Holds no state, so any thread may call it. To look changes and creates nothing.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import sqlalchemy as sa

from nbgen.settings import DATABASE_FILE

_DAMAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# All forms of nbgen's tables have these, also those from before there were migrations.
_OURS = {"tasks", "decisions"}

UNPACK = "nbgen restore FILE --data-dir NEW-FOLDER"
"""The command that unpacks a backup, for error messages. It names a new folder, because
a backup has an identity of its own and is refused beside the pictures of another."""

RESTORE = (
    "The file of the database is damaged. Close all of nbgen. If you have a backup, "
    f"unpack it into a folder of its own with '{UNPACK}', and use that one. The "
    "pictures are files of their own and are safe. Without a backup, move the file "
    "away with those beside it that end in -wal and -shm, and put a copy of the same "
    "file in its place, or what the sqlite3 program's command .recover can still "
    "read of it; docs/help.md shows how."
)


def is_damage(error: object) -> bool:
    """Return whether an error of SQLite says that the file is damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGES


def files_of(file: Path) -> list[Path]:
    """Return a SQLite file and those that SQLite writes beside it."""
    ends = ("", "-wal", "-shm", "-journal")
    return [file.with_name(f"{file.name}{end}") for end in ends]


def file_at(folder: Path, url: str | sa.URL | None) -> Path | None:
    """Return the file of a SQLite database; None for any other, and in memory.

    Args:
        folder: The data folder.
        url: The URL of the database; None is the file in the folder.
    """
    if url is None:
        return folder / DATABASE_FILE
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return None
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or name in ("", ":memory:"):
        return None
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def read_identity(file: Path) -> str | None:
    """Return the identity of the nbgen database in a file.

    Returns:
        None if the file is missing or empty, or was made before there were identities.

    Raises:
        OSError: The file is not one of nbgen's, or cannot be read.
        sqlite3.Error: The file is damaged.
    """
    # Nothing but SQLite may open the file: to close it would drop the locks that SQLite
    # holds on it for another connection of this process.
    if not file.exists() or file.stat().st_size == 0:
        return None
    with closing(_open_to_read(file)) as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        try:
            tables = {name for (name,) in connection.execute(names)}
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            raise OSError(
                f"{file.name} is not a SQLite database. Another program wrote it, or "
                "it is damaged; nothing was changed. If it was nbgen's, unpack a "
                f"backup with '{UNPACK}', or put a copy of the same file in its place"
            ) from error
        if tables and not tables >= _OURS:
            raise OSError(
                f"{file.name} is the database of another program: it has the tables "
                f"{', '.join(sorted(tables)[:5])}. Nothing was changed"
            )
        if "identity" not in tables:
            return None
        found = connection.execute("SELECT id FROM identity").fetchone()
    return None if found is None else str(found[0])


def _open_to_read(file: Path) -> sqlite3.Connection:
    # To open a file to read only makes the side files -wal and -shm, unless it is said
    # to be immutable. Then what is in a -wal is not read. But where there is one, some
    # process has the file open, or died with it open, and both files are there.
    has_log = file.with_name(f"{file.name}-wal").exists()
    mode = "mode=ro" if has_log else "immutable=1"
    address = f"file:{quote(str(file.resolve()))}?{mode}"
    return sqlite3.connect(address, uri=True)
