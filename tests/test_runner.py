"""One process runs the tasks of a data folder; others look and decide."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbgen.errors import DataFolderInUse, DataFolderUnusable, TaskError
from nbgen.schema import Outcome, Status
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

# Opens a studio whose first task hangs, then says so and waits to be ended.
PROGRAM = """
import sys, threading
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

reached = threading.Event()
go_on = threading.Event()

def before_step(step):
    if step == 2:
        reached.set()
        go_on.wait()

studio = Studio(sys.argv[1], engine=PatternEngine(before_step))
for name in ("runs", "waits"):
    studio.generate(name, task_id=name, seed=7, num_inference_steps=5)
reached.wait()
print("ready", flush=True)
sys.stdin.readline()
go_on.set()
studio.task("waits").result()
studio.close()
print("closed", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def open_studio(folder: Path, *, rerun_lost: bool = False) -> Studio:
    return Studio(folder, engine=PatternEngine(), rerun_lost=rerun_lost)


def test_a_second_process_reads_and_decides_but_runs_nothing(tmp_path: Path) -> None:
    with other_process(tmp_path) as process, open_studio(tmp_path) as reader:
        assert reader.is_reader
        assert [record.id for record in reader.tasks()] == ["waits", "runs"]
        assert reader.task("runs").status is Status.GENERATING
        with pytest.raises(
            DataFolderInUse, match=f"run by process {process.pid} on .*close the studio"
        ):
            reader.generate("a cat")
        with pytest.raises(DataFolderInUse):
            reader.submit_batch({"a": reader.task("runs").request}, batch_id="b")
        with pytest.raises(TaskError, match="runs in another process"):
            reader.cancel("waits")
        assert len(reader.tasks()) == 2
        assert process.stdin is not None
        assert process.stdout is not None
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "closed\n"
        reader.approve("waits", reviewer_id="ada")
        assert not reader.is_reader
        assert reader.generate("a cat").result(10).images


def test_a_reader_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        reader = open_studio(tmp_path)
        with pytest.raises(DataFolderInUse):
            reader.retry_tasks([])
        process.kill()
        process.wait()
        with reader:
            reader.generate("a cat").result(10)
            assert reader.task("waits").result(10).images
            assert reader.get_record("runs").outcome is Outcome.LOST


def test_what_ran_in_one_that_died_runs_again_if_that_is_wanted(tmp_path: Path) -> None:
    with other_process(tmp_path):
        pass
    with open_studio(tmp_path, rerun_lost=True) as studio:
        assert studio.task("runs").result(10).images[0].seed == 7
        assert studio.task("waits").result(10).images
        assert len(studio.tasks()) == 2


def test_to_look_changes_nothing(tmp_path: Path) -> None:
    """So that looking does not end what another studio would run again."""
    with other_process(tmp_path):
        pass
    with Studio(tmp_path, engine=PatternEngine(), take_over=False) as looking:
        assert looking.get_record("runs").status is Status.GENERATING
    with open_studio(tmp_path, rerun_lost=True) as studio:
        assert studio.task("runs").result(10).images


def test_several_studios_of_one_process_run_their_own(tmp_path: Path) -> None:
    """So that a cell that opens one may be run again."""
    with open_studio(tmp_path) as first:
        with open_studio(tmp_path) as second:
            assert not second.is_reader
            second.generate("a cat").result(10)
        assert not first.is_reader
        first.generate("a dog").result(10)
    with other_process(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "runner.txt").mkdir()
    with pytest.raises(DataFolderUnusable, match=r"runner\.txt.*Choose another"):
        open_studio(tmp_path)
