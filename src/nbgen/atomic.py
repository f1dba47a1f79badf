"""Writes files whole or not at all, whoever reads or writes them meanwhile.

Holds no state, so any thread and any process may call it.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".part"
"""How the name of a file ends that is being written, or was when its process died."""


def write_atomic(path: Path, data: bytes) -> None:
    """Put the file onto the disk beside its place, then rename it into it.

    See ``writing_atomic``.

    Raises:
        OSError: It cannot be written; what was there is as it was.
    """
    with writing_atomic(path) as file:
        file.write(data)


@contextmanager
def writing_atomic(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file beside a place, and rename it into it at the end.

    Its folder must exist. The file has the permissions that any new one has. If the
    block raises, what was there is as it was.

    Args:
        path: The place.
        replace: Whether a file that is there is replaced.

    Raises:
        FileExistsError: A file is there, and ``replace`` is false.
        OSError: It cannot be written.
    """
    # Not a file of tempfile's: those are hidden from whoever else reads the folder.
    unfinished = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            _put_first(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Have the names of the files in a folder outlast a power cut.

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    if os.name == "nt":
        return  # there a folder cannot be opened, and needs no syncing
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_first(unfinished: Path, path: Path) -> None:
    """Rename a file into a place where none is."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError as error:  # some file systems have no links
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from error
        unfinished.replace(path)
    else:
        unfinished.unlink()
