"""Deletes tasks, and backs up all that a store keeps.

Holds no state of its own, so any thread may call every method. It needs neither a
queue nor a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nbgen.images import Images
from nbgen.progress import ProgressService
from nbgen.review.deleting import check_deletable, is_old
from nbgen.review.quorum import Quorum
from nbgen.schema import BackedUp, ClearedUp, OldTasks, utc_now
from nbgen.store import Store


class Keeper:
    """Deletes and backs up; see the protocol ``Keeping``.

    Args:
        store: The tasks and the decisions on them.
        images: The picture files.
        quorum: The approvals that a task needs.
        progress: Remembers tasks that ended here, and forgets those that are deleted.
    """

    def __init__(
        self,
        store: Store,
        images: Images,
        quorum: Quorum,
        progress: ProgressService,
    ) -> None:
        self._store = store
        self._images = images
        self._quorum = quorum
        self._progress = progress

    def delete(self, task_ids: Sequence[str], *, force: bool) -> None:
        """Delete tasks, all or none; see ``Keeping.delete``."""
        check = partial(check_deletable, quorum=self._quorum, force=force)
        self._store.delete_tasks(task_ids, check)
        self._forget(task_ids)

    def delete_old(self, old: OldTasks, *, dry_run: bool) -> list[str]:
        """Delete tasks that ended long ago; see ``Keeping.delete_old``."""
        now = utc_now()
        is_one = partial(is_old, quorum=self._quorum, old=old, now=now)
        found = self._store.delete_old(
            is_one, ended_before=old.ended_before(now), dry_run=dry_run
        )
        if not dry_run:
            self._forget(found)
        return found

    def clear_up(self, old: OldTasks | None, *, dry_run: bool) -> ClearedUp:
        """Delete old tasks and unused pictures; see ``Keeping.clear_up``."""
        tasks: list[str] = []
        if old is not None:
            self._store.check_owner(self._images)
            tasks = self.delete_old(old, dry_run=dry_run)
        files = self._store.collect_garbage(self._images, dry_run=dry_run)
        return ClearedUp(tuple(tasks), tuple(files))

    def backup(self, path: Path, *, force: bool) -> BackedUp:
        """Write all that is kept into one file; see ``Keeping.backup``."""
        return self._store.write_backup(self._images, path, force=force)

    def _forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._progress.forget(task_id)
