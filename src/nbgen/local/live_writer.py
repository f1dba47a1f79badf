"""Writes the newest states of the tasks that run here, for other processes to read.

It tells the watchers of those tasks, too, when their data folder has vanished.

Every method may be called from any thread. The list of running tasks belongs to a
condition. The thread ``nbgen-live`` alone writes, and owns the list of tasks whose
watchers were told. It looks at the progress service, so a step waits for nothing of it.
"""

from __future__ import annotations

import logging
import threading

from nbgen.errors import DataFolderUnusable
from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress
from nbgen.store.live import LiveStates
from nbgen.threads import start_thread

logger = logging.getLogger(__name__)


class LiveWriter:
    """Writes the states of running tasks, five times a second, up to their ends.

    Args:
        live: Where the states are written.
        progress: Where the states come from.
        every_s: Seconds between two writings.

    Example::

        writer = LiveWriter(store.live, progress)
        writer.follow("hero-1")
        writer.close()
    """

    def __init__(
        self, live: LiveStates, progress: ProgressService, *, every_s: float = 0.2
    ) -> None:
        self._live = live
        self._progress = progress
        self._every_s = every_s
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._told: set[str] = set()  # of tasks that run, those told of the folder
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def follow(self, task_id: str) -> None:
        """Write the states of a task from now on, until it has ended."""
        with self._changed:
            if self._closed.is_set():
                return
            self._running.add(task_id)
            if self._thread is None:
                self._thread = start_thread("nbgen-live", self._work)
            self._changed.notify()

    def close(self) -> None:
        """End the thread and remove what it wrote."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        written: list[GenerationProgress] = []
        while self._wait_for_task():
            states = self._states()
            is_kept = self._check_folder(states)
            if is_kept and states != written and self._try_write(states):
                written = states
            self._closed.wait(self._every_s)
        self._try_write([])

    def _wait_for_task(self) -> bool:
        """Wait for a running task; return False once the writer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._closed.is_set())
            return not self._closed.is_set()

    def _states(self) -> list[GenerationProgress]:
        """Return the states of the tasks that run, and forget those that ended."""
        states = []
        with self._changed:
            for task_id in sorted(self._running):
                state = self._progress.get_progress(task_id)
                if state is None or state.status.ended:
                    self._running.discard(task_id)
                    self._told.discard(task_id)
                else:
                    states.append(state)
        return states

    def _try_write(self, states: list[GenerationProgress]) -> bool:
        try:
            self._live.write(states)
        except Exception as error:  # noqa: BLE001 - the task goes on without it
            logger.warning("The live states cannot be written: %s", error)
            return False
        return True

    def _check_folder(self, states: list[GenerationProgress]) -> bool:
        """Return whether the data folder is there; tell each task's watchers if not."""
        try:
            self._live.check_folder()
        except DataFolderUnusable as error:
            for state in states:
                if state.task_id not in self._told:
                    self._told.add(state.task_id)
                    logger.warning("Task %s: %s", state.task_id, error)
                    self._progress.update_progress(state.task_id, message=str(error))
            return False
        return True
