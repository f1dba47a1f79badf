"""One generation at a time runs a queue: what an earlier one writes changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nbgen.schema import (
    MOST_DEATHS,
    AttemptOutcome,
    Outcome,
    Plan,
    Status,
    TaskRecord,
)
from nbgen.store import Store
from nbgen.store.running import Ending
from tests import postgresql
from tests.store.test_queue import changes_since, get
from tests.store.test_tasks import LATER, NOW, RESULT, add, claim, record

DONE = Ending(Outcome.SUCCEEDED, result=RESULT)

RUN = """
import sys
from pathlib import Path
from nbgen.store import Store

store = Store(Path(sys.argv[1]), sys.argv[2] or None)
generation = store.running.begin(take_over=True)
for task_id in sys.argv[3:]:
    assert store.running.claim(generation, "dead").id == task_id
print(generation, flush=True)
sys.stdin.read()
"""


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


Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run_elsewhere(tmp_path: Path, database: str | None) -> Iterator[Run]:
    """Return a function that has a process begin, and claim tasks."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*task_ids: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), database or "", *task_ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PGAPPNAME": "runner"},
        )
        started.append(process)
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        return process

    yield run
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def die_running(run_elsewhere: Run, database: str | None) -> Callable[..., None]:
    """Return a function that has a process begin, claim tasks and be killed."""

    def die(*task_ids: str) -> None:
        process = run_elsewhere(*task_ids)
        process.kill()
        process.wait()
        if database is not None:
            postgresql.wait_until_gone(database, "runner")

    return die


# Claims.


@pytest.mark.parametrize("apart", [False, True], ids=["one store", "two stores"])
def test_each_task_is_claimed_once(store: Store, other: Store, apart: bool) -> None:
    ids = [f"t{number}" for number in range(40)]
    add(store, *(record(task_id) for task_id in ids))
    generation = store.running.begin(take_over=False)
    ready = threading.Barrier(2)

    def claim_all(store: Store) -> list[str]:
        claimed = []
        ready.wait(10)
        while record := store.running.claim(generation, "lane"):
            claimed.append(record.id)
        return claimed

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(claim_all, [store, other if apart else store])
    assert sorted(first + second) == sorted(ids)
    assert store.queue.state().running == len(ids)
    assert {get(store, each).attempt for each in ids} == {1}


def test_what_is_claimed_is_told(store: Store, other: Store) -> None:
    add(store, record())
    generation = store.running.begin(take_over=False)
    place = store.changes.position()
    claimed = claim(store, generation)
    assert claimed == get(other, "a")
    assert (claimed.status, claimed.lane) == (Status.GENERATING, "lane")
    assert (claimed.attempt, claimed.ended_at) == (1, None)
    assert claimed.started_at is not None
    assert changes_since(other, place) == [("a", "generating")]
    [attempt] = other.tasks.attempts("a")
    assert (attempt.number, attempt.outcome) == (1, None)


def test_a_past_generation_changes_nothing(store: Store, other: Store) -> None:
    add(store, record("a"), record("b"))
    past = store.running.begin(take_over=False)
    claim(store, past)
    store.queue.cancel(["a"])
    assert store.running.asked_to_end(past) == ["a"]
    store.queue.submit(Plan(new=[record("c")]))
    present = other.running.begin(take_over=False)
    assert present == past + 1
    assert claim(other, present).id == "b"
    place = store.changes.position()
    before = store.tasks.get_tasks(["a", "b", "c"])
    assert store.running.claim(past, "lane") is None
    for task_id in ("a", "b", "c"):
        assert not store.running.end(task_id, past, DONE, ended_at=LATER)
        assert store.running.give_back(task_id, past) is None
        assert store.running.give_back(task_id, past, died_of="No.") is None
    assert store.running.asked_to_end(past) == []
    assert store.tasks.get_tasks(["a", "b", "c"]) == before
    assert store.changes.position() == place
    assert other.running.end("b", present, DONE, ended_at=LATER)


