"""The rules of a decision: what counts, what repeats, what contradicts.

Pure functions over the log of decisions, for any thread. The store calls them within
the transaction that appends to the log.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import NamedTuple

from nbgen.checks import check_reviewer_id
from nbgen.decision import ApprovalStatus, Decision, DecisionRequest, Verdict
from nbgen.errors import (
    DecisionConflict,
    FeaturedImageMissing,
    InvalidRequest,
    UnknownTask,
)
from nbgen.review.image_url import find_image_url, searched_places
from nbgen.schema import Status
from nbgen.store import Images, Ruling, Subject

_LONGEST_COUNT = 3


class Quorum(NamedTuple):
    """Whose approvals a task needs.

    Attributes:
        needed: How many.
        named: The reviewers who must all approve; empty for anybody.
    """

    needed: int = 1
    named: tuple[str, ...] = ()

    def missing(self, approvers: Sequence[str]) -> str | None:
        """Say, as a phrase, what is missing for an approval; None if nothing is."""
        if self.named:
            silent = [name for name in self.named if name not in approvers]
            return f"the approval of {', '.join(silent)}" if silent else None
        left = self.needed - len(approvers)
        if left <= 0:
            return None
        return "1 more approval" if left == 1 else f"{left} more approvals"


def read_quorum(text: object) -> Quorum:
    """Return the quorum that a text names.

    Args:
        text: ``"any"`` for one approval of anybody, ``"2"`` for so many of anybody,
            ``"all:ada,bob"`` for those of all the named.

    Raises:
        InvalidRequest: It names none.
    """
    if text == "any":
        return Quorum()
    if isinstance(text, str):
        if text.startswith("all:"):
            listed = text.removeprefix("all:").split(",")
            named = tuple(dict.fromkeys(check_reviewer_id(name) for name in listed))
            return Quorum(len(named), named)
        if re.fullmatch(rf"0*[1-9][0-9]{{0,{_LONGEST_COUNT - 1}}}", text, re.ASCII):
            return Quorum(int(text))
    raise InvalidRequest(
        "quorum", text, "'any', a number such as '2', or names such as 'all:ada,bob'"
    )


class Review(NamedTuple):
    """What the decisions on a task come to.

    Attributes:
        status: What they come to.
        decision: The decision that made it so; None while it is pending.
        missing: What is missing for an approval, as a phrase; None if nothing is.
        votes: The decision of each reviewer that counts, oldest first.
        version: How many decisions there are.
    """

    status: ApprovalStatus
    decision: Decision | None
    missing: str | None
    votes: dict[str, Decision]
    version: int


def fold(log: Sequence[Decision], quorum: Quorum) -> Review:
    """Return what a log of decisions on one task comes to.

    Of each reviewer, the last decision counts, unless another took its place. One that
    was undone counts as never taken, so what it took the place of counts again.
    Anybody's rejection, or request for changes, is enough.
    """
    undone = {entry.supersedes for entry in log if entry.verdict is Verdict.UNDONE}
    votes: dict[str, Decision] = {}
    for entry in log:
        if entry.verdict is Verdict.UNDONE or entry.sequence in undone:
            continue
        votes = {
            name: vote
            for name, vote in votes.items()
            if vote.sequence != entry.supersedes
        }
        votes.pop(entry.reviewer_id, None)  # so that it comes to stand last
        votes[entry.reviewer_id] = entry
    approvals = [vote for vote in votes.values() if vote.verdict is Verdict.APPROVED]
    against = [vote for vote in votes.values() if vote.verdict is not Verdict.APPROVED]
    status, decision, missing = ApprovalStatus.PENDING, None, None
    if against:
        status, decision = ApprovalStatus(against[-1].verdict), against[-1]
    else:
        missing = quorum.missing([vote.reviewer_id for vote in approvals])
        if missing is None:
            status, decision = ApprovalStatus.APPROVED, approvals[-1]
    return Review(status, decision, missing, votes, len(log))


def rule(
    subject: Subject,
    request: DecisionRequest,
    quorum: Quorum,
    *,
    picture: str | None,
    now: dt.datetime,
) -> Ruling:
    """Say what is to be done about a request to decide.

    The same verdict again gets the decision that stands. A contradicting one is taken
    only from somebody who shows, by ``expect_version``, to know what it contradicts.

    Args:
        subject: What is decided on.
        request: What is to be decided.
        quorum: Whose approvals are needed.
        picture: The URL of the featured image that was found; None if there is none.
        now: The time of the decision, in UTC.

    Raises:
        UnknownTask: There is nothing to decide on.
        DecisionConflict: It does not await a decision, somebody else decided
            meanwhile, or another verdict stands.
        FeaturedImageMissing: An approval of a generated task without a picture.
        InvalidRequest: The reviewer is none of those who are named in the quorum.
    """
    _check_awaits(subject)
    if quorum.named and request.reviewer_id not in quorum.named:
        *others, last = quorum.named
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise InvalidRequest("reviewer_id", request.reviewer_id, allowed)
    log, expected, version = subject.log, request.expect_version, len(subject.log)
    before = fold(log, quorum)
    own = before.votes.get(request.reviewer_id)
    standing = before.decision or own
    if standing is not None and standing.verdict is request.verdict:
        # Whoever repeats what they did last has not heard the answer.
        repeats = standing is own and standing.version == version
        if expected in (None, version) or (repeats and expected == version - 1):
            return Ruling(standing)
    if expected is not None and expected != version:
        raise DecisionConflict(subject.task_id, _stale(subject, expected))
    if standing is not None and expected is None:
        raise DecisionConflict(
            subject.task_id,
            f"Task {subject.task_id!r} {_told(standing)}. Undo that first, or decide "
            f"with expect_version={version} to show that you know of it.",
        )
    approves = request.verdict is Verdict.APPROVED
    if approves and picture is None and is_generated(subject):
        raise FeaturedImageMissing(subject.task_id, _no_picture(subject))
    decision = Decision(
        task_id=subject.task_id,
        version=version + 1,
        verdict=request.verdict,
        reviewer_id=request.reviewer_id,
        feedback=request.feedback,
        tags=request.tags,
        image=request.image,
        featured_image_url=picture if approves else None,
        decided_at=now,
        supersedes=standing.sequence if standing else None,
    )
    return _appended(log, decision, quorum)


def rule_undo(
    subject: Subject, reviewer_id: str, quorum: Quorum, *, now: dt.datetime
) -> Ruling:
    """Say what is to be done about a request to undo.

    A reviewer's own decision is undone if it counts, else the last one that does. What
    that took the place of counts again.

    Raises:
        UnknownTask: There is no such task.
        DecisionConflict: There is nothing to undo.
    """
    if subject.task is None and subject.content is None:
        raise UnknownTask(subject.task_id)
    votes = fold(subject.log, quorum).votes
    if not votes:
        raise DecisionConflict(
            subject.task_id,
            f"Task {subject.task_id!r} has no decision that could be undone"
            + (f": it {_told(subject.log[-1])}." if subject.log else "."),
        )
    undone = votes.get(reviewer_id) or list(votes.values())[-1]
    decision = Decision(
        task_id=subject.task_id,
        version=len(subject.log) + 1,
        verdict=Verdict.UNDONE,
        reviewer_id=reviewer_id,
        decided_at=now,
        supersedes=undone.sequence,
    )
    return _appended(subject.log, decision, quorum)


def find_picture(
    subject: Subject, request: DecisionRequest, images: Images
) -> str | None:
    """Return the URL of the featured image of an approval, or None if it has none.

    That is the decision's own, or that of the picture it names; then what the metadata
    say, the task's own, and the first picture that was generated and is still there.

    Raises:
        InvalidRequest: The decision names a picture that is none of the task's.
    """
    made = subject.task.result.images if subject.task and subject.task.result else ()
    urls = {picture.name: picture.url for picture in made}
    if request.image is not None and request.image not in urls:
        allowed = f"the name of a picture of task {subject.task_id!r}, or left out"
        raise InvalidRequest("image", request.image, allowed)
    if request.featured_image_url is not None:
        return request.featured_image_url
    if request.image is not None:
        return urls[request.image] if images.has(request.image) else None
    if subject.content is not None:
        content = subject.content
        url = find_image_url(content.metadata) or content.featured_image_url
        if url is not None:
            return url
    return next((url for name, url in urls.items() if images.has(name)), None)


def is_generated(subject: Subject) -> bool:
    """Say whether it is a picture made here that is decided on."""
    task = subject.task
    if task is None:
        return False
    # Of a task made elsewhere whose picture failed here, the rest is still decided on.
    return subject.content is None or task.status is not Status.FAILED


def describe(decision: Decision, review: Review, *, generated: bool) -> str:
    """Return what came of a decision, in a sentence or two."""
    verb = decision.verdict.value.replace("_", " ").capitalize()
    text = f"{verb} by {decision.reviewer_id}."
    if decision.verdict is Verdict.UNDONE and review.decision is not None:
        now_is = review.status.value.replace("_", " ")
        return f"{text} It is {now_is} by {review.decision.reviewer_id} again."
    if review.missing is not None and decision.verdict is Verdict.APPROVED:
        return f"{text} It still needs {review.missing}."
    if (
        decision.verdict is Verdict.APPROVED
        and decision.featured_image_url is None
        and not generated
    ):
        text += f" There is no featured image: none was found in {_places()}."
    return text


def _appended(log: Sequence[Decision], decision: Decision, quorum: Quorum) -> Ruling:
    was = fold(log, quorum).status is ApprovalStatus.APPROVED
    after = fold([*log, decision], quorum)
    now_is = after.status is ApprovalStatus.APPROVED
    return Ruling(
        decision,
        is_new=True,
        publishes=after.decision if now_is and not was else None,
        withdraws=was and not now_is,
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


def _stale(subject: Subject, expected: int) -> str:
    version = len(subject.log)
    noun = "decision" if version == 1 else "decisions"
    last = f": it {_told(subject.log[-1])}" if subject.log else ""
    return (
        f"Task {subject.task_id!r} has {version} {noun}, not {expected}{last}. Look at "
        f"it again, then decide with expect_version={version}."
    )


def _told(decision: Decision) -> str:
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
