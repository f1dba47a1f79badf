"""Deleting many tasks, and beside others who write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from nbgen.errors import UnknownTask
from nbgen.schema import GenerationRequest, Plan, Subject, new_record, utc_now
from nbgen.store import Store
from nbgen.store.database import Database
from nbgen.store.tables import changes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def add(store: Store, *task_ids: str, parent_id: str | None = None) -> None:
    request = GenerationRequest(prompt="a cat")
    new = [new_record(task_id, request, parent_id) for task_id in task_ids]
    store.queue.submit(Plan(new=new))


def test_old_tasks_are_deleted_some_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody who waits to write waits for long."""
    ids = [f"t{number}" for number in range(1_201)]
    add(store, *ids)
    store.queue.cancel(ids)
    sizes: list[int] = []
    writing = Database.writing

    counted_changes = sa.select(sa.func.count()).select_from(changes)

    @contextmanager
    def counted(database: Database) -> Iterator[sa.Connection]:
        with writing(database) as connection:
            before = connection.execute(counted_changes).scalar_one()
            yield connection
            after = connection.execute(counted_changes).scalar_one()
            sizes.append(after - before)

    monkeypatch.setattr(Database, "writing", counted)

    def is_not_first(subject: Subject, _: object) -> bool:
        return subject.task_id != "t0"

    assert (
        store.delete_old(is_not_first, ended_before=utc_now(), dry_run=True) == ids[1:]
    )
    assert sizes == []
    assert (
        store.delete_old(is_not_first, ended_before=utc_now(), dry_run=False) == ids[1:]
    )
    assert sizes == [499, 500, 201]
    assert store.tasks.get_tasks(ids).keys() == {"t0"}


def test_a_decision_meanwhile_keeps_a_task(store: Store) -> None:
    add(store, "a", "b")
    store.queue.cancel(["a", "b"])
    asked: list[str] = []

    def is_old(subject: Subject, _: object) -> bool:
        asked.append(subject.task_id)
        return asked.count("a") == 1  # not any more, when it is asked again

    assert store.delete_old(is_old, ended_before=utc_now(), dry_run=False) == []
    assert asked == ["a", "b", "a", "b"]
    assert store.tasks.get_tasks(["a", "b"]).keys() == {"a", "b"}


def test_a_child_of_a_task_that_was_deleted_meanwhile_is_refused(store: Store) -> None:
    add(store, "a")
    store.queue.cancel(["a"])
    store.delete_tasks(["a"], lambda *_: None)
    with pytest.raises(UnknownTask, match="'a'"):
        add(store, "b", parent_id="a")
