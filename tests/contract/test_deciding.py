"""``Deciding``: decisions, their log, tasks made elsewhere and publications."""

from __future__ import annotations

import datetime as dt
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbgen.backend import Backend
from nbgen.errors import (
    DecisionConflict,
    FeaturedImageMissing,
    InvalidRequest,
    PublishFailed,
    QueueFull,
    UnknownTask,
)
from nbgen.review.publishers import Publication
from nbgen.review.quorum import read_quorum
from nbgen.review.rules import fold
from nbgen.schema import (
    ApprovalStatus,
    Decision,
    PublicationState,
    Status,
    TaskQuery,
    Verdict,
)
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    asks,
    decide,
    hold,
    local_only,
    made,
    png,
    says,
    submit,
)

NEW_IDS = count()


class Recorder:
    """A publisher that fails as often as it is told to, then publishes."""

    def __init__(self, failures: int = 0) -> None:
        self.name = "recorder"
        self.failures = failures
        self.seen: list[Publication] = []

    def publish(self, publication: Publication) -> str | None:
        if self.failures:
            self.failures -= 1
            raise PublishFailed("The service is down.")
        self.seen.append(publication)
        return f"https://x.org/{publication.task_id}"


def test_a_decision_is_kept_and_shown(backend: Backend) -> None:
    before = dt.datetime.now(dt.UTC)
    [record] = made(backend, "a")
    request = says("a", "ada", feedback=" Fine ", tags=("hands",))
    decision = decide(backend, request)
    assert record.result is not None
    assert decision.featured_image_url == record.result.images[0].url
    assert (decision.task_id, decision.version) == ("a", 1)
    assert (decision.verdict, decision.reviewer_id) == (Verdict.APPROVED, "ada")
    assert (decision.feedback, decision.tags) == ("Fine", ("hands",))
    assert before <= decision.decided_at <= dt.datetime.now(dt.UTC)
    assert decision.sequence > 0
    [record] = backend.get_tasks(["a"])
    assert record.decisions == (decision,)
    assert (record.decision, record.version) == (decision, 1)
    assert record.approval_status is ApprovalStatus.APPROVED
    assert backend.list_tasks(TaskQuery())[0] == record
    assert backend.decisions("a") == [decision]
    review = backend.review("a")
    assert (review.status, review.decision) == (ApprovalStatus.APPROVED, decision)
    assert (review.votes, review.version) == ({"ada": decision}, 1)


def test_the_same_again_is_the_decision_that_stands(backend: Backend) -> None:
    made(backend, "a")
    decision = decide(backend, says("a", "ada"))
    assert decide(backend, says("a", "ada")) == decision
    assert backend.decisions("a") == [decision]


