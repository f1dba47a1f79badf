"""The panel of a batch: its progress, and the buttons that cancel and retry it.

Threads: as for the generation panel. The pump reads the state of the batch whenever the
change feed or a step tells that it may be another, whichever process changed it. Once
the studio is closed nothing tells.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from html import escape

import ipywidgets

from nbgen.backend import StopWatching
from nbgen.errors import DataFolderUnusable, InvalidRequest, StudioClosed
from nbgen.handles.batch import Batch
from nbgen.schema import BatchProgress
from nbgen.widgets.panel import ErrorLine, Panel
from nbgen.widgets.progress_view import duration


class BatchPanel(Panel):
    """Shows the progress of a batch.

    Every button has a method: ``cancel`` and ``retry`` may be called from any thread.
    The batch goes on when the panel, the page or the notebook is closed. Once the
    studio is closed, the panel shows the last state that it read.

    Args:
        batch: The batch to show: running, ended, or from long ago.

    Raises:
        InvalidRequest: ``batch`` is not a batch.

    Example::

        batch = studio.generate_frame(df, prompt="headline")
        BatchPanel(batch)
    """

    # ipywidgets also closes a panel whose constructor raised.
    _stop_watching: StopWatching | None = None

    def __init__(self, batch: Batch) -> None:
        if not isinstance(batch, Batch):
            batch_id = repr(batch) if isinstance(batch, str) else "batch_id"
            allowed = f"a batch, such as studio.batch({batch_id})"
            raise InvalidRequest("batch", batch, allowed)
        self._batch = batch
        self._guard = threading.Lock()
        self._cancelling = False
        self._shown: BatchProgress | None = None  # the pump's
        self._bar = ipywidgets.FloatProgress(min=0, max=100)
        self._bar.tooltip = "Progress of the batch"
        self._line = ipywidgets.HTML()
        self._cancel_button = ipywidgets.Button(description="Cancel")
        self._retry_button = ipywidgets.Button(description="Retry", icon="refresh")
        self._cancel_button.on_click(lambda _button: self._attempt(self.cancel))
        self._retry_button.on_click(lambda _button: self._attempt(self.retry))
        progress = ipywidgets.VBox([self._bar, self._line])
        progress.add_class("nbgen-progress")
        self._actions = ipywidgets.HBox()
        self._actions.add_class("nbgen-actions")
        self._error_line = ErrorLine()
        super().__init__([progress, self._actions, self._error_line])
        self._start(self._render)
        with suppress(StudioClosed, DataFolderUnusable):  # the rendering says it
            self._stop_watching = batch.watch(self._wake)

    def close(self) -> None:
        """Take the panel off the page, end its thread and watch; the batch goes on."""
        if self._stop_watching is not None:
            self._stop_watching()
        super().close()

    @property
    def batch(self) -> Batch:
        """The batch that is shown."""
        return self._batch

    def cancel(self) -> None:
        """Cancel all tasks of the batch that have not ended.

        Raises:
            StudioClosed: The studio is closed.
        """
        with self._guard:
            self._cancelling = True  # until all has ended
        self._show_error(None)
        self._wake()
        try:
            self._batch.cancel()
        except BaseException:
            with self._guard:
                self._cancelling = False
            raise
        finally:
            self._wake()

    def retry(self) -> None:
        """Queue the rows again that failed, were cancelled or lost.

        Raises:
            QueueFull: There is not room for all; none was queued.
            StudioClosed: The studio is closed.
        """
        self._batch.retry()
        with self._guard:
            self._cancelling = False
        self._show_error(None)
        self._wake()

    def _render(self) -> None:
        """Bring all widgets to the present state; the pump's thread only."""
        # Before the read, so that the tasks it finds ended are those cancelled.
        with self._guard:
            cancelling = self._cancelling
        error = self._shown_error()
        try:
            progress = self._batch.progress
            failed = progress.failed + progress.lost
            if failed and error is None:
                error = self._batch.newest_error
        except Exception as failure:
            has_ended = self._shown is not None and self._shown.ended
            if not has_ended and not isinstance(failure, StudioClosed):
                raise
            # The studio is closed, or the data of an old batch gone: the last state
            # stays. A panel without one says why.
            if error is None and self._shown is None:
                error = str(failure)
            if error is not None:
                self._error_line.show(error)
            return
        self._shown = progress
        if cancelling and progress.ended:
            cancelling = False
            with self._guard:
                self._cancelling = False
        missing = failed + progress.cancelled
        self._bar.value = _share(progress)
        self._bar.bar_style = _bar_style(progress)
        self._line.value = (
            '<div class="nbgen-line">'
            f"<span>{escape(_left(progress, cancelling=cancelling))}</span>"
            f'<span class="nbgen-soft">{escape(_right(progress))}</span></div>'
        )
        self._cancel_button.disabled = cancelling
        self._retry_button.description = f"Retry {missing:,}"
        shown = []
        if not progress.ended:
            shown.append(self._cancel_button)
        if missing:
            shown.append(self._retry_button)
        if self._actions.children != tuple(shown):
            self._actions.children = shown
        self._actions.layout.display = None if shown else "none"
        self._error_line.show(error)


def _share(progress: BatchProgress) -> float:
    if not progress.ended:
        return progress.percentage
    # A full bar is a full success.
    return 100 * progress.succeeded / progress.total if progress.total else 0.0


def _bar_style(progress: BatchProgress) -> str:
    if not progress.ended or not progress.total:
        return "info"
    if progress.failed or progress.lost:
        return "danger"
    return "warning" if progress.cancelled else "success"


def _left(progress: BatchProgress, *, cancelling: bool) -> str:
    if not progress.total:
        return "No rows"
    if cancelling:
        return "Cancelling…"
    parts = [f"{progress.succeeded:,} of {progress.total:,} made"]
    counts = {
        "failed": progress.failed,
        "cancelled": progress.cancelled,
        "lost": progress.lost,
    }
    parts += [f"{count:,} {what}" for what, count in counts.items() if count]
    return " · ".join(parts)


def _right(progress: BatchProgress) -> str:
    parts = []
    if progress.remaining_known and progress.estimated_remaining >= 1:
        parts.append(f"about {duration(progress.estimated_remaining)} left")
    return " · ".join([*parts, progress.batch_id])
