"""Compares all picture files with their names, and with the rows that need them.

Holds no state, so any thread may call it, also beside running tasks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from nbgen.images.store import FoundFile
from nbgen.schema import CheckReport, FaultyPicture
from nbgen.schema.checks import IMAGE_NAME, IMAGE_URL

# Not the path of an address at another host.
_OWN_URL = re.compile(rf"(?<![\w.:%-]){IMAGE_URL}({IMAGE_NAME.pattern})")


class Checkable(Protocol):
    """What has picture files; ``Images`` describes the methods."""

    def files(self) -> Iterable[FoundFile]:
        """Yield the pictures and what unfinished writing left behind."""

    def is_damaged(self, name: str) -> bool:
        """Read the whole file and say whether it is damaged."""

    def set_aside(self, name: str) -> bool:
        """Take a damaged file away; return False if it is gone or sound by now."""


def names_mentioned(text: str) -> set[str]:
    """Return the names of the pictures that a text names by their ``/images/`` URL.

    Addresses of other hosts do not count: their pictures are not kept here.
    """
    return {found[1] for found in _OWN_URL.finditer(text)}


def check_files(
    images: Checkable,
    needed: Mapping[str, Collection[str]],
    faults: Iterable[str] = (),
    *,
    repair: bool,
) -> CheckReport:
    """Read every picture file and compare it with its name.

    Args:
        images: The picture files.
        needed: The ids of the tasks that need a picture, by its name. It was read
            before this call, so each picture had its file by then.
        faults: What was found wrong already, for the report.
        repair: Whether to take damaged files away.
    """
    found = [file.name for file in images.files() if IMAGE_NAME.fullmatch(file.name)]
    there, told = set(found), list(faults)
    damaged, set_aside, out_of_reach = [], [], []
    for name in found:
        tried = "checked"
        try:
            if not images.is_damaged(name):
                continue
            damaged.append(name)
            if not repair:
                continue
            tried = "taken away, though it is damaged"
            if images.set_aside(name):
                set_aside.append(name)
                there.discard(name)
            damaged.pop()  # set aside, or replaced meanwhile
        except OSError as error:
            reason = error.strerror or type(error).__name__
            told.append(f"The picture {name} cannot be {tried}: {reason}.")
            out_of_reach.append(name)

    def faulty(names: Iterable[str]) -> tuple[FaultyPicture, ...]:
        return tuple(
            FaultyPicture(name=name, task_ids=tuple(sorted(needed.get(name, ()))))
            for name in sorted(names)
        )

    return CheckReport(
        files=len(found),
        damaged=faulty(damaged),
        set_aside=faulty(set_aside),
        missing=faulty(needed.keys() - there),
        faults=tuple(told),
        out_of_reach=tuple(out_of_reach),
    )
