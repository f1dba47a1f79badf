"""The pictures of a task and the decision on them.

Written only by the pump of its panel; the review fields are read from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets

from nbgen.schema import Decision, TaskRecord


class ResultView(ipywidgets.VBox):  # type: ignore[misc]
    """Shows pictures, and asks for a decision or shows it.

    Args:
        reviewer_id: The name to propose as the reviewer's.
        approve: Called when Approve is clicked.
        reject: Called when Reject is clicked.
    """

    children: Sequence[ipywidgets.Widget]

    def __init__(
        self,
        reviewer_id: str,
        approve: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self._shown_task: str | None = None
        self._pictures = ipywidgets.HBox()
        self._caption = ipywidgets.HTML()
        self._reviewer = ipywidgets.Text(
            value=reviewer_id, description="Reviewer", placeholder="Your name"
        )
        self._feedback = ipywidgets.Textarea(
            description="Feedback",
            placeholder="What is good, what should change",
            rows=1,
        )
        for field in (self._reviewer, self._feedback):
            field.add_class("nbgen-field")
            field.tooltip = field.description
        approve_button = ipywidgets.Button(
            description="Approve", button_style="success", icon="check"
        )
        reject_button = ipywidgets.Button(description="Reject", icon="times")
        approve_button.on_click(lambda _button: approve())
        reject_button.on_click(lambda _button: reject())
        actions = ipywidgets.HBox([approve_button, reject_button])
        actions.add_class("nbgen-actions")
        self._question = ipywidgets.VBox([self._reviewer, self._feedback, actions])
        self._question.add_class("nbgen-review")
        self._verdict = ipywidgets.HTML()
        super().__init__()

    @property
    def reviewer_id(self) -> str:
        """What stands in the reviewer's field."""
        return str(self._reviewer.value)

    @property
    def feedback(self) -> str:
        """What stands in the feedback field."""
        return str(self._feedback.value)

    def show(self, record: TaskRecord | None, paths: Sequence[Path]) -> None:
        """Show a completed task; None hides everything."""
        if record is None or record.result is None:
            self._shown_task = None
            self.children = ()
            return
        if self._shown_task != record.id:
            self._show_pictures(record, paths)
            self._feedback.value = ""
            self._shown_task = record.id
        if record.decision is None:
            last: ipywidgets.Widget = self._question
        else:
            last = self._verdict
            self._verdict.value = _verdict(record.decision)
        self.children = (self._pictures, self._caption, last)

    def _show_pictures(self, record: TaskRecord, paths: Sequence[Path]) -> None:
        earlier = self._pictures.children
        self._pictures.children = [
            ipywidgets.Image(
                value=path.read_bytes(), format=path.suffix.removeprefix(".")
            )
            for path in paths
        ]
        for picture in earlier:
            picture.close()
        self._caption.value = _caption(record, len(paths))


def _caption(record: TaskRecord, files: int) -> str:
    assert record.result is not None
    images = record.result.images
    if not files:
        return '<div class="nbgen-error">The picture\'s file is gone.</div>'
    seeds = ", ".join(str(image.seed) for image in images)
    facts = (
        f"{images[0].width}x{images[0].height} px",
        f"seed {seeds}",
        f"{record.result.generation_time:.1f} s",
    )
    return f'<span class="nbgen-soft">{escape(" · ".join(facts))}</span>'


def _verdict(decision: Decision) -> str:
    said = f" “{escape(decision.feedback)}”" if decision.feedback else ""
    return (
        f'<div class="nbgen-verdict {decision.verdict.value}">'
        f"<b>{decision.verdict.value.capitalize()}</b> by "
        f"{escape(decision.reviewer_id)}.{said}</div>"
    )
