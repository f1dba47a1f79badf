"""The commands on what waits, run as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from nbgen.cli.terminal import app
from nbgen.schema import Outcome
from nbgen.studio import Studio
from nbgen.testing import Gate
from nbgen.testing.engine import PatternEngine
from nbgen.testing.plugin import open_alone
from tests.changing import until_changed

DIES = """
import os, signal, sys
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

studio = Studio(
    sys.argv[1],
    engine=PatternEngine(lambda _step: os.kill(os.getpid(), signal.SIGKILL)),
    take_over=True,
)
studio.resume()
studio.generate(sys.argv[2]).result(60)
"""
NOTHING_RUNS = "Nothing runs the queue. Start 'nbgen serve' to have it run."


def nbgen(*words: str, folder: Path, **environment: str) -> Result:
    command = [*words, "--data-dir", str(folder)]
    return CliRunner(env={"COLUMNS": "120", **environment}).invoke(app, command)


def said(*words: str, folder: Path, **environment: str) -> str:
    done = nbgen(*words, folder=folder, **environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def read_json(*words: str, folder: Path) -> Any:
    return json.loads(said(*words, "--json", folder=folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder whose paused queue holds the tasks a, b and c."""
    with Studio(tmp_path / "data", engine=PatternEngine()) as studio:
        studio.pause()
        for name in "abc":
            studio.generate(f"a [bold] {name}", task_id=name)
    return tmp_path / "data"


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Studio]:
    """Open a studio that runs the queue, one among several of this process."""
    with open_alone(folder, engine=PatternEngine(), **settings) as studio:
        yield studio


def test_the_queue_is_shown_in_its_order(folder: Path) -> None:
    with Studio.open_library(folder) as studio:
        studio.prioritise("c", 5)
    shown = said("queue", folder=folder)
    assert "Queue default: 0 running, 3 waiting." in shown
    lines = [line.split()[:3] for line in shown.splitlines()]
    assert lines[2:5] == [["1", "c", "5"], ["2", "a", "0"], ["3", "b", "0"]]
    assert "a [bold] c" in shown
    assert "The queue is paused; 'nbgen resume' starts it again." in shown
    assert read_json("queue", folder=folder) == {
        "name": "default",
        "is_paused": True,
        "has_runner": False,
        "running": [],
        "waiting": ["c", "a", "b"],
        "offered": [],
    }


def test_a_long_queue_is_cut(folder: Path) -> None:
    with Studio.open_library(folder) as studio:
        for number in range(20):
            studio.generate("a cat", task_id=f"more-{number}")
    shown = said("queue", folder=folder)
    assert "more-16" in shown
    assert "more-17" not in shown
    assert "and 3 more" in shown


def test_what_nothing_runs_is_said_with_what_to_do(folder: Path) -> None:
    assert NOTHING_RUNS in said("resume", folder=folder)
    assert NOTHING_RUNS in said("queue", folder=folder)
    said("cancel", "a", "b", "c", folder=folder)
    assert said("queue", folder=folder) == "Queue default: 0 running, 0 waiting.\n"
    assert NOTHING_RUNS in said("retry", "a", folder=folder)


def test_what_ran_in_a_process_that_died_is_no_runner(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DIES, str(folder), "a cat"], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    shown = said("queue", folder=folder)
    assert "Queue default: 1 running" in shown
    assert NOTHING_RUNS in shown
    assert not read_json("queue", folder=folder)["has_runner"]


def test_a_queue_that_runs_needs_nothing(folder: Path) -> None:
    gate = Gate()
    with open_alone(folder, engine=PatternEngine(gate), take_over=True):
        assert said("resume", folder=folder) == "The queue goes on.\n"
        gate.wait_reached()
        shown = said("queue", folder=folder)
        assert "1 running, 2 waiting." in shown
        assert "runs " in shown
        assert "Nothing runs" not in shown
        told = read_json("queue", folder=folder)
        assert (told["running"], told["waiting"]) == (["a"], ["b", "c"])
        gate.open()