def test_a_task_ends_once(store: Store) -> None:
    add(store, record())
    generation = store.running.begin(take_over=False)
    assert not store.running.end("a", generation, DONE, ended_at=LATER)
    claim(store, generation)
    place = store.changes.position()
    cancelled = Ending(Outcome.CANCELLED, "Cancelled at step 3.", current_step=3)
    assert store.running.end("a", generation, cancelled, ended_at=LATER)
    assert not store.running.end("a", generation, DONE, ended_at=LATER)
    assert store.running.give_back("a", generation) is None
    assert store.running.claim(generation, "lane") is None
    found = get(store, "a")
    assert (found.status, found.outcome) == (Status.FAILED, Outcome.CANCELLED)
    assert (found.result, found.current_step) == (None, 3)
    assert changes_since(store, place) == [("a", "cancelled")]


# Giving back.


def test_a_task_that_is_given_back_waits_again(store: Store, other: Store) -> None:
    add(store, record("a"), record("b"))
    generation = store.running.begin(take_over=False)
    for number in range(1, MOST_DEATHS + 2):  # as often as you like
        assert claim(store, generation).attempt == number
        place = store.changes.position()
        given_back = store.running.give_back("a", generation)
        assert given_back == get(other, "a")
        assert given_back is not None
        assert (given_back.status, given_back.started_at) == (Status.PENDING, None)
        assert changes_since(store, place) == [("a", "pending")]
    assert other.queue.waiting() == ["a", "b"]
    attempts = store.tasks.attempts("a")
    assert [each.number for each in attempts] == list(range(1, MOST_DEATHS + 2))
    assert {each.outcome for each in attempts} == {AttemptOutcome.GIVEN_BACK}
    assert None not in {each.ended_at for each in attempts}


def test_the_third_attempt_that_ends_with_its_process_fails(store: Store) -> None:
    add(store, record())
    generation = store.running.begin(take_over=False)
    given_back: TaskRecord | None = None
    place = store.changes.position()
    for number in range(1, MOST_DEATHS + 1):
        claim(store, generation)
        store.running.give_back("a", generation)  # which does not count
        claim(store, generation)
        place = store.changes.position()
        why = f"Signal {number}."
        given_back = store.running.give_back("a", generation, died_of=why)
    assert given_back is not None
    assert (given_back.status, given_back.outcome) == (Status.FAILED, Outcome.FAILED)
    assert given_back.error == (
        "The process that made it ended 3 times. The last time: Signal 3."
    )
    assert changes_since(store, place) == [("a", "failed")]
    lost = [
        (each.outcome, each.error)
        for each in store.tasks.attempts("a")
        if each.outcome is not AttemptOutcome.GIVEN_BACK
    ]
    assert lost == [
        (AttemptOutcome.LOST, "Signal 1."),
        (AttemptOutcome.LOST, "Signal 2."),
        (AttemptOutcome.FAILED, given_back.error),
    ]
    # Whoever asks for it again has as many attempts anew.
    store.queue.submit(Plan(again=[given_back]))
    claim(store, generation)
    again = store.running.give_back("a", generation, died_of="Signal 4.")
    assert again is not None
    assert again.status is Status.PENDING


def test_what_was_cancelled_ends_when_it_is_given_back(store: Store) -> None:
    add(store, record("a"), record("b"))
    generation = store.running.begin(take_over=False)
    for task_id, died_of in (("a", None), ("b", "Signal 9.")):
        claim(store, generation)
        store.queue.cancel([task_id])
        ended = store.running.give_back(task_id, generation, died_of=died_of)
        assert ended is not None
        assert (ended.outcome, ended.error) == (
            Outcome.CANCELLED,
            "Cancelled while it ran.",
        )
        [attempt] = store.tasks.attempts(task_id)
        assert attempt.outcome is AttemptOutcome.CANCELLED
    # The cancel is over with the attempt.
    store.queue.submit(Plan(again=[get(store, "a")]))
    claim(store, generation)
    assert store.running.asked_to_end(generation) == []


# Beginning.


