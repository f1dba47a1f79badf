"""Unpacks backups into a folder of their own.

Holds no state, so any thread may call it. The database comes last, and never takes the
place of one that somebody made meanwhile.
"""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from nbgen.atomic import sync_folder, writing_atomic
from nbgen.errors import InvalidRequest
from nbgen.settings import DATABASE_FILE
from nbgen.store.backup import PICTURES

_MARK = f"{PICTURES}/owner-"
_KNOWN = re.compile(
    rf"{re.escape(DATABASE_FILE)}"
    rf"|{_MARK}[0-9a-f]{{32}}|{PICTURES}/[0-9a-f]{{32}}\.(png|jpeg|webp)"
)
_IS_ENCRYPTED = 0x1

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a way of packing that this Python does not know
)


def read_backup(path: Path, folder: Path) -> None:
    """Unpack a backup into a folder that is new or empty.

    If it fails, it removes what it wrote, and nothing else.

    Args:
        path: The file that ``write_backup`` wrote.
        folder: The folder.

    Raises:
        InvalidRequest: The file is no whole backup, or the folder is not empty or
            cannot be written.
    """
    _check_empty(folder)
    written: list[Path] = []
    try:
        with _open(path) as archive:
            _unpack(archive, folder, written)
    except BaseException as error:
        _clear(folder, written)
        if isinstance(error, _BROKEN):
            reason = str(error) or "it ends too early"
            allowed = f"a whole backup that nbgen wrote ({reason})"
            raise InvalidRequest("path", str(path), allowed) from error
        if isinstance(error, FileExistsError):
            allowed = "a folder that is new or empty, and that nobody else uses"
            raise InvalidRequest("folder", str(folder), allowed) from error
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
            allowed = f"a folder that can be written ({reason})"
            raise InvalidRequest("folder", str(folder), allowed) from error
        raise


def _check_empty(folder: Path) -> None:
    """Refuse a folder with anything in it."""
    try:
        with suppress(FileNotFoundError):
            if any(folder.iterdir()):
                allowed = "a folder that is new or empty"
                raise InvalidRequest("folder", str(folder), allowed)
    except OSError as error:
        allowed = f"a folder that can be read ({error.strerror})"
        raise InvalidRequest("folder", str(folder), allowed) from error


def _open(path: Path) -> zipfile.ZipFile:
    """Open a backup, and check that it is one."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        kind = "exists" if isinstance(error, FileNotFoundError) else "can be read"
        allowed = f"a backup that {kind} ({error.strerror})"
        raise InvalidRequest("path", str(path), allowed) from error
    names = _names(archive)
    allowed = ""
    if DATABASE_FILE not in names or not all(map(_KNOWN.fullmatch, names)):
        allowed = "a backup that nbgen wrote; this file holds something else"
    elif any(packed.flag_bits & _IS_ENCRYPTED for packed in archive.infolist()):
        allowed = "a backup without a password; unpack this one and pack it without"
    if allowed:
        archive.close()
        raise InvalidRequest("path", str(path), allowed)
    return archive


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files; many a program packs the folders, too."""
    names = dict.fromkeys(archive.namelist())
    return [name for name in names if not name.endswith("/")]


def _unpack(archive: zipfile.ZipFile, folder: Path, written: list[Path]) -> None:
    """Unpack all files; append what was made to a list.

    Raises:
        FileExistsError: Somebody else put something into the folder meanwhile.
        OSError: The folder cannot be written.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        written.append(folder)
    pictures = folder / PICTURES
    pictures.mkdir()
    written.append(pictures)
    names = [name for name in _names(archive) if name != DATABASE_FILE]
    # The mark first: beside it, a studio that is opened makes no database of its own.
    for name in sorted(names, key=lambda name: not name.startswith(_MARK)):
        # A studio that was faster may take our pictures for its own: write no more.
        if (folder / DATABASE_FILE).exists():
            raise FileExistsError(errno.EEXIST, "File exists", DATABASE_FILE)
        _write(archive, name, folder)
        written.append(folder / name)
    sync_folder(pictures)
    # The database last: without it, nobody takes this for a data folder.
    _write(archive, DATABASE_FILE, folder)
    written.clear()  # all is there, and somebody may use it already
    with suppress(OSError):
        sync_folder(folder)
        sync_folder(folder.parent)


def _write(archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    """Unpack one file, onto the disk."""
    with (
        archive.open(name) as packed,
        writing_atomic(folder / name, replace=False) as file,
    ):
        shutil.copyfileobj(packed, file)


def _clear(folder: Path, written: list[Path]) -> None:
    """Remove what was unpacked, and nothing else."""
    for path in reversed(written):
        with suppress(OSError):
            if not path.is_dir():
                path.unlink()
            elif not (folder / DATABASE_FILE).exists():  # or a studio uses the folder
                path.rmdir()
