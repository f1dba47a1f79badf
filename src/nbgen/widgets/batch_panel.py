"""The panel of a batch: how far it is, and the buttons to stop it or try again.

Threads: as for the generation panel. The state of a batch is in the store, where other
processes change it too, so the pump looks twice a second until the batch has ended, and
now and then after that, since anybody may try it again.
"""

from __future__ import annotations

import time
from html import escape

import ipywidgets

from nbgen.errors import InvalidRequest
from nbgen.handles.batch import Batch
from nbgen.schema import BatchProgress
from nbgen.widgets.panel import ErrorLine, Panel
from nbgen.widgets.progress_view import duration
from nbgen.widgets.pump import Pump

_LOOK_EVERY_S = 0.5
_LOOK_AFTER_END_EVERY_S = 5.0
# To look at a huge batch takes long; a twentieth of a core for it is enough.
_LOOK_SHARE = 20


class BatchPanel(Panel):
    """Shows how far a batch is.

    Every button has a method: ``cancel`` and ``retry`` may be called from any thread.
    The batch goes on when the panel is closed, or the page or the notebook is.

    Args:
        batch: What to show: running, ended, or from long ago.

    Raises:
        InvalidRequest: It is no batch.
    """

    def __init__(self, batch: Batch) -> None:
        if not isinstance(batch, Batch):
            batch_id = repr(batch) if isinstance(batch, str) else "batch_id"
            allowed = f"a batch, such as studio.batch({batch_id})"
            raise InvalidRequest("batch", batch, allowed)
        self._batch = batch
        self._cancelling = False
        self._ended = False  # the pump's
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
        self._pump = Pump(self._render)
        self._wake()

    @property
    def batch(self) -> Batch:
        """The batch that is shown."""
        return self._batch

    def cancel(self) -> None:
        """Ask everything that has not ended to end.

        Raises:
            TaskError: Another process runs the batch.
        """
        with self._lock:
            self._cancelling = True  # until all has ended
            self._error = None
        self._wake()
        try:
            self._batch.cancel()
        except BaseException:
            with self._lock:
                self._cancelling = False
            raise
        finally:
            self._wake()

    def retry(self) -> None:
        """Queue again what failed, was cancelled or lost.

        Raises:
            QueueFull: There is not room for all; none was queued.
            DataFolderInUse: Another process runs the tasks.
            StudioClosed: The studio is closed.
        """
        self._batch.retry()
        with self._lock:
            self._cancelling = False
            self._error = None
        self._wake()

    def _render(self) -> float | None:
        """Bring all widgets to the present state; the pump's thread only."""
        # Before the look, so that what it finds ended is what was cancelled.
        with self._lock:
            error, cancelling = self._error, self._cancelling
        began_s = time.monotonic()
        try:
            progress = self._batch.progress
            failed = progress.failed + progress.lost
            if failed and error is None:
                error = self._batch.newest_error
        except Exception:
            if self._ended:  # its data may be gone by now, and nothing is missed
                return None
            raise
        took_s = time.monotonic() - began_s
        self._ended = progress.ended
        if cancelling and progress.ended:
            cancelling = False
            with self._lock:
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
        every_s = _LOOK_AFTER_END_EVERY_S if progress.ended else _LOOK_EVERY_S
        return max(every_s, _LOOK_SHARE * took_s)


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
