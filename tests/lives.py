"""What the change feed may tell of one task, from its first state to the last."""

from __future__ import annotations

from collections.abc import Sequence

ENDS = frozenset(("succeeded", "failed", "cancelled", "lost"))
# An order or an offer says "pending" again.
_FOLLOWS = {
    "": {"pending"},
    "pending": {"pending", "generating", "cancelled"},
    "generating": {"cancelling", "pending", *ENDS},
    "cancelling": {"cancelling", "pending", *ENDS},
    **{end: {"pending"} for end in ENDS},
}


def is_possible(life: Sequence[str]) -> bool:
    """Return whether each state of a task may follow on the one before."""
    before = ["", *life]
    return all(
        state in _FOLLOWS[last] for last, state in zip(before, life, strict=False)
    )
