"""Picture files in a dictionary. Not thread-safe: ``MemoryBackend`` holds its lock."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from nbgen.errors import InvalidRequest, PictureDamaged, UnknownImage
from nbgen.images.checking import check_files, names_mentioned
from nbgen.images.store import FoundFile, image_name, is_named_after
from nbgen.schema import (
    PICTURE_FIELDS,
    CheckReport,
    ContentTask,
    Decision,
    GenerationRequest,
    TaskRecord,
)
from nbgen.schema.checks import IMAGE_NAME, image_name_of

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
        name = image_name_of(picture)
        if name is None or not self.has(name):
            raise InvalidRequest(field, picture, "the name of a picture that is kept")
        self._kept_at[name] = self._now()
        return name

    def keep_pictures_of(self, request: GenerationRequest) -> None:
        """Keep the pictures that a request refers to."""
        for field in PICTURE_FIELDS:
            name = getattr(request, field)
            if name is not None:
                self.keep(field, name)

    def has(self, name: str) -> bool:
        """Return whether there is a picture; raise ``PictureDamaged`` for a bad one."""
        if self.is_damaged(name):
            raise PictureDamaged(name)
        return name in self._files

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture file; raise ``UnknownImage`` if it is gone."""
        if not self.has(name):
            raise UnknownImage(name)
        return self._files[name]

    def files(self) -> Iterator[FoundFile]:
        """Yield the picture files."""
        for name in sorted(self._files):
            yield FoundFile(name, self._kept_at[name])

    def is_damaged(self, name: str) -> bool:
        """Return whether a file has not the bytes that it is named after."""
        return name in self._files and not is_named_after(name, self._files[name])

    def set_aside(self, name: str) -> bool:
        """Remove a damaged file."""
        del self._files[name], self._kept_at[name]
        return True

    def check(
        self, referring: Sequence[TaskRecord | Decision | ContentTask], *, repair: bool
    ) -> CheckReport:
        """Compare all files with their names; see ``Pictures.check_pictures``.

        Args:
            referring: The values that may name pictures.
            repair: Whether to remove damaged files.
        """
        needed: defaultdict[str, set[str]] = defaultdict(set)
        for value in referring:
            for name in _named(value):
                task_id = value.id if isinstance(value, TaskRecord) else value.task_id
                needed[name].add(task_id)
        return check_files(self, needed, repair=repair)

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


def _named(value: TaskRecord | Decision | ContentTask) -> set[str]:
    """Return the names of the pictures that a value refers to."""
    if isinstance(value, TaskRecord):
        made = value.result.images if value.result else ()
        named = {getattr(value.request, field) for field in PICTURE_FIELDS}
        return {image.name for image in made} | named - {None}
    if isinstance(value, Decision):
        names = names_mentioned(value.featured_image_url or "")
        return names if value.image is None else names | {value.image}
    texts = [value.metadata, value.featured_image_url]
    return names_mentioned(msgspec.json.encode(texts).decode())