def test_what_ran_in_a_killed_process_is_lost_and_waits_again(
    store: Store,
    tmp_path: Path,
    run_elsewhere: Run,
    database: str | None,
) -> None:
    add(store, record("ran"), record("cancelled"), record("waits"))
    process = run_elsewhere("ran", "cancelled")
    store.queue.cancel(["cancelled"])
    process.kill()
    process.wait()
    if database is not None:
        postgresql.wait_until_gone(database, "runner")
    place = store.changes.position()
    assert store.running.begin(take_over=False) == 2
    assert sorted(changes_since(store, place)) == [
        ("cancelled", "cancelled"),
        ("ran", "pending"),
    ]
    assert store.queue.waiting() == ["ran", "waits"]
    [lost] = store.tasks.attempts("ran")
    assert (lost.outcome, lost.lane) == (AttemptOutcome.LOST, "dead")
    assert lost.error == "The process that ran it ended."
    assert lost.ended_at is not None
    ended = get(store, "cancelled")
    assert (ended.outcome, ended.error) == (
        Outcome.CANCELLED,
        "Cancelled while it ran.",
    )
    if database is None:
        assert len(list(tmp_path.glob("owners/*.lock"))) == 1


def test_what_kills_its_process_three_times_fails(
    store: Store, die_running: Callable[..., None]
) -> None:
    add(store, record("kills"))
    generation = 0
    for _ in range(MOST_DEATHS):
        assert get(store, "kills").status is Status.PENDING
        die_running("kills")
        generation = store.running.begin(take_over=False)
    failed = get(store, "kills")
    assert failed.outcome is Outcome.FAILED
    assert failed.error == (
        "The process that made it ended 3 times. The last time: The process that ran "
        "it ended."
    )
    assert store.running.claim(generation, "lane") is None
    outcomes = [each.outcome for each in store.tasks.attempts("kills")]
    assert outcomes == [
        AttemptOutcome.LOST,
        AttemptOutcome.LOST,
        AttemptOutcome.FAILED,
    ]


def test_what_a_runner_left_that_lives_is_given_back(
    store: Store, run_elsewhere: Run
) -> None:
    """It has lost the turn, for its connection was dropped, say."""
    add(store, record())
    run_elsewhere("a")
    generation = store.running.begin(take_over=False)
    [given_back] = store.tasks.attempts("a")
    assert given_back.outcome is AttemptOutcome.GIVEN_BACK
    claim(store, generation)
    assert store.running.begin(take_over=False) == generation + 1  # it lost it itself
    outcomes = [each.outcome for each in store.tasks.attempts("a")]
    assert outcomes == [AttemptOutcome.GIVEN_BACK] * 2


@pytest.mark.parametrize("take_over", [False, True])
def test_what_waits_of_processes_that_are_gone_is_offered_or_taken_over(
    store: Store, other: Store, tmp_path: Path, database: str | None, take_over: bool
) -> None:
    gone = Store(tmp_path, database)
    add(gone, record("theirs"), record("run by them"))
    generation = gone.running.begin(take_over=False)
    add(store, record("mine"))
    add(other, record("another's"))
    gone.queue.prioritise("run by them", 1)
    claim(gone, generation)
    gone.close()
    place = store.changes.position()
    generation = store.running.begin(take_over=take_over)
    waiting = ["mine", "another's"]
    if take_over:
        expected, offered = ["run by them", "theirs", *waiting], []
    else:
        expected, offered = waiting, ["run by them", "theirs"]
    assert store.queue.waiting() == expected
    assert store.queue.waiting(offered=True) == offered
    assert ("theirs", "pending") in changes_since(store, place) or take_over
    assert claim(store, generation).id == expected[0]
    # A server that takes the turn later takes what was offered.
    other.running.begin(take_over=True)
    assert other.queue.waiting(offered=True) == []
    assert set(other.queue.waiting()) == {"run by them", "theirs", *waiting}


def test_what_is_offered_stays_so_for_the_next_runner(
    store: Store, other: Store, tmp_path: Path, database: str | None
) -> None:
    gone = Store(tmp_path, database)
    add(gone, record())
    gone.close()
    store.running.begin(take_over=False)
    place = store.changes.position()
    other.running.begin(take_over=False)
    assert other.queue.waiting(offered=True) == ["a"]
    assert changes_since(other, place) == []


