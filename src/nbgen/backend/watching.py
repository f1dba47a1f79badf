"""The protocol of what shows progress and tells of changes; see ``nbgen.backend``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.follower import ChangesCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.schema import (
    GenerationProgress,
    Position,
)

StopWatching = Callable[[], None]
"""Ends the watching; calling it again does nothing."""


class Watching(Protocol):
    """Shows how far tasks are."""

    def get_progress(self, task_id: str) -> GenerationProgress:
        """Return the present state of a task, however long ago it ended.

        Raises:
            UnknownTask: There is no such task.
        """

    def watch(self, task_id: str, callback: ProgressCallback) -> StopWatching:
        """Call back with the present state of a task, then with every later one.

        States come in order, none twice, up to the end. The task need not exist yet,
        and any process of the same data folder or database may run it. If another
        process runs it, the callback gets some of its states, usually five a second,
        and always the end. The callback must return quickly; it runs on the thread
        ``nbgen-progress``, or on the caller's if the task has ended already.

        Returns:
            A function that ends the watching.
        """

    def watch_changes(
        self, callback: ChangesCallback, *, since: Position | None = None
    ) -> StopWatching:
        """Call back with every change of tasks, batches, decisions and publications.

        Changes come in the order in which they were committed, none twice and none left
        out, whichever process made them; see ``Change``. To show what is there and keep
        it up to date, begin to watch first, then read.

        The first call says where it begins, without changes. Where changes have been
        forgotten (they are kept for a week, and 200,000 of them), ``Changes.missed``
        says so, and it goes on from the present. While the feed cannot be read,
        ``Changes.problem`` says why.

        Args:
            callback: Called on the thread ``nbgen-changes``; it must return quickly.
            since: The place to begin at, as an earlier call gave it; None begins with
                what is committed after this call.

        Returns:
            A function that ends the watching. A call under way may still finish.

        Raises:
            DataFolderUnusable: The feed cannot be read.
        """

    def watch_previews(self, task_id: str, callback: PreviewCallback) -> StopWatching:
        """Call back with previews of the picture, up to four a second, as it samples.

        Previews are made only while somebody watches them. The callback runs on a
        thread of the backend and must return quickly.
        """
