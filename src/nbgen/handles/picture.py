"""The handle on one picture. Any thread may call every method."""

from __future__ import annotations

from pathlib import Path

from nbgen.atomic import write_atomic
from nbgen.backend import Backend
from nbgen.errors import InvalidRequest
from nbgen.schema import ImageRecord, OutputFormat

_FORMAT_OF_SUFFIX = {
    ".png": OutputFormat.PNG,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".webp": OutputFormat.WEBP,
}


class Picture:
    """A handle on a picture that a task made, wherever its file is kept.

    Example::

        for picture in task.pictures:
            (folder / picture.name).write_bytes(picture.read())

    Attributes:
        name: The name of the file.
        width: Width in pixels.
        height: Height in pixels.
        seed: The seed that it was made from.
    """

    def __init__(self, backend: Backend, image: ImageRecord) -> None:
        self._backend = backend
        self.name = image.name
        self.width = image.width
        self.height = image.height
        self.seed = image.seed

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"Picture({self.width}x{self.height})"

    @property
    def path(self) -> Path | None:
        """The file; None if it is not on this machine's disk.

        Raises:
            PictureDamaged: The file is damaged.
        """
        return self._backend.picture_path(self.name)

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            UnknownImage: The file is gone.
            PictureDamaged: The file is damaged.
        """
        return self._backend.read_picture(self.name)


def format_of(path: Path) -> OutputFormat:
    """Return the kind of file that a path's ending names.

    Raises:
        InvalidRequest: The path ends otherwise.
    """
    kind = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if kind is None:
        allowed = "a path that ends in .png, .jpg, .jpeg or .webp"
        raise InvalidRequest("output_path", str(path), allowed)
    return kind


def copy_picture(backend: Backend, name: str, target: Path) -> None:
    """Write a picture to a file, whole or not at all; missing folders are made.

    Raises:
        UnknownImage: The picture's file is gone.
        PictureDamaged: The picture's file is damaged.
    """
    data = backend.read_picture(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data)
