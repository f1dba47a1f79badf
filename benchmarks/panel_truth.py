"""How soon a panel in a real JupyterLab shows what another process decided.

Run: ``.venv/bin/python benchmarks/panel_truth.py``. It needs Chromium. A notebook shows
the panel of a task; this process approves the task and undoes it, again and again. The
time is that from before the call that commits to the change of the page, which notes it
itself; both read the clock of this machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

CELLS = [
    """
from nbgen import GenerationPanel, Studio
studio = Studio(checkpoint="tiny")
studio.generate("a red circle", num_inference_steps=4, task_id="a").result()
GenerationPanel(studio, "a", reviewer_id="ada")
""".strip()
]

# Notes when the panel shows another verdict than before.
NOTE = """
window.noted = [];
window.last = null;
window.look = () => {
  const panel = document.querySelector('.nbgen-panel');
  const now = !!panel && panel.innerText.includes('Approved by ada');
  if (now !== window.last) { window.last = now; window.noted.push([now, Date.now()]); }
};
window.look();
new MutationObserver(window.look).observe(
  document.body, {subtree: true, childList: true, characterData: true, attributes: true}
);
"""


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from playwright.sync_api import sync_playwright

    from nbgen import Studio
    from tests.conftest import CHROMIUM_FLAGS
    from tests.end_to_end.lab import (
        open_notebook,
        run_all,
        running_lab,
        write_notebook,
    )

    took_ms: dict[bool, list[float]] = {True: [], False: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder)) as address,
        sync_playwright() as driver,
    ):
        write_notebook(Path(folder) / "truth.ipynb", CELLS)
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS
        )
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        open_notebook(page, address, "truth.ipynb")
        run_all(page)
        page.get_by_role("button", name="Approve").wait_for(timeout=120_000)
        page.evaluate(NOTE)
        data = Path(folder) / ".lab" / "nbgen"
        with Studio.open_library(data, publishers=()) as studio:
            for number in range(2 * options.times):
                approves = number % 2 == 0
                begun = time.time()
                if approves:
                    studio.approve("a", reviewer_id="ada")
                else:
                    studio.undo("a", reviewer_id="ada")
                page.wait_for_function(f"window.noted.length === {number + 2}")
                shown, at_ms = page.evaluate("window.noted.at(-1)")
                assert shown is approves
                took_ms[approves].append(at_ms - 1_000 * begun)
        browser.close()
    for approves, took in took_ms.items():
        took.sort()
        what = "an approval" if approves else "an undo"
        print(
            f"ms from before {what} elsewhere to the panel: median "
            f"{statistics.median(took):.0f}, slowest {took[-1]:.0f}, of {len(took)}"
        )


if __name__ == "__main__":
    main()
