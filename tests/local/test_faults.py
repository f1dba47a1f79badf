"""Whatever breaks off in between, the queue, the store and those who watch agree."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from filelock import FileLock, Timeout

from nbgen.errors import (
    DataFolderUnusable,
    GenerationFailed,
    TaskCancelled,
    TaskUnfinished,
    WorkerDied,
)
from nbgen.generation.engine import Work
from nbgen.generation.events import Ended
from nbgen.generation.thread import ThreadEngine
from nbgen.images.folder import FolderImages
from nbgen.local.timings import Timings
from nbgen.progress import ProgressService
from nbgen.schema import (
    AttemptOutcome,
    GenerationProgress,
    GenerationRequest,
    Outcome,
    Status,
)
from nbgen.store import Store
from nbgen.store.decisions import DecisionStore
from nbgen.store.queue import QueueStore
from nbgen.store.running import RunStore
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine, collect_progress
from tests.parts import CancelledEngine, closes

REQUEST = GenerationRequest(prompt="a cat", num_inference_steps=2)
ROWS = {f"r{number}": REQUEST for number in range(5)}
MakeStudio = Callable[..., Studio]
LOCKED = DataFolderUnusable("The database failed: database is locked.")
STORES: list[type] = [QueueStore, RunStore, DecisionStore]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        yield


@pytest.fixture
def break_once(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, BaseException, bool], None]:
    """Return a function that has a method of the store raise once, before or after."""

    def arm(name: str, error: BaseException, after: bool) -> None:
        [kind] = [each for each in STORES if name in vars(each)]
        method = getattr(kind, name)
        errors = [error]

        def broken(self: Any, *args: Any, **options: Any) -> Any:
            if errors and not after:
                raise errors.pop()
            answer = method(self, *args, **options)
            if errors:
                raise errors.pop()
            return answer

        monkeypatch.setattr(kind, name, broken)

    return arm


BreakOnce = Callable[[str, BaseException, bool], None]


def outcome_told(studio: Studio, task_id: str) -> Outcome | None:
    return collect_progress(studio, task_id)[-1].outcome


# An end that cannot be saved.


@pytest.mark.parametrize("touch", ["task", "cancel", "retry", "submit", "run", "close"])
def test_an_end_that_could_not_be_saved_is_saved_later(
    make_studio: MakeStudio, break_once: BreakOnce, touch: str
) -> None:
    studio = make_studio()
    break_once("end", LOCKED, False)
    with pytest.raises(GenerationFailed, match="database is locked"):
        studio.submit(REQUEST, task_id="a").result(10)
    assert outcome_told(studio, "a") is Outcome.FAILED
    if touch == "task":
        with pytest.raises(GenerationFailed, match="could not be saved"):
            studio.task("a").result(10)
    elif touch == "cancel":
        studio.cancel("a")
    elif touch == "retry":
        assert studio.retry("a").result(10).images
    elif touch == "submit":
        assert studio.submit(REQUEST, task_id="a").result(10).images
    elif touch == "run":
        studio.submit(REQUEST, task_id="b").result(10)
    else:
        studio.close()
    first = make_studio().attempts("a")[0]
    assert first.outcome is AttemptOutcome.FAILED
    assert first.error is not None
    assert "locked" in first.error


def test_whoever_waits_for_an_end_that_is_saved_later_hears_of_it(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = make_studio()

    def fail(*_args: object, **_options: object) -> bool:
        raise LOCKED

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "end", fail)
        with pytest.raises(GenerationFailed, match="could not be saved"):
            studio.submit(REQUEST, task_id="a").result(10)
        task = studio.task("a")
        with pytest.raises(TaskUnfinished):
            task.result(0)
    studio.submit(REQUEST, task_id="b").result(10)
    with pytest.raises(GenerationFailed, match="could not be saved"):
        task.result(10)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["claim", "begin"])
def test_a_task_whose_beginning_fails_begins_a_moment_later(
    make_studio: MakeStudio, break_once: BreakOnce, name: str, after: bool
) -> None:
    """Also if it is committed, and only the answer is lost."""
    break_once(name, LOCKED, after)
    studio = make_studio()
    assert studio.submit(REQUEST, task_id="a").result(10).images


@pytest.mark.parametrize("after", [False, True])
def test_a_task_that_could_not_be_given_back_is_given_back_a_moment_later(
    make_studio: MakeStudio,
    break_once: BreakOnce,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    """Its process died, and the database failed at that moment."""
    run, deaths = ThreadEngine.run, [WorkerDied("Killed.")]

    def die_once(engine: ThreadEngine, work: Work, **options: Any) -> None:
        if deaths:
            options["on_event"](Ended(deaths.pop()))
        else:
            run(engine, work, **options)

    monkeypatch.setattr(ThreadEngine, "run", die_once)
    break_once("give_back", LOCKED, after)
    studio = make_studio()
    assert studio.submit(REQUEST, task_id="a").result(10).images
    assert [each.number for each in studio.attempts("a")] == [1, 2]


def test_an_end_whose_answer_is_lost_is_the_end(
    make_studio: MakeStudio, break_once: BreakOnce
) -> None:
    studio = make_studio()
    break_once("end", LOCKED, True)
    assert studio.submit(REQUEST, task_id="a").result(10).images
    assert outcome_told(studio, "a") is Outcome.SUCCEEDED


# A submission that is broken off.


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LOCKED])
@pytest.mark.parametrize("after", [False, True])
def test_a_submission_that_is_broken_off_is_queued_if_it_is_stored(
    make_studio: MakeStudio, break_once: BreakOnce, error: BaseException, after: bool
) -> None:
    studio = make_studio()
    studio.pause()
    told: SimpleQueue[GenerationProgress] = SimpleQueue()
    studio.watch("b:r0", told.put)
    break_once("submit", error, after)
    with pytest.raises(type(error)):
        studio.submit_batch(ROWS, batch_id="b")
    stored = [f"b:{name}" for name in ROWS] if after else []
    assert studio.waiting() == stored
    assert len(studio.tasks()) == len(stored)
    if after:
        assert told.get(timeout=10).status is Status.PENDING
    assert told.empty()
    again = studio.submit_batch(ROWS, batch_id="b")
    studio.resume()
    assert len(again.result(10)) == len(ROWS)
    assert again.progress.succeeded == len(ROWS)
    assert len(studio.tasks()) == len(ROWS)


def test_a_child_that_is_stored_when_it_is_interrupted_is_queued(
    make_studio: MakeStudio, break_once: BreakOnce
) -> None:
    studio = make_studio()
    studio.submit(REQUEST, task_id="a").result(10)
    break_once("decide", KeyboardInterrupt(), True)
    with pytest.raises(KeyboardInterrupt):
        studio.request_changes("a", reviewer_id="ada", feedback="More", prompt="Two")
    [child] = [record for record in studio.tasks() if record.parent_id == "a"]
    assert studio.task(child.id).result(10).images


def another_may_run(folder: Path) -> bool:
    lock = FileLock(folder / "runner.lock", timeout=0)
    try:
        with lock:
            return True
    except Timeout:
        return False


# A cancel of many.


def test_cancelling_what_waits_is_all_one_transaction(
    make_studio: MakeStudio,
) -> None:
    studio = make_studio()
    studio.pause()
    batch = studio.submit_batch(ROWS, batch_id="b")
    batch.cancel()
    assert studio.waiting() == []
    records = studio.get_records(batch.task_ids)
    assert {record.error for record in records} == {"Cancelled before it started."}
    assert len({record.ended_at for record in records}) == 1
    assert all(outcome_told(studio, i) is Outcome.CANCELLED for i in batch.task_ids)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LOCKED])
@pytest.mark.parametrize("after", [False, True])
def test_a_cancel_that_is_broken_off_loses_no_task(
    make_studio: MakeStudio, break_once: BreakOnce, error: BaseException, after: bool
) -> None:
    studio = make_studio()
    studio.pause()
    batch = studio.submit_batch(ROWS, batch_id="b")
    tasks = [studio.task(task_id) for task_id in batch.task_ids]
    break_once("cancel", error, after)
    with pytest.raises(type(error)):
        batch.cancel()
    assert studio.waiting() == ([] if after else batch.task_ids)
    if not after:
        batch.cancel()
    for task in tasks:
        with pytest.raises(TaskCancelled):
            task.result(10)


def test_a_cancel_at_the_first_state_is_not_lost(make_studio: MakeStudio) -> None:
    studio = make_studio()
    studio.pause()
    cancelled = threading.Event()

    def cancel(state: GenerationProgress) -> None:
        if state.seq == 1:
            studio.cancel("a")
            cancelled.set()

    studio.watch("a", cancel)
    task = studio.submit(REQUEST, task_id="a")
    assert cancelled.wait(10)
    studio.resume()
    with pytest.raises(TaskCancelled):
        task.result(10)


def test_a_priority_that_cannot_be_stored_changes_nothing(
    make_studio: MakeStudio, break_once: BreakOnce
) -> None:
    studio = make_studio()
    studio.pause()
    for name in ("a", "b"):
        studio.submit(REQUEST, task_id=name)
    break_once("prioritise", LOCKED, False)
    with pytest.raises(DataFolderUnusable):
        studio.prioritise("b", 5)
    assert studio.waiting() == ["a", "b"]


def test_what_is_queued_already_needs_no_room(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine()) as studio:
        studio.pause()
        studio.submit_batch(ROWS, batch_id="b")
    gate = Gate()
    with Studio(
        tmp_path, engine=PatternEngine(gate), queue_limit=2, take_over=True
    ) as studio:
        studio.resume()
        gate.wait_reached()
        assert len(studio.waiting()) == 4
        studio.submit_batch(ROWS, batch_id="b")
        studio.submit(REQUEST, task_id="b:r0")
        gate.release(5)
        assert studio.batch("b").result(10)


# What must not end the worker.


def test_a_service_that_forgets_at_once_ends_no_thread(tmp_path: Path) -> None:
    service = ProgressService(keep_ended=0)
    with Studio(tmp_path, engine=PatternEngine(), progress=service) as studio:
        for _ in range(3):
            assert studio.submit(REQUEST).result(10).images
    service.close()


class _Version(str):
    __slots__ = ()


class _Versioned(PatternEngine):
    def facts(self) -> dict[str, str]:
        return {"checkpoint": "pattern", "torch": _Version("2.13")}


def test_facts_of_a_class_of_their_own_are_kept_as_text(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=_Versioned()) as studio:
        for _ in range(3):
            assert studio.submit(REQUEST).result(10).images
    assert b'"2.13"' in (tmp_path / "timings.json").read_bytes()


def test_times_that_cannot_be_remembered_end_no_thread(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Timings, "remember", fail)
    studio = make_studio()
    for _ in range(3):
        assert studio.submit(REQUEST).result(10).images


def test_an_end_that_cannot_be_told_ends_the_waiting(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(ProgressService, "mark_complete", fail)
    studio = make_studio()
    for _ in range(3):
        assert studio.submit(REQUEST).result(10).images


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_error_that_cannot_be_told_ends_the_task(make_studio: MakeStudio) -> None:
    def fail(_step: int) -> None:
        raise _Unspeakable

    studio = make_studio(fail)
    for _ in range(2):
        task = studio.submit(REQUEST)
        with pytest.raises(GenerationFailed, match="RuntimeError"):
            task.result(10)
        assert outcome_told(studio, task.id) is Outcome.FAILED


# Opening and closing.


def test_a_process_that_cannot_start_fails_the_task_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError("Cannot allocate memory")

    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr("nbgen.generation.worker_process.subprocess.Popen", fail)
        with Studio(tmp_path, "tiny") as studio:
            task = studio.submit(REQUEST)
            with pytest.raises(GenerationFailed, match="allocate"):
                task.result(10)
    assert list((tmp_path / "owners").iterdir()) == []
    assert len(list(files.iterdir())) <= before
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith("nbgen-")]


def test_closing_waits_for_one_that_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    studio = Studio(tmp_path, engine=PatternEngine(gate))
    running = studio.submit(REQUEST)
    gate.wait_reached()
    is_closing = closes(monkeypatch)
    finishing = threading.Thread(target=studio.close, kwargs={"finish": True})
    finishing.start()
    assert is_closing.wait(10)
    again = threading.Thread(target=studio.close)
    again.start()
    again.join(0.3)  # it must wait for the task, so this times out
    assert again.is_alive()
    gate.release()
    again.join(10)
    finishing.join(10)
    with pytest.raises(TaskUnfinished):
        running.result(10)
    assert list((tmp_path / "owners").iterdir()) == []


def test_a_second_interrupt_leaves_the_studio_to_be_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    engine = CancelledEngine(gate)
    studio = Studio(tmp_path, engine=engine)
    running = studio.submit(REQUEST)
    gate.wait_reached()
    is_closing = closes(monkeypatch)

    def interrupt_twice() -> None:
        assert is_closing.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        assert engine.cancelled.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt_twice)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        studio.close(finish=True)
    interrupting.join()
    assert len(list((tmp_path / "owners").glob("*.lock"))) == 1
    gate.release()
    studio.close()
    with Studio.open_library(tmp_path) as looking:
        assert looking.get_record(running.id).status is Status.PENDING
    assert list((tmp_path / "owners").iterdir()) == []


def test_closing_waits_for_what_is_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    def save(*_args: object, **_options: object) -> str:
        gate(1)
        return "picture.png"

    monkeypatch.setattr(FolderImages, "save", save)
    steps = threading.Semaphore(0)
    engine = CancelledEngine(lambda _step: steps.release())
    studio = Studio(tmp_path, engine=engine)
    task = studio.submit(REQUEST)
    gate.wait_reached()
    studio.submit(REQUEST)
    for _ in range(REQUEST.num_inference_steps + 1):
        assert steps.acquire(timeout=10)  # so the first one has been drawn
    returned = threading.Event()
    is_closing = closes(monkeypatch)

    def interrupt() -> None:
        assert is_closing.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        assert engine.cancelled.wait(10)
        returned.wait(0.3)  # it must wait for the saving, so this times out
        gate.open()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        studio.close(finish=True)
    assert gate.is_open
    returned.set()
    interrupting.join()
    with Studio.open_library(tmp_path) as looking:
        assert looking.get_record(task.id).outcome is Outcome.SUCCEEDED


def test_the_next_runner_finds_what_a_closed_studio_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would take nothing over, and what waits would wait for ever."""
    seen: list[bool] = []
    close = Store.close

    def look_and_close(store: Store) -> None:
        close(store)
        seen.append(another_may_run(tmp_path))

    with monkeypatch.context() as patched:
        patched.setattr(Store, "close", look_and_close)
        with Studio(tmp_path, engine=PatternEngine()) as studio:
            studio.pause()
            studio.submit(REQUEST)
    assert seen == [False]
    assert another_may_run(tmp_path)


FORK = """
import os, sys
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

studio = Studio(sys.argv[1], engine=PatternEngine())
studio.pause()
task = studio.generate("a cat")
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(sum(n.endswith(".lock") for n in os.listdir(os.path.join(sys.argv[1], "owners"))))
with Studio(sys.argv[1]) as other:
    print(other.waiting() == [task.id])
studio.resume()
print(len(task.result(10).images))
"""


def test_a_fork_that_ends_leaves_its_parent_s_studio_open(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("1\nTrue\n1\n", "")
