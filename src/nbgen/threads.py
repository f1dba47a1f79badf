"""Starts the threads of nbgen. Holds no state, so any thread may call it."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread and return it.

    Args:
        name: The name of the thread; docs/architecture.md lists all of them.
        target: What it runs.
    """
    # A daemon: a notebook's kernel must be able to exit at any time. What must not be
    # broken off is ended by ``close()``, which a process that exits calls.
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
