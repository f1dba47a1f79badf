"""The settings of a local backend. Frozen values, for any thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec

from nbgen.errors import InvalidRequest
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.schema.checks import check_queue_name
from nbgen.schema.fields import unknown_name
from nbgen.settings import (
    default_data_dir,
    default_database,
    default_images,
    default_queue,
    default_quorum,
)

Worker = Literal["process", "thread"]


class StudioConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a local backend.

    Example::

        backend = LocalBackend.open(StudioConfig(data_dir=folder, checkpoint="tiny"))

    Attributes:
        data_dir: Where tasks, decisions and pictures are kept; by default
            ``NBGEN_DATA_DIR`` or the user's data folder.
        checkpoint: ``"auto"``: SDXL if its weights and a GPU are there, else
            ``"tiny"``, the small model that comes with nbgen. Or ``"sdxl"``, a
            folder in diffusers' layout, a ``.safetensors`` file or a model's id on the
            hub; see ``nbgen.generation.checkpoints.find_checkpoint``.
        loras: Paths of LoRA files (``.safetensors``) and their weights.
        memory_plan: How the model is put into memory; None decides from what is free.
        worker: ``"process"``: the pictures are made in a process of their own, which
            starts and loads the model now, in the background; this one never
            imports torch, and outlives a crash or a lack of memory there.
            ``"thread"``: in this process, from the first task on; for debugging, and
            where no process can be started.
        release_after: Seconds without work after which the model's memory is given
            back until the next task; None keeps it.
        queue_limit: How many tasks may wait.
        take_over: Whether tasks run here at once that were submitted in a process that
            is gone. Otherwise they are offered; see ``Studio.offered``.
        queue: The name of the queue that takes the tasks. The studios of a queue share
            its tasks, and one of them at a time runs these.
        database: The URL of a database that takes the place of the SQLite file in the
            data folder, such as ``postgresql+psycopg://…``; by default
            ``NBGEN_DATABASE``.
        images: Where pictures are kept, if not in the data folder: another folder or
            a URL such as ``s3://bucket/folder``; by default ``NBGEN_IMAGES``.
        quorum: Whose approvals a task needs: ``"any"`` for one of anybody, ``"2"`` for
            so many of anybody, ``"all:ada,bob"`` for those of all the named,
            ``"2:ada,bob,eve"`` for so many of them; by default ``NBGEN_QUORUM``. Any
            rejection rejects.

    Raises:
        InvalidRequest: The worker is neither a process nor a thread, or the queue is
            no name.
    """

    data_dir: str | Path | None = None
    checkpoint: str | Path = "auto"
    loras: Mapping[str | Path, float] | None = None
    memory_plan: MemoryPlan | None = None
    worker: Worker = "process"
    release_after: float | None = 900.0
    queue_limit: int = 10_000
    take_over: bool = False
    queue: str | None = None
    database: str | None = None
    images: str | Path | None = None
    quorum: str | None = None

    def __post_init__(self) -> None:
        worker: object = self.worker
        if worker not in ("process", "thread"):
            raise InvalidRequest("worker", worker, "'process' or 'thread'")
        check_queue_name(self.queue_name)

    @property
    def folder(self) -> Path:
        """The data folder."""
        return default_data_dir() if self.data_dir is None else Path(self.data_dir)

    @property
    def database_url(self) -> str | None:
        """The URL of the database; None for the SQLite file in the data folder."""
        return self.database or default_database()

    @property
    def queue_name(self) -> str:
        """The name of the queue."""
        return self.queue or default_queue()

    @property
    def picture_place(self) -> str | Path:
        """The folder or the URL that keeps the pictures."""
        return self.images or default_images() or self.folder / "images"

    @property
    def approvals_needed(self) -> str:
        """The quorum, as ``nbgen.review.quorum.read_quorum`` reads it."""
        return default_quorum() if self.quorum is None else self.quorum


class StudioSettings(TypedDict, total=False):
    """The fields of ``StudioConfig`` that ``Studio`` takes as further keywords."""

    loras: Mapping[str | Path, float] | None
    memory_plan: MemoryPlan | None
    worker: Worker
    release_after: float | None
    queue_limit: int
    take_over: bool
    queue: str | None
    database: str | None
    images: str | Path | None
    quorum: str | None


def config_of(
    data_dir: str | Path | None, checkpoint: str | Path, settings: Mapping[str, Any]
) -> StudioConfig:
    """Return the settings as one value.

    Raises:
        InvalidRequest: There is no setting of a name, or a value is not allowed.
    """
    known = StudioConfig.__struct_fields__
    for name in settings:
        if name not in known:
            raise unknown_name("a setting", name, {n: n for n in known}, known)
    return StudioConfig(data_dir=data_dir, checkpoint=checkpoint, **settings)
