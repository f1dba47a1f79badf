"""The lines of a panel on its queue: that it is paused, that tasks wait from before.

Threads: any may call ``note``; it sets a flag under a lock. ``show`` is called by the
pump of the panel only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets

from nbgen.errors import DataFolderUnusable, StudioClosed
from nbgen.schema import ChangeKind, Changes, Outcome, QueueState, Status

# What a task becomes that is offered, or is offered no longer.
_STATES = (Status.PENDING, Outcome.CANCELLED)


class QueueView(ipywidgets.VBox):  # type: ignore[misc]
    """Shows a line with buttons for what keeps tasks from running; else nothing.

    Args:
        read: Returns where the queue stands.
        run: Has the tasks run that wait from before.
        cancel: Cancels them.
        resume: Resumes the queue.
    """

    children: Sequence[ipywidgets.Widget]

    def __init__(
        self,
        read: Callable[[], QueueState],
        *,
        run: Callable[[], object],
        cancel: Callable[[], object],
        resume: Callable[[], object],
    ) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._has_changed = False
        self._offered = _Notice(
            _button("Run", "Run the tasks that wait from before", run),
            _button("Cancel", "Cancel the tasks that wait from before", cancel),
        )
        self._paused = _Notice(_button("Resume", "Start tasks of the queue", resume))
        super().__init__()
        self.layout.display = "none"

    def note(self, changes: Changes) -> bool:
        """Note whether the queue may stand elsewhere after some changes; return it."""
        concerns = changes.reads_anew or any(
            change.kind is ChangeKind.QUEUE
            or (change.kind is ChangeKind.TASK and change.state in _STATES)
            for change in changes.changes
        )
        if concerns:
            with self._lock:
                self._has_changed = True
        return concerns

    def show(self) -> None:
        """Read where the queue stands, if that may have changed, and show it."""
        with self._lock:
            has_changed, self._has_changed = self._has_changed, False
        if not has_changed:
            return
        shown = []
        try:
            state = self._read()
        except StudioClosed:
            state = None  # its buttons would do nothing
        except DataFolderUnusable:
            with self._lock:
                self._has_changed = True
            return  # the change feed tells once it can be read again
        if state is not None and state.offered:
            what = "task waits" if state.offered == 1 else "tasks wait"
            self._offered.say(f"{state.offered:,} {what} from before.")
            shown.append(self._offered)
        if state is not None and state.is_paused:
            self._paused.say("The queue is paused.")
            shown.append(self._paused)
        if self.children != tuple(shown):
            self.children = shown
            self.layout.display = None if shown else "none"


class _Notice(ipywidgets.HBox):  # type: ignore[misc]
    """A sentence, and the buttons for what to do about it."""

    def __init__(self, *buttons: ipywidgets.Button) -> None:
        self._line = ipywidgets.HTML()
        super().__init__([self._line, *buttons])
        self.add_class("nbgen-notice")

    def say(self, text: str) -> None:
        self._line.value = f'<span role="status">{escape(text)}</span>'


def _button(
    label: str, tooltip: str, action: Callable[[], object]
) -> ipywidgets.Button:
    button = ipywidgets.Button(description=label, tooltip=tooltip)
    button.on_click(lambda _button: action())
    return button
