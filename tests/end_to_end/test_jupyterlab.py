"""The panel in a real JupyterLab, in a real Chromium, on the real tiny model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.end_to_end.lab import (
    open_notebook,
    run_all,
    running_lab,
    wait_for_kernel,
    write_notebook,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CELL = """
from nbgen import GenerationPanel, Studio
studio = Studio()
panel = GenerationPanel(
    studio, prompt="a red circle", num_inference_steps=60, seed=7, reviewer_id="ada"
)
panel
"""

# Collects what the bar shows, from the page's own view of it.
WATCH_BAR = """
window.widths = new Set();
new MutationObserver(() => {
  const bar = document.querySelector('.nbgen-panel .progress-bar');
  if (bar) widths.add(bar.style.width);
}).observe(document.body, {subtree: true, childList: true, attributes: true});
"""


def button(page: Page, name: str) -> Locator:
    return page.locator(".nbgen-panel").get_by_role("button", name=name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder) as address:
        yield address, folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.close()


@pytest.fixture
def panel_page(
    lab: tuple[str, Path], page: Page, request: pytest.FixtureRequest
) -> Page:
    """Return a page with a notebook whose one cell has shown the panel."""
    address, folder = lab
    name = f"{request.node.name}.ipynb"
    write_notebook(folder / name, [CELL.strip()])
    open_notebook(page, address, name)
    run_all(page)
    expect(button(page, "Generate")).to_be_enabled(timeout=60_000)
    return page


def test_generate_and_approve(panel_page: Page) -> None:
    page = panel_page
    page.evaluate(WATCH_BAR)
    button(page, "Generate").click()
    approve = button(page, "Approve")
    approve.wait_for()
    between = [
        float(width.removesuffix("%"))
        for width in page.evaluate("[...widths]")
        if width not in ("", "0%", "100%")
    ]
    assert len(between) >= 2, page.evaluate("[...widths]")
    assert all(0 < width < 100 for width in between)
    picture = page.locator(".nbgen-panel img")
    page.wait_for_function(
        "document.querySelector('.nbgen-panel img').naturalWidth === 128"
    )
    expect(picture).to_be_visible()
    page.get_by_label("Feedback").fill("Just right")
    approve.click()
    expect(page.get_by_text("Approved by ada. “Just right”")).to_be_visible()
    expect(approve).to_be_hidden()


def test_an_undo_on_the_command_line_is_shown(
    panel_page: Page, lab: tuple[str, Path]
) -> None:
    page = panel_page
    task_id = "undone"
    page.get_by_label("Task id").fill(task_id)
    button(page, "Generate").click()
    button(page, "Approve").click()
    page.get_by_text("Approved by ada.").wait_for()
    _, folder = lab
    data = folder / ".lab" / "nbgen"
    undo = ["undo", task_id, "--reviewer", "ada", "--data-dir", str(data)]
    subprocess.run([sys.executable, "-m", "nbgen", *undo], check=True)
    expect(button(page, "Approve")).to_be_visible()
    expect(page.get_by_text("Approved by ada.")).to_be_hidden()


def test_cancel(panel_page: Page) -> None:
    page = panel_page
    page.get_by_label("Steps").fill("150")
    button(page, "Generate").click()
    page.get_by_text("Sampling with the base model").wait_for()
    button(page, "Cancel").click()
    page.get_by_text("Cancelled at step").wait_for()
    expect(button(page, "Generate")).to_be_enabled()


def test_a_wrong_input(panel_page: Page) -> None:
    page = panel_page
    page.get_by_label("Steps").fill("0")
    button(page, "Generate").click()
    error = page.get_by_role("alert").get_by_text(
        "num_inference_steps must be a whole number from 1 to 150; got 0."
    )
    expect(error).to_be_visible()
    expect(page.get_by_label("Steps")).to_have_value("0")


def test_a_reload_attaches_again(panel_page: Page) -> None:
    page = panel_page
    page.keyboard.press("Control+s")
    button(page, "Generate").click()
    page.get_by_text("Sampling with").first.wait_for()
    page.reload()
    wait_for_kernel(page)
    expect(page.get_by_text("step 60 of 60")).to_be_visible(timeout=60_000)
    expect(button(page, "Approve")).to_be_enabled()


BATCH_CELL = """
import pandas as pd
from nbgen import BatchPanel, Studio
studio = Studio()
df = pd.DataFrame({"headline": ["a red circle", "a blue square", "a green star"]})
batch = studio.generate_frame(df, "headline", num_inference_steps=20)
BatchPanel(batch)
"""


def test_a_batch_is_watched_to_its_end(lab: tuple[str, Path], page: Page) -> None:
    address, folder = lab
    write_notebook(folder / "batch.ipynb", [BATCH_CELL.strip(), "len(batch)"])
    open_notebook(page, address, "batch.ipynb")
    page.evaluate(WATCH_BAR)
    run_all(page)
    expect(page.locator(".nbgen-panel")).to_contain_text("3 of 3 made", timeout=90_000)
    between = [
        width
        for width in page.evaluate("[...widths]")
        if 0 < float(width.removesuffix("%")) < 100
    ]
    assert between
    expect(page.locator(".nbgen-panel").get_by_role("button")).to_have_count(0)
