"""Finds its way about a panel without a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets


class Driver:
    """Finds a panel's widgets as a person does, by what is written on them."""

    def __init__(self, panel: Any) -> None:
        self.panel = panel

    def widgets(self) -> Iterator[Any]:
        waiting = [self.panel]
        while waiting:
            widget = waiting.pop(0)
            yield widget
            waiting = [*getattr(widget, "children", ()), *waiting]

    def labelled(self, description: str) -> Any:
        [found] = self.all_labelled(description)
        return found

    def all_labelled(self, description: str) -> list[Any]:
        return [
            widget
            for widget in self.widgets()
            if getattr(widget, "description", None) == description
        ]

    def of_kind(self, kind: type) -> list[Any]:
        return [widget for widget in self.widgets() if isinstance(widget, kind)]

    def text(self) -> str:
        return "\n".join(
            widget.value
            for widget in self.of_kind(ipywidgets.HTML)
            if widget.layout.display != "none"
        )

    def until(self, holds: Callable[[], bool], *, patience_s: float = 10) -> None:
        """Wait until something holds; looks again whenever a widget changes."""
        changed = threading.Event()

        def look_again(_change: Any) -> None:
            changed.set()

        while not holds():
            for widget in self.widgets():
                widget.unobserve_all()
                widget.observe(look_again)
                widget.layout.observe(look_again)
            if holds():
                return
            said = f"not within {patience_s} s; the panel says: {self.text()}"
            assert changed.wait(patience_s), said
            changed.clear()

    def until_text(self, text: str, *, patience_s: float = 10) -> None:
        self.until(lambda: text in self.text(), patience_s=patience_s)
