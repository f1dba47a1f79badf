"""What lasts: tasks, decisions and publications in a database, pictures in files.

``Store`` is thread-safe, and several processes may open the same one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from nbgen.images import Images
from nbgen.schema import DEFAULT_QUEUE, BackedUp, CheckReport
from nbgen.store.backup import write_backup
from nbgen.store.changes import ChangeStore
from nbgen.store.checking import check_pictures
from nbgen.store.database import Database
from nbgen.store.decisions import DecisionStore
from nbgen.store.deleting import CheckDeletable, IsOld, delete_old, delete_tasks
from nbgen.store.garbage import check_owner, collect_garbage
from nbgen.store.live import LiveStates
from nbgen.store.publications import PublicationStore
from nbgen.store.queue import QueueStore
from nbgen.store.running import RunStore
from nbgen.store.tasks import TaskStore
from nbgen.store.turn import Turn, open_turn

__all__ = ["Store"]


class Store:
    """What lasts of a studio, but for the pictures.

    Opening it changes no task.

    Attributes:
        tasks: The tasks, to be found.
        queue: The queue, to submit to it.
        running: The queue, to run its tasks.
        decisions: The decisions, and the tasks that were made elsewhere.
        publications: The publications.
        changes: The change feed.
        live: The newest states of the tasks that run.

    Args:
        folder: Where ``nbgen.sqlite`` lies; made if it does not exist.
        url: The URL of a database that takes the place of that file; None for none.
        queue: The name of the queue.

    Raises:
        InvalidRequest: The URL is of no database that nbgen can use.
        DataFolderUnusable: The folder or the database cannot be read or written.
    """

    def __init__(
        self, folder: Path, url: str | None = None, queue: str = DEFAULT_QUEUE
    ) -> None:
        self._database = Database(folder, url)
        self.tasks = TaskStore(self._database)
        self.queue = QueueStore(self._database, queue)
        self.running = RunStore(self._database, queue)
        self.decisions = DecisionStore(self._database, queue)
        self.publications = PublicationStore(self._database)
        self.changes = ChangeStore(self._database)
        self.live = LiveStates(self._database)

    @property
    def identity(self) -> str:
        """The id of this database, which stays when it is moved."""
        return self._database.identity

    def open_turn(self) -> Turn:
        """Return the turn at running the queue, which is not taken yet."""
        return open_turn(self._database, self.queue.name)

    def renew_ownership(self) -> None:
        """Re-acquire this owner's lock if its connection was dropped; cheap.

        PostgreSQL frees the lock with the connection.

        Raises:
            DataFolderUnusable: The database cannot be reached.
        """
        self._database.renew_ownership()

    def collect_garbage(self, images: Images, *, dry_run: bool) -> list[str]:
        """Remove what nothing refers to; see ``nbgen.store.garbage``."""
        return collect_garbage(self._database, images, dry_run=dry_run)

    def check_owner(self, images: Images) -> None:
        """Raise ``ForeignPictures`` if another database may refer to the pictures."""
        check_owner(self._database, images)

    def check_pictures(self, images: Images, *, repair: bool) -> CheckReport:
        """Look at files, rows and database; see ``nbgen.store.checking``."""
        return check_pictures(self._database, images, repair=repair)

    def delete_tasks(self, task_ids: Sequence[str], check: CheckDeletable) -> None:
        """Delete tasks, all or none; see ``nbgen.store.deleting``."""
        delete_tasks(self._database, task_ids, check)

    def delete_old(
        self, is_old: IsOld, *, ended_before: dt.datetime, dry_run: bool
    ) -> list[str]:
        """Delete the ended tasks that are old; see ``nbgen.store.deleting``."""
        return delete_old(
            self._database, is_old, ended_before=ended_before, dry_run=dry_run
        )

    def write_backup(self, images: Images, path: Path, *, force: bool) -> BackedUp:
        """Write a copy of all that is kept; see ``nbgen.store.backup``."""
        return write_backup(self._database, images, path, force=force)

    def close(self) -> None:
        """Close the database."""
        self.live.close()
        self._database.close()
