"""A real JupyterLab on a free loopback port, with folders of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

_START_LIMIT_S = 60
_TOKEN = "for-tests-only"


@contextmanager
def running_lab(folder: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """Run JupyterLab on a folder and yield its address.

    Args:
        folder: Where the notebooks lie; Lab's own files go beside them.
        theme: The theme to open with.
    """
    own = folder / ".lab"
    settings = own / "lab" / "user-settings" / "@jupyterlab"
    write_json(
        settings / "apputils-extension" / "themes.jupyterlab-settings", {"theme": theme}
    )
    # It would ask whether to fetch news.
    write_json(
        settings / "apputils-extension" / "notification.jupyterlab-settings",
        {"checkForUpdates": False, "fetchNews": "false"},
    )
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "lab" / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "lab" / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
        "NBGEN_DATA_DIR": str(own / "nbgen"),
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    options = ["--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={_TOKEN}"]
    own.mkdir(parents=True, exist_ok=True)
    with (
        (own / "log.txt").open("wb") as log,
        subprocess.Popen(
            [*command, *options, f"--ServerApp.root_dir={folder}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            yield _address(own / "runtime", server)
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


def write_json(path: Path, content: Any) -> None:
    """Write a file, and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook of code cells that were never run."""
    write_json(
        path,
        {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"cell-{number}",
                    "execution_count": None,
                    "metadata": {},
                    "outputs": [],
                    "source": source,
                }
                for number, source in enumerate(cells)
            ],
            "metadata": {
                "kernelspec": {
                    "display_name": "Python 3 (ipykernel)",
                    "language": "python",
                    "name": "python3",
                }
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        },
    )


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open a notebook in a page and wait for its kernel."""
    page.goto(f"{address}/lab/tree/{name}?token={_TOKEN}&reset")
    wait_for_kernel(page)


def wait_for_kernel(page: Page) -> None:
    """Wait until the open notebook's kernel can take a cell."""
    idle = "Python 3 (ipykernel) | Idle"
    page.get_by_text(idle).first.wait_for(timeout=60_000)


def run_all(page: Page) -> None:
    """Run all cells of the open notebook."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def _address(runtime: Path, server: subprocess.Popen[bytes]) -> str:
    """Wait until the server answers and return where."""
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        for info in runtime.glob("jpserver-*.json"):
            try:
                port = json.loads(info.read_text())["port"]
                address = f"http://127.0.0.1:{port}"
                with urllib.request.urlopen(f"{address}/api", timeout=1):
                    return address
            except (OSError, ValueError):
                pass  # it is still starting
        try:
            server.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    log = (runtime.parent / "log.txt").read_text()
    raise RuntimeError(f"JupyterLab did not start:\n{log}")
