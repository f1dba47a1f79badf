"""One queue, one worker thread.

Thread-safety: every method may be called from any thread. The waiting and running
jobs belong to one lock; the thread ``nbgen-worker`` runs one job after another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from nbgen.generation.engine import CancelToken
from nbgen.schema import GenerationRequest


class Job:
    """One task on its way through the queue.

    Attributes:
        task_id: The id of the task.
        request: What to make.
        seed: The seed of the first picture.
        cancel: Set to stop the work.
        done: Resolves once the end of the task is committed.
        error: The exception that ended it, for whoever asks for the result.
    """

    def __init__(self, task_id: str, request: GenerationRequest, seed: int) -> None:
        self.task_id = task_id
        self.request = request
        self.seed = seed
        self.cancel = CancelToken()
        self.done: Future[None] = Future()
        # From here on nobody who waits for the future can cancel it.
        self.done.set_running_or_notify_cancel()
        self.error: BaseException | None = None


class JobQueue:
    """Runs jobs one at a time, first come first served.

    Args:
        run: Called with each job on the worker thread; must not raise.
    """

    def __init__(self, run: Callable[[Job], None]) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        # A daemon: a notebook's kernel must be able to exit at any time.
        self._thread = threading.Thread(
            target=self._work, name="nbgen-worker", daemon=True
        )
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def find(self, task_id: str) -> Job | None:
        """Return the job of that task if it waits or runs."""
        with self._changed:
            if self._running is not None and self._running.task_id == task_id:
                return self._running
            return next((j for j in self._waiting if j.task_id == task_id), None)

    def cancel(self, task_id: str) -> Job | None:
        """Stop a job: ask a running one to end, or take a waiting one out.

        Returns:
            The job that was taken out, which is now the caller's to end; None if it
            runs or is not here.
        """
        with self._changed:
            if self._running is not None and self._running.task_id == task_id:
                self._running.cancel.cancel()
                return None
            job = next((j for j in self._waiting if j.task_id == task_id), None)
            if job is not None:
                self._waiting.remove(job)
            return job

    def close(self) -> list[Job]:
        """Stop the running job and the thread; return the jobs that never ran."""
        with self._changed:
            self._closed = True
            never_ran = list(self._waiting)
            self._waiting.clear()
            if self._running is not None:
                self._running.cancel.cancel()
            self._changed.notify()
        self._thread.join()
        return never_ran

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._running = job = self._waiting.popleft()
            self._run(job)
            with self._changed:
                self._running = None