def test_a_refusal_keeps_no_other_decision_from_being_taken(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate)
    submit(backend, "a")
    gate.open()
    backend.ended("a").result(WAIT_S)
    backend.pause()
    submit(backend, "waits")
    reject = Verdict.REJECTED
    answers = backend.decide(
        [
            says("z", "ada"),
            says("waits", "ada"),
            says("a", "ada"),
            says("a", "ada", reject),
            says("a", "bob"),
            says("a", "eve", Verdict.CHANGES_REQUESTED),
            says("a", "eve", expect_version=7),
            says("a", "eve", image=f"{'0' * 32}.png"),
        ]
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [
        UnknownTask,
        DecisionConflict,
        Decision,
        DecisionConflict,
        Decision,
        InvalidRequest,
        DecisionConflict,
        InvalidRequest,
    ]
    assert backend.decisions("a") == [answers[2], answers[4]]
    assert backend.decide([]) == []
    assert backend.decide(iter(())) == []  # whatever can be iterated


def test_who_knows_of_a_decision_may_overrule_it(backend: Backend) -> None:
    made(backend, "a")
    approval = decide(backend, says("a", "ada"))
    with pytest.raises(DecisionConflict, match="expect_version=1"):
        decide(backend, says("a", "bob", Verdict.REJECTED))
    rejection = decide(backend, says("a", "bob", Verdict.REJECTED, expect_version=1))
    assert rejection.supersedes == approval.sequence
    review = backend.review("a")
    assert (review.status, review.decision) == (ApprovalStatus.REJECTED, rejection)
    with pytest.raises(DecisionConflict):
        decide(backend, says("a", "eve", expect_version=1))


def test_an_approval_takes_the_picture_that_the_metadata_name(
    backend: Backend,
) -> None:
    own = "https://x.org/own.png"
    backend.put_content("a", {}, featured_image_url=None)
    assert decide(backend, says("a", "ada")).featured_image_url is None
    backend.put_content("b", {}, featured_image_url=own)
    assert decide(backend, says("b", "ada")).featured_image_url == own
    named = "https://x.org/named.png"
    backend.put_content("c", {"featured_image_url": named}, featured_image_url=own)
    assert decide(backend, says("c", "ada")).featured_image_url == named
    backend.put_content("d", {}, featured_image_url=own)
    wanted = says("d", "ada", featured_image_url=named)
    assert decide(backend, wanted).featured_image_url == named


@local_only
def test_a_picture_that_is_gone_cannot_be_approved(backend: Backend) -> None:
    [record] = made(backend, "a")
    assert record.result is not None
    path = backend.picture_path(record.result.images[0].name)
    assert path is not None
    path.unlink()
    with pytest.raises(FeaturedImageMissing):
        decide(backend, says("a", "ada"))


def test_a_quorum_says_what_is_missing(make_backend: MakeBackend) -> None:
    backend = make_backend(quorum="2:ada,bob,eve")
    made(backend, "a")
    first = decide(backend, says("a", "ada"))
    review = backend.review("a")
    assert (review.status, review.decision) == (ApprovalStatus.PENDING, None)
    assert review.missing == "1 more approval of bob or eve"
    with pytest.raises(InvalidRequest, match="reviewer_id"):
        decide(backend, says("a", "mallory"))
    with pytest.raises(InvalidRequest, match="reviewer_id"):
        backend.undo("a", reviewer_id="mallory", expect_version=None)
    second = decide(backend, says("a", "bob"))
    review = backend.review("a")
    assert (review.status, review.decision) == (ApprovalStatus.APPROVED, second)
    assert (review.missing, review.version) == (None, 2)
    assert review.votes == {"ada": first, "bob": second}


def test_an_undone_decision_counts_as_never_taken(backend: Backend) -> None:
    made(backend, "a")
    approval = decide(backend, says("a", "ada"))
    undone = backend.undo("a", reviewer_id="ada", expect_version=None)
    assert (undone.verdict, undone.supersedes) == (Verdict.UNDONE, approval.sequence)
    assert backend.review("a").status is ApprovalStatus.PENDING
    assert backend.decisions("a") == [approval, undone]
    rejection = decide(backend, says("a", "bob", Verdict.REJECTED))
    assert backend.review("a").decision == rejection
    with pytest.raises(DecisionConflict, match="No decision by ada"):
        backend.undo("a", reviewer_id="ada", expect_version=None)
    backend.undo("a", reviewer_id="ada", expect_version=3)
    with pytest.raises(DecisionConflict, match="no decision that could be undone"):
        backend.undo("a", reviewer_id="bob", expect_version=None)


def test_an_undo_is_checked(backend: Backend) -> None:
    with pytest.raises(UnknownTask):
        backend.undo("a", reviewer_id="ada", expect_version=None)
    with pytest.raises(InvalidRequest, match="task_id"):
        backend.undo("a/b", reviewer_id="ada", expect_version=None)
    with pytest.raises(InvalidRequest, match="reviewer_id"):
        backend.undo("a", reviewer_id=" ", expect_version=None)
    with pytest.raises(InvalidRequest, match="expect_version"):
        backend.undo("a", reviewer_id="ada", expect_version=-1)


def test_the_log_is_of_one_task_or_of_all(backend: Backend) -> None:
    made(backend, "a", "b")
    one = decide(backend, says("a", "ada"))
    two = decide(backend, says("b", "ada"))
    three = backend.undo("a", reviewer_id="ada", expect_version=None)
    assert backend.decisions(None) == [one, two, three]
    assert one.sequence < two.sequence < three.sequence
    assert backend.decisions("b") == [two]
    assert backend.decisions("z") == []


def test_an_unknown_task_has_no_review(backend: Backend) -> None:
    with pytest.raises(UnknownTask):
        backend.review("a")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", "eve"]),
        st.sampled_from([Verdict.APPROVED, Verdict.REJECTED, Verdict.UNDONE]),
        st.sampled_from([None, 0, 1, 2, 3]),
    ),
    max_size=6,
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_decisions_come_to_what_the_rules_say(
    quorum_of_two: Backend, steps: list[tuple[str, Verdict, int | None]]
) -> None:
    backend, task_id = quorum_of_two, f"c{next(NEW_IDS)}"
    url = "https://x.org/a.png"
    backend.put_content(task_id, {}, featured_image_url=url)
    taken: list[Decision] = []
    for reviewer, verdict, expected in steps:
        try:
            if verdict is Verdict.UNDONE:
                decision = backend.undo(
                    task_id, reviewer_id=reviewer, expect_version=expected
                )
            else:
                wanted = says(task_id, reviewer, verdict, expect_version=expected)
                decision = decide(backend, wanted)
        except DecisionConflict:
            continue
        if decision not in taken:
            taken.append(decision)
        assert backend.decisions(task_id) == taken
        review = backend.review(task_id)
        assert review == fold(taken, read_quorum("2"))
        content = backend.get_content(task_id)
        assert content.decisions == tuple(taken)
        assert content.decision == review.decision
        assert content.approval_status is review.status
    assert [entry.version for entry in taken] == list(range(1, len(taken) + 1))


