"""The progress service: one state per update, in order, and exactly one end."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import threading
from collections.abc import Iterator
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.errors import InvalidRequest, StudioClosed, TaskConflict, UnknownTask
from nbgen.progress import ProgressService
from nbgen.schema import GenerationProgress, Outcome, Stage, StagePlan, Status
from tests.parts import until_end

PLAN = [
    StagePlan(Stage.BASE_MODEL, 8, 8),
    StagePlan(Stage.REFINER_MODEL, 2, 2),
    StagePlan(Stage.DECODE, 0, 1),
]


@pytest.fixture
def service() -> Iterator[ProgressService]:
    service = ProgressService()
    yield service
    service.close()


def states_of(
    service: ProgressService, task_id: str
) -> SimpleQueue[GenerationProgress]:
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    service.register_callback(task_id, states.put)
    return states


def test_a_new_task_is_pending(service: ProgressService) -> None:
    progress = service.create_progress("a", 10)
    assert progress == service.get_progress("a")
    assert progress.status is Status.PENDING
    assert (progress.current_step, progress.total_steps) == (0, 10)
    assert progress.percentage == 0.0


def test_an_unknown_task_has_no_progress(service: ProgressService) -> None:
    assert service.get_progress("a") is None
    with pytest.raises(UnknownTask, match="no task 'a'"):
        service.update_progress("a", current_step=1)


def test_an_id_is_used_once(service: ProgressService) -> None:
    service.create_progress("a", 10)
    with pytest.raises(TaskConflict):
        service.create_progress("a", 10)
    service.mark_complete("a")
    with pytest.raises(TaskConflict):
        service.create_progress("a", 10)


@pytest.mark.parametrize(("task_id", "steps"), [("a/b", 10), ("a", 0)])
def test_what_cannot_be_followed(
    service: ProgressService, task_id: str, steps: int
) -> None:
    with pytest.raises(InvalidRequest):
        service.create_progress(task_id, steps)


def test_percentage_is_exact_and_below_100_until_completed(
    service: ProgressService,
) -> None:
    service.create_progress("a", 50)
    assert service.update_progress("a", current_step=32).percentage == 64.0
    assert service.update_progress("a", current_step=50).percentage == 99.9
    assert service.mark_complete("a").percentage == 100.0


def test_overshoot_counts_as_the_total(service: ProgressService) -> None:
    service.create_progress("a", 10)
    progress = service.update_progress("a", current_step=15)
    assert progress.current_step == 10
    assert progress.percentage < 100


def test_steps_and_stages_never_go_back(service: ProgressService) -> None:
    service.create_progress("a", 10)
    service.update_progress("a", current_step=9, current_stage=Stage.REFINER_MODEL)
    progress = service.update_progress(
        "a", current_step=3, current_stage=Stage.BASE_MODEL
    )
    assert progress.current_step == 9
    assert progress.current_stage is Stage.REFINER_MODEL


def test_a_repeated_report_is_no_new_state(service: ProgressService) -> None:
    service.create_progress("a", 10)
    first = service.update_progress("a", current_step=1)
    assert service.update_progress("a", current_step=1) is first


def test_the_first_end_is_the_end(service: ProgressService) -> None:
    service.create_progress("a", 10)
    states = states_of(service, "a")
    service.update_progress("a", current_step=4)
    end = service.mark_failed("a", "Cancelled.", outcome=Outcome.CANCELLED)
    assert service.mark_complete("a") is end
    assert service.mark_failed("a", "late") is end
    assert service.update_progress("a", current_step=5) is end
    assert service.get_progress("a") is end
    assert end.status is Status.FAILED
    assert (end.error, end.outcome) == ("Cancelled.", Outcome.CANCELLED)
    assert [s.seq for s in until_end(states)] == [1, 2, 3]


def test_every_state_in_order_to_a_watcher_from_before(
    service: ProgressService,
) -> None:
    states = states_of(service, "a")
    service.create_progress("a", 10)
    service.update_progress("a", plan=PLAN, current_stage=Stage.BASE_MODEL)
    for step in range(1, 11):
        service.update_progress("a", current_step=step)
    service.mark_complete("a")
    seen = until_end(states)
    assert [s.seq for s in seen] == list(range(1, 14))
    assert [s.current_step for s in seen] == [0, 0, *range(1, 11), 10]


def test_a_late_watcher_gets_the_present_state_first(service: ProgressService) -> None:
    service.create_progress("a", 10)
    for step in range(1, 6):
        service.update_progress("a", current_step=step)
    states = states_of(service, "a")
    for step in range(6, 11):
        service.update_progress("a", current_step=step)
    service.mark_complete("a")
    assert [s.current_step for s in until_end(states)] == [5, 6, 7, 8, 9, 10, 10]


def test_a_watcher_of_an_ended_task_gets_its_end(service: ProgressService) -> None:
    service.create_progress("a", 10)
    end = service.mark_complete("a")
    assert until_end(states_of(service, "a")) == [end]


def test_a_watcher_that_raises_does_not_end_the_others_news(
    service: ProgressService,
) -> None:
    def raise_always(_progress: GenerationProgress) -> None:
        raise RuntimeError("a watcher's fault")

    service.register_callback("a", raise_always)
    states = states_of(service, "a")
    service.create_progress("a", 3)
    service.mark_complete("a")
    assert [s.status for s in until_end(states)] == [Status.PENDING, Status.COMPLETED]


def test_no_news_after_unregistering(service: ProgressService) -> None:
    left: list[GenerationProgress] = []
    unregister = service.register_callback("a", left.append)
    stays = states_of(service, "a")
    service.create_progress("a", 3)
    assert stays.get(timeout=10).seq == 1
    unregister()
    unregister()
    service.mark_complete("a")
    until_end(stays)
    assert [s.seq for s in left] == [1]


def test_a_blocked_watcher_does_not_block_the_work(service: ProgressService) -> None:
    entered, release = threading.Event(), threading.Event()

    def block(_progress: GenerationProgress) -> None:
        entered.set()
        release.wait(30)

    service.register_callback("a", block)
    service.create_progress("a", 150)
    assert entered.wait(10)
    for step in range(1, 151):
        service.update_progress("a", current_step=step)
    assert service.mark_complete("a").status is Status.COMPLETED
    release.set()


def test_ended_tasks_are_forgotten_in_the_end() -> None:
    service = ProgressService(keep_ended=3)
    service.create_progress("runs", 5)
    for number in range(10):
        service.create_progress(f"t{number}", 5)
        service.mark_complete(f"t{number}")
    known = [n for n in range(10) if service.get_progress(f"t{n}") is not None]
    assert known == [7, 8, 9]
    assert service.get_progress("runs") is not None


def test_reports_from_many_threads_are_each_one_state(
    service: ProgressService,
) -> None:
    names = [f"t{number}" for number in range(8)]
    queues = {name: states_of(service, name) for name in names}

    def work(name: str) -> None:
        service.create_progress(name, 50)
        for step in range(1, 51):
            service.update_progress(name, current_step=step)
        service.mark_complete(name)

    threads = [threading.Thread(target=work, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        seen = until_end(queues[name])
        assert [s.seq for s in seen] == list(range(1, 53))


def test_two_ends_that_race_have_one_winner(service: ProgressService) -> None:
    for number in range(50):
        name = f"t{number}"
        service.create_progress(name, 5)
        states = states_of(service, name)
        barrier = threading.Barrier(2)

        def complete(name: str = name, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            service.mark_complete(name)

        thread = threading.Thread(target=complete)
        thread.start()
        barrier.wait()
        service.mark_failed(name, "Cancelled.", outcome=Outcome.CANCELLED)
        thread.join()
        ends = [s for s in until_end(states) if s.status.ended]
        assert ends == [service.get_progress(name)]
        assert states.empty()


def test_close_ends_the_thread() -> None:
    service = ProgressService()
    states = states_of(service, "a")
    service.create_progress("a", 1)
    service.mark_complete("a")
    service.close()
    assert len(until_end(states)) == 2
    assert "nbgen-progress" not in {thread.name for thread in threading.enumerate()}
    service.close()


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_closed_service_takes_no_watcher_and_starts_no_thread(
    service: ProgressService,
) -> None:
    service.create_progress("a", 1)
    service.close()
    with pytest.raises(StudioClosed):
        service.register_callback("a", lambda _: None)
    assert "nbgen-progress" not in running()
    # What still works reports to nobody.
    assert service.mark_complete("a").status is Status.COMPLETED


def test_what_was_published_before_the_closing_is_delivered(
    service: ProgressService,
) -> None:
    entered, release = threading.Event(), threading.Event()
    seen: list[int] = []

    def hold(progress: GenerationProgress) -> None:
        entered.set()
        assert release.wait(30)
        seen.append(progress.seq)

    unregister = service.register_callback("a", hold)
    service.create_progress("a", 1)
    assert entered.wait(10)
    service.mark_complete("a")
    closing = [threading.Thread(target=service.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    closing[0].join(0.1)  # both wait for the callback, so this times out
    assert all(thread.is_alive() for thread in closing)
    release.set()
    for thread in closing:
        thread.join(10)
    assert seen == [1, 2]
    assert "nbgen-progress" not in running()
    unregister()


def test_a_callback_may_close_the_service(service: ProgressService) -> None:
    closed = threading.Event()

    def close(_progress: GenerationProgress) -> None:
        service.close()
        closed.set()

    service.register_callback("a", close)
    service.create_progress("a", 1)
    assert closed.wait(10)
    service.close()
    assert "nbgen-progress" not in running()


def test_no_watcher_is_left_behind_by_a_closing_at_the_same_moment() -> None:
    for _ in range(50):
        service = ProgressService()
        barrier = threading.Barrier(2)

        def watch(
            service: ProgressService = service, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            with contextlib.suppress(StudioClosed):
                service.register_callback("a", lambda _: None)

        thread = threading.Thread(target=watch)
        thread.start()
        barrier.wait()
        service.close()
        thread.join()
        service.close()
        assert "nbgen-progress" not in running()


def test_a_watcher_that_left_hears_nothing_of_what_is_still_queued(
    service: ProgressService,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def hold(_progress: GenerationProgress) -> None:
        entered.set()
        assert release.wait(30)

    service.create_progress("a", 2)
    leave_held = service.register_callback("a", hold)
    assert entered.wait(10)
    left: list[GenerationProgress] = []
    unregister = service.register_callback("a", left.append)
    service.update_progress("a", current_step=1)
    stays = states_of(service, "a")
    unregister()
    leave_held()
    release.set()
    service.mark_complete("a")
    until_end(stays)
    assert left == []


def test_the_last_watcher_to_leave_ends_the_deliveries(
    service: ProgressService,
) -> None:
    left: list[GenerationProgress] = []
    unregister = service.register_callback("a", left.append)
    unregister()
    service.create_progress("a", 1)
    service.mark_complete("a")
    service.close()
    assert left == []


def foreign(service: ProgressService, **fields: Any) -> GenerationProgress:
    """Return a state of task ``a`` as another process would publish it."""
    far = service.get_progress("x") or service.create_progress("x", 3)
    return msgspec.structs.replace(far, task_id="a", **fields)


def test_states_from_elsewhere_are_delivered_and_the_last_one_is_where_others_begin(
    service: ProgressService,
) -> None:
    first: SimpleQueue[GenerationProgress] = SimpleQueue()
    second: SimpleQueue[GenerationProgress] = SimpleQueue()
    service.register_callback("a", first.put)
    waits = foreign(service)
    runs = foreign(
        service, status=Status.GENERATING, seq=7, current_stage=Stage.BASE_MODEL
    )
    service.publish_foreign(waits)
    service.publish_foreign(waits)  # says nothing new
    service.publish_foreign(runs)
    service.register_callback("a", second.put)
    ends = foreign(service, status=Status.COMPLETED, outcome=Outcome.SUCCEEDED)
    service.publish_foreign(ends)
    assert [(s.seq, s.status) for s in until_end(first)] == [
        (1, Status.PENDING),
        (7, Status.GENERATING),
        (8, Status.COMPLETED),
    ]
    assert [s.seq for s in until_end(second)] == [7, 8]
    assert service.get_progress("a") is None


def test_nothing_of_a_state_from_elsewhere_goes_back(service: ProgressService) -> None:
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    service.register_callback("a", states.put)
    live = foreign(
        service,
        seq=9,
        status=Status.GENERATING,
        current_stage=Stage.BASE_MODEL,
        current_step=2,
        elapsed_time=4.0,
        overall_percentage=60.0,
        message="Sampling",
    )
    service.publish_foreign(live)
    # The record of the task knows less: no stage, no step, another message.
    from_record = foreign(
        service, status=Status.GENERATING, message="Running in another process"
    )
    service.publish_foreign(from_record)
    again = foreign(service, message="Waiting again")
    service.publish_foreign(again)
    service.warn_foreign("a", "The database is gone.")
    service.warn_foreign("unknown", "The database is gone.")
    service.forget_foreign("a")
    service.forget_foreign("a")
    service.publish_foreign(foreign(service, status=Status.FAILED, seq=20))
    told = until_end(states)
    assert told[0] == live
    assert [(s.seq, s.current_step, s.message) for s in told[1:-1]] == [
        (10, 0, "Waiting again"),
        (11, 0, "The database is gone."),
    ]
    assert told[-1].seq == 20


def test_a_task_that_is_tracked_here_takes_no_state_from_elsewhere(
    service: ProgressService,
) -> None:
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    service.register_callback("a", states.put)
    service.create_progress("a", 3)
    service.publish_foreign(foreign(service, seq=2, total_steps=9))
    service.mark_complete("a")
    assert [(s.seq, s.total_steps) for s in until_end(states)] == [(1, 3), (2, 3)]


def test_a_task_that_is_taken_over_goes_on_counting(service: ProgressService) -> None:
    """Who has watched it elsewhere drops no state for its number."""
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    service.register_callback("a", states.put)
    service.publish_foreign(foreign(service, seq=30))
    service.create_progress("a", 3)
    service.mark_complete("a")
    assert [state.seq for state in until_end(states)] == [30, 31, 32]


def test_an_id_is_free_again_once_its_ended_task_is_forgotten(
    service: ProgressService,
) -> None:
    service.create_progress("a", 1)
    service.forget("a")
    assert service.get_progress("a") is not None  # it has not ended
    service.mark_complete("a")
    service.forget("a")
    service.forget("a")
    assert service.get_progress("a") is None
    assert service.create_progress("a", 1).seq == 1


class _Clock:
    """A clock that a test moves; the wall clock goes back all the while."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> dt.datetime:
        start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        return start - dt.timedelta(seconds=self.seconds)


