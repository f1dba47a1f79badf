"""The finished pictures, in a folder or wherever fsspec can write.

Thread-safe: a file is written whole or not at all, and its name is made from its
bytes, so no file is ever overwritten with another.

Beside the pictures lies a mark for each database that refers to any, an empty file
``owner-…`` with the identity of that database. Several databases may share pictures;
the marks tell that no one of them knows which are garbage.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from nbgen.checks import IMAGE_NAME
from nbgen.errors import DataFolderUnusable, InvalidRequest
from nbgen.whole_file import UNFINISHED, write_whole

_MARK = re.compile(r"owner-([0-9a-f]{32})")

# An object need not be written again to be young when it was written so lately.
_FRESH = dt.timedelta(minutes=10)

# Here an object is there whole or not at all; elsewhere a file grows while it is
# written.
_WHOLE_OR_NOT = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"}
)


class FoundFile(NamedTuple):
    """A file where the pictures lie: its name and when it was last written."""

    name: str
    written_at: dt.datetime


class Images(Protocol):
    """Picture files under names that say what is in them."""

    def save(self, data: bytes, kind: str) -> str:
        """Write a picture file, whole or not at all, and return its name.

        One that is there already is made young.

        Args:
            data: The bytes of the file.
            kind: ``"png"``, ``"jpeg"`` or ``"webp"``.
        """

    def keep(self, name: str) -> bool:
        """Say whether there is a picture of that name, and make it young.

        For whoever is about to refer to it: one that nothing referred to so far is
        garbage until the row that does is committed.
        """

    def discard(self, name: str, written_before: dt.datetime) -> bool:
        """Remove a file that nothing refers to; return False if it was not removed.

        One that was written since, or is gone, is left as it is.
        """

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the picture of that name, or None if there is none."""

    def path(self, name: str) -> Path | None:
        """Return where it lies on this machine, or None if it does not."""

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name."""

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""


def open_images(where: str | Path, owner: str | None = None) -> Images:
    """Return the pictures in a folder, or at a URL that fsspec knows.

    Args:
        where: A folder, made if it does not exist, or a URL such as
            ``s3://bucket/folder``, ``gs://…`` or ``memory://…``.
        owner: The identity of the database that refers to what is saved; None leaves
            no mark of it.

    Raises:
        InvalidRequest: The package for such URLs is not installed, or there is none.
        DataFolderUnusable: The folder cannot be made.
    """
    if isinstance(where, Path):
        return ImageFolder(where, owner)
    protocol, is_url, path = where.partition("://")
    if not is_url:
        return ImageFolder(Path(where), owner)
    if protocol in ("file", "local"):  # fsspec would write to these in place
        return ImageFolder(Path(path), owner)
    return RemoteImages(where, owner)


class ImageFolder:
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
        name = _name(data, kind)
        if not self.keep(name):
            self._mark()
            self._write(self._folder / name, data)
        return name

    def keep(self, name: str) -> bool:
        """Say whether there is such a picture, and make it young."""
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
            if not _is_ours(path.name):
                continue
            try:
                written_at = _written_at(path)
            except FileNotFoundError:  # finished or removed since
                continue
            yield FoundFile(path.name, written_at)

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""
        return _owners(path.name for path in self._folder.iterdir())

    def _mark(self) -> None:
        if self._unmarked is not None:
            (self._folder / f"owner-{self._unmarked}").touch()
            self._unmarked = None

    def _write(self, path: Path, data: bytes) -> None:
        write_whole(path, data)
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


class RemoteImages:
    """Pictures at a URL, through fsspec.

    Object stores keep an object whole or not at all, which is what makes writing safe
    there; elsewhere a file is written under another name and moved.

    Args:
        url: Where the files lie.
        owner: The identity of the database that refers to what is saved, or None.

    Raises:
        InvalidRequest: The package for such URLs is not installed, or there is none.
    """

    def __init__(self, url: str, owner: str | None = None) -> None:
        import fsspec  # only here: most studios keep their pictures in a folder

        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            allowed = f"a folder, or a URL that fsspec can open ({error})"
            raise InvalidRequest("images", url.partition(":")[0], allowed) from error
        protocol = self._system.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._moves = not names & _WHOLE_OR_NOT
        self._unmarked = owner

    def save(self, data: bytes, kind: str) -> str:
        """Write a picture file, whole or not at all; see ``Images.save``."""
        name = _name(data, kind)
        if not self.keep(name):
            self._mark()
            self._write(name, data)
        return name

    def keep(self, name: str) -> bool:
        """Say whether there is such a picture, and make it young."""
        written_at = self._written_at(name) if IMAGE_NAME.fullmatch(name) else None
        if written_at is None:
            return False
        self._mark()
        if written_at < dt.datetime.now(dt.UTC) - _FRESH:
            # Few systems can touch a file; all can write the same bytes again.
            data = self.read(name)
            if data is None:  # removed since
                return False
            self._write(name, data)
        return True

    def discard(self, name: str, written_before: dt.datetime) -> bool:
        """Remove a file that nothing refers to; see ``Images.discard``."""
        written_at = self._written_at(name)
        if written_at is None or written_at >= written_before:
            return False
        try:
            self._system.rm_file(self._place(name))
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the picture of that name, or None if there is none."""
        if not IMAGE_NAME.fullmatch(name):
            return None
        try:
            data: bytes = self._system.cat_file(self._place(name))
        except FileNotFoundError:
            return None
        return data

    def path(self, name: str) -> Path | None:  # noqa: ARG002 - none lies here
        """Return None: no picture lies on this machine."""
        return None

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name."""
        if not IMAGE_NAME.fullmatch(name):
            return False
        # A listing that was kept knows nothing of what others did since.
        self._system.invalidate_cache()
        return bool(self._system.isfile(self._place(name)))

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""
        for place in self._list():
            name = place.rpartition("/")[2]
            if not _is_ours(name):
                continue
            try:
                written_at = self._modified(place)
            except FileNotFoundError:  # removed since
                continue
            yield FoundFile(name, written_at)

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""
        return _owners(place.rpartition("/")[2] for place in self._list())

    def _mark(self) -> None:
        if self._unmarked is None:
            return
        if self._moves:
            self._system.makedirs(self._root, exist_ok=True)
        self._system.pipe_file(self._place(f"owner-{self._unmarked}"), b"")
        self._unmarked = None

    def _write(self, name: str, data: bytes) -> None:
        if not self._moves:
            self._system.pipe_file(self._place(name), data)
            return
        unfinished = self._place(f"{uuid4().hex}{UNFINISHED}")
        try:
            self._system.pipe_file(unfinished, data)
            self._system.mv(unfinished, self._place(name))
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._system.rm_file(unfinished)
            # Some do not move onto a file; then it is there, with the same bytes.
            if not (isinstance(error, OSError) and self.has(name)):
                raise

    def _written_at(self, name: str) -> dt.datetime | None:
        self._system.invalidate_cache()
        try:
            return self._modified(self._place(name))
        except FileNotFoundError:
            return None

    def _modified(self, place: str) -> dt.datetime:
        try:
            written_at: dt.datetime = self._system.modified(place)
        except NotImplementedError:
            # Where times are not told all is young, and nothing is ever garbage.
            if not self._system.isfile(place):
                raise FileNotFoundError(place) from None
            return dt.datetime.now(dt.UTC)
        return written_at

    def _list(self) -> list[str]:
        self._system.invalidate_cache()
        try:
            return sorted(self._system.ls(self._root, detail=False))
        except FileNotFoundError:  # nothing was saved yet
            return []

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _name(data: bytes, kind: str) -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"


def _is_ours(name: str) -> bool:
    return bool(IMAGE_NAME.fullmatch(name)) or name.endswith(UNFINISHED)


def _owners(names: Iterable[str]) -> set[str]:
    return {found[1] for name in names if (found := _MARK.fullmatch(name))}


def _written_at(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
