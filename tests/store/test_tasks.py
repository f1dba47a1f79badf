"""Tasks and decisions last, and each ends or is decided once."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.schema import (
    Decision,
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Outcome,
    Status,
    TaskRecord,
    Verdict,
)
from nbgen.store import Store

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
IMAGE = ImageRecord(name="f.png", url="/images/f.png", width=64, height=64, seed=7)
RESULT = GenerationResult(images=(IMAGE,), generation_time=1.5)


def record(task_id: str = "a") -> TaskRecord:
    return TaskRecord(
        id=task_id,
        request=GenerationRequest(prompt="a cat", seed=7),
        seed=7,
        status=Status.PENDING,
        created_at=NOW,
    )


def decision(verdict: Verdict, reviewer_id: str = "ada") -> Decision:
    return Decision(
        task_id="a",
        verdict=verdict,
        reviewer_id=reviewer_id,
        feedback="Fine",
        featured_image_url=IMAGE.url,
        decided_at=NOW,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def test_a_task_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    assert store.add_task(record())
    assert store.get_task("a") == record()
    store.end_task("a", Outcome.SUCCEEDED, ended_at=NOW, current_step=50, result=RESULT)
    standing = store.add_decision(decision(Verdict.APPROVED))
    store.close()
    again = Store(tmp_path)
    found = again.get_task("a")
    again.close()
    assert found is not None
    assert (found.status, found.outcome) == (Status.COMPLETED, Outcome.SUCCEEDED)
    assert (found.result, found.decision, found.ended_at) == (RESULT, standing, NOW)
    assert found.approval_status == "approved"


def test_an_id_is_taken_once(store: Store) -> None:
    assert store.add_task(record())
    assert not store.add_task(record())
    assert store.get_task("b") is None


def test_the_newest_tasks_come_first(store: Store) -> None:
    for name in "abc":
        store.add_task(record(name))
    assert [task.id for task in store.list_tasks(2)] == ["c", "b"]


def test_a_task_ends_once(store: Store) -> None:
    store.add_task(record())
    store.start_task("a")
    assert store.end_task("a", Outcome.CANCELLED, ended_at=NOW, current_step=3)
    assert not store.end_task(
        "a", Outcome.SUCCEEDED, ended_at=NOW, current_step=50, result=RESULT
    )
    store.start_task("a")
    found = store.get_task("a")
    assert found is not None
    assert (found.status, found.outcome) == (Status.FAILED, Outcome.CANCELLED)
    assert found.result is None


def test_of_decisions_that_race_one_stands(store: Store) -> None:
    store.add_task(record())
    barrier = threading.Barrier(8)
    standing: list[Decision] = []

    def decide(number: int) -> None:
        verdict = Verdict.APPROVED if number % 2 else Verdict.REJECTED
        barrier.wait()
        standing.append(store.add_decision(decision(verdict, f"r{number}")))

    threads = [threading.Thread(target=decide, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({d.reviewer_id for d in standing}) == 1
    assert len(standing) == 8


def test_tasks_of_a_killed_process_are_lost(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]);"
        "from test_tasks import record; from nbgen.store import Store;"
        "from pathlib import Path;"
        "store = Store(Path(sys.argv[1])); store.add_task(record('killed'));"
        "print('ready', flush=True); sys.stdin.read()"
    )
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        beside = Store(tmp_path)
        alive = beside.get_task("killed")
        beside.close()
        process.kill()
        process.wait()
    store = Store(tmp_path)
    lost = store.get_task("killed")
    store.close()
    assert alive is not None
    assert alive.status is Status.PENDING
    assert lost is not None
    assert (lost.status, lost.outcome) == (Status.FAILED, Outcome.LOST)
    assert lost.error == "The process that ran this task ended. Submit it again."
    assert list((tmp_path / "owners").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderUnusable, match=r"cannot be used: .*Choose another"):
        Store(tmp_path / "file")
    (tmp_path / "nbgen.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DataFolderUnusable, match="file is not a database"):
        Store(tmp_path)