@pytest.fixture
def quorum_of_two(make_backend: MakeBackend) -> Backend:
    """Return a backend whose tasks need two approvals."""
    return make_backend(quorum="2")


CHANGES = says("a", "ada", Verdict.CHANGES_REQUESTED, feedback="Less red")


def test_requested_changes_are_queued_as_a_child(backend: Backend) -> None:
    made(backend, "a")
    child = backend.request_changes(CHANGES, prompt="a green cat")
    assert child is not None
    assert (child.parent_id, child.status) == ("a", Status.PENDING)
    assert (child.request.prompt, child.seed) == ("a green cat", 7)
    [decision] = backend.decisions("a")
    assert decision.verdict is Verdict.CHANGES_REQUESTED
    assert (decision.child_id, decision.feedback) == (child.id, "Less red")
    assert backend.ended(child.id).result(WAIT_S).result is not None
    again = backend.request_changes(CHANGES, prompt="a green cat")
    assert again is not None
    assert again.id == child.id
    with pytest.raises(DecisionConflict, match="requested already"):
        backend.request_changes(CHANGES, prompt="a blue cat")
    assert len(backend.list_tasks(TaskQuery())) == 2


def test_requested_changes_say_what_should_change(backend: Backend) -> None:
    made(backend, "a")
    silent = says("a", "ada", Verdict.CHANGES_REQUESTED)
    with pytest.raises(InvalidRequest, match="feedback"):
        backend.request_changes(silent, prompt=None)
    assert backend.decisions("a") == []


def test_changes_without_a_prompt_draw_another_seed(backend: Backend) -> None:
    made(backend, "a")
    child = backend.request_changes(CHANGES, prompt=None)
    assert child is not None
    assert child.request == asks("a cat", seed=None)


def test_a_child_keeps_the_row_of_its_parent(backend: Backend) -> None:
    backend.submit_batch("b", {"cat": asks()}, priority=2)
    backend.ended("b:cat").result(WAIT_S)
    request = says("b:cat", "ada", Verdict.CHANGES_REQUESTED, feedback="No")
    child = backend.request_changes(request, prompt=None)
    assert child is not None
    assert (child.batch_id, child.batch_row, child.priority) == ("b", "cat", 2)
    assert [row.task_id for row in backend.batch_rows("b")] == [child.id]


