"""Whatever is done to a studio, in whatever order, it is where a simple model is.

``NBGEN_EXAMPLES`` says how many sequences of operations are tried.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from nbgen.errors import (
    DecisionConflict,
    GenerationFailed,
    NbgenError,
    QueueFull,
    TaskCancelled,
    TaskConflict,
    TaskError,
    TaskNotEnded,
    TaskNotWaiting,
)
from nbgen.generation.engine import CancelToken
from nbgen.local.backend import LocalBackend
from nbgen.local.config import StudioConfig
from nbgen.schema import (
    MOST_DEATHS,
    ApprovalStatus,
    Decision,
    GenerationRequest,
    Outcome,
    Status,
    TaskRecord,
    Verdict,
)
from nbgen.store import Store
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.parts import until

_EXAMPLES = int(os.environ.get("NBGEN_EXAMPLES", "60"))
_QUEUE_LIMIT = 4
_WAIT_S = 30

_ERRORS: dict[Outcome, type[TaskError]] = {
    Outcome.FAILED: GenerationFailed,
    Outcome.CANCELLED: TaskCancelled,
}


class _HeldEngine(PatternEngine):
    """Stops before the first step until it is told how to go on, or cancelled."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.started: SimpleQueue[int] = SimpleQueue()
        self.orders: SimpleQueue[str] = SimpleQueue()

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        cancel: CancelToken,
        **rest: Any,
    ) -> Iterator[Image.Image]:
        self.orders = SimpleQueue()
        cancel.on_cancel(partial(self.orders.put, "stop"))
        self.started.put(seed)
        yield from super().generate(request, seed=seed, cancel=cancel, **rest)

    def _wait(self, _step: int) -> None:
        if self.orders.get() == "fail":
            raise NbgenError("No.")


@dataclass
class _Vote:
    reviewer: str
    verdict: Verdict
    version: int
    child: str | None = None
    overrules: _Vote | None = None
    undone: bool = False

    def contradicts(self, other: _Vote) -> bool:
        both_want_changes = self.verdict is other.verdict is Verdict.CHANGES_REQUESTED
        return self.verdict is not other.verdict or both_want_changes


@dataclass
class _Known:
    """What the model knows of a task."""

    prompt: str
    priority: int
    parent: str | None = None
    outcome: Outcome | None = None
    attempts: int = 0
    deaths: int = 0
    taken: list[_Vote] = field(default_factory=list)
    version: int = 0
    quorum: int = 1

    @property
    def votes(self) -> list[_Vote]:
        """What counts: all that was taken and not undone, one after another."""
        counting: list[_Vote] = []
        for vote in self.taken:
            if vote.undone:
                continue
            counting = [v for v in counting if v.reviewer != vote.reviewer]
            if vote.overrules in counting:
                counting = [v for v in counting if not v.contradicts(vote)]
            counting.append(vote)
        return counting

    @property
    def standing(self) -> _Vote | None:
        """The vote that decides: the first against it, or the one that was enough."""
        votes = self.votes
        against = [v for v in votes if v.verdict is not Verdict.APPROVED]
        if against:
            return against[0]
        return votes[self.quorum - 1] if len(votes) >= self.quorum else None

    def wait_again(self) -> None:
        """Wait for another attempt, as somebody asked for."""
        self.outcome = None
        self.deaths = 0

    def own(self, reviewer: str) -> _Vote | None:
        return next((v for v in self.votes if v.reviewer == reviewer), None)

    def answer(
        self, reviewer: str, verdict: Verdict, expected: int | None
    ) -> _Vote | None:
        """Return the vote that a request to decide comes to; None for a conflict."""
        if self.outcome is not Outcome.SUCCEEDED:
            return None
        own, standing = self.own(reviewer), self.standing
        if own is not None and own.verdict is verdict:
            is_answer_lost = own.version == self.version and (
                expected == self.version - 1
            )
            holds = standing in (None, own) or not standing.contradicts(own)
            if is_answer_lost or (holds and expected in (None, self.version)):
                return own
        if expected not in (None, self.version):
            return None
        vote = _Vote(reviewer, verdict, self.version + 1)
        for beaten in (standing, own):
            if beaten is not None and beaten.contradicts(vote):
                vote.overrules = beaten
                return None if expected is None else vote
        return vote

    def take(self, vote: _Vote) -> None:
        """Count a vote, unless it counts already."""
        if vote.version > self.version:
            self.taken.append(vote)
            self.version = vote.version


