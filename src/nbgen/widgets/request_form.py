"""The fields of a request: read from any thread, written only by the panel's pump."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ipywidgets

from nbgen.schema import GenerationRequest, SchedulerName

_SCHEDULERS = (
    ("Euler", SchedulerName.EULER),
    ("Euler Karras", SchedulerName.EULER_KARRAS),
    ("DPM++ 2M", SchedulerName.DPMPP_2M),
    ("DPM++ 2M Karras", SchedulerName.DPMPP_2M_KARRAS),
    ("Heun", SchedulerName.HEUN),
    ("DDIM", SchedulerName.DDIM),
    ("UniPC", SchedulerName.UNIPC),
)


class RequestForm(ipywidgets.VBox):  # type: ignore[misc]
    """Asks for what ``Studio.generate`` takes.

    It corrects nothing: a value that is not allowed goes to the studio as it is, and
    the studio's error says what is.

    Args:
        fields: What to show first, by the names of ``Studio.generate``.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._prompt = _text(
            ipywidgets.Textarea, "Prompt", "What the picture shows", rows=2
        )
        self._negative_prompt = _text(
            ipywidgets.Textarea, "Negative prompt", "What it shall not show", rows=1
        )
        self._width = _text(ipywidgets.Text, "Width", "auto")
        self._height = _text(ipywidgets.Text, "Height", "auto")
        self._steps = _text(ipywidgets.Text, "Steps", "1 to 150")
        self._guidance = _text(ipywidgets.Text, "Guidance", "0 to 20")
        self._seed = _text(ipywidgets.Text, "Seed", "random")
        self._num_images = _text(ipywidgets.Text, "Images", "1 to 16")
        self._scheduler = _labelled(
            ipywidgets.Dropdown, "Scheduler", options=_SCHEDULERS
        )
        self._task_id = _text(ipywidgets.Text, "Task id", "automatic")
        self._refine = ipywidgets.Checkbox(description="Refine", indent=False)
        self._refine.tooltip = "Have the refiner make the last fifth of the steps"
        numbers = ipywidgets.Box(
            [
                self._width,
                self._height,
                self._steps,
                self._guidance,
                self._seed,
                self._num_images,
                self._scheduler,
                self._task_id,
            ]
        )
        numbers.add_class("nbgen-grid")
        self._fill(fields)
        super().__init__([self._prompt, self._negative_prompt, numbers, self._refine])

    def values(self) -> dict[str, Any]:
        """Return the fields by the names of ``Studio.generate``."""
        return {
            "prompt": self._prompt.value,
            "negative_prompt": self._negative_prompt.value,
            "width": _number(self._width.value),
            "height": _number(self._height.value),
            "num_inference_steps": _number(self._steps.value),
            "guidance_scale": _number(self._guidance.value),
            "seed": _number(self._seed.value),
            "use_refinement": self._refine.value,
            "num_images": _number(self._num_images.value),
            "scheduler": self._scheduler.value,
            "task_id": self._task_id.value.strip() or None,
        }

    def free_task_id(self, task_id: str) -> None:
        """Take an id out of its field that is used up; the panel's pump only.

        The same request under the same id would be the same, ended task.
        """
        if self._task_id.value.strip() == task_id:
            self._task_id.value = ""

    def _fill(self, fields: dict[str, Any]) -> None:
        self._prompt.value = fields["prompt"]
        self._negative_prompt.value = fields["negative_prompt"]
        self._width.value = _shown(fields["width"])
        self._height.value = _shown(fields["height"])
        self._steps.value = _shown(fields["num_inference_steps"])
        self._guidance.value = _shown(fields["guidance_scale"])
        self._seed.value = _shown(fields["seed"])
        self._refine.value = fields["use_refinement"]
        self._num_images.value = _shown(fields["num_images"])
        self._scheduler.value = SchedulerName(fields["scheduler"])
        self._task_id.value = fields["task_id"] or ""


def request_fields(request: GenerationRequest) -> dict[str, Any]:
    """Return the fields that make a request again, under another id."""
    names = ("prompt", "negative_prompt", "width", "height", "num_inference_steps")
    more = ("guidance_scale", "seed", "use_refinement", "num_images", "scheduler")
    fields = {name: getattr(request, name) for name in (*names, *more)}
    return {**fields, "task_id": None}


def _text(kind: Any, label: str, placeholder: str, **options: Any) -> Any:
    return _labelled(kind, label, placeholder=placeholder, **options)


def _labelled(kind: Any, label: str, **options: Any) -> Any:
    field = kind(description=label, **options)
    field.tooltip = label
    field.add_class("nbgen-field")
    return field


def _number(text: str) -> Any:
    """Return the number that a text stands for, None for none, else the text."""
    text = text.strip()
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None


def _shown(value: float | None) -> str:
    return "" if value is None else str(value)