def test_changes_are_requested_with_their_child_or_not_at_all(
    make_backend: MakeBackend,
) -> None:
    gate = Gate(at_step=2)
    backend = make_backend(gate, queue_limit=1)
    submit(backend, "runs")
    gate.wait_reached()
    with pytest.raises(UnknownTask):
        backend.request_changes(CHANGES, prompt=None)
    early = says("runs", "ada", Verdict.CHANGES_REQUESTED, feedback="No")
    with pytest.raises(DecisionConflict, match="is generating"):
        backend.request_changes(early, prompt=None)
    gate.open()
    backend.ended("runs").result(WAIT_S)
    backend.pause()
    submit(backend, "waits")
    with pytest.raises(QueueFull):
        backend.request_changes(early, prompt=None)
    assert backend.decisions(None) == []
    assert backend.waiting() == ["waits"]


def test_changes_of_a_task_made_elsewhere_have_no_child(backend: Backend) -> None:
    backend.put_content("a", {}, featured_image_url=None)
    assert backend.request_changes(CHANGES, prompt=None) is None
    review = backend.review("a")
    assert review.status is ApprovalStatus.CHANGES_REQUESTED
    assert backend.list_tasks(TaskQuery()) == []


def test_content_is_merged_with_what_is_known(backend: Backend) -> None:
    first = backend.put_content(
        "a", {"one": {"x": 1}, "two": [1]}, featured_image_url="https://x.org/a.png"
    )
    assert first.metadata == {"one": {"x": 1}, "two": [1]}
    assert first.approval_status is ApprovalStatus.PENDING
    text = '{"one": {"y": 2}, "two": [3]}'
    second = backend.put_content("a", text, featured_image_url=None)
    assert second.metadata == {"one": {"x": 1, "y": 2}, "two": [3]}
    assert second.featured_image_url == "https://x.org/a.png"
    assert second.created_at == first.created_at <= second.updated_at
    assert backend.get_content("a") == second
    decision = decide(backend, says("a", "ada"))
    third = backend.get_content("a")
    assert (third.decision, third.version) == (decision, 1)
    assert third.approval_status is ApprovalStatus.APPROVED
    assert backend.put_content("a", {}, featured_image_url=None).decision == decision


@pytest.mark.parametrize("metadata", ["", "[1]", "{", 7, {"x": object()}])
def test_metadata_are_an_object_of_json_values(backend: Backend, metadata: Any) -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        backend.put_content("a", metadata, featured_image_url=None)
    with pytest.raises(UnknownTask):
        backend.get_content("a")


def test_content_is_checked(backend: Backend) -> None:
    with pytest.raises(InvalidRequest, match="task_id"):
        backend.put_content("a/b", {}, featured_image_url=None)
    with pytest.raises(InvalidRequest, match="featured_image_url"):
        backend.put_content("a", {}, featured_image_url=" ")


def test_a_generated_task_is_no_content(backend: Backend) -> None:
    made(backend, "a")
    with pytest.raises(UnknownTask):
        backend.get_content("a")


def test_what_came_of_a_decision_is_told(backend: Backend) -> None:
    backend.put_content("a", {}, featured_image_url=None)
    decision = decide(backend, says("a", "ada"))
    told = backend.decided(decision, wait_s=0.0)
    assert told.decision == decision
    assert told.review == backend.review("a")
    assert told.publications == ()
    assert told.message.startswith("Approved by ada. There is no featured image")
    undone = backend.undo("a", reviewer_id="ada", expect_version=None)
    assert backend.decided(undone, wait_s=0.0).message == "Undone by ada."
    unknown = Decision(
        task_id="z",
        verdict=Verdict.APPROVED,
        reviewer_id="ada",
        decided_at=decision.decided_at,
    )
    with pytest.raises(UnknownTask):
        backend.decided(unknown, wait_s=0.0)


