"""The finished pictures at a URL, through fsspec. Thread-safe."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from nbgen.atomic import UNFINISHED
from nbgen.errors import InvalidRequest, PictureDamaged
from nbgen.images.store import (
    FoundFile,
    image_name,
    is_named_after,
    is_ours,
    owners_marked,
)
from nbgen.images.verified import Verified
from nbgen.schema import utc_now
from nbgen.schema.checks import IMAGE_NAME

logger = logging.getLogger(__name__)

# An object need not be written again to be young when it was written so lately.
_FRESH = dt.timedelta(minutes=10)

# Here an object is there whole or not at all; elsewhere a file grows while it is
# written.
_WHOLE_OR_NOT = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"}
)


class BucketImages:
    """Pictures at a URL, through fsspec.

    Object stores keep an object whole or not at all, which is what makes writing safe
    there; elsewhere a file is written under another name and moved.

    Args:
        url: Where the files lie.
        owner: The identity of the database that refers to what is saved, or None.
        now: Returns the present time in UTC.

    Raises:
        InvalidRequest: The package for such URLs is not installed, or there is none.
    """

    def __init__(
        self,
        url: str,
        owner: str | None = None,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
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
        self._verified = Verified()
        self._now = now

    def save(self, data: bytes, kind: str) -> str:
        """Write a picture file, whole or not at all; see ``Images.save``."""
        name = image_name(data, kind)
        try:
            kept = self.keep(name)
        except PictureDamaged:
            logger.warning("The damaged file of the picture %s is replaced.", name)
            if self._moves:
                self._remove(name)  # some systems do not move onto a file
            kept = False
        if not kept:
            self._mark()
            self._write(name, data)
        return name

    def keep(self, name: str) -> bool:
        """Return whether the picture exists, and reset its age; see ``Images``."""
        written_at = self._written_at(name) if IMAGE_NAME.fullmatch(name) else None
        if written_at is None:
            return False
        if written_at >= self._now() - _FRESH:
            is_there = self.has(name)
            if is_there:
                self._mark()
            return is_there
        # Few systems can touch a file; all can write the same bytes again.
        data = self.read(name)
        if data is None:  # removed since
            return False
        self._mark()
        self._write(name, data)
        return True

    def discard(self, name: str, written_before: dt.datetime) -> bool:
        """Remove a file that nothing refers to; see ``Images.discard``."""
        written_at = self._written_at(name)
        if written_at is None or written_at >= written_before:
            return False
        return self._remove(name)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a picture, or None; see ``Images.read``."""
        if not IMAGE_NAME.fullmatch(name):
            return None
        try:
            data: bytes = self._system.cat_file(self._place(name))
        except FileNotFoundError:
            return None
        if not is_named_after(name, data):  # cheap, beside the download
            raise PictureDamaged(name)
        return data

    def path(self, name: str, *, check: bool = True) -> Path | None:  # noqa: ARG002
        """Return None: no picture lies on this machine."""
        return None

    def has(self, name: str) -> bool:
        """Say whether there is a picture of that name; see ``Images.has``.

        A picture that this process has not compared yet is downloaded once.
        """
        if not IMAGE_NAME.fullmatch(name):
            return False
        stamp = self._stamp(name)
        if stamp is None:
            return False
        if not self._verified.knows(name, stamp):
            if self.read(name) is None:  # removed since
                return False
            self._verified.remember(name, stamp)
        return True

    def is_damaged(self, name: str) -> bool:
        """Download a file again and say whether it is damaged."""
        self._verified.forget(name)
        try:
            self.read(name)
        except PictureDamaged:
            return True
        return False

    def set_aside(self, name: str) -> bool:
        """Remove a damaged file; see ``Images.set_aside``.

        It stays if somebody writes it while it is read. A small race remains: a file
        that somebody saves between the last look and the removal is removed.
        """
        stamp = self._stamp(name)
        if not self.is_damaged(name) or self._stamp(name) != stamp:
            return False
        return self._remove(name)

    def files(self) -> Iterator[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""
        for place in self._list():
            name = place.rpartition("/")[2]
            if not is_ours(name):
                continue
            try:
                written_at = self._modified(place)
            except FileNotFoundError:  # removed since
                continue
            yield FoundFile(name, written_at)

    def owners(self) -> set[str]:
        """Return the identities of the databases that refer to pictures here."""
        return owners_marked(place.rpartition("/")[2] for place in self._list())

    def _mark(self) -> None:
        if self._unmarked is None:
            return
        if self._moves:
            self._system.makedirs(self._root, exist_ok=True)
        self._system.pipe_file(self._place(f"owner-{self._unmarked}"), b"")
        self._unmarked = None

    def _write(self, name: str, data: bytes) -> None:
        self._put(name, data)
        with contextlib.suppress(OSError):  # then it is downloaded once, to compare it
            self._verified.remember(name, self._stamp(name))

    def _put(self, name: str, data: bytes) -> None:
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

    def _remove(self, name: str) -> bool:
        try:
            self._system.rm_file(self._place(name))
        except FileNotFoundError:
            return False
        return True

    def _stamp(self, name: str) -> str | None:
        """Return a stamp that changes with a file; None if there is no file."""
        # A listing that was kept knows nothing of what others did since.
        self._system.invalidate_cache()
        try:
            # A hash of what the system tells of it: its size, time and the like.
            stamp: str = self._system.ukey(self._place(name))
        except FileNotFoundError:
            return None
        return stamp

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
            return self._now()
        return written_at

    def _list(self) -> list[str]:
        self._system.invalidate_cache()
        try:
            return sorted(self._system.ls(self._root, detail=False))
        except FileNotFoundError:  # nothing was saved yet
            return []

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
