"""A runner takes the turn and runs one task at a time, whoever submits them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import pytest
from msgspec.structs import replace

from nbgen.errors import DataFolderUnusable
from nbgen.local.job import Job
from nbgen.local.lane import Lane
from nbgen.local.runner import Runner
from nbgen.progress import ChangeFollower
from nbgen.schema import AttemptOutcome, Outcome, Status, TaskEnd
from nbgen.store import Store
from nbgen.store.running import Ending, RunStore
from nbgen.store.turn import Turn
from tests import postgresql
from tests.store.test_tasks import LATER, add, record

WAIT_S = 30.0


class HeldLane:
    """A lane that holds each job until it is let go, or cancelled.

    It ends a job as ``Finisher`` does.

    Attributes:
        began: The jobs that were begun.
        prepared: Has an entry for each time that it was made ready.
        released: Has an entry for each time that its memory was released.
        kills: How often it was killed.
        saves_elsewhere: Whether jobs end on a thread of their own.
    """

    name = "held"

    def __init__(self, store: Store) -> None:
        self._running = store.running
        self._gate = threading.Semaphore(0)
        self.began: SimpleQueue[Job] = SimpleQueue()
        self.prepared: SimpleQueue[None] = SimpleQueue()
        self.released: SimpleQueue[None] = SimpleQueue()
        self.kills = 0
        self.saves_elsewhere = False

    def let_go(self, count: int = 1) -> None:
        self._gate.release(count)

    def run(self, job: Job) -> None:
        job.cancel.on_cancel(self.let_go)
        self.began.put(job)
        self._gate.acquire()
        if self.saves_elsewhere:
            threading.Thread(target=self._end, args=[job]).start()
        else:
            self._end(job)

    def prepare(self) -> None:
        self.prepared.put(None)

    def release(self) -> None:
        self.released.put(None)

    def kill(self) -> None:
        self.kills += 1

    def _end(self, job: Job) -> None:
        end = TaskEnd(job.task_id, None)
        if job.is_given_back:
            self._running.give_back(job.task_id, job.generation)
        else:
            cancelled = job.cancel.cancelled
            outcome = Outcome.CANCELLED if cancelled else Outcome.SUCCEEDED
            ending = Ending(outcome)
            self._running.end(job.task_id, job.generation, ending, ended_at=LATER)
            end = end._replace(outcome=outcome)
        job.done.set_result(end)


class House:
    """A store with a runner, as one process has it."""

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        *,
        idle_s: float | None = None,
        take_over: bool = False,
        prepares: bool = False,
    ) -> None:
        self.store = Store(folder, url)
        self.turn: Turn = self.store.open_turn()
        self.changes = ChangeFollower(self.store.changes)
        self.lane = HeldLane(self.store)
        self.forgotten: list[str] = []
        self.runner = Runner(
            self.store,
            self.turn,
            self.changes,
            cast("Lane", self.lane),
            forget=self.forgotten.append,
            was_told=lambda _: False,
            idle_s=idle_s,
            take_over=take_over,
            prepares=prepares,
        )
        self.runner.start()

    def submit(self, *task_ids: str) -> None:
        add(self.store, *map(record, task_ids))
        self.runner.wake()

    def began(self) -> str:
        """Return the task that begins next."""
        return self.lane.began.get(timeout=WAIT_S).task_id

    def close(self, *, finish: bool = False) -> None:
        self.runner.close(finish=finish)
        self.changes.close()
        self.runner.end_beats()
        self.store.close()
        self.turn.release()


MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[MakeHouse]:
    houses: list[House] = []

    def make(url: str | None = None, **options: object) -> House:
        houses.append(House(tmp_path, url, **options))  # type: ignore[arg-type]
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Return another store on the same data, as another process has one."""
    store = Store(tmp_path)
    yield store
    store.close()


def take(turn: Turn) -> None:
    """Take a turn that is free in a moment."""
    while not turn.take():
        time.sleep(0.01)


def status_of(store: Store, task_id: str) -> Status:
    [found] = store.tasks.get_known([task_id])
    return found.status


# The order.


def test_higher_priorities_run_first(make_house: MakeHouse) -> None:
    house = make_house()
    house.store.queue.set_paused(paused=True)
    priorities = {"a": 0, "b": 5, "c": 0, "d": 5}
    add(
        house.store,
        *(replace(record(name), priority=p) for name, p in priorities.items()),
    )
    house.store.queue.prioritise("c", 9)
    house.lane.let_go(4)
    house.store.queue.set_paused(paused=False)
    assert [house.began() for _ in range(4)] == ["c", "b", "d", "a"]


def test_a_paused_queue_finishes_what_runs(make_house: MakeHouse, other: Store) -> None:
    house = make_house()
    house.submit("a")
    job = house.lane.began.get(timeout=WAIT_S)
    other.queue.set_paused(paused=True)
    house.submit("b")
    house.lane.let_go()
    assert job.done.result(WAIT_S).outcome is Outcome.SUCCEEDED
    assert house.store.queue.waiting() == ["b"]
    assert house.lane.began.empty()
    other.queue.set_paused(paused=False)
    assert house.began() == "b"


