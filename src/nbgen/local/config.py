"""What a local backend is opened with. Frozen values, for any thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from nbgen.errors import InvalidRequest
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.settings import (
    default_data_dir,
    default_database,
    default_images,
    default_quorum,
)

Worker = Literal["process", "thread"]


class StudioConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a local backend; ``Studio`` describes each.

    A field that is None takes its ``NBGEN_…`` variable, then its default.

    Example::

        backend = LocalBackend.open(StudioConfig(data_dir=folder, checkpoint="tiny"))

    Raises:
        InvalidRequest: The worker is neither a process nor a thread.
    """

    data_dir: str | Path | None = None
    checkpoint: str | Path = "auto"
    loras: Mapping[str | Path, float] | None = None
    memory_plan: MemoryPlan | None = None
    worker: Worker = "process"
    release_after_s: float | None = 900.0
    queue_limit: int = 10_000
    take_over: bool = True
    rerun_lost: bool = False
    database: str | None = None
    images: str | Path | None = None
    quorum: str | None = None

    def __post_init__(self) -> None:
        worker: object = self.worker
        if worker not in ("process", "thread"):
            raise InvalidRequest("worker", worker, "'process' or 'thread'")

    @property
    def folder(self) -> Path:
        """The data folder."""
        return default_data_dir() if self.data_dir is None else Path(self.data_dir)

    @property
    def database_url(self) -> str | None:
        """The URL of the database; None for the SQLite file in the data folder."""
        return self.database or default_database()

    @property
    def picture_place(self) -> str | Path:
        """The folder or the URL that keeps the pictures."""
        return self.images or default_images() or self.folder / "images"

    @property
    def approvals_needed(self) -> str:
        """The quorum, as ``nbgen.review.quorum.read_quorum`` reads it."""
        return default_quorum() if self.quorum is None else self.quorum
