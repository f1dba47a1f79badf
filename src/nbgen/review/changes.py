"""Requests for changes: the child task that each of them queues.

Pure functions, for any thread.
"""

from __future__ import annotations

import msgspec

from nbgen.errors import DecisionConflict, InvalidRequest
from nbgen.review.rules import is_generated
from nbgen.schema import (
    DecisionRequest,
    GenerationRequest,
    Subject,
    TaskRecord,
    Verdict,
)


def changed_request(parent: TaskRecord, prompt: str | None) -> GenerationRequest:
    """Return the request of the child that a request for changes queues.

    Args:
        parent: The task that is sent back.
        prompt: The prompt of the child, which keeps the seed in use; None keeps the
            prompt and draws another seed.

    Raises:
        InvalidRequest: The prompt is not allowed.
    """
    if prompt is None:
        return msgspec.structs.replace(parent.request, seed=None)
    return msgspec.structs.replace(parent.request, prompt=prompt, seed=parent.seed)


def check_same_changes(child: TaskRecord, wanted: GenerationRequest) -> None:
    """Check that changes that are requested again are those of the child.

    Args:
        child: The task that was queued when changes were requested first.
        wanted: What ``changed_request`` returned for a prompt that was given.

    Raises:
        DecisionConflict: The child has another prompt.
    """
    if child.request.prompt != wanted.prompt:
        raise DecisionConflict(
            str(child.parent_id),
            f"Changes to task {child.parent_id!r} were requested already, with the "
            f"prompt of task {child.id!r}. Undo that to request others.",
        )


def check_needs_no_child(subject: Subject, request: DecisionRequest) -> None:
    """Check that a decision can be taken without queueing a child.

    Raises:
        InvalidRequest: It requests changes to a task that was generated here.
    """
    if request.verdict is Verdict.CHANGES_REQUESTED and is_generated(subject):
        allowed = "'approved' or 'rejected'; request_changes asks for changes"
        raise InvalidRequest("verdict", request.verdict.value, allowed)
