"""Picture files: in a folder, or wherever fsspec can write. Thread-safe."""

from __future__ import annotations

from pathlib import Path

from nbgen.images.bucket import BucketImages
from nbgen.images.folder import FolderImages, find_owners
from nbgen.images.inputs import PictureSource, keep_picture, read_source
from nbgen.images.store import FoundFile, Images

__all__ = [
    "BucketImages",
    "FolderImages",
    "FoundFile",
    "Images",
    "PictureSource",
    "find_owners",
    "keep_picture",
    "open_images",
    "read_source",
]


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
        return FolderImages(where, owner)
    protocol, is_url, path = where.partition("://")
    if not is_url:
        return FolderImages(Path(where), owner)
    if protocol in ("file", "local"):  # fsspec would write to these in place
        return FolderImages(Path(path), owner)
    return BucketImages(where, owner)
