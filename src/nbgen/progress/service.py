"""The hub between running tasks and the callbacks that watch them.

Thread-safety: any thread may call every method. A lock guards the states. The
dispatcher's thread runs the callbacks: a thread that reports a step waits for none.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from nbgen.errors import InvalidRequest, TaskConflict, UnknownTask
from nbgen.progress.dispatcher import Dispatcher, ProgressCallback
from nbgen.progress.order import follow_on, later_stage
from nbgen.progress.pace import Pace
from nbgen.progress.previews import PreviewHub
from nbgen.schema import (
    GenerationProgress,
    GenerationResult,
    Outcome,
    Stage,
    StagePlan,
    Status,
    done_message,
    shown_percentage,
    utc_now,
)
from nbgen.schema.checks import check_task_id


@dataclass
class _Task:
    """The running state of one task; owned by the service's lock."""

    progress: GenerationProgress
    pace: Pace
    began_at: dt.datetime | None
    started_at_s: float | None = None


class ProgressService:
    """Holds the progress of tasks and delivers each new state to their watchers.

    A task ends once; reports after its end are dropped. Steps and stages never go
    back, and a step beyond the total counts as the total.

    Args:
        keep_ended: How many ended tasks are remembered; the oldest are forgotten.
        clock: Returns seconds on a monotonic clock.
        now: Returns the present time in UTC.

    Attributes:
        previews: The callbacks that take previews.

    Example::

        service = ProgressService()
        service.create_progress("hero-1", total_steps=50)
        service.register_callback("hero-1", print)
        service.update_progress("hero-1", current_step=1)
        service.mark_complete("hero-1")
        service.close()
    """

    def __init__(
        self,
        *,
        keep_ended: int = 256,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._keep_ended = keep_ended
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._foreign: dict[str, GenerationProgress] = {}  # of other processes
        self._dispatcher = Dispatcher()
        self.previews = PreviewHub()

    def create_progress(
        self, task_id: str, total_steps: int, *, began_at: dt.datetime | None = None
    ) -> GenerationProgress:
        """Begin to follow a task; it is ``pending`` until its first update.

        Args:
            task_id: The id of the task.
            total_steps: Sampling steps of the whole run, 1 or more.
            began_at: When the attempt began that is followed; no two are the same.

        Raises:
            InvalidRequest: The id or the number of steps is not allowed.
            TaskConflict: The id is in use already.
        """
        check_task_id(task_id)
        if total_steps < 1:
            raise InvalidRequest("total_steps", total_steps, "1 or more")
        with self._lock:
            if task_id in self._tasks:
                raise TaskConflict(task_id)
            # A watcher may have seen states of it that another process published.
            foreign = self._foreign.pop(task_id, None)
            progress = GenerationProgress(
                task_id=task_id,
                seq=1 if foreign is None else foreign.seq + 1,
                status=Status.PENDING,
                current_step=0,
                total_steps=total_steps,
                current_stage=None,
                elapsed_time=0.0,
                estimated_remaining=0.0,
                remaining_known=False,
                overall_percentage=0.0,
                error=None,
                message="Waiting in the queue",
                timestamp=self._now(),
            )
            pace = Pace([StagePlan(Stage.BASE_MODEL, total_steps, total_steps)])
            self._tasks[task_id] = _Task(progress, pace, began_at)
            self._dispatcher.publish(progress)
        return progress

    def update_progress(
        self,
        task_id: str,
        *,
        current_step: int | None = None,
        current_stage: Stage | None = None,
        plan: Sequence[StagePlan] | None = None,
        expected_s: Mapping[Stage, float] | None = None,
        message: str | None = None,
    ) -> GenerationProgress:
        """Report how far a task is; the first report turns it ``generating``.

        Takes microseconds and waits for no watcher, so a step callback may call it.

        Args:
            task_id: The id of the task.
            current_step: Sampling steps done so far, over all stages.
            current_stage: The stage that the task is in.
            plan: The stages of the run, once known; their steps are the new total.
            expected_s: Seconds that like runs took for whole stages, so that the time
                left is known from the first; it shows from the next new state on.
            message: One line for a person.

        Returns:
            The new state, or the last one if the task had ended.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._lock:
            task = self._known(task_id)
            last = task.progress
            if last.status.ended:
                return last
            at_s = self._clock()
            if task.started_at_s is None:
                task.started_at_s = at_s
            total = last.total_steps
            if plan is not None:
                task.pace.replan(plan)
                total = sum(planned.steps for planned in plan)
            if expected_s is not None:
                task.pace.expect(expected_s)
            stage = later_stage(last.current_stage, current_stage)
            if stage is not None and stage is not last.current_stage:
                task.pace.start_stage(stage, at_s)
            step = last.current_step
            if current_step is not None:
                step = max(step, min(current_step, total))
                if step > last.current_step:
                    task.pace.count_steps(step - last.current_step, at_s)
            changed = replace(
                last,
                status=Status.GENERATING,
                current_step=step,
                total_steps=total,
                current_stage=stage,
                message=last.message if message is None else message,
            )
            return last if changed == last else self._publish(task, changed, at_s)

    def mark_complete(
        self, task_id: str, *, result: GenerationResult | None = None
    ) -> GenerationProgress:
        """End a task as succeeded, unless it has ended already.

        Returns:
            The state in which the task ended, also if it had ended before.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._lock:
            task = self._known(task_id)
            return self._end(
                task,
                outcome=Outcome.SUCCEEDED,
                current_step=task.progress.total_steps,
                message=done_message(result),
                result=result,
            )

    def mark_failed(
        self,
        task_id: str,
        error: str,
        *,
        outcome: Outcome = Outcome.FAILED,
        result: GenerationResult | None = None,
    ) -> GenerationProgress:
        """End a task without a result, unless it has ended already.

        Args:
            task_id: The id of the task.
            error: Why, for a person.
            outcome: ``FAILED``, ``CANCELLED`` or ``LOST``.
            result: The pictures of a batch that were made before it failed.

        Returns:
            The state in which the task ended, also if it had ended before.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._lock:
            task = self._known(task_id)
            return self._end(
                task, outcome=outcome, error=error, message=error, result=result
            )

    def forget(self, task_id: str) -> None:
        """Drop an ended task, so that its id can be used again."""
        with self._lock:
            if self._ended.pop(task_id, self) is None:
                del self._tasks[task_id]

    def get_progress(self, task_id: str) -> GenerationProgress | None:
        """Return the present state of a task, or None if it is not known (any more)."""
        with self._lock:
            return self._tasks[task_id].progress if task_id in self._tasks else None

    def get_attempt(
        self, task_id: str
    ) -> tuple[GenerationProgress, dt.datetime | None] | None:
        """Return the state and the beginning of one attempt, or None if not known."""
        with self._lock:
            task = self._tasks.get(task_id)
            return None if task is None else (task.progress, task.began_at)

    def stage_times(self, task_id: str) -> dict[Stage, float]:
        """Return the seconds that each stage of a task took, of those that are over.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._lock:
            return self._known(task_id).pace.stage_times_s

    def step_times(self, task_id: str) -> dict[Stage, tuple[float, ...]]:
        """Return the seconds that each sampling step of a task took, stage by stage.

        Raises:
            UnknownTask: There is no such task.
        """
        with self._lock:
            return self._known(task_id).pace.step_times_s

    def register_callback(
        self, task_id: str, callback: ProgressCallback
    ) -> Callable[[], None]:
        """Call back with every state of a task, in order, none twice.

        The present state comes first, then every later one, up to the end; the task
        need not exist yet. Callbacks run on the service's own thread and must return
        quickly. An exception of one is logged; it still gets the next states.

        Args:
            task_id: The id of the task.
            callback: Called with each state.

        Returns:
            A function that ends the registration; a call under way may still finish
            after it. Calling it again does nothing.

        Raises:
            StudioClosed: The service is closed.
        """
        # Under the lock, so that no state falls between the present one and the next.
        with self._lock:
            task = self._tasks.get(task_id)
            foreign = self._foreign.get(task_id)
            present = foreign if task is None else task.progress
            return self._dispatcher.register(task_id, callback, present)

    def publish_foreign(
        self, progress: GenerationProgress, *, was_here: bool = False
    ) -> None:
        """Publish the state of a task that does not run here (any more), if it is news.

        The next watcher begins there, until ``forget_foreign``. No-op for a task that
        is tracked here, unless it ``was_here``.
        """
        task_id = progress.task_id
        with self._lock:
            if task_id in self._tasks and not was_here:
                return
            if task_id in self._tasks:
                self._foreign[task_id] = self._tasks.pop(task_id).progress
            last = self._foreign.get(task_id)
            if last is not None:
                progress = follow_on(last, progress)
                if progress == replace(last, seq=progress.seq):
                    return
            self._foreign[task_id] = progress
            self._dispatcher.publish(progress)

    def warn_foreign(self, task_id: str, message: str) -> None:
        """Publish why nothing new is known of a task that another process runs."""
        with self._lock:
            last = self._foreign.get(task_id)
            if last is not None and last.message != message:
                last = replace(last, seq=last.seq + 1, message=message)
                self._foreign[task_id] = last
                self._dispatcher.publish(last)

    def forget_foreign(self, task_id: str) -> None:
        """Forget the state of a task that another process runs; nobody watches it."""
        with self._lock:
            self._foreign.pop(task_id, None)

    def close(self) -> None:
        """Deliver the states that were published, then end the service's thread."""
        self._dispatcher.close()

    def _known(self, task_id: str) -> _Task:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise UnknownTask(task_id) from None

    def _end(
        self,
        task: _Task,
        *,
        outcome: Outcome,
        message: str,
        current_step: int | None = None,
        error: str | None = None,
        result: GenerationResult | None = None,
    ) -> GenerationProgress:
        last = task.progress
        if last.status.ended:
            return last
        if outcome is Outcome.SUCCEEDED:
            task.pace.finish_stage(self._clock())
        changed = replace(
            last,
            status=outcome.status,
            current_step=last.current_step if current_step is None else current_step,
            message=message,
            error=error,
            outcome=outcome,
            result=result,
        )
        ended = self._publish(task, changed, self._clock())
        self.previews.forget(last.task_id)
        self._ended[last.task_id] = None
        if len(self._ended) > self._keep_ended:
            del self._tasks[self._ended.popitem(last=False)[0]]
        return ended

    def _publish(
        self, task: _Task, changed: GenerationProgress, at_s: float
    ) -> GenerationProgress:
        """Number a changed state, give it its times, and queue it for the watchers."""
        pace = task.pace
        remaining_s = None if changed.status.ended else pace.remaining_s(at_s)
        overall = shown_percentage(pace.cost_done, pace.cost_total, changed.status)
        elapsed = 0.0 if task.started_at_s is None else at_s - task.started_at_s
        task.progress = replace(
            changed,
            seq=changed.seq + 1,
            elapsed_time=max(elapsed, changed.elapsed_time),
            estimated_remaining=remaining_s or 0.0,
            remaining_known=remaining_s is not None,
            overall_percentage=max(overall, changed.overall_percentage),
            timestamp=max(self._now(), changed.timestamp),
        )
        # Under the lock, so that the queue holds the states in the order of seq.
        self._dispatcher.publish(task.progress)
        return task.progress