# Other processes.


def test_what_others_submit_and_cancel_is_heeded(
    make_house: MakeHouse, other: Store
) -> None:
    house = make_house()
    house.submit("a")
    assert house.began() == "a"
    add(other, record("b"), record("c"))
    assert other.queue.cancel(["a", "b"]) == {"a"}
    assert house.began() == "c"
    [ended] = other.tasks.get_known(["a"])
    assert ended.outcome is Outcome.CANCELLED
    assert not house.runner.runs("a")
    assert house.runner.runs("c")
    assert set("abc") <= set(house.forgotten)


def test_a_cancel_between_the_claim_and_the_start_is_heeded(
    make_house: MakeHouse, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house()
    claim = RunStore.claim

    def claim_and_cancel(running: RunStore, generation: int, lane: str) -> object:
        claimed = claim(running, generation, lane)
        if claimed is not None:
            other.queue.cancel([claimed.id])
        return claimed

    monkeypatch.setattr(RunStore, "claim", claim_and_cancel)
    house.submit("a")
    job = house.lane.began.get(timeout=WAIT_S)
    assert job.done.result(WAIT_S).outcome is Outcome.CANCELLED


def test_nothing_runs_here_while_another_has_the_turn(
    make_house: MakeHouse, other: Store
) -> None:
    turn = other.open_turn()
    assert turn.take()
    generation = other.running.begin(take_over=False)
    house = make_house()
    house.submit("a")
    claimed = other.running.claim(generation, "other")
    assert claimed is not None
    house.submit("b")
    assert house.lane.began.empty()
    other.running.end("a", generation, Ending(Outcome.SUCCEEDED), ended_at=LATER)
    turn.release()
    assert house.began() == "b"


def test_the_turn_is_not_taken_for_the_tasks_of_others(
    make_house: MakeHouse, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a runner of their own; this one rests, without a model."""
    house = make_house(idle_s=0.0)
    house.lane.released.get(timeout=WAIT_S)
    needs_runner = RunStore.needs_runner
    answers: SimpleQueue[bool] = SimpleQueue()

    def needs(running: RunStore, *, own_only: bool) -> bool:
        answer = needs_runner(running, own_only=own_only)
        answers.put(answer)
        return answer

    monkeypatch.setattr(RunStore, "needs_runner", needs)
    add(other, record("a"))
    while True:
        assert not answers.get(timeout=WAIT_S)
        if "a" in house.forgotten:
            break
    turn = other.open_turn()
    take(turn)
    turn.release()
    house.submit("b")  # with something of its own to run, it runs all
    assert house.began() == "a"
    house.lane.let_go()
    assert house.began() == "b"


def test_a_runner_that_takes_over_runs_what_is_left_and_offered(
    make_house: MakeHouse, tmp_path: Path
) -> None:
    gone = Store(tmp_path)
    add(gone, record("a"), record("b"))
    gone.close()
    looking = make_house()
    looking.submit("mine")
    assert looking.began() == "mine"
    assert looking.store.queue.waiting(offered=True) == ["a", "b"]
    house = make_house(take_over=True)
    looking.lane.let_go()
    assert looking.began() == "a"  # whoever has the turn runs them
    assert house.lane.began.empty()
    looking.close()
    house.lane.let_go(2)
    assert [house.began(), house.began()] == ["a", "b"]


# The turn.


def test_an_idle_runner_releases_its_memory_and_the_turn(
    make_house: MakeHouse, other: Store
) -> None:
    house = make_house(idle_s=0.01)
    turn = other.open_turn()
    for name in ("a", "b"):
        house.lane.released.get(timeout=WAIT_S)
        take(turn)  # it is released just after the memory
        turn.release()
        house.submit(name)
        assert house.began() == name
        assert house.lane.released.empty()
        assert not turn.take()
        house.lane.let_go()
    house.lane.released.get(timeout=WAIT_S)


def test_the_lane_is_made_ready_when_the_turn_is_taken(
    make_house: MakeHouse, other: Store
) -> None:
    turn = other.open_turn()
    assert turn.take()
    house = make_house(prepares=True, idle_s=0.01)
    house.submit("a")
    assert house.lane.prepared.empty()
    turn.release()
    house.lane.prepared.get(timeout=WAIT_S)
    assert house.began() == "a"
    house.lane.let_go()
    assert house.lane.released.get(timeout=WAIT_S) is None


def test_a_lane_that_cannot_be_made_ready_fails_no_task_here(
    make_house: MakeHouse,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_lane: HeldLane) -> None:
        raise OSError("No memory.")

    monkeypatch.setattr(HeldLane, "prepare", fail)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        house = make_house(prepares=True)
        house.submit("a")
        assert house.began() == "a"


def test_a_beginning_that_fails_keeps_nobody_out_and_is_tried_again(
    make_house: MakeHouse,
    other: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn = other.open_turn()
    begin = RunStore.begin
    failed = threading.Event()

    def fail_once(running: RunStore, *, take_over: bool) -> int:
        if not failed.is_set():
            failed.set()
            raise DataFolderUnusable("The disk is full.")
        return begin(running, take_over=take_over)

    monkeypatch.setattr(RunStore, "begin", fail_once)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        house = make_house()
        assert failed.wait(WAIT_S)
        take(turn)
        turn.release()
        house.submit("a")
        assert house.began() == "a"


def test_a_runner_that_has_lost_the_turn_gives_back_what_it_runs(
    make_house: MakeHouse,
    tmp_path: Path,
    postgresql_server: postgresql.Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = postgresql_server.new_database()
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        house = make_house(url)
        house.submit("a")
        job = house.lane.began.get(timeout=WAIT_S)
        other = Store(tmp_path, url)
        turn = other.open_turn()
        while not turn.take():
            postgresql_server.drop_turns(url)
        generation = other.running.begin(take_over=False)
        claimed = other.running.claim(generation, "other")
        assert claimed is not None
        assert claimed.attempt == 2
        assert job.done.result(WAIT_S).outcome is None
        assert job.is_given_back
        assert house.lane.kills == 1
        done = Ending(Outcome.SUCCEEDED)
        assert other.running.end("a", generation, done, ended_at=LATER)
        house.submit("b")
        turn.release()
        assert house.began() == "b"  # it asks for the turn as before
    outcomes = [each.outcome for each in other.tasks.attempts("a")]
    assert outcomes == [AttemptOutcome.GIVEN_BACK, AttemptOutcome.SUCCEEDED]
    other.close()


# Closing.


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_gives_back_what_runs(
    make_house: MakeHouse, other: Store, finish: bool
) -> None:
    house = make_house()
    house.submit("a", "b")
    job = house.lane.began.get(timeout=WAIT_S)
    closing = threading.Thread(target=house.close, kwargs={"finish": finish})
    closing.start()
    if finish:
        house.lane.let_go()
    closing.join(WAIT_S)
    assert house.runner.has_ended
    assert job.cancel.cancelled is not finish
    assert status_of(other, "a") is (Status.COMPLETED if finish else Status.PENDING)
    assert status_of(other, "b") is Status.PENDING
    assert house.lane.began.empty()


def test_what_a_person_cancelled_ends_though_the_runner_closes(
    make_house: MakeHouse, other: Store
) -> None:
    house = make_house()
    house.submit("a")
    job = house.lane.began.get(timeout=WAIT_S)
    house.store.queue.cancel(["a"])
    house.runner.cancel(["a"])
    house.close()
    assert job.done.result(WAIT_S).outcome is Outcome.CANCELLED
    [ended] = other.tasks.get_known(["a"])
    assert ended.outcome is Outcome.CANCELLED


def test_the_turn_is_held_until_the_store_is_closed(
    make_house: MakeHouse, other: Store
) -> None:
    """Or the next runner would not see that this one is gone, and offer nothing."""
    house = make_house()
    house.submit("a")
    assert house.began() == "a"
    house.runner.close(finish=False)
    turn = other.open_turn()
    assert not turn.take()
    house.close()
    assert turn.take()
    other.running.begin(take_over=False)
    assert other.queue.waiting(offered=True) == ["a"]
    turn.release()


def test_a_task_begins_again_only_when_its_last_attempt_has_been_told(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the end of the one would be taken for that of the other."""
    give_back, claim = RunStore.give_back, RunStore.claim
    claimed, go_on = threading.Semaphore(0), threading.Event()

    def give_back_and_wait(running: RunStore, *about: object) -> object:
        answer = give_back(running, *about)  # type: ignore[arg-type]
        assert go_on.wait(WAIT_S)
        return answer

    def tell_claim(running: RunStore, *about: object) -> object:
        answer = claim(running, *about)  # type: ignore[arg-type]
        if answer is not None:
            claimed.release()
        return answer

    monkeypatch.setattr(RunStore, "give_back", give_back_and_wait)
    monkeypatch.setattr(RunStore, "claim", tell_claim)
    house = make_house()
    house.lane.saves_elsewhere = True
    house.submit("a")
    first = house.lane.began.get(timeout=WAIT_S)
    first.give_back()
    for _ in range(2):
        assert claimed.acquire(timeout=WAIT_S)
    assert house.lane.began.empty()
    go_on.set()
    second = house.lane.began.get(timeout=WAIT_S)
    assert second.task_id == first.task_id
    assert house.runner.runs("a")
    house.runner.cancel(["a"])
    assert second.done.result(WAIT_S).outcome is Outcome.CANCELLED
