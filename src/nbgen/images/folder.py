"""The finished pictures in a folder of this machine. Thread-safe."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

from nbgen.atomic import write_atomic
from nbgen.errors import DataFolderUnusable
from nbgen.images.store import FoundFile, image_name, is_ours, owners_marked
from nbgen.schema.checks import IMAGE_NAME


class FolderImages:
    """Pictures in a folder of this machine.

    Args:
        folder: Where the files lie; made if it does not exist.
        owner: The identity of the database that refers to what is saved, or None.

    Raises:
        DataFolderUnusable: The folder cannot be made.
    """

    def __init__(self, folder: Path, owner: str | None = None) -> None:
        self._folder = folder
        self._unmarked = owner
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
        if not self.keep(name):
            self._mark()
            self._write(self._folder / name, data)
        return name

    def keep(self, name: str) -> bool:
        """Return whether the picture exists, and reset its age."""
        path = self.path(name)
        if path is None:
            return False
        self._mark()
        try:
            os.utime(path)
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
        path = self._folder / name
        try:
            if _written_at(path) >= written_before:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the picture of that name, or None if there is none."""
        path = self.path(name)
        try:
            return None if path is None else path.read_bytes()
        except FileNotFoundError:  # removed since
            return None

    def path(self, name: str) -> Path | None:
        """Return where the picture of that name lies, or None if there is none."""
        if not IMAGE_NAME.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name."""
        return self.path(name) is not None

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""
        for path in sorted(self._folder.iterdir()):
            if not is_ours(path.name):
                continue
            try:
                written_at = _written_at(path)
            except FileNotFoundError:  # finished or removed since
                continue
            yield FoundFile(path.name, written_at)

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""
        return owners_marked(path.name for path in self._folder.iterdir())

    def _mark(self) -> None:
        if self._unmarked is not None:
            (self._folder / f"owner-{self._unmarked}").touch()
            self._unmarked = None

    def _write(self, path: Path, data: bytes) -> None:
        write_atomic(path, data)
        self._sync_folder()

    def _sync_folder(self) -> None:
        # The row that names the file is committed next; a power cut must not keep the
        # row and lose the name.
        if os.name == "nt":
            return  # there a folder cannot be opened, and needs no syncing
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _written_at(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
