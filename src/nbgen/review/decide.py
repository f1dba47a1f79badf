"""The rules of a decision: who may be decided, what repeats, what contradicts.

Thread-safe: the store commits a decision only where there is none yet.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from nbgen.errors import DecisionConflict, FeaturedImageMissing
from nbgen.schema import Decision, Status, TaskRecord, Verdict

if TYPE_CHECKING:
    from nbgen.store import ImageFolder, Store


def decide(
    record: TaskRecord,
    verdict: Verdict,
    *,
    reviewer_id: str,
    feedback: str | None,
    featured_image_url: str | None,
    store: Store,
    images: ImageFolder,
) -> Decision:
    """Commit a decision on a finished task and return the one in force.

    The same verdict again returns the decision that stands already.

    Args:
        record: The task.
        verdict: What is decided.
        reviewer_id: Who decides.
        feedback: What the reviewer says.
        featured_image_url: The picture that an approval stands for; None for the
            first picture of the task.
        store: Where the decision is kept.
        images: Where the pictures lie.

    Raises:
        DecisionConflict: The task has no result to decide on, or another verdict
            stands.
        FeaturedImageMissing: An approval, and the picture is gone.
    """
    if record.status is not Status.COMPLETED:
        raise DecisionConflict(
            record.id,
            f"Task {record.id!r} is {record.status.value}; only a completed task can "
            "be approved or rejected.",
        )
    if record.decision is None:
        if verdict is Verdict.APPROVED and featured_image_url is None:
            featured_image_url = _picture_of(record, images)
        decision = Decision(
            task_id=record.id,
            verdict=verdict,
            reviewer_id=reviewer_id,
            feedback=feedback,
            featured_image_url=featured_image_url,
            decided_at=dt.datetime.now(dt.UTC),
        )
        standing = store.add_decision(decision)
    else:
        standing = record.decision
    if standing.verdict is not verdict:
        raise DecisionConflict(
            record.id,
            f"Task {record.id!r} was {standing.verdict.value} by "
            f"{standing.reviewer_id} at {standing.decided_at:%Y-%m-%d %H:%M} UTC; "
            "a decision cannot be turned round.",
        )
    return standing


def _picture_of(record: TaskRecord, images: ImageFolder) -> str:
    for image in record.result.images if record.result else ():
        if images.path(image.name) is not None:
            return image.url
    raise FeaturedImageMissing(
        record.id,
        f"Task {record.id!r} has no picture to approve: its files are gone from the "
        "image folder. Generate it again, or name one with featured_image_url.",
    )
