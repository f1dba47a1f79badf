"""The folder of finished pictures.

Thread-safe: a file is written beside its place and renamed into it, and its name is
made from its bytes, so no file is ever overwritten with another.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_NAME = re.compile(r"[0-9a-f]{32}\.png")


class ImageFolder:
    """PNG files under names that say what is in them.

    Args:
        folder: Where the files lie; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, image: Image.Image) -> str:
        """Write the picture as PNG, whole or not at all, and return its name."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()[:32] + ".png"
        handle, unfinished = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(unfinished).replace(self._folder / name)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return name

    def path(self, name: str) -> Path | None:
        """Return where the picture of that name lies, or None if there is none."""
        if not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None
