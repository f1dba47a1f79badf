"""Takes the pictures of the panel that the docs show, in a real JupyterLab.

Run: ``.venv/bin/python tools/take_screenshots.py``; needs Chromium.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.conftest import CHROMIUM, CHROMIUM_FLAGS  # noqa: E402
from tests.end_to_end.lab import (  # noqa: E402
    open_notebook,
    run_all,
    running_lab,
    write_notebook,
)

IMAGES = ROOT / "docs" / "images"
CELL = """
from nbgen import GenerationPanel, Studio

studio = Studio()
GenerationPanel(studio, prompt="a red circle on a blue background", seed=7,
                num_inference_steps=150, guidance_scale=4.5, reviewer_id="ada",
                task_id="hero-1")
"""
BATCH = """
import pandas as pd
from nbgen import BatchPanel

headlines = [f"a {colour} {shape}" for colour in ("red", "blue", "green", "black")
             for shape in ("circle", "square", "triangle")]
df = pd.DataFrame({"headline": headlines})
batch = studio.generate_frame(df, "{headline} on a white background", name="autumn",
                              num_inference_steps=100, guidance_scale=4.5)
BatchPanel(batch)
"""


def take_batch(page: Page, theme: str) -> None:
    """Take the panel of a batch under way, and of one that was stopped."""
    panel = page.locator(".nbgen-panel", has_text="autumn")
    panel.get_by_text(re.compile("[4-8] of 12 made")).wait_for()
    panel.screenshot(path=IMAGES / f"batch-busy-{theme}.png")
    panel.get_by_role("button", name="Cancel").click()
    panel.get_by_role("button", name="Retry").wait_for()
    panel.screenshot(path=IMAGES / f"batch-cancelled-{theme}.png")


def take(page: Page, theme: str) -> None:
    """Go through the panel's states and take a picture of the telling ones."""
    panel = page.locator(".nbgen-panel")
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text("Sampling with the base model").wait_for()
    page.wait_for_function(
        "parseFloat(document.querySelector('.nbgen-panel .progress-bar').style.width)"
        " > 60"
    )
    panel.locator("img").wait_for()
    panel.screenshot(path=IMAGES / f"panel-busy-{theme}.png")
    panel.get_by_role("button", name="Approve").wait_for()
    page.wait_for_function(
        "document.querySelector('.nbgen-panel img').naturalWidth === 128"
    )
    panel.screenshot(path=IMAGES / f"panel-review-{theme}.png")
    panel.get_by_label("Feedback").fill("Just right")
    panel.get_by_role("button", name="Approve").click()
    panel.get_by_text("Approved by ada.").wait_for()
    panel.get_by_label("Width").fill("1001")
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_role("alert").wait_for()
    panel.screenshot(path=IMAGES / f"panel-error-{theme}.png")


def main() -> None:
    """Write the pictures for both themes."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in ("Light", "Dark"):
        with (
            tempfile.TemporaryDirectory() as folder,
            sync_playwright() as playwright,
            running_lab(Path(folder), theme=f"JupyterLab {name}") as address,
        ):
            write_notebook(Path(folder) / "panel.ipynb", [CELL.strip()])
            cells = [CELL.strip(), BATCH.strip()]
            write_notebook(Path(folder) / "batch.ipynb", cells)
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=CHROMIUM_FLAGS
            )
            # Lab scrolls inside the window, and a picture ends where the window does.
            page = browser.new_page(viewport={"width": 1140, "height": 1400})
            page.set_default_timeout(60_000)
            open_notebook(page, address, "panel.ipynb")
            run_all(page)
            take(page, name.lower())
            open_notebook(page, address, "batch.ipynb")
            run_all(page)
            take_batch(page, name.lower())
            browser.close()


if __name__ == "__main__":
    main()
