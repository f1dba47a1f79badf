"""Tasks last, end once, and are found again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import DataFolderUnusable, InvalidRequest, TaskConflict
from nbgen.schema import (
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Outcome,
    Plan,
    Status,
    TaskQuery,
    TaskRecord,
)
from nbgen.store import Store
from nbgen.store.running import Ending

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


def add(store: Store, *records: TaskRecord) -> None:
    store.queue.submit(Plan(new=records))


def claim(store: Store, generation: int) -> TaskRecord:
    """Claim the next task, which there is."""
    claimed = store.running.claim(generation, "lane")
    assert claimed is not None
    return claimed


def end_all(
    store: Store, outcome: Outcome = Outcome.FAILED, ended_at: dt.datetime = LATER
) -> None:
    """Run all tasks that wait, to that end."""
    generation = store.running.begin(take_over=True)
    while claimed := store.running.claim(generation, "lane"):
        ending = Ending(outcome, error="No." if outcome is Outcome.FAILED else None)
        store.running.end(claimed.id, generation, ending, ended_at=ended_at)


@pytest.fixture
def store(tmp_path: Path, database: str | None) -> Iterator[Store]:
    store = Store(tmp_path, database)
    yield store
    store.close()


def test_a_task_comes_back_as_it_was(
    store: Store, tmp_path: Path, database: str | None
) -> None:
    add(store, record())
    assert store.tasks.get_task("a") == record()
    generation = store.running.begin(take_over=False)
    begun = claim(store, generation)
    assert store.tasks.get_task("a") == begun
    ending = Ending(
        Outcome.SUCCEEDED,
        current_step=50,
        result=RESULT,
        stages={"load": 1.23456, "base_model": 2.0},
        step_times={"base_model": (0.0012345, 12.345), "refiner_model": ()},
        made_with={"device": "cpu", "torch": Version("2.13.0")},
    )
    assert store.running.end("a", generation, ending, ended_at=LATER)
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
    assert (found.attempt, found.lane, found.current_step) == (1, "lane", 50)
    assert found.started_at == begun.started_at


def test_a_task_ends_no_sooner_than_it_started(store: Store) -> None:
    """A clock that is set back while a task runs must not make its time negative."""
    add(store, record())
    end_all(store, ended_at=NOW)
    found = store.tasks.get_task("a")
    assert found is not None
    assert found.started_at is not None
    assert found.ended_at == found.started_at


def test_an_id_is_taken_once(store: Store) -> None:
    add(store, record())
    with pytest.raises(TaskConflict, match="'a' exists"):
        add(store, record("b"), record())
    assert store.tasks.get_task("b") is None


def test_the_newest_tasks_come_first(store: Store) -> None:
    for name in "abc":
        add(store, record(name))
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
        add(store, record(f"t{number}", prompt, NOW + number * MINUTE))
        if number == 0:
            end_all(store)
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
        add(store, record(name, created_at=NOW + (number // 3) * MINUTE))
    pages = [store.tasks.list_tasks(TaskQuery(limit=3))]
    add(store, record("new", created_at=NOW + 10 * MINUTE))
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
        add(store, record(name, created_at=moment))
    first = store.tasks.list_tasks(TaskQuery(limit=2))
    rest = store.tasks.list_tasks(TaskQuery(limit=2, cursor=first.next_cursor))
    assert [task.id for task in (*first, *rest)] == list("dcba")
    assert ids(store, since=NOW) == ["d", "b", "a"]
    assert ids(store, since=NOW + MINUTE, text="cat") == ["d", "b"]


@pytest.mark.parametrize("cursor", ["", "x", "1-", "-1", "1-1-1", "f" * 99 + "-1"])
def test_a_cursor_of_somebody_elses_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="next_cursor of a page"):
        store.tasks.list_tasks(TaskQuery(limit=3, cursor=cursor))


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