def test_the_time_of_like_runs_shows_at_once_and_runs_down() -> None:
    clock = _Clock()
    service = ProgressService(clock=clock.monotonic, now=clock.now)
    service.create_progress("a", 10)
    expected_s = {Stage.LOAD: 4.0, Stage.BASE_MODEL: 8.0, Stage.SAVE: 1.0}
    first = service.update_progress(
        "a", current_stage=Stage.LOAD, expected_s=expected_s
    )
    assert first.remaining_known
    assert first.estimated_remaining == 13
    clock.seconds = 3
    later = service.update_progress("a", message="Still loading")
    assert later.estimated_remaining == 10


@pytest.mark.parametrize("succeeds", [True, False])
def test_stage_times_are_those_of_stages_that_came_to_their_end(succeeds: bool) -> None:
    clock = _Clock()
    service = ProgressService(clock=clock.monotonic, now=clock.now)
    service.create_progress("a", 10)
    for stage, at_s in ((Stage.LOAD, 1), (Stage.BASE_MODEL, 4), (Stage.SAVE, 9)):
        clock.seconds = at_s
        service.update_progress("a", current_stage=stage)
    clock.seconds = 11
    ended = {Stage.LOAD: 3, Stage.BASE_MODEL: 5}
    assert service.stage_times("a") == ended
    if succeeds:
        service.mark_complete("a")
        ended[Stage.SAVE] = 2
    else:
        service.mark_failed("a", "no")
    assert service.stage_times("a") == ended


