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
    """A framed box of widgets. ``_lock`` guards the state that is to be shown.

    A subclass makes its widgets, calls this constructor, and sets ``_pump`` last.

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
        with self._lock:
            self._error = message
        self._wake()

    def _wake(self) -> None:
        if self._pump is not None:
            self._pump.wake()
