"""The methods of ``Studio`` that keep pictures, delete, export, back up and restore.

They hold no state, so any thread may call them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from nbgen.errors import InvalidRequest
from nbgen.exporting import Exported, export_pictures
from nbgen.forwarding import Facade
from nbgen.images import PictureSource, read_source
from nbgen.schema import BackedUp, ClearedUp, OldTasks
from nbgen.settings import default_data_dir
from nbgen.store.restoring import read_backup


def keep_picture(studio: Facade, field: str, source: PictureSource) -> str:
    """Keep a picture to start from, and return the name of its file.

    Args:
        studio: The studio that keeps it.
        field: The field of a request that it is for: ``"image"`` or ``"mask"``.
        source: A PIL image, the path or bytes of a file, or the name of a picture.
    """
    return studio.backend.keep_picture(field, read_source(field, source))


def delete(
    studio: Facade, task_ids: str | Iterable[str], *, force: bool = False
) -> None:
    """Delete one or several tasks, all or none, with the decisions on them.

    Their ids are free again. ``collect_garbage`` removes the pictures that nothing
    refers to any more. ``Keeping.delete`` describes the errors.

    Args:
        studio: The studio that keeps the tasks.
        task_ids: The id of a task, or several.
        force: Whether tasks that are published or approved are deleted too.
    """
    ids = [task_ids] if isinstance(task_ids, str) else list(task_ids)
    studio.backend.delete(ids, force=force)


def delete_old(
    studio: Facade,
    *,
    older_than: dt.timedelta,
    rejected: bool = False,
    failed: bool = False,
    dry_run: bool = True,
) -> tuple[str, ...]:
    """Delete tasks that ended long ago; return their ids, the oldest first.

    Tasks that are published or approved stay. With neither ``rejected`` nor
    ``failed``, all others go.

    Args:
        studio: The studio that keeps the tasks.
        older_than: How long ago they ended, at least.
        rejected: Only tasks that are rejected.
        failed: Only tasks that failed, were cancelled or lost.
        dry_run: Whether to delete nothing and only return the ids.

    Raises:
        InvalidRequest: A value is not allowed.
    """
    old = OldTasks(older_than=older_than, rejected=rejected, failed=failed)
    return tuple(studio.backend.delete_old(old, dry_run=dry_run))


def clear_up(
    studio: Facade,
    *,
    older_than: dt.timedelta | None = None,
    rejected: bool = False,
    failed: bool = False,
    dry_run: bool = True,
) -> ClearedUp:
    """Delete old tasks, then the picture files that nothing refers to any more.

    Nothing is deleted where another database may refer to the pictures.
    ``Keeping.clear_up`` describes the errors.

    Args:
        studio: The studio that keeps them.
        older_than: How long ago the tasks ended, at least; None deletes no task.
        rejected: See ``delete_old``.
        failed: See ``delete_old``.
        dry_run: Whether to remove nothing and only return what was found.

    Raises:
        InvalidRequest: A value is not allowed, or ``rejected`` or ``failed`` is given
            without ``older_than``.
    """
    old: OldTasks | None = None
    if older_than is not None:
        old = OldTasks(older_than=older_than, rejected=rejected, failed=failed)
    elif rejected or failed:
        allowed = "an age (--older-than) if rejected or failed is given"
        raise InvalidRequest("older_than", None, allowed)
    return studio.backend.clear_up(old, dry_run=dry_run)


def export(studio: Facade, folder: str | Path, approval: str = "approved") -> Exported:
    """Copy pictures into a folder; see ``nbgen.exporting.export_pictures``."""
    return export_pictures(studio.backend, Path(folder), approval)


def backup(studio: Facade, path: str | Path, *, force: bool = False) -> BackedUp:
    """Write all tasks, decisions and pictures into one file, while others go on.

    ``Keeping.backup`` describes the errors.

    Args:
        studio: The studio that keeps them.
        path: The file, a zip; its folder must exist.
        force: Whether a file that is there is replaced.
    """
    return studio.backend.backup(Path(path), force=force)


def restore(path: str | Path, data_dir: str | Path | None = None) -> Path:
    """Unpack a backup into a data folder that is new or empty, and return the folder.

    Args:
        path: The file that ``backup`` wrote.
        data_dir: The folder; None for ``NBGEN_DATA_DIR`` or the user's.

    Raises:
        InvalidRequest: The file is no whole backup, or the folder is not empty or
            cannot be written.
    """
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    read_backup(Path(path), folder)
    return folder
