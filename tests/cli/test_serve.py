"""How ``nbgen serve`` ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nbgen.schema import Outcome, Status, TaskRecord
from nbgen.studio import Studio

pytestmark = pytest.mark.timeout(180)


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``nbgen serve`` with the tiny checkpoint; yield it and its address."""
    command = [sys.executable, "-u", "-m", "nbgen", "serve", "--port", "0", *words]
    command += ["--checkpoint", "tiny", "--data-dir", str(folder)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        try:
            yield process, found[0]
        finally:
            process.kill()


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def start_task(url: str, task_id: str, num_images: int) -> None:
    """Have a task run, and wait until it has made a step."""
    body = {
        "prompt": "a red circle",
        "task_id": task_id,
        "num_inference_steps": 150,
        "num_images": num_images,
        "wait": False,
    }
    ask(f"{url}/api/media/generate", body)
    until_s = time.monotonic() + 60
    while ask(f"{url}/api/tasks/{task_id}")["current_step"] < 1:
        assert time.monotonic() < until_s


def left_in(folder: Path, task_id: str) -> TaskRecord:
    with Studio.open_library(folder) as studio:
        return studio.get_record(task_id)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_the_middle_of_a_task(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path) as (process, url):
        start_task(url, "runs", 16)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == "Stopping.\n"
    left = left_in(tmp_path, "runs")
    assert (left.status, left.started_at) == (Status.PENDING, None)


def test_a_signal_while_it_opens_ends_it_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nbgen", "serve", "--port", "0"]
    command += ["--checkpoint", "tiny", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        owners = tmp_path / "owners"
        until_s = time.monotonic() + 60
        while not (owners.is_dir() and list(owners.iterdir())):
            assert time.monotonic() < until_s
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert said.endswith("Stopping.\n")
    assert list(owners.iterdir()) == []


def test_the_running_task_may_end_first(tmp_path: Path) -> None:
    with serving(tmp_path, "--finish") as (process, url):
        start_task(url, "runs", 1)
        ask(
            f"{url}/api/media/generate",
            {"prompt": "a dog", "task_id": "waits", "wait": False},
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ("Stopping, once the running task has ended.\n")
    assert left_in(tmp_path, "runs").outcome is Outcome.SUCCEEDED
    assert left_in(tmp_path, "waits").status is Status.PENDING


def test_a_second_signal_does_not_wait_for_the_task(tmp_path: Path) -> None:
    with serving(tmp_path, "--finish") as (process, url):
        start_task(url, "runs", 16)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Stopping, once")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130
    left = left_in(tmp_path, "runs")
    assert (left.status, left.started_at) == (Status.PENDING, None)


def test_what_waits_from_before_runs_once_the_queue_is_resumed(tmp_path: Path) -> None:
    with Studio.open_library(tmp_path) as library:
        library.pause()
        library.generate("a cat", task_id="waits", num_inference_steps=2)
    with (
        serving(tmp_path) as (process, url),
        Studio.open_library(tmp_path) as library,
    ):
        assert process.stdout is not None
        assert "The queue is paused; 'nbgen resume'" in process.stdout.readline()
        assert ask(f"{url}/api/queue")["waiting"] == ["waits"]
        library.resume()
        assert library.task("waits").result(100).images
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
