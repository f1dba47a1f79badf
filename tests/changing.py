"""How a test waits for what other processes and threads change."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbgen.studio import Studio


def until_changed(studio: Studio, holds: Callable[[], bool]) -> None:
    """Wait until something holds; look again whenever the change feed tells."""
    changed = threading.Event()
    stop = studio.watch_changes(lambda _changes: changed.set())
    try:
        while not holds():
            assert changed.wait(10)
            changed.clear()
    finally:
        stop()
