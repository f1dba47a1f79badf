"""One process runs the tasks of a data folder; others look and decide."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from nbgen.local.runner_lock import RunnerLock

from nbgen.errors import DataFolderInUse, DataFolderUnusable, TaskConflict, TaskError
from nbgen.schema import Outcome, Status
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from nbgen.testing.plugin import open_alone
from tests import postgresql

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
studio.task("waits").result()
print("idle", flush=True)
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


def open_studio(
    folder: Path, database: str | None = None, *, rerun_lost: bool = False
) -> Studio:
    return open_alone(
        folder, engine=PatternEngine(), database=database, rerun_lost=rerun_lost
    )


def test_a_second_process_reads_and_decides_but_runs_nothing(
    tmp_path: Path, database: str | None
) -> None:
    with (
        other_process(tmp_path, database) as process,
        open_studio(tmp_path, database) as reader,
    ):
        assert [record.id for record in reader.tasks()] == ["waits", "runs"]
        assert reader.task("runs").status is Status.GENERATING
        with pytest.raises(
            DataFolderInUse, match=f"process {process.pid} on .* runs tasks. Try again"
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
        assert process.stdout.readline() == "idle\n"
        reader.approve("waits", reviewer_id="ada")
        assert reader.generate("a cat").result(10).images


def test_a_reader_takes_the_place_of_one_that_died(
    tmp_path: Path, database: str | None
) -> None:
    with other_process(tmp_path, database) as process:
        reader = open_studio(tmp_path, database)
        with pytest.raises(DataFolderInUse):
            reader.generate("a cat")
        kill(process, database)
        with reader:
            reader.generate("a cat").result(10)
            assert reader.task("waits").result(10).images
            assert reader.get_record("runs").outcome is Outcome.LOST


def test_an_id_submitted_again_is_followed_while_it_runs_and_run_once_orphaned(
    tmp_path: Path, database: str | None
) -> None:
    with (
        other_process(tmp_path, database) as process,
        open_studio(tmp_path, database) as studio,
    ):
        same = studio.get_record("waits").request
        standing = studio.submit(same, task_id="waits")
        assert standing.status is Status.PENDING
        kill(process, database)
        assert studio.submit(same, task_id="waits").result(10).images
        assert studio.get_record("runs").outcome is Outcome.LOST
        assert len(studio.tasks()) == 2


def test_what_ran_in_one_that_died_runs_again_if_that_is_wanted(
    tmp_path: Path, database: str | None
) -> None:
    with other_process(tmp_path, database):
        pass
    with open_studio(tmp_path, database, rerun_lost=True) as studio:
        assert studio.task("runs").result(10).images[0].seed == 7
        assert studio.task("waits").result(10).images
        assert len(studio.tasks()) == 2


def test_to_look_changes_nothing(tmp_path: Path, database: str | None) -> None:
    """So that looking does not end what another studio would run again."""
    with other_process(tmp_path, database):
        pass
    with Studio(
        tmp_path, engine=PatternEngine(), database=database, take_over=False
    ) as looking:
        assert looking.get_record("runs").status is Status.GENERATING
    with open_studio(tmp_path, database, rerun_lost=True) as studio:
        assert studio.task("runs").result(10).images


def test_several_studios_of_one_process_run_their_own(
    tmp_path: Path, database: str | None
) -> None:
    """So that a cell that opens one may be run again."""
    with open_studio(tmp_path, database) as first:
        with open_studio(tmp_path, database) as second:
            second.generate("a cat").result(10)
        first.generate("a dog").result(10)
    with other_process(tmp_path, database):
        pass


def test_one_that_has_nothing_to_run_makes_room_for_one_that_has(
    tmp_path: Path,
) -> None:
    class Resting(PatternEngine):
        rested = threading.Event()

        def close(self) -> None:
            self.rested.set()

    with Studio(tmp_path, engine=Resting()) as studio:
        studio.generate("a cat").result(10)
        assert not Resting.rested.wait(1.5)  # it looks once a second
        with other_process(tmp_path):
            assert Resting.rested.wait(10)


def test_a_submission_that_fails_keeps_nobody_out(
    tmp_path: Path, database: str | None
) -> None:
    with open_studio(tmp_path, database) as studio:
        task = studio.generate("a cat", task_id="a")
        task.result(10)
        with pytest.raises(TaskConflict):
            studio.generate("a dog", task_id="a")
        studio.generate("a dog", task_id="pets:b").result(10)
        with pytest.raises(TaskConflict):
            studio.submit_batch({"b": task.request}, batch_id="pets")
        with other_process(tmp_path, database):
            pass


def test_data_folders_on_one_sqlite_file_have_one_queue(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    with (
        other_process(tmp_path / "one", url) as process,
        open_studio(tmp_path / "two", url) as reader,
    ):
        assert reader.get_record("runs").status is Status.GENERATING
        with pytest.raises(DataFolderInUse, match=f"process {process.pid} "):
            reader.generate("a cat")
        kill(process, url)
        reader.generate("a cat").result(10)
        assert reader.task("waits").result(10).images


def test_sqlite_files_in_one_folder_have_a_queue_each(tmp_path: Path) -> None:
    with (
        other_process(tmp_path / "one", f"sqlite:///{tmp_path}/one.db"),
        open_studio(tmp_path / "two", f"sqlite:///{tmp_path}/two.db") as studio,
    ):
        studio.generate("a cat").result(10)


def test_data_folders_on_one_postgresql_have_a_queue_each(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    with (
        other_process(tmp_path / "one", url),
        open_studio(tmp_path / "two", url) as studio,
    ):
        studio.generate("a cat").result(10)
        assert studio.get_record("runs").status is Status.GENERATING


def is_free(folder: Path) -> bool:
    lock = FileLock(folder / "runner.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def test_a_lock_that_was_released_is_nobody_s(tmp_path: Path) -> None:
    own, other = RunnerLock(tmp_path), RunnerLock(tmp_path)
    holder = tmp_path / "runner.txt"
    own.take()
    other.take()
    own.release()
    assert holder.read_text()  # the other holds it
    other.release()
    assert holder.read_text() == ""
    assert not own.held_elsewhere
    holder.write_text("process 1 on elsewhere")
    assert own.held_elsewhere


def test_an_interrupt_while_the_lock_is_taken_leaves_it_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = FileLock.acquire

    def acquire_and_interrupt(lock: FileLock) -> None:
        acquire(lock)
        raise KeyboardInterrupt

    runner = RunnerLock(tmp_path)
    monkeypatch.setattr(FileLock, "acquire", acquire_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.take()
    monkeypatch.undo()
    assert not runner.held
    assert is_free(tmp_path)
    runner.take()
    assert not is_free(tmp_path)
    runner.release()
    assert is_free(tmp_path)


@pytest.mark.parametrize("failing", ["mkdir", "write_text"])
def test_one_that_fails_to_take_the_lock_leaves_it_to_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError("disk full")

    first, second = RunnerLock(tmp_path), RunnerLock(tmp_path)
    first.take()
    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(DataFolderUnusable, match="disk full"):
        second.take()
    monkeypatch.undo()
    assert not is_free(tmp_path)
    first.release()
    assert is_free(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "runner.txt").mkdir()
    with pytest.raises(DataFolderUnusable, match=r"runner\.txt.*Choose another"):
        open_studio(tmp_path)
