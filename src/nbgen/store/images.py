"""The folder of finished pictures.

Thread-safe: a file is written beside its place and renamed into it, and its name is
made from its bytes, so no file is ever overwritten with another.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from nbgen.checks import IMAGE_NAME


class SavedFile(NamedTuple):
    """A file in the image folder: its name, and whether it was not there before."""

    name: str
    is_new: bool


class ImageFolder:
    """Picture files under names that say what is in them.

    Args:
        folder: Where the files lie; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, data: bytes, kind: str) -> SavedFile:
        """Write a picture file, whole or not at all.

        Args:
            data: The bytes of the file.
            kind: ``"png"``, ``"jpeg"`` or ``"webp"``.
        """
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"
        if (self._folder / name).is_file():
            return SavedFile(name, is_new=False)
        handle, unfinished = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(unfinished).replace(self._folder / name)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return SavedFile(name, is_new=True)

    def discard(self, name: str) -> None:
        """Remove a picture that nothing refers to."""
        (self._folder / name).unlink(missing_ok=True)

    def path(self, name: str) -> Path | None:
        """Return where the picture of that name lies, or None if there is none."""
        if not IMAGE_NAME.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None
