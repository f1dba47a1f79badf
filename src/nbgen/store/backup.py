"""Backups: a SQLite database and its pictures in one zip, and back into a folder.

Thread-safe, also beside processes that write meanwhile. A zip holds ``nbgen.sqlite``
and ``images/``, as a data folder does.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from nbgen.atomic import UNFINISHED, writing_atomic
from nbgen.errors import BackupElsewhere, InvalidRequest, PictureDamaged
from nbgen.images import FolderImages, Images
from nbgen.schema import BackedUp
from nbgen.settings import DATABASE_FILE
from nbgen.store.checking import names_needed
from nbgen.store.database import Database
from nbgen.store.garbage import names_in_rows
from nbgen.store.tables import feed, identity, tasks

_PICTURES = "images"
_KNOWN = re.compile(
    rf"{re.escape(DATABASE_FILE)}"
    rf"|{_PICTURES}/(owner-[0-9a-f]{{32}}|[0-9a-f]{{32}}\.(png|jpeg|webp))"
)


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
        InvalidRequest: The file exists, or cannot be written.
        BackupElsewhere: It is no SQLite file, or the pictures are not in a folder.
    """
    if not database.is_file:
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
    _check_free(path, force=force)
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix=".", suffix=UNFINISHED, dir=path.parent
            ) as folder,
            writing_atomic(path) as file,
            zipfile.ZipFile(file, "w", strict_timestamps=False) as archive,
        ):
            copy = Path(folder) / DATABASE_FILE
            _copy(database, copy)
            mark, count, names, needed = _make_another(copy)
            archive.write(copy, DATABASE_FILE, zipfile.ZIP_DEFLATED)
            # After the database, so that each picture it refers to was written before.
            added = {name for name in names if _add(archive, images, name)}
            archive.writestr(f"{_PICTURES}/owner-{mark}", b"")
            _check_free(path, force=force)
    except (OSError, sqlite3.Error) as error:
        allowed = f"a file that can be written ({error})"
        raise InvalidRequest("path", str(path), allowed) from error
    return BackedUp(count, len(added), tuple(sorted(needed - added)))


def read_backup(path: Path, folder: Path) -> None:
    """Unpack a backup into a folder that is new or empty.

    If it fails, the folder is as it was.

    Args:
        path: The file that ``write_backup`` wrote.
        folder: The folder.

    Raises:
        InvalidRequest: The file is no whole backup, or the folder is not empty or
            cannot be written.
    """
    is_new = _check_empty(folder)
    archive = _open(path)
    try:
        with archive:
            names = [name for name in archive.namelist() if name != DATABASE_FILE]
            folder.mkdir(parents=True, exist_ok=True)
            archive.extractall(folder, names)
            # The database last: without it, nobody takes this for a data folder.
            with (
                archive.open(DATABASE_FILE) as packed,
                writing_atomic(folder / DATABASE_FILE) as file,
            ):
                shutil.copyfileobj(packed, file)
    except BaseException as error:
        _clear(folder, is_new=is_new)
        if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError)):
            allowed = f"a whole backup that nbgen wrote ({error})"
            raise InvalidRequest("path", str(path), allowed) from error
        if isinstance(error, OSError):
            allowed = f"a folder that can be written ({error})"
            raise InvalidRequest("folder", str(folder), allowed) from error
        raise


def _check_free(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        allowed = "a file that does not exist yet; force (--force) replaces it"
        raise InvalidRequest("path", str(path), allowed)


def _check_empty(folder: Path) -> bool:
    """Refuse a folder with anything in it; return whether it does not exist yet."""
    try:
        with suppress(FileNotFoundError):
            if any(folder.iterdir()):
                allowed = "a folder that is new or empty"
                raise InvalidRequest("folder", str(folder), allowed)
            return False
    except OSError as error:
        allowed = f"a folder that can be read ({error})"
        raise InvalidRequest("folder", str(folder), allowed) from error
    return True


def _open(path: Path) -> zipfile.ZipFile:
    """Open a backup, and check that it is one."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        allowed = f"a whole backup that nbgen wrote ({error})"
        raise InvalidRequest("path", str(path), allowed) from error
    names = archive.namelist()
    if DATABASE_FILE not in names or not all(map(_KNOWN.fullmatch, names)):
        archive.close()
        allowed = "a backup that nbgen wrote; this file holds something else"
        raise InvalidRequest("path", str(path), allowed)
    return archive


def _copy(database: Database, copy: Path) -> None:
    """Copy a database as it is at one moment, without keeping a writer waiting."""
    with database.reading() as connection, closing(sqlite3.connect(copy)) as target:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(target)
        # One file, without the log beside it.
        target.execute("PRAGMA journal_mode=DELETE")


def _make_another(copy: Path) -> tuple[str, int, list[str], set[str]]:
    """Make a copy a database of its own.

    Returns:
        Its mark, the number of its tasks, the names of the pictures that it mentions,
        and those that it needs: in metadata, many a name is of another host's picture.
    """
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(copy)), poolclass=sa.NullPool
    )
    mark = uuid4().hex
    with engine.begin() as connection:
        # Its numbers go on from here as those of the original do, but they are of
        # other changes. So who followed the original has to read all anew.
        connection.execute(feed.update().values(epoch=uuid4().hex))
        # If both are used with the same pictures, neither knows what is garbage.
        connection.execute(identity.update().values(id=mark))
        count = connection.scalar(sa.select(sa.func.count()).select_from(tasks))
        names = names_in_rows(connection)
        needed = {name for name, _ in names_needed(connection)}
    return mark, count or 0, sorted(names), needed


def _add(archive: zipfile.ZipFile, images: Images, name: str) -> bool:
    """Add a picture to a backup; return False if its file is gone or damaged."""
    try:
        path = images.path(name)
        if path is None:
            return False
        archive.write(path, f"{_PICTURES}/{name}")
    except (FileNotFoundError, PictureDamaged):
        return False
    return True


def _clear(folder: Path, *, is_new: bool) -> None:
    """Remove what was unpacked."""
    with suppress(OSError):
        if is_new:
            shutil.rmtree(folder)
            return
        (folder / DATABASE_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / _PICTURES)
