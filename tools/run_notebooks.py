"""Executes the notebooks again and stores what they show.

Run: ``.venv/bin/python tools/run_notebooks.py``. CI compares the stored outputs with a
run of its own, so a notebook is stored executed, and without what differs between two
machines: widget state, timestamps and the Python version.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python"}


def main() -> None:
    """Execute and store every notebook in ``notebooks/``."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook: Any = nbformat.reads(path.read_text(), as_version=4)
        nbclient.execute(notebook, timeout=300)
        notebook.metadata = {
            "kernelspec": {**KERNEL, "name": "python3"},
            "language_info": {"name": "python"},
        }
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
            cell.metadata = {}
            for output in cell.get("outputs", ()):
                if output.get("name") == "stderr":
                    sys.exit(f"{path.name} prints to stderr: {output['text']}")
                # The id of a widget is another one each time.
                output.get("data", {}).pop(WIDGET_VIEW, None)
        path.write_text(nbformat.writes(notebook) + "\n")
        print(f"{path.name}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    main()
