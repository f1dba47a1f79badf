"""The rules of a decision, and the fold over the log."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.errors import (
    DecisionConflict,
    FeaturedImageMissing,
    InvalidRequest,
    UnknownTask,
)
from nbgen.review.candidates import find_candidates
from nbgen.review.quorum import Quorum, read_quorum
from nbgen.review.rules import describe, fold, rule, rule_undo
from nbgen.schema import (
    ApprovalStatus,
    ContentTask,
    Decision,
    DecisionRequest,
    GenerationRequest,
    GenerationResult,
    ImageRecord,
    Status,
    Subject,
    TaskRecord,
    Verdict,
)

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
ANY = Quorum()
ONE, TWO = "1" * 32 + ".png", "2" * 32 + ".png"


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
        picture = request.featured_image_url
        return self._append(
            rule(self.subject, request, self._quorum, picture=picture, now=NOW)
        )

    def approve(self, reviewer: str, **more: Any) -> Any:
        return self.decide(reviewer, Verdict.APPROVED, **more)

    def reject(self, reviewer: str, **more: Any) -> Any:
        return self.decide(reviewer, Verdict.REJECTED, **more)

    def undo(self, reviewer: str, expected: int | None = None) -> Any:
        ruling = rule_undo(
            self.subject, reviewer, self._quorum, expected=expected, now=NOW
        )
        return self._append(ruling)

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
    again = log.approve("ada")
    assert (again.is_new, again.decision.version) == (False, 1)


def test_each_reviewer_has_a_vote_of_their_own() -> None:
    """Nobody's agreement is lost, and nothing is published twice for it."""
    log = Log()
    log.approve("ada", featured_image_url="https://x.org/2.png")
    second = log.approve("bob", feedback="Me too")
    assert (second.is_new, second.publishes) == (True, None)
    assert second.decision.featured_image_url == "https://x.org/2.png"
    assert fold(log.entries, ANY).decision == log.entries[0]
    log.undo("ada")
    assert log.status == "approved"
    assert fold(log.entries, ANY).decision == log.entries[1]


def test_a_rejection_is_counted_also_where_one_stands() -> None:
    log = Log(Quorum(2))
    log.approve("ada")
    log.reject("bob")
    with pytest.raises(DecisionConflict, match="was approved by ada"):
        log.reject("ada")
    assert log.reject("ada", expect_version=2).is_new
    assert log.reject("eve", feedback="Not ours").is_new
    log.undo("bob")
    assert log.status == "rejected"


def test_another_picture_is_a_contradiction() -> None:
    log = Log()
    log.approve("ada", featured_image_url="https://x.org/1.png")
    for reviewer in ("ada", "bob"):
        with pytest.raises(DecisionConflict, match="was approved by ada"):
            log.approve(reviewer, featured_image_url="https://x.org/2.png")
    other = log.approve(
        "bob", featured_image_url="https://x.org/2.png", expect_version=1
    )
    assert (other.withdraws, other.publishes) == (True, other.decision)
    back = log.undo("bob")
    assert (back.withdraws, back.publishes) == (True, log.entries[0])


def test_who_says_more_replaces_what_they_said() -> None:
    log = Log()
    log.approve("ada")
    more = log.approve("ada", feedback="Just right", tags=["light"])
    assert (more.is_new, more.publishes, more.withdraws) == (True, None, False)
    assert fold(log.entries, ANY).votes == {"ada": log.entries[1]}
    assert not log.approve("ada").is_new


def test_whoever_knows_may_overrule_all() -> None:
    log = Log(Quorum(2))
    for name in ("ada", "bob"):
        log.reject(name)
    with pytest.raises(DecisionConflict, match="was rejected by ada"):
        log.approve("eve")
    log.approve("eve", expect_version=2)
    assert (log.status, set(fold(log.entries, ANY).votes)) == ("pending", {"eve"})
    log.undo("eve")
    assert (log.status, set(fold(log.entries, ANY).votes)) == (
        "rejected",
        {"ada", "bob"},
    )


