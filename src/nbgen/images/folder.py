"""The finished pictures in a folder of this machine. Thread-safe."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nbgen.atomic import sync_folder, write_atomic
from nbgen.errors import DataFolderUnusable, PictureDamaged
from nbgen.images.store import (
    FoundFile,
    image_name,
    is_named_after,
    is_ours,
    owners_marked,
)
from nbgen.images.verified import Verified
from nbgen.schema.checks import IMAGE_NAME

logger = logging.getLogger(__name__)

DAMAGED_FOLDER = "damaged"
"""The folder beside the pictures that damaged files are moved into."""


class FolderImages:
    """Pictures in a folder of this machine.

    Attributes:
        folder: Where the files lie.

    Args:
        folder: Where the files lie; made if it does not exist.
        owner: The identity of the database that refers to what is saved, or None.

    Raises:
        DataFolderUnusable: The folder cannot be made.
    """

    def __init__(self, folder: Path, owner: str | None = None) -> None:
        self.folder = folder
        self._unmarked = owner
        self._verified = Verified()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderUnusable(
                f"The folder {str(folder)!r} for the pictures cannot be used: {error}. "
                "Choose another with images or NBGEN_IMAGES, or another data folder "
                "with data_dir, --data-dir or NBGEN_DATA_DIR."
            ) from error

    def save(self, data: bytes, kind: str) -> str:
        """Write a picture file, whole or not at all; see ``Images.save``."""
        name = image_name(data, kind)
        try:
            kept = self.keep(name)
        except PictureDamaged:
            logger.warning("The damaged file of the picture %s is replaced.", name)
            kept = False
        if not kept:
            self._mark()
            self._write(self.folder / name, data)
        return name

    def keep(self, name: str) -> bool:
        """Return whether the picture exists, and reset its age; see ``Images``."""
        path = self.path(name)
        if path is None:
            return False
        self._mark()
        try:
            os.utime(path)
            # The bytes are those that were compared; only the mtime is another.
            self._verified.remember(name, _stamp(path.stat()))
        except FileNotFoundError:  # removed since
            return False
        except PermissionError:  # written by another user of the folder
            data = self.read(name)
            if data is None:
                return False
            self._write(path, data)
        return True

    def discard(self, name: str, written_before: dt.datetime) -> bool:
        """Remove a file that nothing refers to; see ``Images.discard``."""
        path = self.folder / name
        try:
            if _written_at(path) >= written_before:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a picture, or None; see ``Images.read``."""
        path = self.path(name, check=False)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                data = file.read()
        except FileNotFoundError:  # removed since
            return None
        self._verified.check(name, stamp, data)
        return data

    def path(self, name: str, *, check: bool = True) -> Path | None:
        """Return where a picture lies, or None; see ``Images.path``."""
        if not IMAGE_NAME.fullmatch(name):
            return None
        path = self.folder / name
        try:
            found = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        known = not check or self._verified.knows(name, _stamp(found))
        return path if known or self.read(name) is not None else None

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name; see ``Images.has``."""
        return self.path(name) is not None

    def is_damaged(self, name: str) -> bool:
        """Read a file again and say whether it is damaged."""
        self._verified.forget(name)
        try:
            self.read(name)
        except PictureDamaged:
            return True
        return False

    def set_aside(self, name: str) -> bool:
        """Move a damaged file into the folder ``damaged``; see ``Images``.

        A file of the same name that was moved there before is replaced.
        """
        path, aside = self.folder / name, self.folder / DAMAGED_FOLDER / name
        aside.parent.mkdir(exist_ok=True)
        try:
            path.replace(aside)
        except FileNotFoundError:
            return False
        try:
            is_sound = is_named_after(name, aside.read_bytes())
        except OSError:
            aside.replace(path)
            raise
        if is_sound:  # saved anew since it was read
            aside.replace(path)
            return False
        # If a power cut brings the damaged file back, the next check finds it again.
        with contextlib.suppress(OSError):
            sync_folder(self.folder)
        return True

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""
        for path in sorted(self.folder.iterdir()):
            if not is_ours(path.name):
                continue
            try:
                written_at = _written_at(path)
            except FileNotFoundError:  # finished or removed since
                continue
            yield FoundFile(path.name, written_at)

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""
        return find_owners(self.folder)

    def _mark(self) -> None:
        if self._unmarked is not None:
            (self.folder / f"owner-{self._unmarked}").touch()
            self._unmarked = None

    def _write(self, path: Path, data: bytes) -> None:
        write_atomic(path, data)
        # The row that names the file is committed next; a power cut must not keep the
        # row and lose the name.
        sync_folder(self.folder)


def find_owners(folder: Path) -> set[str]:
    """Return the identities of the databases that refer to pictures in a folder.

    Empty for a folder that does not exist.
    """
    try:
        return owners_marked(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _written_at(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
