"""Studios of several processes share a queue: each submits, one at a time runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbgen.errors import TaskCancelled
from nbgen.schema import AttemptOutcome, Outcome, Status
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from nbgen.testing.plugin import open_alone
from tests import postgresql
from tests.parts import until

# Opens a studio whose first task hangs, then says so and waits to be ended.
PROGRAM = """
import sys
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine

gate = Gate(at_step=2, timeout_s=600)
studio = Studio(
    sys.argv[1], engine=PatternEngine(gate), database=sys.argv[2] or None
)
for name in ("runs", "waits"):
    studio.generate(name, task_id=name, seed=7, num_inference_steps=5)
gate.wait_reached(60)
print("ready", flush=True)
sys.stdin.readline()
gate.open()
sys.stdin.read()
"""


@contextmanager
def other_process(
    folder: Path, database: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), database or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGAPPNAME": "other"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        kill(process, database)


def kill(process: subprocess.Popen[str], database: str | None) -> None:
    """Kill the process and wait until all can see it."""
    process.kill()
    process.wait()
    if database is not None and database.startswith("postgresql"):
        postgresql.wait_until_gone(database, "other")


def go_on(process: subprocess.Popen[str]) -> None:
    """Have it run what it holds."""
    assert process.stdin is not None
    print(file=process.stdin, flush=True)


def open_studio(
    folder: Path, database: str | None = None, *, take_over: bool = False
) -> Studio:
    return open_alone(
        folder, engine=PatternEngine(), database=database, take_over=take_over
    )


def test_a_second_process_submits_what_the_first_one_runs(
    tmp_path: Path, database: str | None
) -> None:
    with (
        other_process(tmp_path, database) as process,
        open_studio(tmp_path, database) as studio,
    ):
        assert studio.task("runs").status is Status.GENERATING
        mine = studio.generate("a cat", priority=5)
        batch = studio.submit_batch({"a": mine.request}, batch_id="b")
        assert studio.waiting() == [mine.id, "waits", *batch.task_ids]
        studio.prioritise("waits", 9)
        state = studio.queue_state()
        assert (state.running, state.waiting, state.offered) == (1, 3, 0)
        go_on(process)
        assert mine.result(20).images
        assert batch.result(20)
        records = studio.tasks()
        assert {record.outcome for record in records} == {Outcome.SUCCEEDED}
        began = sorted(records, key=lambda each: str(each.started_at))
        expected = ["runs", "waits", mine.id, *batch.task_ids]
        assert [record.id for record in began] == expected
        studio.approve("waits", reviewer_id="ada")


def test_a_second_process_cancels_and_pauses(
    tmp_path: Path, database: str | None
) -> None:
    with (
        other_process(tmp_path, database) as process,
        open_studio(tmp_path, database) as studio,
    ):
        studio.pause()
        mine = studio.generate("a cat")
        for name in ("waits", "runs"):
            studio.cancel(name)
        with pytest.raises(TaskCancelled, match="before it started"):
            studio.task("waits").result(20)
        go_on(process)
        with pytest.raises(TaskCancelled, match="at step"):
            studio.task("runs").result(20)
        assert studio.waiting() == [mine.id]
        assert studio.queue_state().is_paused
        studio.resume()
        assert mine.result(20).images


def test_a_second_process_runs_when_the_first_one_dies(
    tmp_path: Path, database: str | None
) -> None:
    """What that one left is offered, and made once it is asked for."""
    with (
        other_process(tmp_path, database) as process,
        open_studio(tmp_path, database) as studio,
    ):
        mine = studio.generate("a cat")
        kill(process, database)
        assert mine.result(20).images
        assert studio.offered() == ["runs", "waits"]
        assert studio.get_record("waits").is_offered
        same = studio.get_record("waits").request
        assert studio.submit(same, task_id="waits").result(20).images
        assert studio.offered() == ["runs"]
        studio.run_offered()
        assert studio.task("runs").result(20).images[0].seed == 7
        lost, made = studio.attempts("runs")
        assert (lost.outcome, lost.number) == (AttemptOutcome.LOST, 1)
        assert (made.outcome, made.number) == (AttemptOutcome.SUCCEEDED, 2)
        assert len(studio.tasks()) == 3


def test_one_that_takes_over_runs_what_was_left(
    tmp_path: Path, database: str | None
) -> None:
    with other_process(tmp_path, database):
        pass
    with open_studio(tmp_path, database, take_over=True) as studio:
        assert studio.task("runs").result(20).images[0].seed == 7
        assert studio.task("waits").result(20).images
        assert len(studio.tasks()) == 2


def test_what_is_left_waits_for_somebody_who_wants_it(
    tmp_path: Path, database: str | None
) -> None:
    with other_process(tmp_path, database):
        pass
    with open_studio(tmp_path, database) as studio:
        until(studio, lambda: studio.offered() == ["runs", "waits"])
        studio.generate("a cat").result(20)
        assert studio.offered() == ["runs", "waits"]
        studio.cancel_tasks(studio.offered())
        assert studio.offered() == []
        assert {studio.get_record(each).outcome for each in ("runs", "waits")} == {
            Outcome.CANCELLED
        }


def test_a_library_cancels_what_ran_in_a_process_that_died(
    tmp_path: Path,
) -> None:
    """Nobody else would end it before something runs here."""
    with other_process(tmp_path):
        pass
    with Studio.open_library(tmp_path) as looking:
        assert looking.get_record("runs").status is Status.GENERATING
        looking.cancel("runs")
        with pytest.raises(TaskCancelled):
            looking.task("runs").result(20)


def test_studios_of_one_process_take_turns(
    tmp_path: Path, database: str | None
) -> None:
    """So that a cell that opens one may be run again."""
    with (
        open_studio(tmp_path, database) as first,
        open_studio(tmp_path, database) as second,
    ):
        theirs = [studio.generate("a cat") for studio in (first, second)]
        assert all(task.result(20).images for task in theirs)
        last = second.generate("a dog")
        first.close()
        assert second.task(last.id).result(20).images


def test_data_folders_on_one_database_have_one_queue(
    tmp_path: Path, database: str | None
) -> None:
    url = database or f"sqlite:///{tmp_path}/shared.db"
    with (
        other_process(tmp_path / "one", url) as process,
        open_studio(tmp_path / "two", url) as studio,
    ):
        mine = studio.generate("a cat")
        assert studio.waiting() == ["waits", mine.id]
        kill(process, url)
        assert mine.result(20).images


def test_sqlite_files_in_one_folder_have_a_queue_each(tmp_path: Path) -> None:
    with (
        other_process(tmp_path / "one", f"sqlite:///{tmp_path}/one.db"),
        open_studio(tmp_path / "two", f"sqlite:///{tmp_path}/two.db") as studio,
    ):
        assert studio.generate("a cat").result(20).images


def test_queues_of_other_names_are_run_beside_each_other(
    tmp_path: Path, database: str | None
) -> None:
    engine = PatternEngine()
    with (
        other_process(tmp_path, database),
        Studio(tmp_path, engine=engine, database=database, queue="nights") as studio,
    ):
        assert studio.generate("a cat").result(20).images
        assert studio.waiting() == []
        assert studio.get_record("runs").status is Status.GENERATING
