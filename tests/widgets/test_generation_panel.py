"""The panel's behaviour, through its widgets, without a browser."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from nbgen.errors import InvalidRequest, NbgenError, PublishFailed, UnknownTask
from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.review.publishers import Publication
from nbgen.schema import Outcome, Verdict
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.widgets import GenerationPanel
from tests.widgets.driver import Driver

MakeStudio = Callable[..., Studio]
MakePanel = Callable[..., Driver]


@pytest.fixture
def make_panel() -> Iterator[MakePanel]:
    panels: list[GenerationPanel] = []

    def make(studio: Studio, *args: Any, **options: Any) -> Driver:
        panels.append(
            GenerationPanel(studio, *args, **{"reviewer_id": "ada", **options})
        )
        return Driver(panels[-1])

    yield make
    for panel in panels:
        panel.close()
    assert "nbgen-panel" not in {thread.name for thread in threading.enumerate()}


def test_a_click_makes_a_picture(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat", num_inference_steps=20, seed=7)
    driver.labelled("Generate").click()
    driver.until_text("seed 7")
    [picture] = driver.of_kind(ipywidgets.Image)
    assert bytes(picture.value).startswith(b"\x89PNG")
    [bar] = driver.of_kind(ipywidgets.FloatProgress)
    assert (bar.value, bar.bar_style) == (100.0, "success")
    assert "step 20 of 20" in driver.text()
    assert not driver.labelled("Generate").disabled
    assert driver.labelled("Cancel").disabled


def test_a_click_returns_while_the_work_runs(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    gate = Gate(at_step=6)
    driver = make_panel(make_studio(gate), prompt="a cat", num_inference_steps=10)
    driver.labelled("Generate").click()
    gate.wait_reached()
    driver.until_text("step 5 of 10")
    [bar] = driver.of_kind(ipywidgets.FloatProgress)
    assert 0 < bar.value < 100
    assert driver.labelled("Generate").disabled
    driver.labelled("Cancel").click()
    driver.until_text("Cancelling…")
    assert driver.labelled("Cancel").disabled
    gate.open()
    driver.until_text("Cancelled at step 5 of 10.")
    assert not driver.labelled("Generate").disabled
    assert "nbgen-error" not in driver.text()
    task = driver.panel.task
    assert task is not None
    assert task.record.outcome is Outcome.CANCELLED
    driver.labelled("Generate").click()
    driver.until_text("Done")


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("Steps", "0", "num_inference_steps must be a whole number from 1 to 150"),
        ("Steps", "", "num_inference_steps must be a whole number"),
        ("Width", "1001", "width must be a multiple of 8"),
        ("Height", "tall", "got &#x27;tall&#x27;"),
        ("Prompt", "", "prompt must be a text of 1 to 2,000 characters"),
        ("Prompt", "x" * 100_000, "got 100,000 characters"),
        ("Task id", "a/b", "task_id must be 1 to 128 letters"),
        ("Seed", "-1", "seed must be a whole number"),
        ("Guidance", "<b>", "got &#x27;&lt;b&gt;&#x27;"),
    ],
)
def test_a_wrong_input_is_said_and_the_form_stays(
    studio: Studio, make_panel: MakePanel, label: str, value: str, said: str
) -> None:
    driver = make_panel(studio, prompt="a cat", negative_prompt="dog")
    driver.labelled(label).value = value
    driver.labelled("Generate").click()
    driver.until_text(said)
    assert driver.text().count("nbgen-error") == 1
    assert driver.labelled(label).value == value
    assert driver.labelled("Negative prompt").value == "dog"
    assert studio.tasks() == []


def test_an_error_goes_when_it_is_mended(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat", num_inference_steps=0)
    driver.labelled("Generate").click()
    driver.until_text("num_inference_steps must be")
    driver.labelled("Steps").value = "3"
    driver.labelled("Generate").click()
    driver.until_text("Done")
    assert "num_inference_steps must be" not in driver.text()


def test_the_picture_is_seen_forming(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    gate = Gate(at_step=2)
    studio = make_studio(gate)
    studio.pause()  # until the panel watches
    panel = make_panel(studio, prompt="a cat", num_inference_steps=4)
    panel.labelled("Generate").click()
    studio.resume()
    panel.until(lambda: bool(panel.of_kind(ipywidgets.Image)))
    [preview] = panel.of_kind(ipywidgets.Image)
    assert (preview.format, preview.value[:2]) == ("jpeg", b"\xff\xd8")
    gate.open()
    panel.until_text("64x64 px")
    [picture] = panel.of_kind(ipywidgets.Image)
    assert (picture.format, picture.value[1:4]) == ("png", b"PNG")


def test_the_form_asks_for_batches_and_schedulers(
    studio: Studio, make_panel: MakePanel
) -> None:
    panel = make_panel(studio, prompt="a cat", num_inference_steps=4, seed=3)
    panel.labelled("Images").value = "2"
    panel.labelled("Scheduler").value = "heun"
    panel.labelled("Generate").click()
    panel.until_text("seed 3, 4")
    assert len(panel.of_kind(ipywidgets.Image)) == 2
    assert panel.panel.task is not None
    assert panel.panel.task.request.scheduler == "heun"
    again = make_panel(studio, panel.panel.task)
    assert again.labelled("Scheduler").value == "heun"
    assert again.labelled("Images").value == "2"


def test_a_failure_is_shown(make_studio: MakeStudio, make_panel: MakePanel) -> None:
    def fail(_step: int) -> None:
        raise NbgenError("The model <is> missing. Put it back.")

    driver = make_panel(make_studio(fail), prompt="a cat")
    driver.labelled("Generate").click()
    driver.until_text("The model &lt;is&gt; missing. Put it back.")
    assert driver.of_kind(ipywidgets.Image) == []


def test_a_checkpoint_that_went_away_is_said(
    tmp_path: Path, make_panel: MakePanel
) -> None:
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    with Studio(tmp_path / "data", checkpoint=folder) as studio:
        shutil.rmtree(folder)
        driver = make_panel(studio, prompt="a cat")
        driver.labelled("Generate").click()
        # A process imports torch before it says so.
        driver.until_text("There is no checkpoint", patience_s=30)


def test_a_closed_studio_is_said(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat")
    studio.close()
    driver.labelled("Generate").click()
    driver.until_text("This studio is closed.")


def test_approve(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat", task_id="a")
    driver.labelled("Generate").click()
    driver.until_text("seed ")
    driver.labelled("Feedback").value = "<Lovely>"
    driver.labelled("Approve").click()
    driver.until_text("<b>Approved</b> by ada. “&lt;Lovely&gt;”")
    decision = studio.get_record("a").decision
    assert decision is not None
    assert (decision.verdict, decision.feedback) == (Verdict.APPROVED, "<Lovely>")


def test_reject_needs_a_reviewer(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat", task_id="a", reviewer_id="")
    driver.labelled("Generate").click()
    driver.until_text("seed ")
    driver.labelled("Reject").click()
    driver.until_text("reviewer_id must be a text of 1 to 200 characters")
    driver.labelled("Reviewer").value = "bob"
    driver.labelled("Reject").click()
    driver.until_text("<b>Rejected</b> by bob.")


def test_somebody_else_was_faster(studio: Studio, make_panel: MakePanel) -> None:
    driver = make_panel(studio, prompt="a cat", task_id="a")
    driver.labelled("Generate").click()
    driver.until_text("seed ")
    approve = driver.labelled("Approve")
    studio.reject("a", reviewer_id="bob")
    approve.click()
    driver.until_text("was rejected by bob")


class Site:
    """A publisher that fails once, then publishes at an address."""

    name = "site"

    def __init__(self) -> None:
        self._failed = False

    def publish(self, _publication: Publication) -> str:
        if self._failed:
            return "https://site.example/1"
        self._failed = True
        raise PublishFailed("The <site> is down.")


def test_what_is_decided_elsewhere_is_shown(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    """By another process, say, through the command line or HTTP."""
    driver = make_panel(make_studio(), prompt="a cat", task_id="a")
    driver.labelled("Generate").click()
    driver.until_text("seed ")
    elsewhere = make_studio(publishers=[Site()])
    elsewhere.approve("a", reviewer_id="bob", feedback="Fine")
    driver.until_text("<b>Approved</b> by bob. “Fine”")
    driver.until_text("failed: The &lt;site&gt; is down. It is tried again.")
    driver.until_text('Published with site: <a href="https://site.example/1"')
    assert not driver.all_labelled("Approve")
    elsewhere.undo("a", reviewer_id="bob")
    driver.until(lambda: bool(driver.all_labelled("Approve")))
    assert "Approved" not in driver.text()
    elsewhere.request_changes("a", reviewer_id="bob", feedback="Bluer")
    driver.until_text("<b>Changes requested</b> by bob. “Bluer”")


def test_the_methods_are_the_buttons_twins(
    studio: Studio, make_panel: MakePanel
) -> None:
    driver = make_panel(studio, prompt="a cat", seed=7)
    with pytest.raises(NbgenError, match="Generate one first"):
        driver.panel.approve()
    driver.panel.cancel()
    task = driver.panel.generate()
    assert driver.panel.task is task
    task.result(10)
    assert driver.panel.approve(feedback="Fine").feedback == "Fine"
    driver.until_text("Approved")


def test_a_new_panel_attaches_to_a_running_task(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    gate = Gate(at_step=3)
    studio = make_studio(gate)
    first = GenerationPanel(studio, prompt="a cat", num_inference_steps=5, task_id="a")
    first.generate()
    gate.wait_reached()
    first.close()
    driver = make_panel(studio, "a")
    driver.until_text("step 2 of 5")
    assert driver.labelled("Prompt").value == "a cat"
    gate.open()
    driver.until_text("step 5 of 5")


def test_a_new_panel_attaches_to_an_ended_task(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    first = make_studio()
    first.generate("a cat", task_id="a", seed=7).result(10)
    first.approve("a", reviewer_id="bob")
    first.close()
    studio = make_studio()
    driver = make_panel(studio, studio.task("a"))
    driver.until_text("Approved</b> by bob")
    assert len(driver.of_kind(ipywidgets.Image)) == 1
    with pytest.raises(UnknownTask):
        GenerationPanel(studio, "nope")


def test_a_picture_whose_file_is_gone(studio: Studio, make_panel: MakePanel) -> None:
    task = studio.generate("a cat", task_id="a")
    task.result(10)
    task.image_paths[0].unlink()
    driver = make_panel(studio, "a")
    driver.until_text("The picture's file is gone.")
    assert driver.of_kind(ipywidgets.Image) == []


def test_pictures_that_are_kept_at_a_url_are_shown(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = make_studio(images="memory://shown")
    driver = make_panel(studio, prompt="a cat", task_id="a", num_images=2, seed=3)
    driver.labelled("Generate").click()
    driver.until_text("seed 3, 4")
    result = driver.panel.task.result(10)
    kept = [studio.read_image(image.name) for image in result.images]
    assert [bytes(p.value) for p in driver.of_kind(ipywidgets.Image)] == kept
    again = make_panel(studio, "a")
    again.until_text("seed 3, 4")
    assert [bytes(p.value) for p in again.of_kind(ipywidgets.Image)] == kept
    assert "gone" not in driver.text() + again.text()


def test_the_pictures_that_are_left_are_shown(
    studio: Studio, make_panel: MakePanel
) -> None:
    task = studio.generate("a cat", task_id="a", num_images=3, seed=3)
    task.result(10)
    task.image_paths[1].unlink()
    driver = make_panel(studio, "a")
    driver.until_text("The files of 1 of 3 pictures are gone.")
    assert "seed 3, 4, 5" in driver.text()
    assert len(driver.of_kind(ipywidgets.Image)) == 2


def test_a_damaged_picture_is_not_shown_but_said(
    studio: Studio, make_panel: MakePanel
) -> None:
    task = studio.generate("a cat", task_id="a", num_images=2, seed=3)
    task.result(10)
    task.image_paths[0].write_bytes(b"not a picture")
    driver = make_panel(studio, "a")
    driver.until_text("is damaged: its bytes changed")
    assert len(driver.of_kind(ipywidgets.Image)) == 1
    assert "seed 3, 4" in driver.text()
    driver.labelled("Approve").click()  # of the picture that is shown
    driver.until_text("Approved")
    assert studio.decisions("a")[0].featured_image_url == task.result().images[1].url


def test_an_unknown_keyword_is_refused(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match="such as 'num_inference_steps'; got 'st"):
        GenerationPanel(studio, steps=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="such as 'prompt'; got 'promt'"):
        GenerationPanel(studio, promt="a cat")  # type: ignore[call-arg]


def test_what_a_notebook_compares_is_the_same_each_time(
    studio: Studio, make_panel: MakePanel
) -> None:
    driver = make_panel(studio, prompt="a cat")
    before = driver.panel._repr_mimebundle_()["text/plain"]
    driver.panel.generate().result(10)
    driver.until_text("Done")
    after = driver.panel._repr_mimebundle_()["text/plain"]
    assert before == after == "GenerationPanel()"


def test_a_long_run_sends_few_messages(
    studio: Studio, make_panel: MakePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook under nbval takes a bounded number of messages from a cell."""
    driver = make_panel(studio, prompt="a cat", num_inference_steps=150)
    sent = 0
    send = ipywidgets.Widget.send_state

    def count(self: ipywidgets.Widget, key: Any = None) -> None:
        nonlocal sent
        sent += 1
        send(self, key)

    monkeypatch.setattr(ipywidgets.Widget, "send_state", count)
    driver.labelled("Generate").click()
    driver.until_text("step 150 of 150")
    assert 0 < sent < 100