def test_a_runner_is_needed_for_what_may_run(
    store: Store, other: Store, tmp_path: Path, database: str | None
) -> None:
    def needs(store: Store) -> tuple[bool, bool]:
        running = store.running
        return running.needs_runner(own_only=True), running.needs_runner(own_only=False)

    assert needs(store) == (False, False)
    gone = Store(tmp_path, database)
    add(gone, record("a"))
    gone.close()
    assert needs(store) == (False, True)
    generation = other.running.begin(take_over=False)
    assert needs(store) == (False, False)  # it is offered
    store.queue.run_offered()
    assert (needs(store), needs(other)) == ((True, True), (False, True))
    claim(other, generation)
    assert needs(store) == (True, True)  # to end it, should the other be gone
    other.running.end("a", generation, DONE, ended_at=LATER)
    assert needs(store) == (False, False)
    nights = Store(tmp_path, database, "nights")
    add(nights, record("b"))
    assert (needs(store), needs(nights)) == ((False, False), (True, True))
    nights.close()


@pytest.fixture
def past(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> Iterator[tuple[Store, str]]:
    """Return a store that runs "a", and the URL of its PostgreSQL.

    On SQLite there is one writer, so nothing comes in between.
    """
    url = postgresql_server.new_database()
    store = Store(tmp_path, url)
    add(store, record())
    claim(store, store.running.begin(take_over=False))
    yield store, url
    store.close()


@contextmanager
def meanwhile(
    server: postgresql.Server, url: str, start: str, work: Callable[[], object]
) -> Iterator[list[Future[Any]]]:
    """Have another thread work once a statement is done that starts so.

    The transaction goes on when that work has ended, or waits for it.
    """
    working: list[Future[Any]] = []

    def begin(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(start) and not working:
            working.append(pool.submit(work))
            server.wait_until_blocked(url, working[0].done)

    with ThreadPoolExecutor(1) as pool:
        sa.event.listen(sa.Engine, "after_cursor_execute", begin)
        try:
            yield working
        finally:
            sa.event.remove(sa.Engine, "after_cursor_execute", begin)


def take_back(store: Store, how: str) -> None:
    if how == "begin":
        store.running.begin(take_over=False)
    else:
        store.running.give_back("a", 1, died_of="Signal 9.")


@pytest.mark.parametrize("how", ["begin", "give back"])
def test_an_end_that_comes_while_its_task_is_taken_back_does_not_count(
    past: tuple[Store, str],
    tmp_path: Path,
    postgresql_server: postgresql.Server,
    how: str,
) -> None:
    store, url = past
    other = Store(tmp_path, url)
    end = partial(store.running.end, "a", 1, DONE, ended_at=LATER)
    with meanwhile(postgresql_server, url, "INSERT INTO attempts", end) as ending:
        take_back(other, how)
    other.close()
    assert not ending[0].result(10)
    found = get(store, "a")
    assert (found.status, found.result) == (Status.PENDING, None)
    assert [each.number for each in store.tasks.attempts("a")] == [1]


@pytest.mark.parametrize("how", ["begin", "give back"])
def test_a_cancel_that_comes_while_its_task_is_taken_back_counts(
    past: tuple[Store, str],
    tmp_path: Path,
    postgresql_server: postgresql.Server,
    how: str,
) -> None:
    store, url = past
    other = Store(tmp_path, url)
    cancel = partial(store.queue.cancel, ["a"])
    with meanwhile(postgresql_server, url, "UPDATE tasks", cancel) as cancelling:
        take_back(other, how)
    other.close()
    cancelling[0].result(10)
    assert get(store, "a").outcome is Outcome.CANCELLED


def test_a_moment_before_the_start_is_the_start(store: Store) -> None:
    """A clock that is set back while a task runs must not make its time negative."""
    add(store, record())
    generation = store.running.begin(take_over=False)
    begun = claim(store, generation)
    store.running.end("a", generation, DONE, ended_at=NOW)
    [attempt] = store.tasks.attempts("a")
    assert attempt.ended_at == attempt.started_at == begun.started_at