def test_step_times_are_those_of_all_steps() -> None:
    clock = _Clock()
    service = ProgressService(clock=clock.monotonic, now=clock.now)
    service.create_progress("a", 10)
    service.update_progress("a", current_stage=Stage.BASE_MODEL)
    for step, at_s in ((1, 4), (2, 5), (4, 8)):
        clock.seconds = at_s
        service.update_progress("a", current_step=step)
    service.update_progress("a", current_stage=Stage.REFINER_MODEL)
    clock.seconds = 10
    service.update_progress("a", current_step=5)
    service.mark_failed("a", "no")
    assert service.step_times("a") == {
        Stage.BASE_MODEL: (4, 1, 1.5, 1.5),
        Stage.REFINER_MODEL: (2,),
    }


def test_an_unknown_task_has_no_times(service: ProgressService) -> None:
    with pytest.raises(UnknownTask):
        service.stage_times("a")
    with pytest.raises(UnknownTask):
        service.step_times("a")


reports = st.lists(
    st.fixed_dictionaries(
        {"after_s": st.floats(0, 100)},
        optional={
            "current_step": st.integers(-5, 20),
            "current_stage": st.sampled_from(Stage),
            "plan": st.just(PLAN),
            "expected_s": st.dictionaries(st.sampled_from(Stage), st.floats(0, 100)),
            "message": st.text(max_size=5),
        },
    )
)


