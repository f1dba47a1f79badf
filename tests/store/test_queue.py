"""Whoever submits tasks orders, cancels, pauses and repeats them, in any process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nbgen.errors import TaskConflict, UnknownTask
from nbgen.review.quorum import read_quorum
from nbgen.review.rules import rule
from nbgen.schema import (
    CANCELLING,
    AttemptOutcome,
    Change,
    ChangeKind,
    Decision,
    DecisionRequest,
    GenerationRequest,
    Outcome,
    Plan,
    Position,
    Proposal,
    QueueState,
    Status,
    TaskQuery,
    TaskRecord,
    Verdict,
)
from nbgen.store import Store
from nbgen.store.running import Ending
from tests import postgresql
from tests.store.test_tasks import LATER, NOW, RESULT, add, claim, end_all, record


@pytest.fixture
def store(tmp_path: Path, database: str | None) -> Iterator[Store]:
    store = Store(tmp_path, database)
    yield store
    store.close()


@pytest.fixture
def other(tmp_path: Path, database: str | None) -> Iterator[Store]:
    """Return another store on the same data, as another process has one."""
    store = Store(tmp_path, database)
    yield store
    store.close()


def get(store: Store, task_id: str) -> TaskRecord:
    [found] = store.tasks.get_known([task_id])
    return found


def changes_since(store: Store, place: Position) -> list[tuple[str, str]]:
    return [(change.id, change.state) for change in entries_since(store, place)]


def entries_since(store: Store, place: Position) -> tuple[Change, ...]:
    return store.changes.read(place).changes


def decide(store: Store, task_id: str) -> None:
    request = DecisionRequest(
        task_id=task_id, verdict=Verdict.REJECTED, reviewer_id="ada"
    )
    ruling = partial(
        rule, request=request, quorum=read_quorum("any"), picture=None, now=NOW
    )
    [decided] = store.decisions.decide([Proposal(task_id, ruling, None)], [])
    assert isinstance(decided, Decision)


# Submitting.


def test_a_submission_is_seen_and_told_everywhere(store: Store, other: Store) -> None:
    place = other.changes.position()
    row = replace(record("b"), batch_id="pets", batch_row="cat")
    add(store, record("a"), row)
    assert other.queue.waiting() == ["a", "b"]
    assert other.queue.count_waiting() == 2
    assert other.queue.state() == QueueState(name="default", waiting=2)
    told = [(e.kind, e.id, e.state) for e in entries_since(other, place)]
    assert told == [
        (ChangeKind.BATCH, "pets", "queued"),
        (ChangeKind.TASK, "a", "pending"),
        (ChangeKind.TASK, "b", "pending"),
    ]


def test_nothing_is_submitted_of_a_plan_that_is_refused(store: Store) -> None:
    add(store, record("a"), record("failed"))
    end_all(store)
    failed = get(store, "failed")
    with pytest.raises(TaskConflict, match="'a' exists"):
        store.queue.submit(Plan([record("b"), record("a")], [failed]))
    with pytest.raises(UnknownTask, match="'gone'"):
        store.queue.submit(
            Plan([record("b"), replace(record("c"), parent_id="gone")], [failed])
        )
    assert store.tasks.get_task("b") is None
    assert get(store, "failed") == failed
    assert store.queue.waiting() == []


def test_queues_of_one_database_are_apart(
    store: Store, tmp_path: Path, database: str | None
) -> None:
    nights = Store(tmp_path, database, "nights")
    add(store, record("a"))
    add(nights, record("b"))
    nights.queue.set_paused(paused=True)
    assert (store.queue.waiting(), nights.queue.waiting()) == (["a"], ["b"])
    assert not store.queue.state().is_paused
    assert nights.queue.state() == QueueState(name="nights", is_paused=True, waiting=1)
    end_all(store)
    assert get(nights, "b").status is Status.PENDING
    nights.close()


def test_many_may_make_a_queue_at_once(tmp_path: Path, database: str | None) -> None:
    Store(tmp_path, database).close()
    ready = threading.Barrier(4)

    def open_it(_: int) -> QueueState:
        ready.wait(10)
        store = Store(tmp_path, database, "nights")
        state = store.queue.state()
        store.close()
        return state

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_it, range(4))) == [QueueState(name="nights")] * 4


# The order.


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    priorities=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    moves=st.lists(st.tuples(st.integers(0, 11), st.integers(-3, 3)), max_size=6),
)
def test_tasks_are_claimed_by_priority_and_then_by_number(
    store: Store, priorities: list[int], moves: list[tuple[int, int]]
) -> None:
    prefix = f"{store.changes.position().number}"
    ids = [f"{prefix}-{number}" for number in range(len(priorities))]
    for task_id, priority in zip(ids, priorities, strict=True):
        add(store, replace(record(task_id), priority=priority))
    now = dict(zip(ids, priorities, strict=True))
    for number, priority in moves:
        task_id = f"{prefix}-{number}"
        assert store.queue.prioritise(task_id, priority) is (task_id in now)
        if task_id in now:
            now[task_id] = priority
    expected = sorted(ids, key=lambda each: (-now[each], ids.index(each)))
    assert store.queue.waiting() == expected
    generation = store.running.begin(take_over=True)
    claimed = [claim(store, generation) for _ in ids]
    assert [each.id for each in claimed] == expected
    assert [each.priority for each in claimed] == [now[each] for each in expected]
    assert store.running.claim(generation, "lane") is None
    for each in claimed:
        store.running.end(each.id, generation, Ending(Outcome.FAILED), ended_at=LATER)


def test_only_what_waits_is_prioritised(store: Store) -> None:
    add(store, record("ended"))
    end_all(store)
    add(store, record("runs"))
    claim(store, store.running.begin(take_over=False))
    place = store.changes.position()
    for task_id in ("ended", "runs", "unknown"):
        assert not store.queue.prioritise(task_id, 5)
    assert store.changes.position() == place
    assert {get(store, each).priority for each in ("ended", "runs")} == {0}


# Cancels and pauses.


def test_what_waits_is_cancelled_and_what_runs_is_asked(
    store: Store, other: Store
) -> None:
    add(store, record("ended"))
    end_all(store)
    add(store, record("runs"), record("waits"), record("stays"))
    generation = store.running.begin(take_over=False)
    claim(store, generation)
    place = store.changes.position()
    asked = ["ended", "runs", "waits"]
    with pytest.raises(UnknownTask):
        other.queue.cancel([*asked, "unknown"])
    assert changes_since(store, place) == []
    assert other.queue.cancel(asked) == {"runs"}
    assert changes_since(store, place) == [
        ("waits", "cancelled"),
        ("runs", CANCELLING),
    ]
    cancelled = get(store, "waits")
    assert (cancelled.status, cancelled.outcome) == (Status.FAILED, Outcome.CANCELLED)
    assert cancelled.error == "Cancelled before it started."
    assert cancelled.ended_at is not None
    assert get(store, "runs").status is Status.GENERATING
    assert get(store, "ended").outcome is Outcome.FAILED
    assert store.running.asked_to_end(generation) == ["runs"]
    assert store.running.claim(generation, "lane") == get(store, "stays")
    assert other.queue.cancel(["waits"]) == set()


def test_many_are_cancelled_at_once(store: Store) -> None:
    """More than a statement takes."""
    ids = [f"t{number}" for number in range(2_100)]
    add(store, *(record(task_id) for task_id in ids))
    store.queue.cancel(ids[:-1])
    assert store.queue.waiting() == ids[-1:]


def test_a_pause_is_the_queue_s_and_stops_claims(store: Store, other: Store) -> None:
    add(store, record("a"), record("b"))
    generation = store.running.begin(take_over=False)
    claim(store, generation)
    place = store.changes.position()
    for _ in range(2):
        other.queue.set_paused(paused=True)
    assert store.running.claim(generation, "lane") is None
    assert store.queue.state() == QueueState(
        name="default", is_paused=True, waiting=1, running=1
    )
    done = Ending(Outcome.SUCCEEDED, result=RESULT)
    assert store.running.end("a", generation, done, ended_at=LATER)
    generation = other.running.begin(take_over=True)  # it outlasts whoever runs
    assert other.running.claim(generation, "lane") is None
    for _ in range(2):
        store.queue.set_paused(paused=False)
    assert claim(other, generation).id == "b"
    told = [
        (e.id, e.state)
        for e in entries_since(store, place)
        if e.kind is ChangeKind.QUEUE
    ]
    assert told == [("default", "paused"), ("default", "resumed")]


# Another attempt.


def test_another_attempt_keeps_the_one_before(store: Store, other: Store) -> None:
    add(store, replace(record(), priority=2))
    place = store.changes.position()
    end_all(store)
    first = get(store, "a")
    other.queue.submit(Plan(again=[first]))
    assert changes_since(store, place)[-1] == ("a", "pending")
    waiting = get(store, "a")
    assert waiting == replace(
        record(), priority=2, attempt=1, lane="lane"
    )  # all else is as if it had never run
    [kept] = store.tasks.attempts("a")
    assert (kept.number, kept.outcome) == (1, AttemptOutcome.FAILED)
    assert (kept.error, kept.lane) == ("No.", "lane")
    assert (kept.started_at, kept.ended_at) == (first.started_at, first.ended_at)
    generation = store.running.begin(take_over=False)
    claimed = claim(store, generation)
    assert (claimed.attempt, claimed.seed) == (2, first.seed)
    done = Ending(Outcome.SUCCEEDED, result=RESULT)
    store.running.end("a", generation, done, ended_at=LATER)
    numbers = [each.number for each in store.tasks.attempts("a")]
    outcomes = [each.outcome for each in store.tasks.attempts("a")]
    assert numbers == [1, 2]
    assert outcomes == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]


def test_what_never_ran_leaves_no_attempt(store: Store) -> None:
    add(store, record())
    store.queue.cancel(["a"])
    store.queue.submit(Plan(again=[get(store, "a")]))
    assert store.queue.waiting() == ["a"]
    assert store.tasks.attempts("a") == []
    assert claim(store, store.running.begin(take_over=False)).attempt == 1


def test_a_task_is_made_anew_with_another_request(store: Store) -> None:
    add(store, record())
    end_all(store, Outcome.SUCCEEDED)
    wanted = GenerationRequest(prompt="a DOG", seed=9)
    anew = replace(get(store, "a"), request=wanted, seed=9, priority=4)
    store.queue.submit(Plan(again=[anew]))
    claimed = claim(store, store.running.begin(take_over=False))
    assert (claimed.request, claimed.seed, claimed.priority) == (wanted, 9, 4)
    [first, second] = store.tasks.attempts("a")
    assert (first.request.prompt, first.seed) == ("a cat", 7)
    assert (second.request, second.outcome) == (wanted, None)
    assert len(store.tasks.list_tasks(TaskQuery(text="a dog"))) == 1
    assert len(store.tasks.list_tasks(TaskQuery(text="a cat"))) == 0


def test_a_task_that_has_changed_meanwhile_is_not_made_again(store: Store) -> None:
    add(store, record("decided"), record("again"), record("ran"))
    end_all(store, Outcome.SUCCEEDED)
    plans = {
        each: Plan([record(f"{each}-new")], [get(store, each)])
        for each in ("decided", "again", "ran")
    }
    decide(store, "decided")
    store.queue.submit(Plan(again=plans["again"].again))
    store.queue.submit(Plan(again=plans["ran"].again))
    store.queue.cancel(["again"])
    end_all(store)
    before = store.changes.position()
    for each, plan in plans.items():
        with pytest.raises(TaskConflict, match=f"'{each}'"):
            store.queue.submit(plan)
        assert store.tasks.get_task(f"{each}-new") is None
    assert store.changes.position() == before


def test_of_two_that_want_a_task_again_at_once_one_gets_it(
    store: Store, other: Store
) -> None:
    add(store, record())
    end_all(store)
    plan = Plan(again=[get(store, "a")])
    ready = threading.Barrier(2)

    def submit(store: Store) -> bool:
        ready.wait(10)
        try:
            store.queue.submit(plan)
        except TaskConflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(submit, [store, other]))
    assert sorted(answers) == [False, True]
    assert store.queue.waiting() == ["a"]
    assert [each.number for each in store.tasks.attempts("a")] == [1]


def test_a_decision_meanwhile_keeps_a_task_from_being_made_again(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    """On SQLite there is one writer, so it cannot come in between."""
    url = postgresql_server.new_database()
    store, other = Store(tmp_path, url), Store(tmp_path, url)
    add(store, record())
    end_all(store, Outcome.SUCCEEDED)
    plan = Plan(again=[get(store, "a")])
    with ThreadPoolExecutor(1) as pool:
        asked: list[Future[None]] = []

        def ask_meanwhile(
            _connection: object, _cursor: object, statement: str, *_rest: object
        ) -> None:
            if statement.startswith("INSERT INTO decisions") and not asked:
                asked.append(pool.submit(other.queue.submit, plan))
                postgresql_server.wait_until_blocked(url, asked[0].done)

        sa.event.listen(sa.Engine, "after_cursor_execute", ask_meanwhile)
        try:
            decide(store, "a")
        finally:
            sa.event.remove(sa.Engine, "after_cursor_execute", ask_meanwhile)
        with pytest.raises(TaskConflict):
            asked[0].result(10)
    found = get(store, "a")
    assert (found.status, len(found.decisions)) == (Status.COMPLETED, 1)
    store.close()
    other.close()


# What waits from before.


def test_what_is_offered_runs_once_it_is_asked_for(
    store: Store, tmp_path: Path, database: str | None
) -> None:
    gone = Store(tmp_path, database)
    add(gone, record("a"), record("b"), record("c"), record("d"))
    gone.close()
    generation = store.running.begin(take_over=False)
    assert store.queue.waiting() == []
    assert store.queue.waiting(offered=True) == ["a", "b", "c", "d"]
    assert store.queue.count_waiting() == 4
    assert store.queue.state() == QueueState(name="default", offered=4)
    assert get(store, "a").is_offered
    assert store.running.claim(generation, "lane") is None
    store.queue.submit(Plan(again=[get(store, "b")]))
    assert claim(store, generation).id == "b"
    assert get(store, "b").attempt == 1
    store.queue.cancel(["c"])
    assert not get(store, "c").is_offered
    assert store.queue.run_offered() == 2
    place = store.changes.position()
    assert store.queue.run_offered() == 0
    assert store.changes.position() == place
    assert store.queue.waiting() == ["a", "d"]
    # They are of whoever asked for them, and are not offered to the next.
    assert store.running.begin(take_over=False) == generation + 1
    assert store.queue.waiting(offered=True) == []
