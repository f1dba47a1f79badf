"""The command line, run as a person runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from nbgen.cli.terminal import bar
from nbgen.progress import ProgressService
from nbgen.schema import Outcome
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate

pytestmark = pytest.mark.timeout(180)


def nbgen(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbgen", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **options},
    )


@contextmanager
def serving(*arguments: str, **options: str) -> Iterator[str]:
    """Run ``nbgen serve`` and yield the address that it prints."""
    command = [sys.executable, "-u", "-m", "nbgen", "serve", "--port", "0"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **options}
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        try:
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
            assert "Stopping." in process.stdout.read()


@pytest.mark.parametrize("command", ["generate", "demo"])
def test_ctrl_c_cancels_the_task(tmp_path: Path, command: str) -> None:
    words = [sys.executable, "-u", "-m", "nbgen", command, "a red circle"]
    words += ["--steps", "150", "--data-dir", str(tmp_path / "data")]
    words += ["--output", str(tmp_path / "image.png")]
    words += ["--num-images", "16"] if command == "generate" else []
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        database = tmp_path / "data" / "nbgen.sqlite"
        until_s = time.monotonic() + 60
        while not (database.exists() and started_in(tmp_path / "data")):
            assert time.monotonic() < until_s
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    with Studio.open_library(tmp_path / "data") as studio:
        [record] = studio.tasks()
    assert record.outcome is Outcome.CANCELLED


def started_in(folder: Path) -> bool:
    with Studio.open_library(folder) as studio:
        return any(record.started_at for record in studio.tasks())


def test_demo_draws_a_picture_and_says_what_is_next(tmp_path: Path) -> None:
    output = tmp_path / "new" / "demo.png"
    done = nbgen("demo", "--steps", "4", "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert "following it over its WebSocket" in done.stdout
    assert "4/4" in done.stdout
    assert f"Saved to {output}" in done.stdout
    assert "make lab" in done.stdout
    with Image.open(output) as picture:
        assert picture.size == (128, 128)


def test_generate_is_repeatable(tmp_path: Path) -> None:
    pictures = []
    for name in ("a.png", "b.png"):
        output = str(tmp_path / name)
        done = nbgen("generate", "a cat", "-o", output, "--seed", "7", "--steps", "3")
        assert (done.returncode, done.stderr) == (0, "")
        pictures.append(Path(output).read_bytes())
    assert pictures[0] == pictures[1]


def test_generate_says_what_the_model_does_not_read(tmp_path: Path) -> None:
    """Also where the prompt holds what looks like the markup of a terminal."""
    prompt = "a red circle " * 13 + "[/b] and [red]blue"
    output = str(tmp_path / "a.png")
    done = nbgen("generate", prompt, "-o", output, "--steps", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"Note: The model reads 38 of the prompt's \d+ tokens\. "
        r"Left out: '… circle \[/b\] and \[red\]blue'\.\n",
        done.stdout,
    )


def test_a_bar_shows_a_message_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    service = ProgressService()
    try:
        service.create_progress("a", 3)
        service.update_progress("a", message="Left out: '… [/b]\x1b[2J[red]blue'.")
        state = service.get_progress("a")
    finally:
        service.close()
    assert state is not None
    with bar() as show:
        show(state)
    assert "[/b] [2J[red]blue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "a cat", "--steps", "0"], "num_inference_steps must be"),
        (["generate", "a cat", "--width", "1001"], "width must be a multiple of 8"),
        (["generate", " "], "prompt must be"),
        (["generate", "x" * 100_000], "got 100,000 characters"),
        (["generate", "a cat", "--checkpoint", "nope"], "no checkpoint 'nope'"),
        (["generate", "a cat", "--checkpoint", "[/red]"], "no checkpoint '[/red]'"),
        (["generate", "a cat", "--task-id", "a/b"], "task_id must be"),
        (["generate", "a cat", "-o", "cat.gif"], "output_path must be"),
        (["serve", "--checkpoint", "nope"], "no checkpoint 'nope'"),
        (["serve", "--host", "0.0.0.0"], "--token or NBGEN_TOKEN"),
        (["watch", "a", "--url", "http://127.0.0.1:1"], "no nbgen server at"),
        (["pull", "nope"], "name must be 'sdxl' or a model's id on the hub"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], said: str) -> None:
    done = nbgen(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_watch_follows_a_task_of_a_server(tmp_path: Path) -> None:
    with serving("--data-dir", str(tmp_path), NBGEN_TOKEN="s3cret") as url:
        refused = nbgen("watch", "a", "--url", url)
        assert (refused.returncode, "wants a token" in refused.stderr) == (1, True)
        wrong = nbgen("watch", "a/b", "--url", url, NBGEN_TOKEN="s3cret")
        assert "task_id must be" in wrong.stderr


def test_watch_shows_how_a_task_ends(
    make_studio: Callable[..., Studio], make_server: Callable[..., Server]
) -> None:
    gate = Gate(timeout_s=60)
    studio = make_studio(gate)
    server = make_server(studio)
    good = studio.generate("a cat", task_id="good", num_inference_steps=5)
    bad = studio.generate("a cat", task_id="bad")
    bad.cancel()
    failed = nbgen("watch", "bad", "--url", server.url)
    assert failed.returncode == 1
    assert failed.stderr == "Error: Cancelled before it started.\n"
    gate.open()
    done = nbgen("watch", "good", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Done" in done.stdout
    assert "5/5" in done.stdout
    good.result(10)


def test_a_picture_for_a_paused_queue_waits_and_says_so(tmp_path: Path) -> None:
    with Studio.open_library(tmp_path, queue="small") as library:
        library.pause()
    words = [sys.executable, "-u", "-m", "nbgen", "generate", "a cat", "--steps", "2"]
    words += ["--data-dir", str(tmp_path), "--output", str(tmp_path / "image.png")]
    with subprocess.Popen(
        [*words, "--queue", "small"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "The queue is paused; 'nbgen resume --queue small' starts" in said
        with Studio.open_library(tmp_path, queue="small") as library:
            library.resume()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "image.png").exists()