@given(reports=reports, succeeds=st.booleans())
def test_whatever_is_reported_the_states_are_sound(
    reports: list[dict[str, Any]], succeeds: bool
) -> None:
    """All numbers are finite and nothing that grows ever shrinks."""
    clock = _Clock()
    service = ProgressService(clock=clock.monotonic, now=clock.now)
    states = [service.create_progress("a", 10)]
    for report in reports:
        clock.seconds += report.pop("after_s")
        states.append(service.update_progress("a", **report))
    states.append(
        service.mark_complete("a") if succeeds else service.mark_failed("a", "no")
    )
    for state in states:
        assert 0 <= state.current_step <= state.total_steps == 10
        assert 0 <= state.percentage <= 100
        assert 0 <= state.overall_percentage <= 100
        assert state.elapsed_time >= 0
        assert state.estimated_remaining >= 0
        assert math.isfinite(state.estimated_remaining)
        assert state.remaining_known or state.estimated_remaining == 0
        completed = state.status is Status.COMPLETED
        assert (state.percentage == 100) is completed
        assert (state.overall_percentage == 100) is completed
    for earlier, later in pairwise(states):
        assert later is earlier or later.seq == earlier.seq + 1
        assert later.current_step >= earlier.current_step
        assert later.percentage >= earlier.percentage
        assert later.overall_percentage >= earlier.overall_percentage
        assert later.elapsed_time >= earlier.elapsed_time
        assert later.timestamp >= earlier.timestamp
