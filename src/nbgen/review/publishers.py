"""What happens to a picture once it is approved: publishers.

A publisher is called again after a failure, so publishing the same decision twice must
leave what publishing it once does. Everything here is thread-safe and keeps no state
of its own; who calls publishers, and when again, is decided elsewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

import msgspec

from nbgen.atomic import write_atomic
from nbgen.errors import PublishFailed
from nbgen.schema import Decision, TaskRecord

_FIRST_DELAY_S = 5.0
_LONGEST_DELAY_S = 3_600.0
_LONGEST_STEM = 200
_DOUBLINGS = 10
"""More than these lead beyond the longest delay."""

# Windows takes these names for devices, whatever follows a dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """An approved picture and what is known of it.

    Attributes:
        task_id: The task that was approved.
        image: The file of the picture; None where it is not on this machine. It may
            be gone once publishing has returned.
        featured_image_url: The picture that the approval stands for; None for a task
            made elsewhere that has none.
        reviewer_id: Who approved.
        feedback: What the reviewer said, or None.
        decided_at: When, in UTC.
        request: The request that the picture was made from, as JSON values; None for
            a task made elsewhere.
        seed: The seed that it was made from; None likewise.
    """

    task_id: str
    image: Path | None
    featured_image_url: str | None
    reviewer_id: str
    feedback: str | None
    decided_at: dt.datetime
    request: dict[str, Any] | None
    seed: int | None

    def description(self) -> dict[str, Any]:
        """Return what others may know: all but where the file lies on this machine."""
        values = msgspec.structs.asdict(self)
        del values["image"]
        return values


def publication_of(
    decision: Decision, task: TaskRecord | None, image: Path | None
) -> Publication:
    """Return what publishers get of an approval.

    Args:
        decision: The approval.
        task: Its task; None for one that was made elsewhere.
        image: A file of the picture; None if there is none on this machine.
    """
    return Publication(
        task_id=decision.task_id,
        image=image,
        featured_image_url=decision.featured_image_url,
        reviewer_id=decision.reviewer_id,
        feedback=decision.feedback,
        decided_at=decision.decided_at,
        request=msgspec.to_builtins(task.request) if task else None,
        seed=task.seed if task else None,
    )


@runtime_checkable
class Publisher(Protocol):
    """Something that publishes approved pictures.

    Attributes:
        name: What it is called in messages and in the store: of all publishers of a
            studio, it alone has this name, and keeps it from one run to the next.
    """

    name: str

    def publish(self, publication: Publication) -> str | None:
        """Publish the picture and return its URL, or None if it has none.

        It may be called from any thread, and again with the same publication.

        Raises:
            PublishFailed: The picture is not published; any other exception means
                the same.
        """


class FolderPublisher:
    """Copies pictures into a folder, each with a JSON file of its description.

    The files are named after the task: ``<task_id>.png`` (or ``.jpeg``, ``.webp``) and
    ``<task_id>.json``, with what cannot stand in a file name percent-encoded. The
    picture is there before its description is, so who waits for descriptions never
    misses a picture.

    Thread-safe, also between processes: each file is written beside its place and
    renamed into it.

    Args:
        folder: Where the files go; made if it does not exist.
        name: What the publisher is called; a studio with two needs two names.

    Example::

        studio = Studio(publishers=[FolderPublisher("approved")])
    """

    def __init__(self, folder: str | os.PathLike[str], *, name: str = "folder") -> None:
        self.name = name
        self._folder = Path(folder).expanduser().absolute()

    def publish(self, publication: Publication) -> str | None:
        """Copy the picture and describe it; return the ``file:`` URI of the copy.

        Without a picture on this machine, only the description is written, and None
        returned.

        Raises:
            PublishFailed: A file cannot be read or written.
        """
        stem = _file_stem(publication.task_id)
        suffix = publication.image.suffix if publication.image else ""
        picture = self._folder / f"{stem}{suffix}"
        description = publication.description()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if publication.image is not None:
                write_atomic(picture, publication.image.read_bytes())
                description["image"] = picture.name
            encoded = msgspec.json.format(msgspec.json.encode(description))
            write_atomic(self._folder / f"{stem}.json", encoded)
        except OSError as error:
            raise PublishFailed(
                f"Task {publication.task_id!r} could not be published in the folder "
                f"{self._folder} ({error}). Check that the folder can be written and "
                "that the picture still exists."
            ) from error
        return None if publication.image is None else picture.as_uri()


def retry_delay_s(attempt: int) -> float:
    """Return how long to wait after a failed attempt: doubling, up to an hour.

    Args:
        attempt: How many attempts have failed, from 1.
    """
    doublings = min(attempt - 1, _DOUBLINGS)
    return min(_FIRST_DELAY_S * 2.0**doublings, _LONGEST_DELAY_S)


def _file_stem(task_id: str) -> str:
    stem = quote(task_id, safe="")
    if len(stem) > _LONGEST_STEM:  # a file name has room for 255 bytes
        digest = hashlib.sha256(task_id.encode()).hexdigest()[:32]
        stem = f"{stem[:_LONGEST_STEM]}-{digest}"
    return f"%{ord(stem[0]):02X}{stem[1:]}" if _DEVICE.fullmatch(stem) else stem
