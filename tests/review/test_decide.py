"""The rules of a decision, and the fold over the log."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.decision import ApprovalStatus, ContentTask, Decision, DecisionRequest
from nbgen.errors import DecisionConflict, InvalidRequest
from nbgen.review.decide import Quorum, fold, read_quorum, rule, rule_undo
from nbgen.schema import Verdict
from nbgen.store import Subject

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
ANY = Quorum()


class Log:
    """A content task whose log grows by what is ruled."""

    def __init__(self, quorum: Quorum = ANY) -> None:
        self.entries: list[Decision] = []
        self._quorum = quorum

    @property
    def subject(self) -> Subject:
        content = ContentTask(task_id="a", metadata={}, created_at=NOW, updated_at=NOW)
        return Subject("a", None, content, tuple(self.entries))

    @property
    def status(self) -> str:
        return fold(self.entries, self._quorum).status.value

    def decide(self, reviewer: str, verdict: Verdict, **more: Any) -> Any:
        request = DecisionRequest(
            task_id="a", verdict=verdict, reviewer_id=reviewer, **more
        )
        return self._append(
            rule(self.subject, request, self._quorum, picture=None, now=NOW)
        )

    def approve(self, reviewer: str, **more: Any) -> Any:
        return self.decide(reviewer, Verdict.APPROVED, **more)

    def reject(self, reviewer: str, **more: Any) -> Any:
        return self.decide(reviewer, Verdict.REJECTED, **more)

    def undo(self, reviewer: str) -> Any:
        return self._append(rule_undo(self.subject, reviewer, self._quorum, now=NOW))

    def _append(self, ruling: Any) -> Any:
        if ruling.is_new:
            sequence = 10 * (len(self.entries) + 1)
            entry = msgspec.structs.replace(ruling.decision, sequence=sequence)
            self.entries.append(entry)
        return ruling


def test_one_approval_is_enough_and_repeats_say_the_same() -> None:
    log = Log()
    assert log.status == "pending"
    first = log.approve("ada")
    assert (first.publishes, log.status) == (first.decision, "approved")
    again = log.approve("bob")
    assert (again.is_new, again.decision.reviewer_id) == (False, "ada")


def test_a_contradiction_needs_an_undo_or_the_right_version() -> None:
    log = Log()
    log.approve("ada")
    with pytest.raises(DecisionConflict, match="approved by ada at 2026-01-02 03:04"):
        log.reject("bob")
    with pytest.raises(DecisionConflict, match="has 1 decision, not 0: it was appr"):
        log.reject("bob", expect_version=0)
    overruled = log.reject("bob", expect_version=1)
    assert (overruled.withdraws, log.status) == (True, "rejected")
    assert overruled.decision.supersedes == 10
    assert [entry.version for entry in log.entries] == [1, 2]


def test_what_was_undone_counts_as_never_decided() -> None:
    log = Log()
    approval = log.approve("ada").decision
    log.reject("bob", expect_version=1)
    log.approve("eve", expect_version=2)
    undone = log.undo("eve")
    assert (undone.withdraws, undone.publishes, log.status) == (True, None, "rejected")
    undone = log.undo("ada")  # of what overruled her, since her own does not count
    assert log.status == "approved"
    assert undone.publishes.version == approval.version
    log.undo("bob")
    assert log.status == "pending"
    with pytest.raises(DecisionConflict, match="no decision that could be undone"):
        log.undo("bob")


def test_who_did_not_hear_the_answer_may_ask_again() -> None:
    log = Log()
    log.approve("ada", expect_version=0)
    assert not log.approve("ada", expect_version=0).is_new
    with pytest.raises(DecisionConflict):
        log.approve("bob", expect_version=0)


def test_undo_takes_back_ones_own_decision_first() -> None:
    log = Log(Quorum(3))
    for name in ("ada", "bob"):
        log.approve(name)
    assert log.undo("ada").decision.supersedes == 10
    assert log.undo("ada").decision.supersedes == 20
    with pytest.raises(DecisionConflict, match="no decision that could be undone"):
        log.undo("ada")


def test_so_many_must_approve() -> None:
    log = Log(read_quorum("2"))
    assert not log.approve("ada").publishes
    assert log.status == "pending"
    assert not log.approve("ada").is_new
    assert log.approve("bob").publishes
    assert log.status == "approved"
    assert log.undo("ada").withdraws
    assert log.status == "pending"


def test_all_who_are_named_must_approve() -> None:
    log = Log(read_quorum("all: ada ,bob"))
    with pytest.raises(InvalidRequest, match="reviewer_id must be ada or bob"):
        log.approve("eve")
    log.approve("bob")
    assert fold(log.entries, read_quorum("all:ada,bob")).missing == (
        "the approval of ada"
    )
    log.approve("ada")
    assert log.status == "approved"


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.CHANGES_REQUESTED])
def test_one_against_is_enough(verdict: Verdict) -> None:
    log = Log(Quorum(2))
    log.approve("ada")
    log.decide("bob", verdict)
    assert log.status == verdict.value
    with pytest.raises(DecisionConflict):
        log.approve("eve")
    log.undo("bob")
    assert log.approve("eve").publishes


def test_one_may_change_ones_mind_knowingly() -> None:
    log = Log(Quorum(2))
    log.approve("ada")
    with pytest.raises(DecisionConflict):
        log.reject("ada")
    log.reject("ada", expect_version=1)
    assert log.status == "rejected"
    log.approve("ada", expect_version=2)
    assert log.status == "pending"


@pytest.mark.parametrize("wrong", ["", "0", "-1", "some", "all:", "all:a,,b", "²", 2])
def test_a_quorum_that_is_none(wrong: object) -> None:
    with pytest.raises(InvalidRequest):
        read_quorum(wrong)


MOVES = st.tuples(
    st.sampled_from(["ada", "bob", "eve"]),
    st.sampled_from([*Verdict]),
    st.booleans(),
)


@given(st.lists(MOVES, max_size=30), st.integers(1, 3))
def test_no_sequence_of_moves_breaks_the_log(moves: list[Any], needed: int) -> None:
    """Versions have no gap, and publishing follows the state, one for one."""
    log = Log(Quorum(needed))
    published = 0
    for reviewer, verdict, knows in moves:
        expected = len(log.entries) if knows else None
        try:
            if verdict is Verdict.UNDONE:
                ruling = log.undo(reviewer)
            else:
                ruling = log.decide(reviewer, verdict, expect_version=expected)
        except DecisionConflict:
            assert not (knows and verdict is not Verdict.UNDONE)
            continue
        published += (ruling.publishes is not None) - ruling.withdraws
        assert published == (log.status == ApprovalStatus.APPROVED)
    assert [e.version for e in log.entries] == list(range(1, len(log.entries) + 1))
