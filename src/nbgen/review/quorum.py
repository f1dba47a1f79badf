"""Whose approvals a task needs.

Pure functions and frozen values, for any thread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from nbgen.errors import InvalidRequest
from nbgen.schema import DECISION_FIELDS

# How many, and of whom: "any", "2", "all:ada,bob", "2:ada,bob,eve".
_QUORUM = re.compile(r"(any|all|0*[1-9][0-9]{0,2})(?::(.*))?", re.ASCII | re.DOTALL)


class Quorum(NamedTuple):
    """Whose approvals a task needs.

    Attributes:
        needed: How many.
        named: The reviewers who may decide; empty for anybody.
    """

    needed: int = 1
    named: tuple[str, ...] = ()

    def missing(self, approvers: Sequence[str]) -> str | None:
        """Say, as a phrase, what is missing for an approval; None if nothing is."""
        counted = [name for name in approvers if not self.named or name in self.named]
        left = self.needed - len(counted)
        if left <= 0:
            return None
        silent = [name for name in self.named if name not in counted]
        if self.named and left == len(silent):
            return f"the approval of {', '.join(silent)}"
        more = "1 more approval" if left == 1 else f"{left} more approvals"
        return f"{more} of {either(silent)}" if silent else more


def read_quorum(text: object) -> Quorum:
    """Return the quorum that a text names.

    Args:
        text: ``"any"`` for one approval of anybody, ``"2"`` for so many of anybody,
            ``"2:ada,bob,eve"`` for so many of the named, ``"all:ada,bob"`` for those of
            all the named.

    Raises:
        InvalidRequest: It names none.
    """
    found = _QUORUM.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        how_many, listed = found.groups()
        names = () if listed is None else listed.split(",")
        named = tuple(
            dict.fromkeys(DECISION_FIELDS["reviewer_id"].check(name) for name in names)
        )
        words = {"any": 1, "all": len(named)}
        needed = words[how_many] if how_many in words else int(how_many)
        if needed and (not named or needed <= len(named)):
            return Quorum(needed, named)
    raise InvalidRequest(
        "quorum",
        text,
        "'any', a number such as '2', or with names '2:ada,bob,eve' or 'all:ada,bob'",
    )


def either(names: Sequence[str]) -> str:
    """Return names as a choice: "ada, bob or eve"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
