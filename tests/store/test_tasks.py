"""Tasks last, end once, and are found again."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import DataFolderUnusable, InvalidRequest, TaskConflict
from nbgen.schema import (
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Outcome,
    Status,
    TaskQuery,
    TaskRecord,
)
from nbgen.store import Store
from tests import postgresql

MINUTE = dt.timedelta(minutes=1)
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
LATER = dt.datetime(2126, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
IMAGE = ImageRecord(name="f.png", url="/images/f.png", width=64, height=64, seed=7)
RESULT = GenerationResult(images=(IMAGE,), generation_time=1.5)


class Version(str):
    """What torch calls its version: a text, and not quite."""

    __slots__ = ()


def record(
    task_id: str = "a", prompt: str = "a cat", created_at: dt.datetime = NOW
) -> TaskRecord:
    return TaskRecord(
        id=task_id,
        request=GenerationRequest(prompt=prompt, seed=7),
        seed=7,
        status=Status.PENDING,
        created_at=created_at,
    )


@pytest.fixture
def store(tmp_path: Path, database: str | None) -> Iterator[Store]:
    store = Store(tmp_path, database)
    yield store
    store.close()


def test_a_task_comes_back_as_it_was(
    store: Store, tmp_path: Path, database: str | None
) -> None:
    store.tasks.add_tasks([record()])
    assert store.tasks.get_task("a") == record()
    store.tasks.start_task("a")
    store.tasks.end_task(
        "a",
        Outcome.SUCCEEDED,
        ended_at=LATER,
        current_step=50,
        result=RESULT,
        stages={"load": 1.23456, "base_model": 2.0},
        step_times={"base_model": (0.0012345, 12.345), "refiner_model": ()},
        made_with={"device": "cpu", "torch": Version("2.13.0")},
    )
    store.close()
    again = Store(tmp_path, database)
    found = again.tasks.get_task("a")
    again.close()
    assert found is not None
    assert (found.status, found.outcome) == (Status.COMPLETED, Outcome.SUCCEEDED)
    assert (found.result, found.ended_at, found.created_at) == (RESULT, LATER, NOW)
    assert found.stages == {"load": 1.235, "base_model": 2.0}
    assert found.step_times == {"base_model": (0.00123, 12.3), "refiner_model": ()}
    assert found.made_with == {"device": "cpu", "torch": "2.13.0"}
    assert found.started_at is not None


def test_a_task_ends_no_sooner_than_it_started(store: Store) -> None:
    """A clock that is set back while a task runs must not make its time negative."""
    store.tasks.add_tasks([record(), record("b")])
    for task_id in "ab":
        store.tasks.start_task(task_id)
    store.tasks.end_task("a", Outcome.SUCCEEDED, ended_at=NOW, current_step=50)
    store.tasks.end_tasks(["b"], Outcome.FAILED, ended_at=NOW, error="It broke.")
    for found in store.tasks.get_tasks(["a", "b"]).values():
        assert found.started_at is not None
        assert found.ended_at == found.started_at


def test_an_id_is_taken_once(store: Store) -> None:
    store.tasks.add_tasks([record()])
    with pytest.raises(TaskConflict, match="'a' exists"):
        store.tasks.add_tasks([record("b"), record()])
    assert store.tasks.get_task("b") is None
    assert store.tasks.get_task("b") is None


def test_the_newest_tasks_come_first(store: Store) -> None:
    for name in "abc":
        store.tasks.add_tasks([record(name)])
    assert [task.id for task in store.tasks.list_tasks(TaskQuery(limit=2))] == [
        "c",
        "b",
    ]


def ids(store: Store, **filters: Any) -> list[str]:
    return [
        task.id
        for task in store.tasks.list_tasks(TaskQuery(**{"limit": 10, **filters}))
    ]


def test_tasks_are_found_by_status_text_and_time(store: Store) -> None:
    for number, prompt in enumerate(["A CAT", "100% Straße", "a cat_and a dog"]):
        store.tasks.add_tasks([record(f"t{number}", prompt, NOW + number * MINUTE)])
    store.tasks.end_task("t0", Outcome.FAILED, ended_at=NOW, current_step=0)
    assert ids(store, status=Status.FAILED) == ["t0"]
    assert ids(store, status=Status.PENDING) == ["t2", "t1"]
    assert ids(store, text="a Cat") == ["t2", "t0"]
    assert ids(store, text="STRASSE") == ["t1"]
    assert (ids(store, text="%"), ids(store, text="_")) == (["t1"], ["t2"])
    assert ids(store, since=NOW + MINUTE) == ["t2", "t1"]
    assert ids(store, text="cat", since=NOW + MINUTE, status=Status.PENDING) == ["t2"]
    assert ids(store, text="bird") == []


def test_pages_hold_each_task_once(store: Store) -> None:
    """Also those of one moment, and while new ones come."""
    names = [f"t{number}" for number in range(7)]
    for number, name in enumerate(names):
        store.tasks.add_tasks([record(name, created_at=NOW + (number // 3) * MINUTE)])
    pages = [store.tasks.list_tasks(TaskQuery(limit=3))]
    store.tasks.add_tasks([record("new", created_at=NOW + 10 * MINUTE)])
    while (cursor := pages[-1].next_cursor) is not None:
        pages.append(store.tasks.list_tasks(TaskQuery(limit=3, cursor=cursor)))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [task.id for page in pages for task in page] == names[::-1]


def test_pages_keep_the_order_of_submission_when_the_clock_is_set_back(
    store: Store,
) -> None:
    """Who pages while that happens meets each task once."""
    moments = [NOW, NOW + 2 * MINUTE, NOW - MINUTE, NOW + MINUTE]
    for name, moment in zip("abcd", moments, strict=True):
        store.tasks.add_tasks([record(name, created_at=moment)])
    first = store.tasks.list_tasks(TaskQuery(limit=2))
    rest = store.tasks.list_tasks(TaskQuery(limit=2, cursor=first.next_cursor))
    assert [task.id for task in (*first, *rest)] == list("dcba")
    assert ids(store, since=NOW) == ["d", "b", "a"]
    assert ids(store, since=NOW + MINUTE, text="cat") == ["d", "b"]


@pytest.mark.parametrize("cursor", ["", "x", "1-", "-1", "1-1-1", "f" * 99 + "-1"])
def test_a_cursor_of_somebody_elses_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="next_cursor of a page"):
        store.tasks.list_tasks(TaskQuery(limit=3, cursor=cursor))


def test_a_task_ends_once(store: Store) -> None:
    store.tasks.add_tasks([record()])
    store.tasks.start_task("a")
    assert store.tasks.end_task("a", Outcome.CANCELLED, ended_at=NOW, current_step=3)
    assert not store.tasks.end_task(
        "a", Outcome.SUCCEEDED, ended_at=NOW, current_step=50, result=RESULT
    )
    assert not store.tasks.start_task("a")
    found = store.tasks.get_task("a")
    assert found is not None
    assert (found.status, found.outcome) == (Status.FAILED, Outcome.CANCELLED)
    assert found.result is None


def test_what_ran_in_a_killed_process_is_lost_and_what_waited_waits(
    tmp_path: Path, database: str | None
) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]);"
        "from tests.store.test_tasks import record; from nbgen.store import Store;"
        "from pathlib import Path;"
        "store = Store(Path(sys.argv[1]), sys.argv[3] or None);"
        "store.tasks.add_tasks([record('killed')]);"
        "store.tasks.start_task('killed');"
        "store.tasks.add_tasks([record('waiting')]);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    here = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), here, database or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PGAPPNAME": "killed"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        beside = Store(tmp_path, database)
        alive = beside.tasks.get_task("killed")
        assert beside.tasks.adopt_tasks() == []
        beside.close()
        process.kill()
        process.wait()
    if database is not None:
        postgresql.wait_until_gone(database, "killed")
    store = Store(tmp_path, database)
    adopted = store.tasks.adopt_tasks()
    lost = store.tasks.get_task("killed")
    assert store.tasks.adopt_tasks() == []
    store.close()
    assert [task.id for task in adopted] == ["waiting"]
    assert adopted[0].status is Status.PENDING
    assert alive is not None
    assert alive.status is Status.GENERATING
    assert lost is not None
    assert (lost.status, lost.outcome) == (Status.FAILED, Outcome.LOST)
    assert lost.error == "The process that ran this task ended. Submit it again."
    assert list((tmp_path).glob("owners/*")) == []


def test_a_task_that_another_took_over_does_not_begin_here(
    store: Store,
    tmp_path: Path,
    database: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.tasks.add_tasks([record()])
    other = Store(tmp_path, database)
    monkeypatch.setattr(other._database, "is_gone", lambda _owner: True)
    assert [task.id for task in other.tasks.adopt_tasks()] == ["a"]
    assert not store.tasks.start_task("a")
    assert other.tasks.start_task("a")
    assert other.tasks.start_task("a")  # once more, after memory had run out
    other.close()


@pytest.mark.parametrize(
    ("has_begun", "rerun_lost"), [(False, False), (True, False), (True, True)]
)
def test_of_two_that_take_over_at_once_each_task_goes_to_one(
    tmp_path: Path,
    postgresql_server: postgresql.Server,
    has_begun: bool,
    rerun_lost: bool,
) -> None:
    """On SQLite there is one writer, so they cannot."""
    url = postgresql_server.new_database()
    dead = Store(tmp_path, url)
    names = [f"t{number}" for number in range(9)]
    dead.tasks.add_tasks([record(name) for name in names])
    if has_begun:
        dead.tasks.start_task("t8")
    dead.close()
    both_know = threading.Barrier(2)
    stores = [Store(tmp_path, url) for _ in range(2)]

    def take_over(store: Store) -> list[str]:
        database, is_gone = store._database, store._database.is_gone

        def is_gone_at_once(owner: str) -> bool:
            # Asking takes the lock for a moment, in which the other finds it held.
            while not is_gone(owner):
                time.sleep(0.01)
            both_know.wait(10)
            return True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "is_gone", is_gone_at_once)
            return [task.id for task in store.tasks.adopt_tasks(rerun_lost=rerun_lost)]

    with ThreadPoolExecutor(2) as pool:
        adopted = list(pool.map(take_over, stores))
    for store in stores:
        store.close()
    expected = names[:-1] if has_begun and not rerun_lost else names
    assert sorted(adopted[0] + adopted[1]) == expected
    assert all(ids == sorted(ids) for ids in adopted)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderUnusable, match=r"cannot be used: .*Choose another"):
        Store(tmp_path / "file")
    (tmp_path / "nbgen.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DataFolderUnusable, match="is not a SQLite database"):
        Store(tmp_path)


def test_a_database_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataFolderUnusable, match=r"cannot be used: .*NBGEN_DATABASE"):
        Store(tmp_path, f"postgresql+psycopg://ada:secret@/x?host={tmp_path}")
    with pytest.raises(InvalidRequest, match="must be a URL that starts with") as bad:
        Store(tmp_path, "mysql://ada:secret@localhost/x")
    assert "secret" not in str(bad.value)
    for url in ("sqlite+aiosqlite:///x", "postgresql+asyncpg://h/x"):
        with pytest.raises(InvalidRequest, match="database must be a URL that starts"):
            Store(tmp_path, url)
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(InvalidRequest, match=r"what is in memory does not last"):
            Store(tmp_path, url)
