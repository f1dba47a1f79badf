"""Commits how tasks end, then tells it.

Thread-safety: every method may be called from any thread. Ends that could not be saved
belong to a lock that is never held over the database. Of two ends that race, the store
decides which one is the task's.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from nbgen.errors import DataFolderUnusable
from nbgen.local.job_queue import Job
from nbgen.progress import ProgressService
from nbgen.schema import (
    GIVEN_BACK,
    NEVER_RAN,
    GenerationResult,
    Outcome,
    TaskEnd,
    TaskRecord,
    progress_of_record,
    utc_now,
)
from nbgen.store.tasks import TaskStore

logger = logging.getLogger(__name__)


class Endings:
    """Ends each task once: in the store first, then for its watchers.

    An end that cannot be saved is told as a failure, kept, and saved by ``save_ends``,
    so that the store comes to say what was told.

    Args:
        tasks: Where ends are committed.
        progress: The service that notifies watchers.
        now: Returns the present time in UTC.

    Example::

        endings = Endings(store.tasks, progress)
        endings.end(job, Outcome.FAILED, error="The GPU is gone.")
        job.done.result().outcome  # FAILED, or how somebody else ended it before
    """

    def __init__(
        self,
        tasks: TaskStore,
        progress: ProgressService,
        *,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._tasks = tasks
        self._progress = progress
        self._now = now
        self._lock = threading.Lock()
        self._unsaved: dict[str, str] = {}  # by task, the error that was told

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
            end = self._commit(end, outcome, made_with)
            self._tell(end)
        except Exception:
            logger.exception("The end of task %s could not be told.", job.task_id)
        finally:
            job.done.set_result(end)

    def give_back(self, job: Job) -> None:
        """Have a task that was stopped wait again, and resolve the job; never raises.

        Where that cannot be stored, the task ends as ``lost`` with the next runner.
        """
        try:
            record = self._tasks.give_back_task(job.task_id)
            if record is not None:
                waits = replace(progress_of_record(record), message=GIVEN_BACK)
                self._progress.publish_foreign(waits, was_here=True)
        except Exception:
            logger.exception("Task %s could not be given back.", job.task_id)
        finally:
            job.done.set_result(TaskEnd(job.task_id, None))

    def cancel_waiting(
        self, jobs: Sequence[Job], take_out: Callable[[Sequence[Job]], list[Job]]
    ) -> None:
        """End jobs that wait as cancelled, in one transaction.

        Args:
            jobs: The jobs. Those that begin meanwhile are left alone.
            take_out: Takes jobs from the queue and returns those that waited there.
        """
        ids = [job.task_id for job in jobs]
        self._tasks.end_tasks(
            ids, Outcome.CANCELLED, ended_at=self._now(), error=NEVER_RAN
        )
        records = self._tasks.get_tasks(ids)
        for job in take_out(jobs):
            self.resolve_from_record(job, records.get(job.task_id))

    def resolve_from_record(self, job: Job, record: TaskRecord | None) -> None:
        """Resolve a job from its stored record and notify watchers.

        Without a stored outcome, resolve it silently: another process runs it, or
        nobody does.
        """
        end = TaskEnd(job.task_id, None)
        try:
            if record is not None:
                end = record.end
                self._tell(end)
        finally:
            job.done.set_result(end)

    def has_unsaved_end(self, task_id: str) -> bool:
        """Return whether a task was told to have ended, but the store does not know."""
        with self._lock:
            return task_id in self._unsaved

    def keep_end(self, task_id: str, error: str) -> None:
        """Remember that watchers saw a task fail; ``save_ends`` stores the failure."""
        with self._lock:
            self._unsaved[task_id] = error

    def save_ends(self) -> None:
        """Store the ends that could not be saved before; keep what still cannot be."""
        with self._lock:
            unsaved = dict(self._unsaved)
        try:
            for error in set(unsaved.values()):
                ids = [task_id for task_id in unsaved if unsaved[task_id] == error]
                self._tasks.end_tasks(
                    ids, Outcome.FAILED, ended_at=self._now(), error=error
                )
                with self._lock:
                    for task_id in ids:
                        self._unsaved.pop(task_id, None)
        except Exception:
            logger.exception("The ends of %d tasks cannot be saved.", len(unsaved))

    def _commit(
        self, end: TaskEnd, outcome: Outcome, made_with: dict[str, str] | None
    ) -> TaskEnd:
        """Store an end; return the one to tell, which may be another's."""
        task_id = end.task_id
        try:
            progress = self._progress.get_progress(task_id)
            times = self._progress.stage_times(task_id) if progress else {}
            steps = self._progress.step_times(task_id) if progress else {}
            ended = self._tasks.end_task(
                task_id,
                outcome,
                ended_at=self._now(),
                current_step=progress.current_step if progress else 0,
                error=end.error,
                result=end.result,
                stages={stage.value: took_s for stage, took_s in times.items()},
                step_times={stage.value: took_s for stage, took_s in steps.items()},
                made_with=made_with,
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
                self.keep_end(task_id, error)
                return TaskEnd(task_id, Outcome.FAILED, error, cause=fault)
        # Somebody else may have ended it first, and that is the end for all.
        return end if record is None else record.end._replace(cause=end.cause)

    def _ended_record(self, task_id: str) -> TaskRecord | None:
        """Return a task whose end was saved though no answer came; None if not."""
        try:
            record = self._tasks.get_task(task_id)
        except Exception:
            logger.exception("Task %s could not be read.", task_id)
            return None
        return record if record is not None and record.status.ended else None

    def _tell(self, end: TaskEnd) -> None:
        if end.outcome is Outcome.SUCCEEDED:
            self._progress.mark_complete(end.task_id, result=end.result)
        elif end.outcome is not None:
            self._progress.mark_failed(
                end.task_id, end.error or "", outcome=end.outcome, result=end.result
            )
