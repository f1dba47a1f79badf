"""Whoever waits for the end of a task hears of it, in whatever process it ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import StudioClosed, UnknownTask
from nbgen.local.ends import Ends
from nbgen.progress import ChangeFollower
from nbgen.schema import Changes, Outcome, TaskEnd
from nbgen.store import Store
from tests.store.test_tasks import add, end_all, record

WAIT_S = 30.0


class House:
    """A store and those who wait for its ends, as one process has them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.changes = ChangeFollower(self.store.changes)
        self.ends = Ends(self.store.tasks, self.changes, lambda _: False)

    def settle(self) -> None:
        """Wait until all that was committed is told."""
        told: SimpleQueue[Changes] = SimpleQueue()
        self.changes.watch(told.put)
        told.get(timeout=WAIT_S)
        self.store.decisions.put_content("last", {}, None)
        told.get(timeout=WAIT_S)

    def close(self) -> None:
        self.ends.close()
        self.changes.close()
        self.store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Return another store on the same data, as another process has one."""
    store = Store(tmp_path)
    yield store
    store.close()


def test_an_end_elsewhere_is_heard_of(house: House, other: Store) -> None:
    add(other, record())
    waited = house.ends.of("a")
    assert house.ends.of("a") is waited
    house.settle()
    assert not waited.done()
    end_all(other)
    assert waited.result(WAIT_S) == TaskEnd("a", Outcome.FAILED, "No.")
    assert house.ends.of("a").result(0) == waited.result(0)


def test_a_task_that_is_not_there_is_said(house: House) -> None:
    with pytest.raises(UnknownTask):
        house.ends.of("a")


def test_a_task_that_is_deleted_has_no_end(house: House, other: Store) -> None:
    add(other, record())
    waited = house.ends.of("a")
    other.queue.cancel(["a"])
    assert waited.result(WAIT_S).outcome is Outcome.CANCELLED
    again = record("b")
    add(other, again)
    waited = house.ends.of("b")
    house.settle()
    other.delete_tasks(["b"], lambda *_: None)
    assert waited.result(WAIT_S) == TaskEnd("b", None)


def test_a_task_that_is_being_submitted_is_not_taken_for_deleted(
    house: House, other: Store
) -> None:
    """Another of its id may have been, and whoever begins to follow looks at all."""
    add(house.store, record())
    house.store.queue.cancel(["a"])
    house.store.delete_tasks(["a"], lambda *_: None)
    with house.ends.submitting("a"):
        house.ends.expect("a")
        waited = house.ends.of("a")
        house.settle()
        assert not waited.done()
        add(house.store, record())
    end_all(other)
    assert waited.result(WAIT_S).outcome is Outcome.FAILED


def test_a_submission_that_fails_leaves_nobody_waiting(house: House) -> None:
    def fail() -> None:
        with house.ends.submitting("a"):
            house.ends.expect("a")
            waited.append(house.ends.of("a"))
            raise OSError("disk full")

    waited: list[Future[TaskEnd]] = []
    with pytest.raises(OSError, match="disk full"):
        fail()
    assert waited[0].result(0) == TaskEnd("a", None)
    with pytest.raises(UnknownTask):
        house.ends.of("a")


def test_the_cause_of_an_end_here_is_known_until_there_is_another(
    house: House, other: Store
) -> None:
    add(other, record())
    end_all(other)
    here = TaskEnd("a", Outcome.FAILED, "No.", None, ValueError("boom"))
    house.ends.tell(here)
    assert house.ends.of("a").result(0) is here
    house.ends.tell(here._replace(outcome=Outcome.CANCELLED))
    assert house.ends.of("a").result(0) == TaskEnd("a", Outcome.FAILED, "No.")


def test_a_closing_resolves_all_and_remembers_what_ended_here(house: House) -> None:
    add(house.store, record("a"), record("b"))
    waited = house.ends.of("a")
    end = TaskEnd("b", Outcome.SUCCEEDED)
    house.ends.tell(end)
    house.ends.close()
    assert waited.result(0) == TaskEnd("a", None)
    assert house.ends.of("b").result(0) is end
    with pytest.raises(StudioClosed):
        house.ends.of("a")
