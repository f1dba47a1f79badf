"""The panel of a batch, through its widgets, without a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets

from nbgen.schema import GenerationRequest
from nbgen.studio import Studio
from nbgen.widgets import BatchPanel
from tests.widgets.driver import Driver

MakeStudio = Callable[..., Studio]


def requests(*prompts: str) -> dict[str, GenerationRequest]:
    return {
        prompt: GenerationRequest(prompt=prompt, num_inference_steps=5)
        for prompt in prompts
    }


def test_a_batch_is_shown_stopped_and_tried_again(make_studio: MakeStudio) -> None:
    reached, opened = threading.Event(), threading.Event()

    def before_step(step: int) -> None:
        if step == 3:
            reached.set()
            assert opened.wait(20)

    studio = make_studio(before_step)
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    panel = BatchPanel(batch)
    shown = Driver(panel)
    [bar] = shown.of_kind(ipywidgets.FloatProgress)
    assert repr(panel) == "BatchPanel()"
    assert reached.wait(10)
    shown.until(lambda: "0 of 2 made" in shown.text() and 0 < bar.value < 50)
    assert "pets" in shown.text()
    assert bar.bar_style == "info"
    shown.labelled("Cancel").click()
    opened.set()
    shown.until(lambda: "0 of 2 made · 2 cancelled" in shown.text())
    assert (bar.bar_style, bar.value) == ("warning", 0.0)
    assert not shown.all_labelled("Cancel")
    shown.labelled("Retry 2").click()
    shown.until(lambda: "2 of 2 made" in shown.text())
    assert (bar.bar_style, bar.value) == ("success", 100.0)
    assert not shown.of_kind(ipywidgets.Button)
    panel.close()


def test_what_a_button_cannot_do_is_said(make_studio: MakeStudio) -> None:
    studio = make_studio()
    studio.pause()
    batch = studio.submit_batch(requests("a"), batch_id="pets")
    batch.cancel()
    panel = BatchPanel(batch)
    shown = Driver(panel)
    shown.until(lambda: bool(shown.all_labelled("Retry 1")))
    panel.batch._studio._closed = True
    shown.labelled("Retry 1").click()
    shown.until(lambda: "This studio is closed" in shown.text())
    panel.batch._studio._closed = False
    panel.close()
