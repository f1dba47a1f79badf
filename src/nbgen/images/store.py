"""The finished pictures, in a folder or wherever fsspec can write.

Thread-safe: a file is written whole or not at all, and its name is made from its
bytes. So the name tells whether the file is damaged, and only a damaged file is ever
overwritten with other bytes: with those that it should have.

Beside the pictures lies a mark for each database that refers to any, an empty file
``owner-…`` with the identity of that database. Several databases may share pictures;
the marks tell that no one of them knows which are garbage.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from nbgen.atomic import UNFINISHED
from nbgen.schema.checks import IMAGE_NAME

_MARK = re.compile(r"owner-([0-9a-f]{32})")


class FoundFile(NamedTuple):
    """A file where the pictures lie: its name and when it was last written."""

    name: str
    written_at: dt.datetime


class Images(Protocol):
    """Picture files under names that say what is in them.

    Each file is compared with its name when a process first uses it, and again when its
    size or mtime has changed. ``PictureDamaged`` says that they disagree.
    """

    def save(self, data: bytes, kind: str) -> str:
        """Write a picture file, whole or not at all, and return its name.

        The age of one that exists is reset; a damaged one is replaced.

        Args:
            data: The bytes of the file.
            kind: ``"png"``, ``"jpeg"`` or ``"webp"``.
        """

    def keep(self, name: str) -> bool:
        """Return whether the picture exists, and reset its age.

        Call it before committing a row that refers to it: garbage collection removes
        unreferenced files older than an hour.

        Raises:
            PictureDamaged: Its file is damaged.
        """

    def discard(self, name: str, written_before: dt.datetime) -> bool:
        """Remove a file that nothing refers to; return False if it was not removed.

        One that was written since, or is gone, is left as it is.
        """

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the picture of that name, or None if there is none.

        Raises:
            PictureDamaged: Its file is damaged.
        """

    def path(self, name: str, *, check: bool = True) -> Path | None:
        """Return where it lies on this machine, or None if it does not.

        Args:
            name: The name of the picture.
            check: Whether its bytes are compared with its name.

        Raises:
            PictureDamaged: Its file is damaged.
        """

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name.

        Raises:
            PictureDamaged: Its file is damaged.
        """

    def is_damaged(self, name: str) -> bool:
        """Read the whole file, whatever was found before; say whether it is damaged.

        False for a file that is gone.
        """

    def set_aside(self, name: str) -> bool:
        """Take a damaged file away, so that its name is free for the good one.

        Returns:
            False if it is gone or sound by now, and was left as it is.
        """

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""


def image_name(data: bytes, kind: str) -> str:
    """Return the name of a picture file: a hash of its bytes, and its kind."""
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"


def is_named_after(name: str, data: bytes) -> bool:
    """Return whether the name of a picture file was made from these bytes."""
    return image_name(data, name.rpartition(".")[2]) == name


def is_ours(name: str) -> bool:
    """Return whether nbgen wrote the file: a picture, or an unfinished one."""
    return bool(IMAGE_NAME.fullmatch(name)) or name.endswith(UNFINISHED)


def owners_marked(names: Iterable[str]) -> set[str]:
    """Return the identities of the databases whose marks are among the files."""
    return {found[1] for name in names if (found := _MARK.fullmatch(name))}
