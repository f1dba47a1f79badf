"""Remembers which picture files were found sound, so that each is hashed once.

Thread-safe: a lock guards the dictionary and is held for a lookup only.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from nbgen.errors import PictureDamaged
from nbgen.images.store import is_named_after

_MOST_REMEMBERED = 20_000


class Verified:
    """The files whose bytes this process compared with their names.

    A file is remembered by its name and a stamp that changes with its content, such as
    its size and mtime. A file with another stamp is compared again.

    Args:
        most: How many files are remembered; beyond that, the oldest are forgotten.

    Example::

        verified = Verified()
        verified.check(name, stamp, data)  # raises PictureDamaged
        assert verified.knows(name, stamp)
    """

    def __init__(self, most: int = _MOST_REMEMBERED) -> None:
        self._most = most
        self._stamps: dict[str, Hashable] = {}
        self._lock = threading.Lock()

    def knows(self, name: str, stamp: Hashable) -> bool:
        """Return whether the file was found sound when it had that stamp."""
        with self._lock:
            return name in self._stamps and self._stamps[name] == stamp

    def check(self, name: str, stamp: Hashable, data: bytes) -> None:
        """Compare bytes with their name, unless a file of that stamp is known.

        Args:
            name: The name of the picture.
            stamp: The stamp of its file, taken before the bytes were read.
            data: The bytes of the file.

        Raises:
            PictureDamaged: The name was made from other bytes.
        """
        if self.knows(name, stamp):
            return
        if not is_named_after(name, data):
            raise PictureDamaged(name)
        self.remember(name, stamp)

    def remember(self, name: str, stamp: Hashable) -> None:
        """Note that the file of that stamp is sound."""
        with self._lock:
            self._stamps.pop(name, None)  # so that the new one stands last
            self._stamps[name] = stamp
            while len(self._stamps) > self._most:
                del self._stamps[next(iter(self._stamps))]

    def forget(self, name: str) -> None:
        """Have the file compared again when it is used next."""
        with self._lock:
            self._stamps.pop(name, None)