def test_a_pause_holds_in_other_processes_until_the_queue_is_resumed(
    folder: Path,
) -> None:
    said("resume", folder=folder)
    paused = said("pause", folder=folder)
    assert "The queue is paused; 'nbgen resume' starts it again." in paused
    with running(folder, take_over=True) as studio:
        assert studio.queue_state().is_paused
        said("resume", folder=folder)
        assert studio.task("c").result(10).images


def test_what_runs_goes_on_while_the_queue_is_paused(folder: Path) -> None:
    gate = Gate()
    with open_alone(folder, engine=PatternEngine(gate), take_over=True) as studio:
        said("resume", folder=folder)
        gate.wait_reached()
        assert "It goes on until then: a." in said("pause", folder=folder)
        gate.open()
        assert studio.task("a").result(10).images
        assert studio.waiting() == ["b", "c"]


def test_a_task_is_moved(folder: Path) -> None:
    moved = said("move", "c", "--first", folder=folder)
    assert moved == "Task c has the priority 1: number 1 of 3 that wait.\n"
    moved = said("move", "b", "--priority", "-7", folder=folder)
    assert moved == "Task b has the priority -7: number 3 of 3 that wait.\n"
    # It is the first already.
    assert "priority 1: number 1" in said("move", "c", "--first", folder=folder)
    said("move", "c", "--priority", "1000", folder=folder)
    moved = said("move", "a", "--first", folder=folder)
    assert moved == "Task a has the priority 1,000: number 1 of 3 that wait.\n"
    assert read_json("queue", folder=folder)["waiting"] == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("move", "a"), "Choose one of --priority and --first."),
        (("move", "a", "--first", "--priority", "1"), "Choose one of --priority"),
        (("move", "a", "--priority", "1001"), "priority must be a whole number"),
        (("move", "gone", "--first"), "There is no task 'gone'."),
        (("offered", "--run", "--cancel"), "Choose one of --run and --cancel."),
        (("retry", "a"), "Task 'a' has not ended."),
        (("retry", "gone"), "There is no task 'gone'."),
        (("cancel", "a", "gone"), "There is no task 'gone'."),
        (("show", "gone"), "There is no task 'gone'."),
        (("queue", "--queue", "a b"), "queue must be "),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    folder: Path, words: tuple[str, ...], error: str
) -> None:
    done = nbgen(*words, folder=folder)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {error}")
    assert read_json("queue", folder=folder)["waiting"] == ["a", "b", "c"]


def test_tasks_are_cancelled_wherever_they_run(folder: Path) -> None:
    gate = Gate()
    with open_alone(folder, engine=PatternEngine(gate), take_over=True) as studio:
        said("resume", folder=folder)
        gate.wait_reached()
        told = said("cancel", "a", "b", folder=folder)
        assert told == "a runs, and ends within two steps.\nb is cancelled.\n"
        gate.open()
        assert studio.task("c").result(10).images
        assert studio.get_record("a").outcome is Outcome.CANCELLED
    again = said("cancel", "b", "c", folder=folder)
    assert again == "b is cancelled.\nc has ended already: succeeded.\n"


