"""``Finding`` and batches: tasks are found again, page by page and row by row."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbgen.backend import Backend
from nbgen.errors import (
    InvalidRequest,
    QueueFull,
    TaskConflict,
    UnknownBatch,
    UnknownTask,
)
from nbgen.schema import Outcome, Status, TaskPage, TaskQuery
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    A_PICTURE,
    STEPS,
    WAIT_S,
    asks,
    hold,
    made,
    submit,
)

ROWS = {"cat": asks("a cat"), "dog": asks("a dog")}


def ids(page: TaskPage) -> list[str]:
    return [record.id for record in page]


def test_tasks_are_listed_newest_first(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    assert ids(backend.list_tasks(TaskQuery())) == ["runs"]
    submit(backend, "a")
    submit(backend, "b", "a white dog")
    page = backend.list_tasks(TaskQuery())
    assert ids(page) == ["b", "a", "runs"]
    assert page.next_cursor is None
    assert page == backend.get_tasks(["b", "a", "runs"])


def test_a_query_asks_for_some_of_the_tasks(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    submit(backend, "runs", "A Straße with 100% trees")
    gate.wait_reached()
    backend.submit_batch("b", ROWS, priority=0)
    assert ids(backend.list_tasks(TaskQuery(status=Status.GENERATING))) == ["runs"]
    assert ids(backend.list_tasks(TaskQuery(text="STRASSE"))) == ["runs"]
    assert ids(backend.list_tasks(TaskQuery(text="0%"))) == ["runs"]
    assert ids(backend.list_tasks(TaskQuery(text="0_"))) == []
    assert ids(backend.list_tasks(TaskQuery(batch_id="b"))) == ["b:dog", "b:cat"]
    both = TaskQuery(batch_id="b", text="dog", status=Status.PENDING)
    assert ids(backend.list_tasks(both)) == ["b:dog"]
    [cat] = backend.get_tasks(["b:cat"])
    since = TaskQuery(since=cat.created_at)
    assert ids(backend.list_tasks(since)) == ["b:dog", "b:cat"]
    zone = dt.timezone(dt.timedelta(hours=5))
    since = TaskQuery(since=cat.created_at.astimezone(zone))
    assert ids(backend.list_tasks(since)) == ["b:dog", "b:cat"]


@pytest.mark.parametrize("cursor", ["", "nonsense", "'", "ffffffffffffffffff-1"])
def test_a_cursor_is_that_of_a_page(backend: Backend, cursor: str) -> None:
    submit(backend, "a")
    with pytest.raises(InvalidRequest, match="cursor"):
        backend.list_tasks(TaskQuery(cursor=cursor))


def test_a_page_goes_on_where_the_last_one_ended(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    backend.submit_batch("b", ROWS, priority=0)
    page = backend.list_tasks(TaskQuery(limit=2))
    submit(backend, "new")  # which the pages that follow must not move by
    rest = backend.list_tasks(TaskQuery(limit=2, cursor=page.next_cursor))
    assert (ids(page), ids(rest)) == (["b:dog", "b:cat"], ["runs"])
    assert rest.next_cursor is None


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 12), text=st.sampled_from([None, "cat", "dog", "a"]))
def test_pages_of_any_limit_give_all_tasks_once_and_in_order(
    paused_backend: Backend, limit: int, text: str | None
) -> None:
    whole = paused_backend.list_tasks(TaskQuery(text=text, limit=1_000))
    assert whole.next_cursor is None
    paged: list[str] = []
    cursor = None
    for _ in range(len(whole) + 1):
        query = TaskQuery(text=text, limit=limit, cursor=cursor)
        page = paused_backend.list_tasks(query)
        assert len(page) <= limit
        paged += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page) == limit
    assert cursor is None
    assert paged == ids(whole)
    for newer, older in pairwise(whole):
        assert newer.created_at >= older.created_at


@pytest.fixture
def paused_backend(backend: Backend) -> Backend:
    """Return a backend in which eleven tasks wait."""
    backend.pause()
    for number in range(5):
        submit(backend, f"one-{number}", "a cat" if number % 2 else "a dog")
    rows = {f"row-{number}": asks(f"cat {number}") for number in range(6)}
    backend.submit_batch("b", rows, priority=0)
    return backend


def test_tasks_are_returned_in_the_order_of_the_ids(backend: Backend) -> None:
    for task_id in "abc":
        submit(backend, task_id)
    found = [record.id for record in backend.get_tasks(["c", "a", "c"])]
    assert found == ["c", "a", "c"]
    assert backend.get_tasks([]) == []
    with pytest.raises(UnknownTask) as raised:
        backend.get_tasks(["a", "y", "z"])
    assert raised.value.task_id == "y"


def test_the_rows_of_a_batch_stand_where_their_tasks_do(backend: Backend) -> None:
    backend.submit_batch("b", ROWS, priority=3)
    for row in backend.batch_rows("b"):
        assert backend.ended(row.task_id).result(WAIT_S).outcome is Outcome.SUCCEEDED
    rows = backend.batch_rows("b")
    assert [row.name for row in rows] == ["cat", "dog"]
    assert [row.task_id for row in rows] == ["b:cat", "b:dog"]
    records = backend.get_tasks(["b:cat", "b:dog"])
    for row, record in zip(rows, records, strict=True):
        assert (row.status, row.outcome) == (Status.COMPLETED, Outcome.SUCCEEDED)
        assert row.error is None
        assert row.ended_at == record.ended_at
        assert row.took_s is not None
        assert row.took_s >= 0
        assert (record.batch_id, record.batch_row) == ("b", row.name)
        assert record.priority == 3


def test_there_must_be_such_a_batch(backend: Backend) -> None:
    with pytest.raises(UnknownBatch):
        backend.batch_rows("b")
    with pytest.raises(InvalidRequest, match="batch_id"):
        backend.batch_rows("a/b")
    backend.submit_batch("b", {}, priority=0)
    with pytest.raises(UnknownBatch):
        backend.batch_rows("b")
    backend.retry_rows("b", ["cat"])


def test_only_what_is_missing_of_a_batch_is_queued(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    backend.submit_batch("b", {"cat": asks("a cat")}, priority=0)
    gate.wait_reached()
    backend.submit_batch("b", {**ROWS, "cow": asks("a cow")}, priority=0)
    assert backend.waiting() == ["b:dog", "b:cow"]
    assert [row.name for row in backend.batch_rows("b")] == ["cat", "dog", "cow"]
    gate.open()
    backend.ended("b:cow").result(WAIT_S)
    before = backend.batch_rows("b")
    backend.submit_batch("b", ROWS, priority=0)
    assert backend.batch_rows("b") == before


def test_a_row_that_failed_is_made_again_and_a_cancelled_one_is_not(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    backend.submit_batch("b", ROWS, priority=1)
    gate.wait_reached()
    backend.cancel(["b:dog"])
    gate.fail(ValueError("no"))
    backend.ended("b:cat").result(WAIT_S)
    backend.submit_batch("b", ROWS, priority=2)
    gate.wait_reached()
    cat, dog = backend.batch_rows("b")
    assert (cat.task_id, cat.status) == ("b:cat", Status.GENERATING)
    assert (dog.task_id, dog.outcome) == ("b:dog", Outcome.CANCELLED)
    [record] = backend.get_tasks(["b:cat"])
    assert (record.attempt, record.batch_row, record.priority) == (2, "cat", 1)
    gate.open()
    assert backend.ended("b:cat").result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert backend.waiting() == []


def test_a_batch_is_queued_whole_or_not_at_all(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend, queue_limit=2)
    backend.submit_batch("b", {"cat": asks("a cat")}, priority=0)
    with pytest.raises(TaskConflict):
        backend.submit_batch(
            "b", {"dog": asks("a dog"), "cat": asks("a cow")}, priority=0
        )
    with pytest.raises(QueueFull):
        backend.submit_batch("b", {**ROWS, "cow": asks("a cow")}, priority=0)
    lost = asks(image=A_PICTURE)
    with pytest.raises(InvalidRequest, match="image"):
        backend.submit_batch("b", {"dog": asks("a dog"), "x": lost}, priority=0)
    with pytest.raises(InvalidRequest, match="row"):
        backend.submit_batch("b", {"dog": asks("a dog"), "x/y": asks()}, priority=0)
    with pytest.raises(InvalidRequest, match="batch_id"):
        backend.submit_batch("a/b", ROWS, priority=0)
    with pytest.raises(InvalidRequest, match="priority"):
        backend.submit_batch("b", ROWS, priority=1_001)
    assert backend.waiting() == ["b:cat"]


def test_a_row_takes_no_id_of_another_task(make_backend: MakeBackend) -> None:
    backend, _ = hold(make_backend)
    submit(backend, "b:cat", "a cow")
    with pytest.raises(TaskConflict):
        backend.submit_batch("b", ROWS, priority=0)
    assert backend.waiting() == ["b:cat"]


def test_missing_rows_are_queued_again(make_backend: MakeBackend) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate, queue_limit=2)
    backend.submit_batch("b", ROWS, priority=4)
    gate.wait_reached()
    backend.cancel(["b:dog"])
    backend.retry_rows("b", ["cat"])
    assert backend.waiting() == []
    backend.retry_rows("b", (row for row in ["cat", "dog", "cow"]))
    cat, dog = backend.batch_rows("b")
    assert (cat.task_id, cat.status) == ("b:cat", Status.GENERATING)
    assert (dog.task_id, dog.status) == ("b:dog", Status.PENDING)
    assert backend.waiting() == ["b:dog"]
    [record] = backend.get_tasks(["b:dog"])
    assert (record.priority, record.request) == (4, ROWS["dog"])
    backend.cancel(["b:dog"])
    for task_id in ("x", "y"):
        submit(backend, task_id)
    with pytest.raises(QueueFull):
        backend.retry_rows("b", ["dog"])
    assert backend.batch_rows("b")[1].outcome is Outcome.CANCELLED


def test_a_made_task_tells_how(backend: Backend) -> None:
    [record] = made(backend, "a")
    assert sum(map(len, record.step_times.values())) == STEPS
    assert record.stages.keys() >= record.step_times.keys() >= {"base_model"}
    assert record.version == 0
