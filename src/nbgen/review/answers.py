"""What a backend answers about a decision.

Pure functions, for any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbgen.review.quorum import Quorum
from nbgen.review.rules import describe, fold, is_generated
from nbgen.schema import (
    Decided,
    Decision,
    PublicationRecord,
    PublicationState,
    Subject,
)


def decided(
    decision: Decision,
    subject: Subject,
    publications: Sequence[PublicationRecord],
    quorum: Quorum,
) -> Decided:
    """Return what came of a decision.

    Args:
        decision: An entry of the log of the subject.
        subject: The task, with its whole log.
        publications: All publications of the task, oldest first.
        quorum: The approvals that a task needs.
    """
    review = fold(subject.log, quorum)
    in_force = tuple(
        publication
        for publication in publications
        if review.decision and publication.decision == review.decision.sequence
    )
    message = describe(decision, review, generated=is_generated(subject))
    failed = [
        publication.publisher
        for publication in in_force
        if publication.state is PublicationState.PENDING and publication.error
    ]
    if failed:
        message += f" Publishing failed and is tried again: {', '.join(failed)}."
    return Decided(decision, review, in_force, message)
