"""The panel of a batch, through its widgets, without a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import ipywidgets
import pytest

from nbgen.backend import Backend, StopWatching
from nbgen.errors import DataFolderUnusable, InvalidRequest, UnknownBatch
from nbgen.handles.batch import Batch
from nbgen.schema import BatchProgress, GenerationRequest
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.widgets import BatchPanel
from nbgen.widgets.progress_view import duration
from tests.widgets.driver import Driver

MakeStudio = Callable[..., Studio]


def requests(*prompts: str) -> dict[str, GenerationRequest]:
    return {
        prompt: GenerationRequest(prompt=prompt, num_inference_steps=5)
        for prompt in prompts
    }


class Stage(Batch):
    """A batch that stands where it is put."""

    def __init__(self, **counts: Any) -> None:
        super().__init__(cast("Backend", None), "pets", ())
        self.on_change: Callable[[], None] = lambda: None
        self.put(**counts)

    def put(self, *, left_s: float | None = None, **counts: int) -> None:
        names = ("pending", "generating", "succeeded", "failed", "cancelled", "lost")
        all_counts = {name: counts.get(name, 0) for name in names}
        self.now = BatchProgress(
            batch_id=self.id,
            total=sum(all_counts.values()),
            percentage=50.0,
            estimated_remaining=left_s or 0.0,
            remaining_known=left_s is not None,
            **all_counts,
        )
        self.on_change()

    def watch(self, on_change: Callable[[], None]) -> StopWatching:
        self.on_change = on_change
        return lambda: None

    @property
    def progress(self) -> BatchProgress:
        return self.now

    @property
    def newest_error(self) -> str | None:
        return "No such <model>"


@pytest.fixture
def show() -> Iterator[Callable[..., Driver]]:
    """Return a function that shows a batch until the test has ended."""
    panels: list[BatchPanel] = []

    def show(batch: Batch) -> Driver:
        panels.append(BatchPanel(batch))
        return Driver(panels[-1])

    yield show
    for panel in panels:
        panel.close()


def test_a_batch_is_shown_stopped_and_tried_again(
    make_studio: MakeStudio, show: Callable[[Batch], Driver]
) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    batch = studio.submit_batch(requests("a", "b"), batch_id="pets")
    shown = show(batch)
    [bar] = shown.of_kind(ipywidgets.FloatProgress)
    assert repr(shown.panel) == "BatchPanel()"
    gate.wait_reached()
    shown.until(lambda: "0 of 2 made" in shown.text() and 0 < bar.value < 50)
    assert "pets" in shown.text()
    assert bar.bar_style == "info"
    cancel = shown.labelled("Cancel")
    cancel.click()
    # The one that waited has ended; the other is still on its way to its next step.
    shown.until(lambda: bool(shown.all_labelled("Retry 1")))
    assert "Cancelling…" in shown.text()
    assert cancel.disabled
    gate.open()
    shown.until(lambda: "0 of 2 made · 2 cancelled" in shown.text())
    assert (bar.bar_style, bar.value) == ("warning", 0.0)
    assert not shown.all_labelled("Cancel")
    shown.labelled("Retry 2").click()
    shown.until(lambda: "2 of 2 made" in shown.text())
    assert not cancel.disabled
    assert (bar.bar_style, bar.value) == ("success", 100.0)
    assert not shown.of_kind(ipywidgets.Button)


def test_what_a_button_cannot_do_is_said(
    make_studio: MakeStudio, show: Callable[[Batch], Driver]
) -> None:
    studio = make_studio()
    studio.pause()
    batch = studio.submit_batch(requests("a"), batch_id="pets")
    batch.cancel()
    shown = show(batch)
    shown.until(lambda: bool(shown.all_labelled("Retry 1")))
    studio.close()
    shown.labelled("Retry 1").click()
    shown.until(lambda: "This studio is closed" in shown.text())
    assert "0 of 1 made · 1 cancelled" in shown.text()


def test_a_batch_of_another_studio_is_cancelled_here(
    make_studio: MakeStudio, show: Callable[[Batch], Driver]
) -> None:
    here, elsewhere = make_studio(), make_studio()
    here.pause()
    here.submit_batch(requests("a"), batch_id="pets")
    shown = show(elsewhere.batch("pets"))
    shown.until_text("0 of 1 made")
    shown.labelled("Cancel").click()
    shown.until_text("0 of 1 made · 1 cancelled")
    here.resume()
    shown.labelled("Retry 1").click()
    shown.until_text("1 of 1 made")


class Unstoppable(Stage):
    """A batch whose cancel fails once."""

    has_failed = False

    def cancel(self) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise DataFolderUnusable("The database is gone.")
        self.put(cancelled=1)


def test_a_cancel_that_cannot_be_is_said_and_can_be_tried_again(
    show: Callable[[Batch], Driver],
) -> None:
    shown = show(Unstoppable(pending=1))
    shown.until_text("0 of 1 made")
    shown.labelled("Cancel").click()
    shown.until_text("The database is gone.")
    shown.until(lambda: not shown.labelled("Cancel").disabled)
    shown.labelled("Cancel").click()
    shown.until_text("0 of 1 made · 1 cancelled")


def test_it_says_why_the_newest_row_failed(
    make_studio: MakeStudio, show: Callable[[Batch], Driver]
) -> None:
    causes = iter(("<first>", "<last>"))

    def fail(_step: int) -> None:
        raise ValueError(next(causes))

    studio = make_studio(fail)
    studio.pause()
    batch = studio.submit_batch(requests("cat", "dog"), batch_id="pets")
    assert batch.newest_error is None
    studio.prioritise("pets:dog", 5)  # so that it fails first
    studio.resume()
    batch.result(10)
    assert batch.newest_error == "ValueError: <last>"
    shown = show(batch)
    shown.until_text("0 of 2 made · 2 failed")
    shown.until_text("ValueError: &lt;last&gt;")


@pytest.mark.parametrize(
    ("counts", "style", "value", "said", "retry"),
    [
        ({"pending": 1, "failed": 1}, "info", 50.0, "0 of 2 made · 1 failed", 1),
        ({"succeeded": 3}, "success", 100.0, "3 of 3 made", 0),
        (
            {"succeeded": 1, "failed": 1, "cancelled": 1, "lost": 1},
            "danger",
            25.0,
            "1 of 4 made · 1 failed · 1 cancelled · 1 lost",
            3,
        ),
        ({"succeeded": 3, "lost": 1}, "danger", 75.0, "3 of 4 made · 1 lost", 1),
        ({"cancelled": 2_000}, "warning", 0.0, "0 of 2,000 made", "2,000"),
        ({}, "info", 0.0, "No rows", 0),
    ],
)
def test_bar_colour_and_text_tell_the_same(
    show: Callable[[Batch], Driver],
    counts: dict[str, int],
    style: str,
    value: float,
    said: str,
    retry: int | str,
) -> None:
    shown = show(Stage(**counts))
    shown.until_text(said)
    [bar] = shown.of_kind(ipywidgets.FloatProgress)
    assert (bar.bar_style, bar.value) == (style, value)
    buttons = [button.description for button in shown.of_kind(ipywidgets.Button)]
    wanted = ["Cancel"] if "pending" in counts else []
    assert buttons == wanted + ([f"Retry {retry}"] if retry else [])
    failed = "failed" in counts or "lost" in counts
    shown.until(lambda: ("No such &lt;model&gt;" in shown.text()) is failed)


@pytest.mark.parametrize(
    ("left_s", "said"),
    [(7_500.0, "about 2 h 5 min left"), (12.0, "about 12 s left"), (0.5, None)],
)
def test_the_time_left_is_said_once_it_is_known(
    show: Callable[[Batch], Driver], left_s: float, said: str | None
) -> None:
    shown = show(Stage(succeeded=1, pending=1, left_s=left_s))
    shown.until_text("1 of 2 made")
    assert ("left" in shown.text()) is (said is not None)
    assert said is None or f"{said} · pets" in shown.text()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (3_599.4, "59:59 min"),
        (3_599.6, "1 h 0 min"),
        (7_500, "2 h 5 min"),
    ],
)
def test_a_length_of_time_is_written_as_a_person_reads_it(
    seconds: float, said: str
) -> None:
    assert duration(seconds) == said


def test_what_others_try_again_is_seen_after_the_end(
    show: Callable[..., Driver],
) -> None:
    batch = Stage(cancelled=2)
    shown = show(batch)
    shown.until_text("0 of 2 made · 2 cancelled")
    batch.put(succeeded=2)
    shown.until_text("2 of 2 made")


def test_what_ended_and_is_gone_stays_as_it_was(
    show: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    gone = threading.Event()

    class Gone(Stage):
        @property
        def progress(self) -> BatchProgress:
            if shown_once.is_set():
                gone.set()
                raise UnknownBatch(self.id)
            return self.now

    shown_once = threading.Event()
    batch = Gone(succeeded=1)
    shown = show(batch)
    shown.until_text("1 of 1 made")
    shown_once.set()
    batch.on_change()
    assert gone.wait(10)
    shown.panel.close()
    assert not caplog.records
    assert "1 of 1 made" in shown.text()


def test_what_is_no_batch_is_said_with_what_is() -> None:
    with pytest.raises(InvalidRequest, match=r"such as studio\.batch\('spring'\); got"):
        BatchPanel("spring")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"such as studio\.batch\(batch_id\); got"):
        BatchPanel(None)  # type: ignore[arg-type]
