"""The server's side of one watcher, without sockets.

Nothing here does I/O. A ``WatchSession`` belongs to one connection and to the thread
or loop that serves it.
"""

from __future__ import annotations

import json

from nbgen.schema import GenerationProgress
from nbgen.wire.progress import PONG, WAITING_MESSAGE, encode_progress


class WatchSession:
    """Decides what one watcher of one task is sent.

    It sends no state twice and none out of order, and nothing but ``pong`` after the
    terminal one.

    Args:
        task_id: The task that is watched.
    """

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._present: GenerationProgress | None = None

    @property
    def ended(self) -> bool:
        """Whether the terminal message has been sent."""
        return self._present is not None and self._present.status.ended

    def open(self, present: GenerationProgress | None) -> str:
        """Return the first message; ``present`` is None for an unknown task."""
        if present is None:
            status = {"type": "status", "task_id": self._task_id}
            return json.dumps({**status, "message": WAITING_MESSAGE})
        self._present = present
        return encode_progress(present)

    def advance(self, progress: GenerationProgress) -> bool:
        """Return whether a new state is to be sent, and take it as sent."""
        if self.ended:
            return False
        if self._present is not None and progress.seq <= self._present.seq:
            return False
        self._present = progress
        return True

    def receive(self, frame: str | bytes) -> str | None:
        """Return the answer to a client's frame; None for what is not understood."""
        if not isinstance(frame, str):
            return None
        try:
            message = json.loads(frame)
        except (ValueError, RecursionError):
            return None
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "ping":
            return PONG
        # The terminal message is the last progress that a client gets.
        if kind == "get_progress" and self._present is not None and not self.ended:
            return encode_progress(self._present)
        return None