def test_an_id_is_used_once(make_studio: MakeStudio, make_panel: MakePanel) -> None:
    """After a cancel, Generate makes a new task rather than show the old one."""
    gate = Gate()
    studio = make_studio(gate)
    driver = make_panel(studio, prompt="a cat", task_id="a")
    driver.labelled("Generate").click()
    driver.labelled("Cancel").click()
    gate.open()
    driver.until_text("Cancelled ")
    driver.until(lambda: driver.labelled("Task id").value == "")
    driver.labelled("Generate").click()
    driver.until_text("Done")
    assert len(studio.tasks()) == 2


def test_a_task_of_another_process_is_cancelled_here(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    gate = Gate(at_step=3)
    other = make_studio(gate)
    other.generate("a cat", task_id="a", num_inference_steps=5)
    gate.wait_reached()
    driver = make_panel(make_studio(), "a")
    driver.until(lambda: not driver.labelled("Cancel").disabled)
    driver.labelled("Cancel").click()
    driver.until_text("Cancelling…")
    gate.open()
    driver.until_text("Cancelled at step 2 of 5.")


def with_tasks_from_before(make_studio: MakeStudio, count: int) -> Studio:
    """Return a studio on a folder where another one left tasks waiting."""
    gone = make_studio()
    gone.pause()
    for task_id in "abc"[:count]:
        gone.generate("a cat", task_id=task_id, num_inference_steps=2)
    gone.close()
    studio = make_studio()
    studio.resume()
    return studio


def buttons(driver: Driver) -> list[str]:
    return [button.description for button in driver.of_kind(ipywidgets.Button)]


def test_what_waits_from_before_is_run(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = with_tasks_from_before(make_studio, 2)
    driver = make_panel(studio)
    driver.until_text("2 tasks wait from before.")
    assert buttons(driver)[:2] == ["Run", "Cancel"]
    driver.labelled("Run").click()
    driver.until(lambda: "from before" not in driver.text())
    assert buttons(driver) == ["Generate", "Cancel"]
    assert studio.task("b").result(10).images


def test_what_waits_from_before_is_cancelled(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = with_tasks_from_before(make_studio, 1)
    driver = make_panel(studio)
    driver.until_text("1 task waits from before.")
    driver.all_labelled("Cancel")[0].click()
    driver.until(lambda: "from before" not in driver.text())
    assert studio.get_record("a").outcome is Outcome.CANCELLED


def test_what_is_done_elsewhere_about_the_queue_is_shown(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = with_tasks_from_before(make_studio, 2)
    driver = make_panel(studio)
    driver.until_text("2 tasks wait from before.")
    elsewhere = make_studio()
    elsewhere.cancel("a")
    driver.until_text("1 task waits from before.")
    elsewhere.pause()
    driver.until_text("The queue is paused.")
    elsewhere.run_offered()
    driver.until(lambda: "from before" not in driver.text())
    elsewhere.resume()
    driver.until(lambda: "paused" not in driver.text())


def test_a_paused_queue_is_said_and_resumed(
    studio: Studio, make_panel: MakePanel
) -> None:
    studio.pause()
    driver = make_panel(studio, prompt="a cat", num_inference_steps=3)
    driver.until_text("The queue is paused.")
    driver.labelled("Generate").click()
    driver.labelled("Resume").click()
    driver.until_text("step 3 of 3")
    driver.until(lambda: "paused" not in driver.text())
    assert not driver.all_labelled("Resume")


def test_the_buttons_of_the_queue_have_twins(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = with_tasks_from_before(make_studio, 2)
    driver = make_panel(studio)
    studio.pause()
    driver.panel.run_offered()
    assert studio.waiting() == ["a", "b"]
    driver.panel.cancel_offered()
    assert studio.waiting() == ["a", "b"]  # none is offered any more
    driver.panel.resume()
    assert studio.task("b").result(10).images


def test_what_waits_in_a_closed_studio_cannot_be_run(
    make_studio: MakeStudio, make_panel: MakePanel
) -> None:
    studio = with_tasks_from_before(make_studio, 1)
    driver = make_panel(studio)
    driver.until_text("1 task waits from before.")
    run = driver.labelled("Run")
    studio.close()
    run.click()
    driver.until_text("This studio is closed.")
