"""Picture files in a dictionary. Not thread-safe: ``MemoryBackend`` holds its lock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

import msgspec

from nbgen.errors import InvalidRequest, UnknownImage
from nbgen.images.store import image_name
from nbgen.schema.checks import IMAGE_NAME, IMAGE_URL

_YOUNG = dt.timedelta(hours=1)


class MemoryPictures:
    """Picture files by their names, each with the time when it was last kept.

    Example::

        pictures = MemoryPictures(now=utc_now)
        name = pictures.save(png, "png")
        assert pictures.read(name) == png

    Args:
        now: Returns the present time in UTC.
    """

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self._files: dict[str, bytes] = {}
        self._kept_at: dict[str, dt.datetime] = {}

    def save(self, data: bytes, kind: str) -> str:
        """Keep a picture file and return its name, which is made from its bytes."""
        name = image_name(data, kind)
        self._files[name] = data
        self._kept_at[name] = self._now()
        return name

    def keep(self, field: str, picture: str | bytes) -> str:
        """Return the name of a picture; see ``Pictures.keep_picture``."""
        if isinstance(picture, bytes):
            return self.save(picture, "png")
        name = picture.removeprefix(IMAGE_URL)
        if name not in self._files:
            raise InvalidRequest(field, picture, "the name of a picture that is kept")
        self._kept_at[name] = self._now()
        return name

    def has(self, name: str) -> bool:
        """Return whether there is a picture of that name."""
        return name in self._files

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture file; raise ``UnknownImage`` if it is gone."""
        if name not in self._files:
            raise UnknownImage(name)
        return self._files[name]

    def collect_garbage(
        self, referring: Iterable[object], *, dry_run: bool
    ) -> list[str]:
        """Remove files that were kept over an hour ago and that nothing refers to.

        Args:
            referring: The values that may name pictures, anywhere in them.
            dry_run: Only return the names.
        """
        text = msgspec.json.encode(list(referring)).decode()
        mentioned = {found[0] for found in IMAGE_NAME.finditer(text)}
        old = self._now() - _YOUNG
        garbage = [
            name
            for name in sorted(self._files)
            if name not in mentioned and self._kept_at[name] < old
        ]
        for name in () if dry_run else garbage:
            del self._files[name], self._kept_at[name]
        return garbage
