"""The fields of a request: read from any thread, written only by the panel's pump."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from html import escape
from os import PathLike
from pathlib import PurePath
from typing import Any

import ipywidgets

from nbgen.schema import REQUEST_FIELDS, GenerationRequest
from nbgen.schema.fields import Field

_LONGEST_STEM = 24


class RequestForm(ipywidgets.VBox):  # type: ignore[misc]
    """Asks for what ``Studio.generate`` takes.

    It has a control for each field of a request but its pictures: those are kept as
    they are, and named in a line. It corrects nothing: a value that is not allowed goes
    to the studio as it is, and the studio's error says what is.

    Args:
        fields: What to show first, by the names of ``Studio.generate``; defaults are
            shown for what is left out.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._controls = {
            name: _control(field)
            for name, field in REQUEST_FIELDS.items()
            if not field.is_picture
        }
        for name, control in self._controls.items():
            field = REQUEST_FIELDS[name]
            default = "" if field.required else field.default
            control.value = _shown(field, fields.get(name, default))
        self._kept = {
            name: fields[name]
            for name, field in REQUEST_FIELDS.items()
            if field.is_picture and fields.get(name) is not None
        }
        self._task_id = _labelled(
            ipywidgets.Text,
            "Task id",
            "The id of the task",
            placeholder="automatic",
            value=fields.get("task_id") or "",
        )
        texts = self._of_kind(ipywidgets.Textarea)
        flags = self._of_kind(ipywidgets.Checkbox)
        others = self._of_kind(ipywidgets.Text, ipywidgets.Dropdown)
        grid = ipywidgets.Box([*others, self._task_id])
        grid.add_class("nbgen-grid")
        kept = [_kept_line(self._kept)] if self._kept else []
        super().__init__([*texts, grid, *flags, *kept])

    def values(self) -> dict[str, Any]:
        """Return the fields by the names of ``Studio.generate``."""
        asked = {
            name: _read(REQUEST_FIELDS[name], control.value)
            for name, control in self._controls.items()
        }
        task_id = self._task_id.value.strip() or None
        return {**asked, **self._kept, "task_id": task_id}

    def free_task_id(self, task_id: str) -> None:
        """Take an id out of its field that is used up; the panel's pump only.

        The same request under the same id would be the same task.
        """
        if self._task_id.value.strip() == task_id:
            self._task_id.value = ""

    def _of_kind(self, *kinds: type) -> list[Any]:
        return [each for each in self._controls.values() if type(each) in kinds]


def request_fields(request: GenerationRequest) -> dict[str, Any]:
    """Return the fields that make a request again, under another id."""
    return {name: getattr(request, name) for name in REQUEST_FIELDS}


def _control(field: Field) -> Any:
    help_ = field.described
    if field.kind is bool:
        control = ipywidgets.Checkbox(description=field.label, indent=False)
        control.tooltip = help_
        return control
    if issubclass(field.kind, StrEnum):
        labels = field.extra.get("labels", {})
        options = [(labels.get(choice, choice.value), choice) for choice in field.kind]
        return _labelled(
            ipywidgets.Dropdown, field.label, f"{field.help}.", options=options
        )
    if field.kind is str:
        return _labelled(
            ipywidgets.Textarea,
            field.label,
            help_,
            placeholder=field.help,
            rows=field.extra.get("lines", 1),
        )
    hint = field.extra.get("none", field.allowed)
    return _labelled(ipywidgets.Text, field.label, help_, placeholder=hint)


def _labelled(kind: Any, label: str, tooltip: str, **options: Any) -> Any:
    control = kind(description=label, **options)
    control.tooltip = tooltip
    control.add_class("nbgen-field")
    return control


def _kept_line(kept: Mapping[str, object]) -> Any:
    """Return the line that names the pictures that have no control."""
    told = ", ".join(f"{name} {_named(picture)}" for name, picture in kept.items())
    return ipywidgets.HTML(
        f'<div class="nbgen-soft nbgen-kept">Also kept: {escape(told)}</div>'
    )


def _named(picture: object) -> str:
    """Return what a picture is called, in few letters: "0123abcd….png"."""
    if isinstance(picture, (bytes, bytearray)):
        return f"of {len(picture):,} bytes"
    if not isinstance(picture, (str, PathLike)):
        return f"({type(picture).__name__})"
    path = PurePath(picture)
    stem = path.stem if len(path.stem) <= _LONGEST_STEM else f"{path.stem[:8]}…"
    return stem + path.suffix


def _read(field: Field, value: Any) -> Any:
    """Return what a control's value stands for: None for an empty number's field."""
    return value if field.kind not in (int, float) else _number(value)


def _shown(field: Field, value: Any) -> Any:
    """Return a field's value as its control takes it."""
    if field.kind in (int, float):
        return "" if value is None else str(value)
    # What a text control cannot show is refused here, as the studio would.
    return value if field.kind is str else field.check(value)


def _number(text: str) -> Any:
    """Return the number that a text stands for, None for none, else the text."""
    text = text.strip()
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None