def test_a_task_is_tried_again_and_its_history_shown(folder: Path) -> None:
    def fail(_step: int) -> None:
        raise ValueError("It broke [red].")

    with open_alone(folder, engine=PatternEngine(fail), take_over=True) as studio:
        said("cancel", "b", "c", folder=folder)
        said("resume", folder=folder)
        assert studio.backend.ended("a").result(10).outcome is Outcome.FAILED
    assert "error" in said("show", "a", folder=folder)
    with running(folder) as studio:
        told = said("retry", "a", folder=folder)
        assert told == "1 task waits for its next attempt.\n"
        assert studio.task("a").result(10).images
        studio.approve("a", reviewer_id="ada", feedback="Well [done]")
    shown = said("show", "a", folder=folder)
    assert "attempt 1: failed, on " in shown
    assert "ValueError: It broke [red]." in shown
    assert "attempt 2: succeeded, on " in shown
    assert "decision 1  approved by ada, " in shown
    assert ": Well [done]" in shown
    told = read_json("show", "a", folder=folder)
    assert (told["id"], told["seed"]) == ("a", told["attempts"][0]["seed"])
    outcomes = [attempt["outcome"] for attempt in told["attempts"]]
    assert outcomes == ["failed", "succeeded"]
    refused = nbgen("retry", "a", folder=folder)
    assert refused.stderr.startswith("Error: There is a decision on task 'a'.")


def test_a_request_is_shown_where_it_is_not_the_default(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine()) as studio:
        studio.pause()
        studio.generate("a cat\x1b[31m", task_id="a", width=64, priority=3, seed=7)
    shown = said("show", "a", folder=tmp_path)
    assert "width 64, seed 7" in shown
    assert "priority   3" in shown
    assert "steps" not in shown
    assert "attempt" not in shown
    assert "\x1b" not in shown


@pytest.fixture
def left(folder: Path) -> Path:
    """Return the folder, its tasks offered by a studio that is open no more."""
    with running(folder) as studio:
        until_changed(studio, lambda: studio.offered() == ["a", "b", "c"])
    return folder


def test_what_waits_from_before_is_listed(left: Path) -> None:
    assert "3 tasks wait from before: 'nbgen offered' lists them." in said(
        "queue", folder=left
    )
    shown = said("offered", folder=left)
    assert [line.split()[:2] for line in shown.splitlines()[1:4]] == [
        ["before", "a"],
        ["before", "b"],
        ["before", "c"],
    ]
    assert "pending, from before; see 'nbgen offered'" in said("show", "a", folder=left)
    moved = said("move", "c", "--priority", "4", folder=left)
    assert moved == "Task c has the priority 4, once it may run.\n"
    assert read_json("queue", folder=left)["offered"] == ["c", "a", "b"]


def test_what_waits_from_before_is_run(left: Path) -> None:
    with running(left) as studio:
        said("resume", folder=left)
        told = said("offered", "--run", folder=left)
        assert told.startswith("3 tasks of before wait in the queue now.\n")
        assert studio.task("c").result(10).images
    assert said("offered", "--run", folder=left) == "No task waits from before.\n"


def test_what_waits_from_before_is_cancelled(left: Path) -> None:
    told = said("offered", "--cancel", folder=left)
    assert told == "3 tasks of before cancelled.\n"
    with Studio.open_library(left) as studio:
        assert studio.get_record("a").outcome is Outcome.CANCELLED


def test_each_queue_is_ordered_for_itself(tmp_path: Path) -> None:
    gate = Gate()
    with (
        open_alone(tmp_path, engine=PatternEngine(), queue="small") as small,
        open_alone(tmp_path, engine=PatternEngine(gate)) as studio,
    ):
        small.pause()
        small.generate("a dog", task_id="dog")
        studio.generate("a cat", task_id="cat")
        gate.wait_reached()
        listed = read_json("queue", "--queue", "small", folder=tmp_path)
        assert (listed["name"], listed["running"]) == ("small", [])
        assert listed["waiting"] == ["dog"]
        by_name = said("queue", folder=tmp_path, NBGEN_QUEUE="small")
        assert "Queue small: 0 running, 1 waiting." in by_name
        assert "'nbgen resume' starts it again." in by_name
        shown = said("queue", "--queue", "small", folder=tmp_path)
        assert "'nbgen resume --queue small' starts it again." in shown
        assert read_json("queue", folder=tmp_path)["running"] == ["cat"]
        said("resume", "--queue", "small", folder=tmp_path)
        assert small.task("dog").result(10).images
        gate.open()
