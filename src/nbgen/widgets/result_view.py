"""The pictures of a task and the decision on them.

Only the pump of its panel writes it; any thread may read the review fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import PurePath

import ipywidgets

from nbgen.errors import PictureDamaged, UnknownImage
from nbgen.schema import (
    Decision,
    GenerationResult,
    PublicationRecord,
    PublicationState,
    TaskRecord,
    Verdict,
)

_WORDS = {
    Verdict.APPROVED: "Approved",
    Verdict.REJECTED: "Rejected",
    Verdict.CHANGES_REQUESTED: "Changes requested",
    Verdict.UNDONE: "Undone",
}


class ResultView(ipywidgets.VBox):  # type: ignore[misc]
    """Shows pictures, and asks for a decision or shows it.

    Args:
        read_image: Returns the bytes of a picture by its name. It raises
            ``UnknownImage`` if there is none, and ``PictureDamaged`` if its file is
            damaged. Pictures need not be on this disk.
        reviewer_id: The name to propose as the reviewer's.
        approve: Called when Approve is clicked.
        reject: Called when Reject is clicked.
    """

    children: Sequence[ipywidgets.Widget]

    def __init__(
        self,
        read_image: Callable[[str], bytes],
        reviewer_id: str,
        approve: Callable[[], None],
        reject: Callable[[], None],
    ) -> None:
        self._read_image = read_image
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
        """The text of the reviewer's field."""
        return str(self._reviewer.value)

    @property
    def feedback(self) -> str:
        """The text of the feedback field."""
        return str(self._feedback.value)

    def show(
        self,
        record: TaskRecord | None,
        publications: Sequence[PublicationRecord] = (),
    ) -> None:
        """Show a completed task with its publications; None hides everything.

        Raises:
            NbgenError: Its pictures cannot be read; what was shown stays.
        """
        if record is None or record.result is None:
            self._shown_task = None
            self.children = ()
            return
        if self._shown_task != record.id:
            self._show_pictures(record)
            self._feedback.value = ""
            self._shown_task = record.id
        if record.decision is None:
            last: ipywidgets.Widget = self._question
        else:
            last = self._verdict
            said = [_verdict(record.decision), *map(_publication, publications)]
            self._verdict.value = "".join(said)
        self.children = (self._pictures, self._caption, last)

    def _show_pictures(self, record: TaskRecord) -> None:
        assert record.result is not None
        found: list[tuple[str, bytes]] = []
        gone, damaged = 0, []
        for image in record.result.images:
            try:
                found.append((image.name, self._read_image(image.name)))
            except UnknownImage:
                gone += 1
            except PictureDamaged as error:
                damaged.append(str(error))
        earlier = self._pictures.children
        self._pictures.children = [
            ipywidgets.Image(value=data, format=PurePath(name).suffix.removeprefix("."))
            for name, data in found
        ]
        for picture in earlier:
            picture.close()
        self._caption.value = _caption(record.result, gone, damaged)


def _caption(result: GenerationResult, gone: int, damaged: Sequence[str]) -> str:
    images = result.images
    lines = [f'<div class="nbgen-error">{escape(text)}</div>' for text in damaged]
    if gone:
        lost = "The picture's file is gone."
        if len(images) > 1:
            lost = f"The files of {gone} of {len(images)} pictures are gone."
        lines.append(f'<div class="nbgen-error">{lost}</div>')
    if gone + len(damaged) < len(images):
        lines.append(f'<span class="nbgen-soft">{escape(_facts(result))}</span>')
    return "".join(lines)


def _facts(result: GenerationResult) -> str:
    images = result.images
    seeds = ", ".join(str(image.seed) for image in images)
    facts = (
        f"{images[0].width}x{images[0].height} px",
        f"seed {seeds}",
        f"{result.generation_time:.1f} s",
    )
    return " · ".join(facts)


def _verdict(decision: Decision) -> str:
    said = f" “{escape(decision.feedback)}”" if decision.feedback else ""
    return (
        f'<div class="nbgen-verdict {decision.verdict.value}">'
        f"<b>{_WORDS[decision.verdict]}</b> by "
        f"{escape(decision.reviewer_id)}.{said}</div>"
    )


def _publication(record: PublicationRecord) -> str:
    name = escape(record.publisher)
    if record.state is PublicationState.CANCELLED:
        return ""
    if record.state is PublicationState.PUBLISHED:
        where = f": {_link(record.url)}" if record.url else "."
        return f'<div class="nbgen-soft">Published with {name}{where}</div>'
    if record.error is None:
        return f'<div class="nbgen-soft">Publishing with {name}…</div>'
    return (
        f'<div class="nbgen-error">Publishing with {name} failed: '
        f"{escape(record.error)} It is tried again.</div>"
    )


def _link(url: str) -> str:
    shown = escape(url)
    if not url.startswith(("https://", "http://")):
        return shown
    return f'<a href="{shown}" target="_blank" rel="noopener">{shown}</a>'
