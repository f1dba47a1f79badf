"""Commits how tasks end, then tells it.

Thread-safety: every method may be called from any thread. Ends that could not be saved
belong to a lock that is never held over the database. Of two ends that race, the store
decides which one is the task's.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable

from msgspec.structs import replace

from nbgen.errors import DataFolderUnusable
from nbgen.local.ends import Ends
from nbgen.local.job import Job
from nbgen.progress import ProgressService
from nbgen.schema import (
    WAITS_AGAIN,
    GenerationResult,
    Outcome,
    Status,
    TaskEnd,
    TaskRecord,
    progress_of_record,
    utc_now,
)
from nbgen.store.running import Ending, RunStore
from nbgen.store.tasks import TaskStore

logger = logging.getLogger(__name__)


class Endings:
    """Ends each task once: in the store first, then for its watchers.

    An end that cannot be saved is told as a failure, kept, and saved by ``save_ends``,
    so that the store comes to say what was told.

    Args:
        tasks: Where tasks are read.
        running: Where ends are committed.
        progress: The service that notifies watchers.
        ends: Notifies those who wait for the end of a task.
        now: Returns the present time in UTC.

    Example::

        endings = Endings(store.tasks, store.running, progress, ends)
        endings.end(job, Outcome.FAILED, error="The GPU is gone.")
        job.done.result().outcome  # FAILED, or how somebody else ended it before
    """

    def __init__(
        self,
        tasks: TaskStore,
        running: RunStore,
        progress: ProgressService,
        ends: Ends,
        *,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._tasks = tasks
        self._running = running
        self._progress = progress
        self._ends = ends
        self._now = now
        self._lock = threading.Lock()
        # By task: the generation that ran it, and the end that was told.
        self._unsaved: dict[str, tuple[int, TaskEnd]] = {}

    def end(
        self,
        job: Job,
        outcome: Outcome,
        *,
        error: str | None = None,
        result: GenerationResult | None = None,
        made_with: dict[str, str] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        """Commit an end, tell it and resolve the job; never raises.

        Args:
            job: The job.
            outcome: How it ended, unless somebody else ended it before.
            error: Why it did not succeed.
            result: The pictures that were made.
            made_with: What they were made with; see ``Engine.facts``.
            cause: The exception that ended it.
        """
        end = TaskEnd(job.task_id, outcome, error, result, cause)
        try:
            end = self._commit(job, end, outcome, made_with)
            self._tell(end)
        except Exception:
            logger.exception("The end of task %s could not be told.", job.task_id)
        finally:
            job.done.set_result(end)

    def give_back(self, job: Job, *, died_of: str | None = None) -> None:
        """Have a task that was stopped wait again, and resolve the job; never raises.

        Where that cannot be stored, the next runner counts it as a lost attempt.

        Args:
            job: The job.
            died_of: Why its process ended; None if it was stopped in an orderly way.
        """
        end = TaskEnd(job.task_id, None)
        try:
            record = self._running.give_back(
                job.task_id, job.generation, died_of=died_of
            )
            end = self._tell_record(job, record)
        except Exception:
            logger.exception("Task %s could not be given back.", job.task_id)
            self._tell_waiting(job.task_id)
        finally:
            job.done.set_result(end)

    def has_unsaved_end(self, task_id: str) -> bool:
        """Return whether a task was told to have ended, but the store does not know."""
        with self._lock:
            return task_id in self._unsaved

    def save_ends(self) -> None:
        """Store the ends that could not be saved before; keep what still cannot be."""
        with self._lock:
            unsaved = dict(self._unsaved)
        try:
            for task_id, (generation, end) in unsaved.items():
                ending = Ending(Outcome.FAILED, end.error)
                ended = self._running.end(
                    task_id, generation, ending, ended_at=self._now()
                )
                with self._lock:
                    self._unsaved.pop(task_id, None)
                if ended:  # somebody may have asked for it since it was told
                    self._ends.tell(end)
        except Exception:
            logger.exception("The ends of %d tasks cannot be saved.", len(unsaved))

    def _commit(
        self,
        job: Job,
        end: TaskEnd,
        outcome: Outcome,
        made_with: dict[str, str] | None,
    ) -> TaskEnd:
        """Store an end; return the one to tell, which may be another's."""
        task_id = job.task_id
        try:
            progress = self._progress.get_progress(task_id)
            times = self._progress.stage_times(task_id) if progress else {}
            steps = self._progress.step_times(task_id) if progress else {}
            ending = Ending(
                outcome,
                end.error,
                end.result,
                progress.current_step if progress else 0,
                {stage.value: took_s for stage, took_s in times.items()},
                {stage.value: took_s for stage, took_s in steps.items()},
                made_with or {},
            )
            ended = self._running.end(
                task_id, job.generation, ending, ended_at=self._now()
            )
            record = None if ended else self._tasks.get_task(task_id)
        except Exception as fault:  # a full disk must not leave watchers waiting
            logger.exception("The end of task %s could not be saved.", task_id)
            record = self._ended_record(task_id)
            if record is None:
                # Not the whole message: by the time that this end is read, it is known
                # what was kept.
                reason = (
                    fault.reason if isinstance(fault, DataFolderUnusable) else fault
                )
                error = f"The result could not be saved: {reason}"
                unsaved = TaskEnd(task_id, Outcome.FAILED, error, cause=fault)
                with self._lock:
                    self._unsaved[task_id] = (job.generation, unsaved)
                return unsaved
            ended = False
        if ended:
            return end
        # Somebody else has ended it, or runs it by now.
        return self._tell_record(job, record)._replace(cause=end.cause)

    def _tell_record(self, job: Job, record: TaskRecord | None) -> TaskEnd:
        """Tell where a task stands that does not run here any more."""
        record = record or self._tasks.get_task(job.task_id)
        if record is None:
            return TaskEnd(job.task_id, None)
        if record.status.ended:
            self._tell(record.end)
        else:
            state = progress_of_record(record)
            self._progress.publish_foreign(state, was_here=True)
        return record.end

    def _tell_waiting(self, task_id: str) -> None:
        """Tell that a task waits to run again, though the store does not know yet."""
        state = self._progress.get_progress(task_id)
        if state is not None and not state.status.ended:
            waiting = replace(
                state,
                status=Status.PENDING,
                current_step=0,
                current_stage=None,
                elapsed_time=0.0,
                estimated_remaining=0.0,
                remaining_known=False,
                overall_percentage=0.0,
                message=WAITS_AGAIN,
            )
            self._progress.publish_foreign(waiting, was_here=True)

    def _ended_record(self, task_id: str) -> TaskRecord | None:
        """Return a task whose end was saved though no answer came; None if not."""
        try:
            record = self._tasks.get_task(task_id)
        except Exception:
            logger.exception("Task %s could not be read.", task_id)
            return None
        return record if record is not None and record.status.ended else None

    def _tell(self, end: TaskEnd) -> None:
        if end.outcome is None:
            return
        try:
            if end.outcome is Outcome.SUCCEEDED:
                self._progress.mark_complete(end.task_id, result=end.result)
            else:
                self._progress.mark_failed(
                    end.task_id, end.error or "", outcome=end.outcome, result=end.result
                )
        finally:
            self._ends.tell(end)
