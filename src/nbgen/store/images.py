"""The finished pictures, in a folder or wherever fsspec can write.

Thread-safe: a file is written whole or not at all, and its name is made from its
bytes, so no file is ever overwritten with another.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nbgen.checks import IMAGE_NAME
from nbgen.errors import InvalidRequest


class SavedFile(NamedTuple):
    """A file among the pictures: its name, and whether it was not there before."""

    name: str
    is_new: bool


class FoundFile(NamedTuple):
    """A file where the pictures lie: its name and when it was last written."""

    name: str
    written_at: dt.datetime


class Images(Protocol):
    """Picture files under names that say what is in them."""

    def save(self, data: bytes, kind: str) -> SavedFile:
        """Write a picture file, whole or not at all.

        Args:
            data: The bytes of the file.
            kind: ``"png"``, ``"jpeg"`` or ``"webp"``.
        """

    def discard(self, name: str) -> None:
        """Remove a file that nothing refers to, if it is there."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the picture of that name, or None if there is none."""

    def path(self, name: str) -> Path | None:
        """Return where it lies on this machine, or None if it does not."""

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name."""

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""


def open_images(where: str | Path) -> Images:
    """Return the pictures in a folder, or at a URL that fsspec knows.

    Args:
        where: A folder, made if it does not exist, or a URL such as
            ``s3://bucket/folder``, ``gs://…`` or ``memory://…``.

    Raises:
        InvalidRequest: The package for such URLs is not installed, or there is none.
    """
    if isinstance(where, Path):
        return ImageFolder(where)
    if where.startswith("file://"):
        return ImageFolder(Path(where.removeprefix("file://")))
    if "://" not in where:
        return ImageFolder(Path(where))
    return RemoteImages(where)


class ImageFolder:
    """Pictures in a folder of this machine.

    Args:
        folder: Where the files lie; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, data: bytes, kind: str) -> SavedFile:
        """Write a picture file, whole or not at all; see ``Images.save``."""
        name = _name(data, kind)
        path = self._folder / name
        try:
            # Wanted anew, so it is no garbage, however long it has been lying there.
            os.utime(path)
        except FileNotFoundError:
            pass
        else:
            return SavedFile(name, is_new=False)
        handle, unfinished = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(unfinished).replace(path)
            self._sync_folder()
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return SavedFile(name, is_new=True)

    def discard(self, name: str) -> None:
        """Remove a file that nothing refers to, if it is there."""
        (self._folder / name).unlink(missing_ok=True)

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
            if not (IMAGE_NAME.fullmatch(path.name) or path.suffix == ".part"):
                continue
            try:
                written_s = path.stat().st_mtime
            except FileNotFoundError:  # finished or removed since
                continue
            yield FoundFile(path.name, dt.datetime.fromtimestamp(written_s, dt.UTC))

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
    here.

    Args:
        url: Where the files lie.

    Raises:
        InvalidRequest: The package for such URLs is not installed, or there is none.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # only here: most studios keep their pictures in a folder

        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            allowed = f"a folder, or a URL that fsspec can open ({error})"
            raise InvalidRequest("images", url.partition(":")[0], allowed) from error

    def save(self, data: bytes, kind: str) -> SavedFile:
        """Write a picture file, whole or not at all; see ``Images.save``."""
        name = _name(data, kind)
        if self.has(name):
            return SavedFile(name, is_new=False)
        try:
            self._system.pipe_file(self._place(name), data, mode="create")
        except FileExistsError:  # another was faster, with the same bytes
            return SavedFile(name, is_new=False)
        return SavedFile(name, is_new=True)

    def discard(self, name: str) -> None:
        """Remove a file that nothing refers to, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._place(name))

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
        exists: Any = IMAGE_NAME.fullmatch(name) and self._system.isfile(
            self._place(name)
        )
        return bool(exists)

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures; nothing is left unfinished here."""
        try:
            self._system.invalidate_cache()
            places = sorted(self._system.ls(self._root, detail=False))
        except FileNotFoundError:  # nothing was saved yet
            return
        for place in places:
            name = place.rpartition("/")[2]
            if IMAGE_NAME.fullmatch(name):
                yield FoundFile(name, self._system.modified(place))

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _name(data: bytes, kind: str) -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"
