"""What a studio is built on: the protocols between the facade and what does the work.

``Studio``, its handles, the widgets, the server and the command line know these
protocols only. ``nbgen.local.LocalBackend`` implements them in this process,
``nbgen.testing.MemoryBackend`` in memory, for tests. The tests in ``tests/contract``
run on each of them.

Every method may be called from any thread. Arguments and answers are frozen values;
callbacks are taken for watching only. Every method raises ``StudioClosed`` after
``close``.
"""

from __future__ import annotations

from typing import Protocol

from nbgen.backend.deciding import Deciding
from nbgen.backend.describing import Describing
from nbgen.backend.finding import Finding, Pictures
from nbgen.backend.keeping import Keeping
from nbgen.backend.running import Running
from nbgen.backend.watching import StopWatching, Watching
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.follower import ChangesCallback
from nbgen.progress.previews import PreviewCallback

__all__ = [
    "Backend",
    "ChangesCallback",
    "Deciding",
    "Describing",
    "Finding",
    "Keeping",
    "Pictures",
    "PreviewCallback",
    "ProgressCallback",
    "Running",
    "StopWatching",
    "Watching",
]


class Backend(
    Running, Watching, Finding, Pictures, Keeping, Deciding, Describing, Protocol
):
    """All that a studio needs."""

    def close(self, *, finish: bool = False) -> None:
        """Give back what runs, and release all threads, processes and files.

        The task that runs is stopped, and waits again, as those that wait do, for the
        next studio that is opened on the same data. An engine's process is killed; on a
        thread, the running step goes on to its end. It waits for a publication under
        way. A second call waits for the same end.

        Args:
            finish: Whether the task that runs goes on to its end first. A
                ``KeyboardInterrupt`` gives it back, and is raised once all is closed; a
                second one is raised at once and leaves the rest to be closed again.
        """
