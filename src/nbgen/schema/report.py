"""What a check of pictures and database found. Frozen values, for any thread."""

from __future__ import annotations

import msgspec


class FaultyPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture whose file is damaged or missing.

    Attributes:
        name: The name of the file.
        task_ids: The ids of the tasks that need it, in alphabetical order; empty if
            nothing refers to it.
    """

    name: str
    task_ids: tuple[str, ...]


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found; see ``Pictures.check_pictures``.

    Example::

        report = studio.check()
        if not report.is_sound:
            print([picture.name for picture in report.damaged])

    Attributes:
        files: How many picture files were read.
        damaged: The pictures whose files are damaged and still in their place.
        set_aside: The pictures whose damaged files this check took away.
        missing: The pictures that a row refers to and that have no file, also for lack
            of one that this check took away.
        faults: What else is wrong, a sentence each: with the database, or with a file
            that cannot be read or taken away.
        out_of_reach: The names of those files; each has a sentence in ``faults``.
    """

    files: int
    damaged: tuple[FaultyPicture, ...] = ()
    set_aside: tuple[FaultyPicture, ...] = ()
    missing: tuple[FaultyPicture, ...] = ()
    faults: tuple[str, ...] = ()
    out_of_reach: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong, or nothing is any more."""
        return not (self.damaged or self.missing or self.faults)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do next, a sentence or two for each kind of fault."""
        told = []
        if self.damaged or self.missing:
            told.append(
                "Pictures are damaged or missing. Generate them again with the same "
                "request and seed, or put the files back from a backup."
            )
        if self.out_of_reach:
            told.append(
                "Files of pictures cannot be read or taken away. Check that nbgen may "
                "read them and write their folder, and check the disk."
            )
        if len(self.faults) > len(self.out_of_reach):
            told.append(
                "The database cannot be read, or contradicts itself. Close nbgen and "
                "restore it from a backup, into a new folder."
            )
        return tuple(told)
