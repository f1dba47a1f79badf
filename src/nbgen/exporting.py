"""Exports pictures: copies them into a folder, with a file that describes their tasks.

Holds no state, so any thread may call it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from nbgen.atomic import write_atomic
from nbgen.errors import InvalidRequest, PictureDamaged, UnknownImage
from nbgen.handles.pages import Paged, iter_tasks
from nbgen.schema import ApprovalStatus, TaskRecord

DESCRIPTION_FILE = "tasks.json"
"""The file of an export that says what each picture is."""


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        tasks: How many tasks ``tasks.json`` describes.
        files: The names of the pictures, newest task first.
        missing: The names of pictures whose file is gone or damaged.
    """

    tasks: int
    files: tuple[str, ...]
    missing: tuple[str, ...]


class Exportable(Paged, Protocol):
    """What has tasks and pictures: any backend."""

    def read_picture(self, name: str) -> bytes:
        """Return the bytes of a picture file; see ``nbgen.backend.Pictures``."""


def export_pictures(backend: Exportable, folder: Path, approval: str) -> Exported:
    """Copy pictures into a folder, with ``tasks.json`` that says what each is.

    Of an approved task that is the picture that was approved. Files are written whole
    or not at all; those that are there already are replaced. A picture whose file is
    gone or damaged does not keep the others from being written.

    Example:
        ``export_pictures(backend, Path("approved"), "approved").files``

    Args:
        backend: Where the tasks and the pictures are.
        folder: Where to write; made if missing.
        approval: Which tasks: an ``ApprovalStatus``, or ``all``.

    Raises:
        InvalidRequest: The folder cannot be written, or there is no such approval.
    """
    if approval != "all" and approval not in list(ApprovalStatus):
        known = ", ".join(repr(status.value) for status in ApprovalStatus)
        raise InvalidRequest("approval", approval, f"{known} or 'all'")
    described: list[TaskRecord] = []
    is_there: dict[str, bool] = {}  # by file, which several tasks may share
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for record in iter_tasks(backend):
            if approval not in ("all", record.approval_status.value):
                continue
            described.append(record)
            for name in _exported_names(record):
                if name not in is_there:
                    is_there[name] = _export(backend, name, folder)
        text = json.dumps(msgspec.to_builtins(described), indent=2)
        write_atomic(folder / DESCRIPTION_FILE, f"{text}\n".encode())
    except OSError as error:
        raise InvalidRequest(
            "folder", str(folder), f"a folder that can be written ({error})"
        ) from error
    return Exported(
        len(described),
        files=tuple(name for name, there in is_there.items() if there),
        missing=tuple(name for name, there in is_there.items() if not there),
    )


def _export(backend: Exportable, name: str, folder: Path) -> bool:
    """Copy a picture; return False if its file is gone or damaged."""
    try:
        data = backend.read_picture(name)
    except (PictureDamaged, UnknownImage):
        return False
    write_atomic(folder / name, data)
    return True


def _exported_names(record: TaskRecord) -> list[str]:
    images = record.result.images if record.result else ()
    decision = record.decision
    return [
        image.name for image in images if decision is None or decision.is_about(image)
    ]
