"""The progress bar and its text. Only the pump of its panel writes it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets

from nbgen.schema import GenerationProgress, Outcome, Preview, Status

_BAR_STYLE = {
    Outcome.SUCCEEDED: "success",
    Outcome.FAILED: "danger",
    Outcome.CANCELLED: "warning",
    Outcome.LOST: "danger",
}


class ProgressView(ipywidgets.VBox):  # type: ignore[misc]
    """Shows the progress of a task, and its preview."""

    children: Sequence[ipywidgets.Widget]

    def __init__(self) -> None:
        self._bar = ipywidgets.FloatProgress(min=0, max=100)
        self._bar.tooltip = "Progress"
        self._line = ipywidgets.HTML()
        self._preview = ipywidgets.Image(format="jpeg")
        super().__init__()
        self.add_class("nbgen-progress")

    def show(
        self,
        progress: GenerationProgress | None,
        *,
        cancelling: bool,
        preview: Preview | None,
    ) -> None:
        """Show a state and a preview; None hides them.

        Args:
            progress: The state of the task.
            cancelling: Whether its cancel was asked for.
            preview: The newest preview.
        """
        if progress is None:
            self.children = ()
            return
        outcome = progress.outcome
        self._bar.bar_style = "info" if outcome is None else _BAR_STYLE[outcome]
        self._bar.value = progress.overall_percentage
        running = cancelling and outcome is None
        left = "Cancelling…" if running else _left(progress)
        self._line.value = (
            f'<div class="nbgen-line"><span>{escape(left)}</span>'
            f'<span class="nbgen-soft">{escape(_right(progress))}</span></div>'
        )
        if preview is None or outcome is not None:
            self.children = (self._bar, self._line)
            return
        if self._preview.value != preview.jpeg:
            self._preview.value = preview.jpeg
        self.children = (self._bar, self._line, self._preview)


def _left(progress: GenerationProgress) -> str:
    if progress.outcome in (Outcome.FAILED, Outcome.LOST):
        return "Failed"
    return progress.message


def _right(progress: GenerationProgress) -> str:
    if progress.status is Status.PENDING:
        return progress.task_id
    parts = [f"step {progress.current_step} of {progress.total_steps}"]
    if progress.elapsed_time:
        parts.append(duration(progress.elapsed_time))
    if progress.remaining_known and progress.estimated_remaining >= 1:
        parts.append(f"about {duration(progress.estimated_remaining)} left")
    return " · ".join([*parts, progress.task_id])


def duration(seconds: float) -> str:
    """Return a duration as text for a person, such as ``"2:05 min"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"
