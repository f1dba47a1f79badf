"""The panel: ask for a picture, watch it come, decide on it.

Threads: buttons' handlers may run on the kernel's main thread or on another; they
call the studio, which is thread-safe, and note what is to be shown under a lock. The
studio's progress thread does the same. All traits are written by one thread, the
panel's pump, after the panel was made.
"""

from __future__ import annotations

import getpass
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Unpack

import ipywidgets

from nbgen.errors import NbgenError
from nbgen.handles.task import Task
from nbgen.schema import (
    Decision,
    GenerationProgress,
    Outcome,
    Preview,
    RequestFields,
    Status,
    TaskRecord,
    Verdict,
    check_request_names,
    takes_request_fields,
)
from nbgen.studio import Studio
from nbgen.widgets.panel import ErrorLine, Panel
from nbgen.widgets.progress_view import ProgressView
from nbgen.widgets.pump import Pump
from nbgen.widgets.request_form import RequestForm, request_fields
from nbgen.widgets.result_view import ResultView

_PREVIEW_INTERVAL_S = 0.5


class GenerationPanel(Panel):
    """Makes a picture with a studio, shows it forming, and takes the decision on it.

    Every button has a method: ``generate``, ``cancel``, ``approve`` and ``reject`` may
    be called from any thread. The task goes on when the panel is closed, or the page
    or the notebook is; ``GenerationPanel(studio, task="hero-1")`` re-attaches.

    Args:
        studio: Makes the pictures.
        task: The task to show, by its handle or id: running, ended, or from long ago.
        prompt: What the form shows first, here and in ``fields``.
        task_id: The id of the next task; None draws one.
        reviewer_id: The name to propose as the reviewer's; by default the user's.
        fields: Further arguments of ``Studio.generate``. They are not used with a
            ``task``: the form then shows every field of that task's request.

    Raises:
        UnknownTask: There is no such task.
        InvalidRequest: There is no such argument.
    """

    # Also for a panel that could not be made: ipywidgets closes every widget.
    _stop_watching: Callable[[], None] | None = None
    _stop_previews: Callable[[], None] | None = None

    @takes_request_fields
    def __init__(
        self,
        studio: Studio,
        task: Task | str | None = None,
        *,
        prompt: str = "",
        task_id: str | None = None,
        reviewer_id: str | None = None,
        **fields: Unpack[RequestFields],
    ) -> None:
        check_request_names(fields, "task", "prompt", "task_id", "reviewer_id")
        self._studio = studio
        self._task: Task | None = None
        self._progress: GenerationProgress | None = None
        self._preview: Preview | None = None
        self._previewed_at_s = 0.0
        self._cancelling = False

        if isinstance(task, str):
            task = studio.task(task)
        if task is not None:
            shown = request_fields(task.request)
        else:
            shown = {**fields, "prompt": prompt, "task_id": task_id}
        self._form = RequestForm(shown)
        self._generate_button = ipywidgets.Button(
            description="Generate", button_style="primary", icon="magic"
        )
        self._cancel_button = ipywidgets.Button(description="Cancel", disabled=True)
        self._generate_button.on_click(lambda _button: self._attempt(self.generate))
        self._cancel_button.on_click(lambda _button: self._attempt(self.cancel))
        actions = ipywidgets.HBox([self._generate_button, self._cancel_button])
        actions.add_class("nbgen-actions")
        self._error_line = ErrorLine()
        self._progress_view = ProgressView()
        self._result_view = ResultView(
            _user_name() if reviewer_id is None else reviewer_id,
            approve=lambda: self._attempt(self.approve),
            reject=lambda: self._attempt(self.reject),
        )
        super().__init__(
            [
                self._form,
                actions,
                self._error_line,
                self._progress_view,
                self._result_view,
            ]
        )
        self._pump = Pump(self._render)
        if task is not None:
            self._attach(task)

    # As ipywidgets' own would hide the arguments.
    __signature__ = inspect.signature(partial(__init__, None))  # type: ignore[arg-type]

    @property
    def task(self) -> Task | None:
        """The task that is shown."""
        with self._lock:
            return self._task

    def generate(self) -> Task:
        """Queue what the form asks for, show it, and return at once.

        Raises:
            InvalidRequest: A field has a value that is not allowed.
            TaskConflict: The task id stands for another request.
            StudioClosed: The studio is closed.
        """
        task = self._studio.generate(**self._form.values())
        self._attach(task)
        return task

    def cancel(self) -> None:
        """Ask the task that is shown to end; no-op if there is none."""
        task = self.task
        if task is None:
            return
        task.cancel()
        with self._lock:
            self._cancelling = True
        self._wake()

    def approve(self, feedback: str | None = None) -> Decision:
        """Approve the task that is shown, as the reviewer in the panel's field.

        Args:
            feedback: What the reviewer says; None takes the panel's field.

        Raises:
            NbgenError: There is nothing to approve, or it cannot be decided so.
        """
        return self._decide(Verdict.APPROVED, feedback)

    def reject(self, feedback: str | None = None) -> Decision:
        """Reject the task that is shown; see ``approve``."""
        return self._decide(Verdict.REJECTED, feedback)

    def close(self) -> None:
        """Take the panel off the page and end its thread; the task goes on."""
        for stop in (self._stop_watching, self._stop_previews):
            if stop is not None:
                stop()
        super().close()

    def _decide(self, verdict: Verdict, feedback: str | None) -> Decision:
        task = self.task
        if task is None:
            raise NbgenError("There is no picture to decide on. Generate one first.")
        decision = self._studio.decide(
            task.id,
            verdict,
            reviewer_id=self._result_view.reviewer_id,
            feedback=self._result_view.feedback if feedback is None else feedback,
        )
        with self._lock:
            self._error = None
        self._wake()
        return decision

    def _attach(self, task: Task) -> None:
        stop_watching = task.watch(self._on_progress)
        stop_previews = task.watch_previews(self._on_preview)
        with self._lock:
            earlier = (self._stop_watching, self._stop_previews)
            self._stop_watching, self._stop_previews = stop_watching, stop_previews
            self._task = task
            self._progress = task.progress
            self._preview = None
            self._error = None
            self._cancelling = False
        for stop in earlier:
            if stop is not None:
                stop()
        self._wake()

    def _on_progress(self, progress: GenerationProgress) -> None:
        with self._lock:
            shown = self._progress
            if shown is None or shown.task_id != progress.task_id:
                return
            if progress.seq > shown.seq:
                self._progress = progress
        self._wake()

    def _on_preview(self, preview: Preview) -> None:
        at_s = time.monotonic()
        with self._lock:
            if at_s - self._previewed_at_s < _PREVIEW_INTERVAL_S:
                return
            self._preview, self._previewed_at_s = preview, at_s
        self._wake()

    def _render(self) -> None:
        """Bring all widgets to the present state; the pump's thread only."""
        with self._lock:
            task, progress, preview = self._task, self._progress, self._preview
            error, cancelling = self._error, self._cancelling
        busy = progress is not None and not progress.status.ended
        if progress is not None and not busy:
            self._form.free_task_id(progress.task_id)
        if error is None and progress is not None:
            failed = progress.outcome in (Outcome.FAILED, Outcome.LOST)
            error = progress.error if failed else None
        self._generate_button.disabled = busy
        self._cancel_button.disabled = not busy or cancelling
        self._error_line.show(error)
        self._progress_view.show(progress, cancelling=cancelling, preview=preview)
        record: TaskRecord | None = None
        if task and progress and progress.status is Status.COMPLETED:
            record = task.record
        self._result_view.show(record, task.image_paths if task and record else [])


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