def test_each_request_for_changes_is_one_of_its_own() -> None:
    log = Log()
    first = log.decide("ada", Verdict.CHANGES_REQUESTED, feedback="Bluer")
    again = log.decide("ada", Verdict.CHANGES_REQUESTED, feedback="Bluer")
    assert (again.is_new, again.decision.version) == (False, first.decision.version)
    for reviewer, feedback in (("ada", "Redder"), ("bob", "Bluer")):
        with pytest.raises(DecisionConflict, match="was sent back for changes by ada"):
            log.decide(reviewer, Verdict.CHANGES_REQUESTED, feedback=feedback)


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
    undone = log.undo("bob")
    assert log.status == "approved"
    assert undone.publishes.version == approval.version
    log.undo("ada")
    assert log.status == "pending"
    with pytest.raises(DecisionConflict, match="no decision that could be undone"):
        log.undo("bob")


def test_nobody_undoes_unseen_what_somebody_else_decided() -> None:
    log = Log()
    log.approve("ada")
    log.reject("bob", expect_version=1, feedback="Not ours")
    # She means her approval, and has not seen that it was overruled.
    with pytest.raises(DecisionConflict, match=r"rejected by bob .* expect_version=2"):
        log.undo("ada")
    with pytest.raises(DecisionConflict, match="has 2 decisions, not 1"):
        log.undo("ada", expected=1)
    assert log.undo("ada", expected=2).decision.supersedes == 20
    # The answer was not heard, so it is asked for again.
    again = log.undo("ada", expected=2)
    assert (again.is_new, again.decision.version, log.status) == (False, 3, "approved")


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
    assert log.undo("ada", expected=2).decision.supersedes == 10
    assert log.undo("ada", expected=3).decision.supersedes == 20


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


def test_so_many_of_the_named_must_approve() -> None:
    quorum = read_quorum("2:ada,bob,eve")
    log = Log(quorum)
    for refused in (log.approve, log.undo):
        with pytest.raises(InvalidRequest, match="must be ada, bob or eve"):
            refused("dan")
    log.approve("eve")
    missing = fold(log.entries, quorum).missing
    assert missing == "1 more approval of ada or bob"
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


@pytest.mark.parametrize(
    "wrong",
    ["", "0", "-1", "some", "all", "all:", "all:a,,b", "3:a,b", "0:a", "²", 2],
)
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
        before = fold(log.entries, Quorum(needed)).votes
        try:
            if verdict is Verdict.UNDONE:
                ruling = log.undo(reviewer, expected)
            else:
                ruling = log.decide(reviewer, verdict, expect_version=expected)
        except DecisionConflict:
            assert not knows or (verdict is Verdict.UNDONE and not before)
            continue
        published += (ruling.publishes is not None) - ruling.withdraws
        assert published == (log.status == ApprovalStatus.APPROVED)
        if ruling.is_new and verdict is Verdict.UNDONE:
            assert reviewer not in before or ruling.decision.supersedes == (
                before[reviewer].sequence
            )
        elif ruling.is_new:
            # What is undone at once might as well never have been decided.
            log.undo(reviewer)
            assert fold(log.entries, Quorum(needed)).votes == before
            del log.entries[-1]
    assert [e.version for e in log.entries] == list(range(1, len(log.entries) + 1))


def made(*names: str, status: Status = Status.COMPLETED) -> TaskRecord:
    """Return a task that was made here, with pictures of these names."""
    images = tuple(
        ImageRecord(name=name, url=f"/images/{name}", width=64, height=64, seed=7)
        for name in names
    )
    return TaskRecord(
        id="a",
        request=GenerationRequest(prompt="a cat"),
        seed=7,
        status=status,
        created_at=NOW,
        result=GenerationResult(images=images, generation_time=1.0) if images else None,
    )


def content(url: str | None = None, **metadata: Any) -> ContentTask:
    return ContentTask(
        task_id="a",
        metadata=metadata,
        featured_image_url=url,
        created_at=NOW,
        updated_at=NOW,
    )


def wish(verdict: Verdict = Verdict.APPROVED, **more: Any) -> DecisionRequest:
    return DecisionRequest(task_id="a", verdict=verdict, reviewer_id="ada", **more)


def decide(subject: Subject, request: DecisionRequest, picture: str | None) -> Decision:
    return rule(subject, request, ANY, picture=picture, now=NOW).decision