_ids = st.sampled_from(["a", "b", "c", "d"])
_prompts = st.sampled_from(["red", "blue"])
_priorities = st.integers(-1, 1)
_reviewers = st.sampled_from(["ada", "bob"])
_places = st.integers(0, 1_000)  # of a task, among those that there are
# Mostly the same task: it takes several decisions on one for anything to go wrong.
_few = st.sampled_from([0, 0, 0, 0, 1, 2, 3])


class StudioMachine(RuleBasedStateMachine):
    """A studio with one task at a time held before its only step, and the model.

    Another studio on the same folder, which runs nothing, does what the first one does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._known: dict[str, _Known] = {}  # in the order of their submission
        self._asking: Studio
        self._quorum = 1
        self._running: str | None = None
        self._died: str | None = None  # what ran in a process that has died
        self._paused = False

    @initialize(quorum=st.sampled_from([1, 2]))
    def open(self, quorum: int) -> None:
        """Begin with a task that is done, for every decision to be about one."""
        self._quorum = quorum
        self._open(take_over=True)
        self.submit("done", "red", 0)
        self.end("finish")

    def teardown(self) -> None:
        self._close(finish=False)
        self._folder.cleanup()

    # What is done.

    @rule()
    def change_sides(self) -> None:
        """Have the other process ask for whatever comes next."""
        self._asking = self._other if self._asking is self._studio else self._studio

    @rule(task_id=_ids | st.none(), prompt=_prompts, priority=_priorities)
    def submit(self, task_id: str | None, prompt: str, priority: int) -> None:
        known = self._known.get(task_id or "")
        if known is not None and known.prompt != prompt:
            with pytest.raises(TaskConflict):
                self._submit(prompt, task_id, priority)
            return
        is_wanted = known is None or known.outcome is Outcome.FAILED
        if is_wanted and self._is_full():
            with pytest.raises(QueueFull):
                self._submit(prompt, task_id, priority)
            return
        found = self._submit(prompt, task_id, priority)
        assert task_id in (None, found)
        if known is None:
            self._add(found, prompt, priority)
        elif is_wanted:
            known.wait_again()
        self._start_next()

    @rule(task_id=_ids, prompt=_prompts, priority=_priorities)
    def replace(self, task_id: str, prompt: str, priority: int) -> None:
        known = self._known.get(task_id)
        if known is None or known.prompt == prompt:
            return

        def ask() -> None:
            self._submit(prompt, task_id, priority, replace=True)

        if known.outcome is None:
            with pytest.raises(TaskNotEnded):
                ask()
        elif known.standing is not None:
            with pytest.raises(DecisionConflict):
                ask()
        elif self._is_full():
            with pytest.raises(QueueFull):
                ask()
        else:
            ask()
            known.prompt, known.priority = prompt, priority
            known.wait_again()
            self._start_next()

    @rule(first=_places, seconds=st.lists(_places, max_size=3))
    @precondition(lambda self: self._known)
    def cancel(self, first: int, seconds: list[int]) -> None:
        chosen = [self._pick(place) for place in (first, *seconds)]
        self._asking.cancel_tasks(chosen)
        for task_id in chosen:
            if self._known[task_id].outcome is None:
                self._end(task_id, Outcome.CANCELLED)
        self._start_next()

    @rule(order=st.sampled_from(["finish", "finish", "fail"]))
    @precondition(lambda self: self._running)
    def end(self, order: str) -> None:
        assert self._running is not None
        self._engine.orders.put(order)
        self._end(
            self._running, Outcome.SUCCEEDED if order == "finish" else Outcome.FAILED
        )
        self._start_next()

    @rule(place=_places)
    @precondition(lambda self: self._known)
    def retry(self, place: int) -> None:
        task_id = self._pick(place)
        known = self._known[task_id]
        if known.outcome in (None, Outcome.SUCCEEDED):
            error = TaskNotEnded if known.outcome is None else TaskError
            with pytest.raises(error):
                self._asking.retry(task_id)
        elif self._is_full():
            with pytest.raises(QueueFull):
                self._asking.retry(task_id)
        else:
            assert self._asking.retry(task_id).id == task_id
            known.wait_again()
            self._start_next()

    @rule(place=_places, priority=_priorities)
    @precondition(lambda self: self._known)
    def prioritise(self, place: int, priority: int) -> None:
        task_id = self._pick(place)
        if task_id in self._waiting():
            self._asking.prioritise(task_id, priority)
            self._known[task_id].priority = priority
        else:
            with pytest.raises(TaskNotWaiting):
                self._asking.prioritise(task_id, priority)

    @rule()
    def pause(self) -> None:
        self._asking.pause()
        self._paused = True

    @rule()
    def resume(self) -> None:
        self._asking.resume()
        self._paused = False
        self._start_next()

    @rule(
        place=_few,
        reviewer=_reviewers,
        verdict=st.sampled_from(
            [Verdict.APPROVED, Verdict.APPROVED, Verdict.APPROVED, Verdict.REJECTED]
        ),
        behind=st.sampled_from([None, None, 0, 0, 0, 1, 2]),
    )
    @precondition(lambda self: self._known)
    def decide(
        self, place: int, reviewer: str, verdict: Verdict, behind: int | None
    ) -> None:
        task_id = self._pick_to_decide(place)
        known = self._known[task_id]
        expected = None if behind is None else max(0, known.version - behind)
        answer = known.answer(reviewer, verdict, expected)
        if answer is None:
            with pytest.raises(DecisionConflict):
                self._decide(task_id, verdict, reviewer, expected)
            return
        assert self._decide(task_id, verdict, reviewer, expected) == answer.version
        known.take(answer)

    @rule(place=_few, reviewer=_reviewers, prompt=_prompts)
    @precondition(lambda self: self._known)
    def request_changes(self, place: int, reviewer: str, prompt: str) -> None:
        task_id = self._pick_to_decide(place)
        known = self._known[task_id]

        def ask() -> str:
            child = self._asking.request_changes(
                task_id, reviewer_id=reviewer, feedback="Bluer", prompt=prompt
            )
            assert child is not None
            return child.id

        answer = known.answer(reviewer, Verdict.CHANGES_REQUESTED, None)
        if self._is_full():
            with pytest.raises(QueueFull):
                ask()
        elif answer is None:
            with pytest.raises(DecisionConflict):
                ask()
        elif answer.child is not None:
            if self._known[answer.child].prompt == prompt:
                assert ask() == answer.child
            else:
                with pytest.raises(DecisionConflict):
                    ask()
        else:
            answer.child = ask()
            known.take(answer)
            self._add(answer.child, prompt, known.priority, task_id)
            self._start_next()

    @rule(place=_few, reviewer=_reviewers, knows=st.booleans())
    @precondition(lambda self: self._known)
    def undo(self, place: int, reviewer: str, knows: bool) -> None:
        task_id = self._pick_to_decide(place)
        known = self._known[task_id]
        expected = known.version if knows else None
        undone = known.own(reviewer)
        if undone is None and knows and known.votes:
            undone = known.votes[-1]
        if undone is None:
            with pytest.raises(DecisionConflict):
                self._undo(task_id, reviewer, expected)
            return
        undone.undone = True
        known.version += 1
        entry = self._undo(task_id, reviewer, expected)
        assert entry.version == known.version
        [taken_back] = [
            logged
            for logged in self._studio.decisions()
            if logged.sequence == entry.supersedes
        ]
        assert (taken_back.task_id, taken_back.version) == (task_id, undone.version)

    def _undo(self, task_id: str, reviewer: str, expected: int | None) -> Decision:
        return self._asking.undo(task_id, reviewer_id=reviewer, expect_version=expected)

    @rule(finish=st.booleans(), dies=st.integers(0, 3), takes_over=st.booleans())
    def restart(self, finish: bool, dies: int, takes_over: bool) -> None:
        """Close it, have processes die that ran a task each, and open another.

        What ran here is finished or waits again. What ran in a process that died waits
        again, but for a third time. What waits is offered, or runs on at once.
        """
        if finish:
            self._studio.pause()  # or the next one might begin before it closes
            self._engine.orders.put("finish")
        self._close(finish=finish)
        if self._running is not None:
            if finish:
                self._known[self._running].outcome = Outcome.SUCCEEDED
            self._running = None
        for _ in range(dies):
            self._die()
        self._open(take_over=takes_over)
        if not takes_over:
            until(
                self._other, lambda: self._other.offered() == self._waiting(), _WAIT_S
            )
            assert self._studio.waiting() == []
            self._asking.run_offered()
        self._studio.resume()
        self._paused = False
        self._start_next()

    def _die(self) -> None:
        """Have a process run the next task and die of it."""
        died = Store(Path(self._folder.name))
        turn = died.open_turn()
        assert turn.take()
        died.queue.set_paused(paused=False)
        # As the next process does, which then dies, too.
        generation = died.running.begin(take_over=True)
        self._take_back()
        record = died.running.claim(generation, "another machine")
        waiting = self._waiting()
        assert (record.id if record else None) == (waiting[0] if waiting else None)
        if record is not None:
            self._known[record.id].attempts += 1
            self._died = record.id
        died.close()
        turn.release()

    def _take_back(self) -> None:
        """Count the death of a process, which the next one finds."""
        died, self._died = self._died, None
        if died is not None:
            known = self._known[died]
            known.deaths += 1
            if known.deaths == MOST_DEATHS:
                known.outcome = Outcome.FAILED

    # What must hold after each.

    @invariant()
    def the_queue_is_that_of_the_model(self) -> None:
        assert self._asking.waiting() == self._waiting()
        state = self._asking.queue_state()
        assert state.waiting == len(self._waiting())
        assert state.running == (self._running is not None)
        assert state.is_paused == self._paused

    @invariant()
    def the_tasks_are_those_of_the_model(self) -> None:
        records = self._asking.tasks(limit=1_000)
        assert [record.id for record in records] == list(reversed(self._known))
        for record in records:
            self._check(record, self._known[record.id])
        log = self._studio.decisions()
        assert len(log) == sum(known.version for known in self._known.values())

    def _check(self, record: TaskRecord, known: _Known) -> None:
        assert record.request.prompt == known.prompt
        assert record.outcome is known.outcome
        assert record.priority == known.priority
        assert record.parent_id == known.parent
        assert record.version == known.version
        assert record.attempt == known.attempts
        runs = record.id == self._running
        assert (record.status is Status.GENERATING) == runs
        assert record.status.ended == (known.outcome is not None)
        standing = known.standing
        approval = ApprovalStatus(standing.verdict if standing else "pending")
        assert record.approval_status is approval
        progress = self._asking.get_progress(record.id)
        assert progress.outcome is known.outcome
        if known.outcome is Outcome.SUCCEEDED:
            assert record.result is not None
            [image] = record.result.images
            assert self._studio.read_image(image.name)
        else:
            assert record.result is None

    # How.

    def _open(self, *, take_over: bool) -> None:
        self._engine = _HeldEngine()
        self._studio = Studio(
            self._folder.name,
            engine=self._engine,
            queue_limit=_QUEUE_LIMIT,
            quorum=str(self._quorum),
            take_over=take_over,
        )
        config = StudioConfig(
            data_dir=self._folder.name,
            queue_limit=_QUEUE_LIMIT,
            quorum=str(self._quorum),
        )
        self._other = Studio(backend=LocalBackend.open_library(config))
        self._asking = self._studio
        self._take_back()

    def _close(self, *, finish: bool) -> None:
        self._studio.close(finish=finish)
        self._other.close()

    def _submit(
        self,
        prompt: str,
        task_id: str | None,
        priority: int,
        *,
        replace: bool = False,
    ) -> str:
        task = self._asking.submit(
            _request(prompt), task_id=task_id, priority=priority, replace=replace
        )
        return task.id

    def _decide(
        self, task_id: str, verdict: Verdict, reviewer: str, expected: int | None
    ) -> int:
        return self._asking.decide(
            task_id, verdict, reviewer_id=reviewer, expect_version=expected
        ).version

    def _add(
        self, task_id: str, prompt: str, priority: int, parent: str | None = None
    ) -> None:
        assert task_id not in self._known
        self._known[task_id] = _Known(prompt, priority, parent, quorum=self._quorum)

    def _pick(self, place: int) -> str:
        task_ids = list(self._known)
        return task_ids[place % len(task_ids)]

    def _pick_to_decide(self, place: int) -> str:
        completed_first = sorted(
            self._known,
            key=lambda task_id: self._known[task_id].outcome is not Outcome.SUCCEEDED,
        )
        return completed_first[place % len(completed_first)]

    def _waiting(self) -> list[str]:
        waiting = [
            task_id
            for task_id, known in self._known.items()
            if known.outcome is None and task_id != self._running
        ]
        return sorted(waiting, key=lambda task_id: -self._known[task_id].priority)

    def _is_full(self) -> bool:
        # What a process that died left may be more than may wait.
        return len(self._waiting()) >= _QUEUE_LIMIT

    def _start_next(self) -> None:
        """Wait for the task that is next, if one is, to be held before its step."""
        waiting = self._waiting()
        if self._running is None and not self._paused and waiting:
            self._running = waiting[0]
            self._known[waiting[0]].attempts += 1
            seed = self._engine.started.get(timeout=_WAIT_S)
            assert self._studio.get_record(self._running).seed == seed

    def _end(self, task_id: str, outcome: Outcome) -> None:
        self._known[task_id].outcome = outcome
        if task_id == self._running:
            self._running = None
        task = self._asking.task(task_id)
        if outcome is Outcome.SUCCEEDED:
            task.result(_WAIT_S)
        else:
            with pytest.raises(_ERRORS[outcome]):
                task.result(_WAIT_S)


def _request(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, num_inference_steps=1)


@pytest.mark.timeout(3_600)
def test_a_studio_does_what_the_model_does() -> None:
    run_state_machine_as_test(
        StudioMachine,
        settings=settings(max_examples=_EXAMPLES, stateful_step_count=40),
    )
