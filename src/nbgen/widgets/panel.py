"""The base of the panels: a frame, a line for errors, and the pump that writes traits.

Any thread may call the methods of a panel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets

from nbgen.errors import NbgenError
from nbgen.widgets.pump import Pump
from nbgen.widgets.style import style_sheet

logger = logging.getLogger(__name__)


class ErrorLine(ipywidgets.HTML):  # type: ignore[misc]
    """Shows an error message; takes no room without one."""

    def __init__(self) -> None:
        super().__init__()
        self.show(None)

    def show(self, error: str | None) -> None:
        """Show a message, None for none; called by the pump's thread only."""
        self.value = (
            f'<div class="nbgen-error" role="alert">{escape(error)}</div>'
            if error
            else ""
        )
        self.layout.display = None if error else "none"


class Panel(ipywidgets.VBox):  # type: ignore[misc]
    """A framed box of widgets, with the error of its last button and its pump.

    A subclass makes its widgets, calls this constructor, and calls ``_start`` last. Its
    own state is guarded by a lock of its own.

    Args:
        children: The widgets to show.
    """

    # ipywidgets also closes a panel whose constructor raised.
    _pump: Pump | None = None

    def __init__(self, children: Sequence[ipywidgets.Widget]) -> None:
        self._lock = threading.Lock()
        self._error: str | None = None
        super().__init__([style_sheet(), *children])
        self.add_class("nbgen-panel")

    def __repr__(self) -> str:
        # A notebook compares this text, so it holds nothing that differs between runs.
        return f"{type(self).__name__}()"

    def close(self) -> None:
        """Take the panel off the page and end its thread; the task or batch goes on."""
        if self._pump is not None:
            self._pump.close()
        super().close()

    def _start(self, render: Callable[[], float | None]) -> None:
        """Start the thread that renders the panel, and render it soon."""
        self._pump = Pump(render)
        self._wake()

    def _show_error(self, message: str | None) -> None:
        """Note what is wrong, or None for nothing; the next rendering shows it."""
        with self._lock:
            self._error = message

    def _shown_error(self) -> str | None:
        """Return what was noted last."""
        with self._lock:
            return self._error

    def _attempt(self, action: Callable[[], object]) -> None:
        """Run the action of a button; show the message of its error."""
        try:
            action()
        except NbgenError as error:
            message = str(error)
        except Exception as error:  # nobody sees a traceback of a callback
            logger.exception("A panel's button failed.")
            message = f"{type(error).__name__}: {error}"
        else:
            return
        self._show_error(message)
        self._wake()

    def _wake(self) -> None:
        if self._pump is not None:
            self._pump.wake()
