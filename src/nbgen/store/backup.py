"""Backups: a SQLite database and its pictures in one zip.

Thread-safe, also beside processes that write meanwhile. A zip holds ``nbgen.sqlite``
and ``images/``, as a data folder does; ``nbgen.store.restoring`` unpacks it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import msgspec
import sqlalchemy as sa

from nbgen.atomic import UNFINISHED, writing_atomic
from nbgen.errors import (
    BackupElsewhere,
    DataFolderUnusable,
    InvalidRequest,
    PictureDamaged,
)
from nbgen.images import FolderImages, Images
from nbgen.schema import BackedUp
from nbgen.settings import DATABASE_FILE
from nbgen.store.checking import names_needed
from nbgen.store.database import Database
from nbgen.store.garbage import names_in_rows
from nbgen.store.sqlite_file import RESTORE, files_of, is_damage
from nbgen.store.tables import feed, identity, tasks

PICTURES = "images"
"""The folder of the pictures in a backup, as in a data folder."""

_FREE = "a file that does not exist yet; force (--force) replaces it"

# SQLite raises these for the copy that it writes, any other for the original.
_OF_THE_COPY = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_WRITE,
}


def write_backup(
    database: Database, images: Images, path: Path, *, force: bool
) -> BackedUp:
    """Write a database and its pictures into a file; see ``Keeping.backup``.

    Args:
        database: The database.
        images: Its pictures.
        path: The file.
        force: Whether a file that is there is replaced.

    Raises:
        InvalidRequest: The file exists, is one of the data folder's own, or cannot be
            written.
        BackupElsewhere: It is no SQLite file, or the pictures are not in a folder.
        DataFolderUnusable: The database is damaged, or cannot be read.
    """
    if database.file is None:
        raise BackupElsewhere(
            "This database is a PostgreSQL server's, which has its own backups: use "
            "pg_dump, then copy the pictures."
        )
    if not isinstance(images, FolderImages):
        raise BackupElsewhere(
            "These pictures are at a URL, not in a folder. Copy them with the tools of "
            "that place, such as 'aws s3 sync', and nbgen.sqlite with 'sqlite3 "
            'nbgen.sqlite ".backup copy.sqlite"\'. Copy the database first.'
        )
    try:
        _check_not_kept(path, database.file, images.folder)
        _check_free(path, force=force)
        with (
            tempfile.TemporaryDirectory(
                prefix=".", suffix=UNFINISHED, dir=path.parent
            ) as folder,
            writing_atomic(path, replace=force) as file,
            zipfile.ZipFile(file, "w", strict_timestamps=False) as archive,
        ):
            # First, so that any program unpacks it first: beside a mark, nbgen starts
            # no database.
            mark = uuid4().hex
            archive.writestr(f"{PICTURES}/owner-{mark}", b"")
            copy = Path(folder) / DATABASE_FILE
            _copy(database, copy)
            count, names, needed = _make_another(copy, mark)
            archive.write(copy, DATABASE_FILE, zipfile.ZIP_DEFLATED)
            # After the database, so that each picture it refers to was written before.
            added = {name for name in names if _add(archive, images, name)}
    except FileExistsError as error:  # it was not there a moment ago
        raise InvalidRequest("path", str(path), _FREE) from error
    except OSError as error:
        raise _unwritable(path, error.strerror or type(error).__name__) from error
    except (sqlite3.Error, sa.exc.DBAPIError, msgspec.MsgspecError) as error:
        cause = getattr(error, "orig", None) or error
        if getattr(cause, "sqlite_errorcode", None) in _OF_THE_COPY:
            raise _unwritable(path, str(cause)) from error
        damaged = is_damage(cause) or isinstance(cause, msgspec.MsgspecError)
        what_now = RESTORE if damaged else "Check its disk, and try again."
        reason = f"The database cannot be backed up: {cause}."
        raise DataFolderUnusable(f"{reason} {what_now}", reason=reason) from error
    return BackedUp(count, len(added), tuple(sorted(needed - added)))


def _check_not_kept(path: Path, file: Path, pictures: Path) -> None:
    """Refuse a path that would take the place of what is backed up."""
    place = path.resolve()
    is_own = any(
        place == own or (own.exists() and path.exists() and path.samefile(own))
        for own in files_of(file)
    )
    if is_own or place.is_relative_to(pictures.resolve()):
        allowed = "a file of its own, neither the database nor among the pictures"
        raise InvalidRequest("path", str(path), allowed)


def _check_free(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise InvalidRequest("path", str(path), "a file, not a folder")
    if path.exists() and not force:
        raise InvalidRequest("path", str(path), _FREE)


def _unwritable(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest("path", str(path), f"a file that can be written ({reason})")


def _copy(database: Database, copy: Path) -> None:
    """Copy a database as it is at one moment, without keeping a writer waiting."""
    with database.reading() as connection, closing(sqlite3.connect(copy)) as target:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(target)
        # One file, without the log beside it.
        target.execute("PRAGMA journal_mode=DELETE")


def _make_another(copy: Path, mark: str) -> tuple[int, list[str], set[str]]:
    """Make a copy a database of its own.

    Returns:
        The number of its tasks, the names of the pictures that it mentions, and those
        that it needs: in metadata, many a name is of another host's picture.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(copy)), poolclass=sa.NullPool
    )
    with engine.begin() as connection:
        # Its numbers go on from here as those of the original do, but they are of
        # other changes. So who followed the original has to read all anew.
        connection.execute(feed.update().values(epoch=uuid4().hex))
        # If both are used with the same pictures, neither knows what is garbage.
        connection.execute(identity.update().values(id=mark))
        count = connection.scalar(sa.select(sa.func.count()).select_from(tasks))
        names = names_in_rows(connection)
        needed = {name for name, _ in names_needed(connection)}
    return count or 0, sorted(names), needed


def _add(archive: zipfile.ZipFile, images: Images, name: str) -> bool:
    """Add a picture to a backup; return False if its file is gone or damaged."""
    try:
        data = images.read(name)
    except (OSError, PictureDamaged):
        return False
    if data is None:
        return False
    archive.writestr(f"{PICTURES}/{name}", data)
    return True
