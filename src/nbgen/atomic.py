"""Writes files whole or not at all, whoever reads or writes them meanwhile.

Holds no state, so any thread and any process may call it.
"""

from __future__ import annotations

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
def writing_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside a place, and rename it into it at the end.

    A file that is there is replaced; its folder must exist. The file has the
    permissions that any new one has. If the block raises, what was there is as it was.

    Raises:
        OSError: It cannot be written.
    """
    # Not a file of tempfile's: those are hidden from whoever else reads the folder.
    unfinished = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
