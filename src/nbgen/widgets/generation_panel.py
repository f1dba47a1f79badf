"""The panel that requests a picture, shows its progress, and takes the decision on it.

Threads: the handlers of buttons may run on the kernel's main thread or on another; they
call the studio, which is thread-safe, and set the state to be shown under a lock. So
do the studio's progress callbacks. Once the panel is made, one thread, its pump, writes
all traits.
"""

from __future__ import annotations

import getpass
import inspect
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Unpack

import ipywidgets

from nbgen.backend import StopWatching
from nbgen.errors import DataFolderUnusable, NbgenError, StudioClosed
from nbgen.handles.task import Task
from nbgen.schema import (
    Changes,
    Decision,
    GenerationProgress,
    Outcome,
    Preview,
    PublicationRecord,
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
from nbgen.widgets.queue_view import QueueView
from nbgen.widgets.request_form import RequestForm, request_fields
from nbgen.widgets.result_view import ResultView

_PREVIEW_INTERVAL_S = 0.5


class GenerationPanel(Panel):
    """Requests a picture, shows its progress, and takes the decision on it.

    Every button has a method: ``generate``, ``cancel``, ``approve`` and ``reject`` may
    be called from any thread. The task goes on when the panel, the page or the notebook
    is closed; ``GenerationPanel(studio, task="hero-1")`` re-attaches.

    Where tasks wait from before, or the queue is paused, a line says so, with buttons:
    ``run_offered``, ``cancel_offered`` and ``resume``.

    Args:
        studio: The studio that makes the pictures; they may be kept at a URL.
        task: The task to show, by its handle or id: running, ended, or from long ago.
        prompt: What the form shows first, here and in ``fields``.
        task_id: The id of the next task; None draws one.
        reviewer_id: The name to propose as the reviewer's; by default the user's.
        fields: Further arguments of ``Studio.generate``. They are not used with a
            ``task``: the form then shows every field of that task's request.

    Raises:
        UnknownTask: There is no such task.
        InvalidRequest: There is no such argument.
        StudioClosed: The studio is closed, so ``task`` cannot be shown.

    Example::

        panel = GenerationPanel(studio, prompt="a red circle", reviewer_id="ada")
        task = panel.generate()
    """

    # ipywidgets also closes a panel whose constructor raised.
    _watches: ExitStack | None = None
    _stop_changes: StopWatching | None = None
    _is_closed = False

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
        self._guard = threading.Lock()
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
        self._queue_view = QueueView(
            studio.queue_state,
            run=lambda: self._attempt(self.run_offered),
            cancel=lambda: self._attempt(self.cancel_offered),
            resume=lambda: self._attempt(self.resume),
        )
        self._error_line = ErrorLine()
        self._progress_view = ProgressView()
        self._result_view = ResultView(
            studio.read_image,
            _user_name() if reviewer_id is None else reviewer_id,
            approve=lambda: self._attempt(self.approve),
            reject=lambda: self._attempt(self.reject),
        )
        super().__init__(
            [
                self._queue_view,
                self._form,
                actions,
                self._error_line,
                self._progress_view,
                self._result_view,
            ]
        )
        if task is not None:
            self._attach(task)
        # Last, so that no thread is left if the studio is closed already.
        self._start(self._render)
        with suppress(StudioClosed, DataFolderUnusable):
            self._stop_changes = studio.watch_changes(self._on_changes)

    # As ipywidgets' own would hide the arguments.
    __signature__ = inspect.signature(partial(__init__, None))  # type: ignore[arg-type]

    @property
    def task(self) -> Task | None:
        """The task that is shown."""
        with self._guard:
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
        with self._guard:
            self._cancelling = True
        self._wake()

    def run_offered(self) -> None:
        """Have the tasks run that wait from before."""
        self._studio.run_offered()
        self._show_error(None)

    def cancel_offered(self) -> None:
        """Cancel the tasks that wait from before."""
        self._studio.cancel_tasks(self._studio.offered())
        self._show_error(None)

    def resume(self) -> None:
        """Start tasks of the queue again, if it is paused."""
        self._studio.resume()
        self._show_error(None)

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
        """Take the panel off the page, end its thread and watches; the task goes on."""
        self._is_closed = True
        if self._stop_changes is not None:
            self._stop_changes()
        if self._watches is not None:
            self._watches.close()
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
        self._show_error(None)
        self._wake()
        return decision

    def _attach(self, task: Task) -> None:
        """Show a task, and watch it instead of the one before."""
        progress = task.progress  # may read the database, so not under the lock
        watches = ExitStack()
        with self._guard:
            earlier, self._watches = self._watches, watches
            self._task, self._progress, self._preview = task, progress, None
            self._cancelling = False
        self._show_error(None)
        if earlier is not None:
            earlier.close()
        try:
            watches.callback(task.watch(self._on_progress))
            watches.callback(task.watch_previews(partial(self._on_preview, task)))
        except BaseException:
            watches.close()
            raise
        with self._guard:
            is_shown = self._watches is watches and not self._is_closed
        if not is_shown:  # another thread showed another task, or closed the panel
            watches.close()
        self._wake()

    def _on_progress(self, progress: GenerationProgress) -> None:
        with self._guard:
            shown = self._progress
            if shown is None or shown.task_id != progress.task_id:
                return
            if progress.seq > shown.seq:
                self._progress = progress
        self._wake()

    def _on_changes(self, changes: Changes) -> None:
        """Render anew what somebody decided, published or queued, wherever it was."""
        task = self.task
        ids = {change.id for change in changes.changes}
        is_shown = task is not None and (changes.reads_anew or task.id in ids)
        if self._queue_view.note(changes) or is_shown:
            self._wake()

    def _on_preview(self, task: Task, preview: Preview) -> None:
        at_s = time.monotonic()
        with self._guard:
            is_early = at_s - self._previewed_at_s < _PREVIEW_INTERVAL_S
            if is_early or self._task is not task:
                return
            self._preview, self._previewed_at_s = preview, at_s
        self._wake()

    def _render(self) -> None:
        """Bring all widgets to the present state; the pump's thread only."""
        with self._guard:
            task, progress, preview = self._task, self._progress, self._preview
            cancelling = self._cancelling
        error = self._shown_error()
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
        publications: Sequence[PublicationRecord] = ()
        # Nothing can be read once the studio is closed; the pictures shown stay.
        with suppress(StudioClosed):
            if task and progress and progress.status is Status.COMPLETED:
                record = task.record
                publications = self._studio.publications(task.id)
            self._result_view.show(record, publications)
        self._queue_view.show()


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
