"""Panels of a closed studio touch its data no more, and say what is closed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import ipywidgets
import pytest

from nbgen.errors import StudioClosed
from nbgen.handles.batch import Batch
from nbgen.handles.task import Task
from nbgen.progress.dispatcher import ProgressCallback
from nbgen.progress.previews import PreviewCallback
from nbgen.schema import GenerationRequest
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from nbgen.widgets import BatchPanel, GenerationPanel
from tests.widgets.driver import Driver

MakeStudio = Callable[..., Studio]
CLOSED = "This studio is closed. Open another with Studio()."


@pytest.fixture
def panels() -> Iterator[ExitStack]:
    """Close the panels of a test at its end, and see that no thread is left."""
    with ExitStack() as panels:
        yield panels
    assert "nbgen-panel" not in threads()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def generation_panel(
    panels: ExitStack, studio: Studio, task: str | None = None
) -> Driver:
    panel = GenerationPanel(studio, task, prompt="a cat", reviewer_id="ada")
    panels.callback(panel.close)
    return Driver(panel)


def batch_panel(panels: ExitStack, batch: Batch) -> Driver:
    panel = BatchPanel(batch)
    panels.callback(panel.close)
    return Driver(panel)


def two_rows(studio: Studio) -> Batch:
    rows = {
        name: GenerationRequest(prompt=name, num_inference_steps=2)
        for name in ("cat", "dog")
    }
    return studio.submit_batch(rows, batch_id="pets")


def test_the_folder_goes_and_stays_away_while_panels_are_open(
    tmp_path: Path, panels: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    studio = Studio(folder, engine=PatternEngine())
    task = studio.generate("a cat", task_id="a", num_inference_steps=2)
    batch = two_rows(studio)
    task.result(10)
    batch.result(10)
    decides = generation_panel(panels, studio, "a")
    makes = generation_panel(panels, studio)
    follows = batch_panel(panels, batch)
    decides.until_text("seed ")
    follows.until_text("2 of 2 made")
    studio.close()
    shutil.rmtree(folder)
    decides.labelled("Approve").click()
    makes.labelled("Generate").click()
    for driver in (decides, makes):
        driver.until_text(CLOSED)
    with pytest.raises(StudioClosed):
        decides.panel.reject("No")
    with pytest.raises(StudioClosed):
        follows.panel.cancel()
    with pytest.raises(StudioClosed):
        follows.panel.retry()
    # The last states stay.
    assert "2 of 2 made" in follows.text()
    assert len(decides.of_kind(ipywidgets.Image)) == 1
    assert "nbgen-progress" not in threads()
    panels.close()
    assert not folder.exists()
    assert not caplog.records


def test_a_batch_that_has_not_ended_keeps_its_last_state(
    tmp_path: Path, panels: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    studio = Studio(folder, engine=PatternEngine())
    studio.pause()
    driver = batch_panel(panels, two_rows(studio))
    driver.until_text("0 of 2 made")
    studio.close()
    shutil.rmtree(folder)
    driver.labelled("Cancel").click()
    driver.until_text(CLOSED)
    assert "0 of 2 made" in driver.text()
    assert not driver.labelled("Cancel").disabled
    panels.close()
    assert not folder.exists()
    assert not caplog.records


def test_a_panel_that_has_shown_nothing_says_why(
    studio: Studio, panels: ExitStack
) -> None:
    batch = two_rows(studio)
    studio.close()
    batch_panel(panels, batch).until_text(CLOSED)


def test_a_task_of_a_closed_studio_is_not_shown_and_no_thread_is_left(
    studio: Studio,
) -> None:
    task = studio.generate("a cat", num_inference_steps=2)
    task.result(10)
    studio.close()
    with pytest.raises(StudioClosed):
        GenerationPanel(studio, task)
    assert not threads() & {"nbgen-panel", "nbgen-progress"}


def test_nothing_comes_back_however_many_threads_click(
    tmp_path: Path, panels: ExitStack
) -> None:
    folder = tmp_path / "data"
    for _ in range(3):
        studio = Studio(folder, engine=PatternEngine())
        task = studio.generate("a cat", task_id="a", num_inference_steps=2)
        batch = two_rows(studio)
        task.result(10)
        drivers = [generation_panel(panels, studio, "a") for _ in range(2)]
        followers = [batch_panel(panels, batch) for _ in range(3)]
        stopped = threading.Event()
        clicking = threading.Barrier(6)

        def click(
            act: Callable[[], object],
            stopped: threading.Event = stopped,
            clicking: threading.Barrier = clicking,
        ) -> None:
            clicking.wait(10)
            while not stopped.is_set():
                with suppress(StudioClosed):
                    act()

        clickers = [
            threading.Thread(target=click, args=[act])
            for act in (
                *(driver.panel.approve for driver in drivers),
                *(driver.panel.retry for driver in followers),
            )
        ]
        for thread in clickers:
            thread.start()
        clicking.wait(10)
        studio.close()
        shutil.rmtree(folder)
        stopped.set()
        for thread in clickers:
            thread.join(10)
        assert not folder.exists()
    panels.close()
    assert not folder.exists()


class Watched(Task):
    """A task that counts how many watch it."""

    watchers = 0

    def watch(self, callback: ProgressCallback) -> Callable[[], None]:
        return self._counted(super().watch(callback))

    def watch_previews(self, callback: PreviewCallback) -> Callable[[], None]:
        return self._counted(super().watch_previews(callback))

    def _counted(self, stop: Callable[[], None]) -> Callable[[], None]:
        stack = ExitStack()
        stack.callback(stop)
        stack.callback(self._leave)
        self.watchers += 1
        return stack.close

    def _leave(self) -> None:
        self.watchers -= 1


def test_a_panel_watches_one_task_and_none_once_it_is_closed(
    studio: Studio, panels: ExitStack
) -> None:
    studio.pause()
    record = studio.generate("a cat", task_id="a").record
    task = Watched(studio.backend, record)
    panel = GenerationPanel(studio, task, reviewer_id="ada")
    panels.callback(panel.close)
    assert task.watchers == 2
    panel.generate()
    assert task.watchers == 0
    again = GenerationPanel(studio, task, reviewer_id="ada")
    assert task.watchers == 2
    again.close()
    assert task.watchers == 0
    again.close()