def test_an_approval_is_published(make_backend: MakeBackend) -> None:
    recorder = Recorder()
    backend = make_backend(publishers=[recorder])
    [record] = made(backend, "a")
    decision = decide(backend, says("a", "ada", feedback="Fine"))
    [publication] = backend.publications("a", wait_s=WAIT_S)
    assert publication.state is PublicationState.PUBLISHED
    assert (publication.publisher, publication.task_id) == ("recorder", "a")
    assert (publication.decision, publication.attempts) == (decision.sequence, 1)
    assert (publication.url, publication.error) == ("https://x.org/a", None)
    told = backend.decided(decision, wait_s=WAIT_S)
    assert told.publications == (publication,)
    assert told.message == "Approved by ada."
    decide(backend, says("a", "bob"))
    assert backend.publications("a", wait_s=WAIT_S) == [publication]
    [seen] = recorder.seen
    assert (seen.task_id, seen.reviewer_id, seen.feedback) == ("a", "ada", "Fine")
    assert (seen.seed, seen.featured_image_url) == (7, decision.featured_image_url)
    assert seen.request is not None
    assert seen.request["prompt"] == record.request.prompt


def test_what_is_not_approved_is_not_published(make_backend: MakeBackend) -> None:
    backend = make_backend(publishers=[Recorder()], quorum="2")
    made(backend, "a", "b")
    decide(backend, says("a", "ada"))
    decide(backend, says("b", "ada", Verdict.REJECTED))
    assert backend.publications("a", wait_s=WAIT_S) == []
    assert backend.publications("b", wait_s=WAIT_S) == []
    assert backend.publications("z", wait_s=WAIT_S) == []


def test_a_failed_publication_is_told_and_cancelled_by_an_undo(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(publishers=[Recorder(failures=1)])
    made(backend, "a")
    decision = decide(backend, says("a", "ada"))
    [failed] = backend.publications("a", wait_s=WAIT_S)
    assert (failed.state, failed.attempts) == (PublicationState.PENDING, 1)
    assert failed.error == "The service is down."
    told = backend.decided(decision, wait_s=WAIT_S)
    assert told.message.endswith("Publishing failed and is tried again: recorder.")
    backend.undo("a", reviewer_id="ada", expect_version=None)
    [cancelled] = backend.publications("a", wait_s=WAIT_S)
    assert cancelled.state is PublicationState.CANCELLED


def test_an_approval_that_counts_again_is_published_once(
    make_backend: MakeBackend,
) -> None:
    recorder = Recorder()
    backend = make_backend(publishers=[recorder])
    made(backend, "a")
    first = decide(backend, says("a", "ada"))
    backend.publications("a", wait_s=WAIT_S)
    decide(backend, says("a", "bob", Verdict.REJECTED, expect_version=1))
    backend.undo("a", reviewer_id="bob", expect_version=None)
    [published] = backend.publications("a", wait_s=WAIT_S)
    assert published.decision == first.sequence
    assert published.state is PublicationState.PUBLISHED
    assert len(recorder.seen) == 1


def test_another_picture_is_published_anew(make_backend: MakeBackend) -> None:
    recorder = Recorder()
    backend = make_backend(publishers=[recorder])
    backend.submit(asks(num_images=2), task_id="a", priority=0)
    result = backend.ended("a").result(WAIT_S).result
    assert result is not None
    urls = [image.url for image in result.images]
    decide(backend, says("a", "ada"))
    backend.publications("a", wait_s=WAIT_S)
    second = says("a", "ada", image=result.images[1].name, expect_version=1)
    assert decide(backend, second).featured_image_url == urls[1]
    states = [each.state for each in backend.publications("a", wait_s=WAIT_S)]
    assert states == [PublicationState.PUBLISHED] * 2
    assert [each.featured_image_url for each in recorder.seen] == urls
    backend.keep_picture("image", png())


def test_deciding_needs_no_running_tasks(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    backend.put_content("a", {}, featured_image_url=None)
    assert decide(backend, says("a", "ada")).version == 1
    gate.open()
