"""The rules of a decision: what counts, what repeats, what contradicts.

Pure functions over the log of decisions, for any thread. The store calls them within
the transaction that appends to the log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from nbgen.errors import (
    DecisionConflict,
    FeaturedImageMissing,
    InvalidRequest,
    PictureDamaged,
    UnknownTask,
)
from nbgen.review.image_url import searched_places
from nbgen.review.quorum import Quorum, either
from nbgen.schema import (
    ApprovalStatus,
    ContentTask,
    Decision,
    DecisionRequest,
    Review,
    Ruling,
    Status,
    Subject,
    TaskRecord,
    Verdict,
    decision_of,
    says_the_same,
)

_Record = TypeVar("_Record", TaskRecord, ContentTask)


def fold(log: Sequence[Decision], quorum: Quorum) -> Review:
    """Return what a log of decisions on one task comes to.

    Of each reviewer, the last decision counts, unless another overruled it. One that
    was undone counts as never taken, so what it had overruled counts again. Anybody's
    rejection, or request for changes, is enough.
    """
    undone = {entry.supersedes for entry in log if entry.verdict is Verdict.UNDONE}
    votes: dict[str, Decision] = {}
    for entry in log:
        if entry.verdict is Verdict.UNDONE or entry.sequence in undone:
            continue
        votes.pop(entry.reviewer_id, None)  # so that the new one comes to stand last
        if entry.supersedes in [vote.sequence for vote in votes.values()]:
            votes = {
                name: vote
                for name, vote in votes.items()
                if not _contradict(vote, entry)
            }
        votes[entry.reviewer_id] = entry
    approvals = [vote for vote in votes.values() if vote.verdict is Verdict.APPROVED]
    against = [vote for vote in votes.values() if vote.verdict is not Verdict.APPROVED]
    if against:
        status = ApprovalStatus(against[0].verdict)
        return Review(status, against[0], None, votes, len(log))
    approvers = [vote.reviewer_id for vote in approvals]
    for count, approval in enumerate(approvals, start=1):
        if quorum.missing(approvers[:count]) is None:
            return Review(ApprovalStatus.APPROVED, approval, None, votes, len(log))
    missing = quorum.missing(approvers)
    return Review(ApprovalStatus.PENDING, None, missing, votes, len(log))


def reviewed(record: _Record, quorum: Quorum) -> _Record:
    """Return the record with the review that its decisions come to."""
    review = fold(record.decisions, quorum)
    return msgspec.structs.replace(
        record, decision=review.decision, approval_status=review.status
    )


def rule(
    subject: Subject,
    request: DecisionRequest,
    quorum: Quorum,
    *,
    picture: str | PictureDamaged | None,
    now: dt.datetime,
) -> Ruling:
    """Say what is to be done about a request to decide.

    Idempotent: repeating a decision returns the existing one. A decision that
    contradicts the reviewer's own or the one in force needs a current
    ``expect_version``, else it is a ``DecisionConflict``. An approval that names no
    picture is of the one that was approved already.

    Args:
        subject: What is decided on.
        request: What is to be decided.
        quorum: Whose approvals are needed.
        picture: The URL of the featured image, as ``find_picture`` found it; None if
            there is none, the error if its file is damaged.
        now: The time of the decision, in UTC.

    Raises:
        UnknownTask: There is nothing to decide on.
        DecisionConflict: It does not await a decision, somebody else decided
            meanwhile, or another verdict or picture stands.
        FeaturedImageMissing: An approval of a generated task without a picture.
        PictureDamaged: An approval of a picture whose file is damaged.
        InvalidRequest: The reviewer is none of those who are named in the quorum.
    """
    _check_awaits(subject)
    _check_named(quorum, request.reviewer_id)
    log, expected, version = subject.log, request.expect_version, len(subject.log)
    before = fold(log, quorum)
    own = before.votes.get(request.reviewer_id)
    if own is not None and says_the_same(own, request):
        # A client that lost the response retries with the version it knew before its
        # own decision.
        repeats = own.version == version and expected == version - 1
        in_force = before.decision
        holds = in_force in (None, own) or not _contradict(in_force, own)
        if repeats or (holds and expected in (None, version)):
            return Ruling(own)
    _check_expected(subject, expected)
    image = request.image
    approves = request.verdict is Verdict.APPROVED
    if isinstance(picture, PictureDamaged):
        raise picture
    if approves:
        votes = [own, *before.votes.values()]
        approvals = [v for v in votes if v and v.verdict is Verdict.APPROVED]
        if approvals and image is None and request.featured_image_url is None:
            image, picture = approvals[0].image, approvals[0].featured_image_url
        if picture is None and is_generated(subject):
            raise FeaturedImageMissing(subject.task_id, _no_picture(subject))
    decision = decision_of(
        request,
        version=version + 1,
        image=image,
        featured_image_url=picture if approves else None,
        decided_at=now,
    )
    others = [vote for vote in before.votes.values() if approves and vote is not own]
    contradicted = next(
        (
            vote
            for vote in (before.decision, own, *others)
            if vote is not None and _contradict(vote, decision)
        ),
        None,
    )
    if contradicted is not None and expected is None:
        raise DecisionConflict(
            subject.task_id,
            f"Task {subject.task_id!r} {_describe(contradicted)}. Undo that first, or "
            f"overrule it: decide with expect_version={version}.",
        )
    if contradicted is not None:
        decision = msgspec.structs.replace(decision, supersedes=contradicted.sequence)
    return _appended(log, decision, quorum)


def rule_undo(
    subject: Subject,
    reviewer_id: str,
    quorum: Quorum,
    *,
    expected: int | None,
    now: dt.datetime,
) -> Ruling:
    """Say what is to be done about a request to undo.

    A reviewer's own decision is undone if it counts. Another's is only by somebody who
    shows, by ``expected``, to know it: the last one that counts.

    Raises:
        UnknownTask: There is no such task.
        DecisionConflict: There is nothing to undo, only what somebody else decided, or
            somebody else decided meanwhile.
        InvalidRequest: The reviewer is none of those who are named in the quorum.
    """
    if subject.task is None and subject.content is None:
        raise UnknownTask(subject.task_id)
    _check_named(quorum, reviewer_id)
    version = len(subject.log)
    last = subject.log[-1] if subject.log else None
    if (
        last is not None
        and (last.verdict, last.reviewer_id) == (Verdict.UNDONE, reviewer_id)
        and expected == version - 1
    ):
        return Ruling(last)  # a retry of a client that lost the response
    _check_expected(subject, expected)
    votes = fold(subject.log, quorum).votes
    if not votes:
        told = f": it {_describe(last)}." if last is not None else "."
        raise DecisionConflict(
            subject.task_id,
            f"Task {subject.task_id!r} has no decision that could be undone{told}",
        )
    undone = votes.get(reviewer_id)
    if undone is None:
        undone = list(votes.values())[-1]
        if expected is None:
            raise DecisionConflict(
                subject.task_id,
                f"No decision by {reviewer_id} is in force on task "
                f"{subject.task_id!r}: it {_describe(undone)}. To undo that decision, "
                f"pass expect_version={version}.",
            )
    decision = Decision(
        task_id=subject.task_id,
        version=version + 1,
        verdict=Verdict.UNDONE,
        reviewer_id=reviewer_id,
        decided_at=now,
        supersedes=undone.sequence,
    )
    return _appended(subject.log, decision, quorum)


def is_generated(subject: Subject) -> bool:
    """Say whether it is a picture made here that is decided on."""
    task = subject.task
    if task is None:
        return False
    # Of a task made elsewhere whose picture failed here, the rest is still decided on.
    return subject.content is None or task.status is not Status.FAILED


def describe(decision: Decision, review: Review, *, generated: bool) -> str:
    """Return what came of a decision, in a sentence or two."""
    verdict, in_force = decision.verdict, review.decision
    text = f"{_capital(verdict)} by {decision.reviewer_id}."
    if in_force is not None and verdict.value != review.status.value:
        again = " again" if verdict is Verdict.UNDONE else ""
        now_is = review.status.value.replace("_", " ")
        return f"{text} It is {now_is} by {in_force.reviewer_id}{again}."
    if verdict is not Verdict.APPROVED:
        return text
    if review.missing is not None:
        return f"{text} It still needs {review.missing}."
    if decision.featured_image_url is None and not generated:
        text += f" There is no featured image: none was found in {_places()}."
    return text


def _capital(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ").capitalize()


def _contradict(one: Decision, other: Decision) -> bool:
    """Say whether two decisions cannot both hold.

    Their verdicts differ, they approve different pictures, or both want changes, each
    of which is made as a task of its own.
    """
    if one.verdict is not other.verdict:
        return True
    if one.verdict is Verdict.APPROVED:
        return one.featured_image_url != other.featured_image_url
    return one.verdict is Verdict.CHANGES_REQUESTED


def _appended(log: Sequence[Decision], decision: Decision, quorum: Quorum) -> Ruling:
    was, after = _approval(log, quorum), _approval([*log, decision], quorum)
    stays = was is not None and after is not None and not _contradict(was, after)
    return Ruling(
        decision,
        is_new=True,
        publishes=None if stays else after,
        withdraws=was is not None and not stays,
    )


def _approval(log: Sequence[Decision], quorum: Quorum) -> Decision | None:
    review = fold(log, quorum)
    return review.decision if review.status is ApprovalStatus.APPROVED else None


def _check_named(quorum: Quorum, reviewer_id: str) -> None:
    if quorum.named and reviewer_id not in quorum.named:
        raise InvalidRequest("reviewer_id", reviewer_id, either(quorum.named))


def _check_expected(subject: Subject, expected: int | None) -> None:
    version = len(subject.log)
    if expected in (None, version):
        return
    noun = "decision" if version == 1 else "decisions"
    last = f": it {_describe(subject.log[-1])}" if subject.log else ""
    raise DecisionConflict(
        subject.task_id,
        f"Task {subject.task_id!r} has {version} {noun}, not {expected}{last}. Look at "
        f"it again, then decide with expect_version={version}.",
    )


def _check_awaits(subject: Subject) -> None:
    if subject.task is None and subject.content is None:
        raise UnknownTask(subject.task_id)
    task = subject.task
    if task is None or not is_generated(subject) or task.status is Status.COMPLETED:
        return
    raise DecisionConflict(
        task.id,
        f"Task {task.id!r} is {task.status.value}; only a completed task can be "
        "approved or rejected.",
    )


def _describe(decision: Decision) -> str:
    verbs = {
        Verdict.CHANGES_REQUESTED: "was sent back for changes",
        Verdict.UNDONE: "had its decision undone",
    }
    verb = verbs.get(decision.verdict, f"was {decision.verdict.value}")
    when = f"{decision.decided_at:%Y-%m-%d %H:%M} UTC"
    return f"{verb} by {decision.reviewer_id} at {when}"


def _no_picture(subject: Subject) -> str:
    where = _places() if subject.content else "the pictures that were generated for it"
    return (
        f"Task {subject.task_id!r} has no picture to approve: none was found in "
        f"{where}. Generate it again, or name one with featured_image_url."
    )


def _places() -> str:
    return (
        f"featured_image_url of the decision, task_metadata "
        f"({', '.join(searched_places())}), featured_image_url of the task, or the "
        "pictures that were generated for it"
    )