def test_nothing_is_decided_of_a_task_that_is_not_there() -> None:
    nothing = Subject("a", None, None, ())
    with pytest.raises(UnknownTask):
        decide(nothing, wish(), None)
    with pytest.raises(UnknownTask):
        rule_undo(nothing, "ada", ANY, expected=None, now=NOW)


def test_a_task_that_is_not_made_yet_is_not_decided() -> None:
    running = Subject("a", made(status=Status.GENERATING), None, ())
    with pytest.raises(DecisionConflict, match="'a' is generating; only a completed"):
        decide(running, wish(), None)
    # Of one made elsewhere whose picture failed here, the rest is decided on.
    failed = Subject("a", made(status=Status.FAILED), content(), ())
    assert decide(failed, wish(), None).verdict is Verdict.APPROVED


def test_an_approval_needs_a_picture_where_one_was_made() -> None:
    for also, where in [
        (None, "the pictures that were generated"),
        (content(), "task"),
    ]:
        with pytest.raises(FeaturedImageMissing, match=f"none was found in .*{where}"):
            decide(Subject("a", made(ONE), also, ()), wish(), None)
    subject = Subject("a", made(ONE), None, ())
    assert decide(subject, wish(Verdict.REJECTED), None).featured_image_url is None


def test_the_same_once_more_must_not_be_out_of_date() -> None:
    log = Log()
    log.approve("ada")
    log.approve("bob")
    with pytest.raises(DecisionConflict, match="has 2 decisions, not 1"):
        log.approve("ada", expect_version=1)


@pytest.mark.parametrize(
    ("task", "elsewhere", "asked", "gone", "url"),
    [
        (made(ONE, TWO), None, wish(), (), f"/images/{ONE}"),
        (made(ONE, TWO), None, wish(), (ONE,), f"/images/{TWO}"),
        (made(ONE, TWO), None, wish(), (ONE, TWO), None),
        (made(ONE, TWO), None, wish(image=TWO), (), f"/images/{TWO}"),
        (made(ONE, TWO), None, wish(image=TWO), (TWO,), None),
        (made(ONE), None, wish(featured_image_url="https://x/y"), (), "https://x/y"),
        (made(ONE), content("/c", image_url="/m"), wish(), (), "/m"),
        (made(ONE), content("/c"), wish(), (), "/c"),
        (made(ONE), content(), wish(), (), f"/images/{ONE}"),
        (None, content(), wish(), (), None),
        (made(ONE), None, wish(Verdict.REJECTED), (), None),
    ],
)
def test_the_picture_of_an_approval_is_found(
    task: TaskRecord | None,
    elsewhere: ContentTask | None,
    asked: DecisionRequest,
    gone: tuple[str, ...],
    url: str | None,
) -> None:
    subject = Subject("a", task, elsewhere, ())
    kept = [each for each in find_candidates(subject, asked) if each.name not in gone]
    assert (kept[0].url if kept else None) == url


def test_a_picture_of_another_task_is_refused() -> None:
    subject = Subject("a", made(ONE), None, ())
    with pytest.raises(InvalidRequest, match=r"image must be the name of a picture"):
        find_candidates(subject, wish(image=TWO))


def test_what_came_of_a_decision_is_told() -> None:
    def told(
        log: Log, ruling: Any, quorum: Quorum = ANY, generated: bool = True
    ) -> str:
        review = fold(log.entries, quorum)
        return describe(ruling.decision, review, generated=generated)

    log = Log()
    approval = log.approve("ada", featured_image_url="https://x/1.png")
    assert told(log, approval) == "Approved by ada."
    rejection = log.reject("bob", expect_version=1)
    assert told(log, rejection) == "Rejected by bob."
    assert told(log, approval) == "Approved by ada. It is rejected by bob."
    undone = log.undo("bob")
    assert told(log, undone) == "Undone by bob. It is approved by ada again."
    nothing = log.undo("ada")
    assert told(log, nothing) == "Undone by ada."
    two = read_quorum("2")
    waits = Log(two)
    first = waits.approve("ada", featured_image_url="https://x/1.png")
    assert told(waits, first, two).startswith("Approved by ada. It still needs ")
    bare = Log()
    assert told(bare, bare.approve("ada"), generated=False).startswith(
        "Approved by ada. There is no featured image: none was found in featured_image"
    )
