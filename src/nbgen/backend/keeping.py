"""The protocol of what deletes tasks and copies all that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nbgen.schema import BackedUp, ClearedUp, OldTasks


class Keeping(Protocol):
    """Deletes tasks, and backs up all that is kept."""

    def delete(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """Delete tasks with the decisions on them and their publications.

        All or none, in one transaction. Their ids are free again. Children of a
        deleted task stay, without a parent. ``collect_garbage`` removes the pictures
        that nothing refers to any more.

        Args:
            task_ids: The tasks, those made elsewhere too.
            force: Whether tasks that are published or approved are deleted too.

        Raises:
            UnknownTask: There is no such task.
            TaskNotEnded: One waits or runs; ``force`` does not change that.
            TaskProtected: One is published or approved, and ``force`` is false.
        """

    def delete_old(self, old: OldTasks, *, dry_run: bool = True) -> list[str]:
        """Delete tasks that ended long ago; return their ids, the oldest first.

        Tasks that are published or approved stay. Each transaction deletes up to 500
        tasks, so that nobody else waits for long.

        Args:
            old: Which tasks.
            dry_run: Whether to delete nothing and only return the ids.
        """

    def clear_up(self, old: OldTasks | None, *, dry_run: bool = True) -> ClearedUp:
        """Delete old tasks, then the picture files that nothing refers to any more.

        The owner of the pictures is checked first, so that no task is deleted where
        its pictures would have to stay. See ``delete_old`` and ``collect_garbage``. A
        dry run finds the files that nothing refers to now, so not those of the tasks.

        Args:
            old: Which tasks; None for no task.
            dry_run: Whether to remove nothing and only return what was found.

        Raises:
            ForeignPictures: Another database may refer to the pictures; nothing was
                removed.
        """

    def backup(self, path: Path, *, force: bool = False) -> BackedUp:
        """Write the database and its pictures into one file, while others go on.

        What was acknowledged before the call is in it. The file is a zip that
        ``nbgen.keeping.restore`` unpacks. It is written whole or not at all.

        Args:
            path: The file; its folder must exist.
            force: Whether a file that is there is replaced.

        Raises:
            InvalidRequest: The file exists, is one of the data folder's own, or cannot
                be written.
            DataFolderUnusable: The database is damaged, or cannot be read.
            BackupElsewhere: The database is not a SQLite file, or the pictures are not
                in a folder, so other programs have to copy them.
        """
