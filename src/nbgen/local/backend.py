"""The backend that keeps tasks on this machine and runs them in this process.

``LocalBackend`` forwards each call to the part that owns it, and owns nothing but
whether it was closed. Every method may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from nbgen.backend import (
    ChangesCallback,
    Deciding,
    Describing,
    Finding,
    Pictures,
    Running,
    StopWatching,
)
from nbgen.backend import Watching as WatchingCalls
from nbgen.backend.answering import answered_by
from nbgen.errors import NbgenError, StudioClosed
from nbgen.generation.engine import Engine
from nbgen.generation.model import ModelDescription
from nbgen.generation.process import ProcessEngine
from nbgen.local.archive import Archive
from nbgen.local.config import StudioConfig
from nbgen.local.keeper import Keeper
from nbgen.local.parts import (
    Made,
    Parts,
    open_parts,
    open_parts_of_library,
    share_parts,
)
from nbgen.local.reviews import Reviews
from nbgen.local.scheduler import Scheduler
from nbgen.local.submitter import Submitter
from nbgen.local.watching import Watching
from nbgen.progress import ProgressService
from nbgen.review.publishers import Publisher
from nbgen.schema import (
    DRAFT,
    BackedUp,
    CheckReport,
    ClearedUp,
    ContentTask,
    Decided,
    Decision,
    DecisionRequest,
    Draft,
    GenerationRequest,
    OldTasks,
    Position,
    PublicationRecord,
    TaskEnd,
    TaskPage,
    TaskQuery,
    TaskRecord,
)


class LocalBackend:
    """Implements ``nbgen.backend.Backend``.

    Example::

        backend = LocalBackend.open(StudioConfig(data_dir=folder, checkpoint="tiny"))
        studio = Studio(backend=backend)

    Attributes:
        library: The parts that submit, find, watch and decide.

    Args:
        parts: What it works with, by itself or with other backends of this process.
        holder: Whoever opens it; None for nobody else.
    """

    def __init__(self, parts: Parts, holder: object = None) -> None:
        self.library = parts.library
        self._parts = parts
        self._leave = parts.used_by(self, self if holder is None else holder)
        self._left = False

    @classmethod
    def open(
        cls,
        config: StudioConfig,
        *,
        engine: Engine | ProcessEngine | None = None,
        progress: ProgressService | None = None,
        publishers: Sequence[Publisher] | None = None,
        draft: Draft = DRAFT,
    ) -> LocalBackend:
        """Open a backend that runs tasks, when it has the turn.

        Its parts are never shared with another backend of this process.

        Args:
            config: The settings.
            engine: See ``Made``.
            progress: See ``Made``.
            publishers: See ``Made``.
            draft: Draws the ids, seeds and times of new tasks.

        Raises:
            CheckpointNotFound: There is no such checkpoint.
            DataFolderUnusable: The folder or the database cannot be read or written.
            InvalidRequest: A setting is not allowed.
            PublishFailed: An installed publisher cannot be loaded.
        """
        return cls(open_parts(config, Made(engine, progress, publishers), draft))

    @classmethod
    def open_shared(
        cls,
        config: StudioConfig,
        given: Collection[str],
        holder: object,
        *,
        engine: Engine | ProcessEngine | None = None,
        progress: ProgressService | None = None,
        publishers: Sequence[Publisher] | None = None,
    ) -> LocalBackend:
        """Open a backend, with the parts that are open here on the same data folder.

        Args:
            config: The settings.
            given: The names of the settings that have to be so. The others may be as
                they are where parts are open.
            holder: Whoever opens it; see ``Parts.used_by``.
            engine: See ``Made``; likewise ``progress`` and ``publishers``.
            progress: See above.
            publishers: See above.

        Raises:
            InvalidRequest: A setting is not allowed, or the open parts have another.
            CheckpointNotFound: See ``open``; as all the others there.
        """
        made = Made(engine, progress, publishers)
        return share_parts(config, given, made, partial(cls, holder=holder))

    @classmethod
    def open_library(
        cls, config: StudioConfig, *, publishers: Sequence[Publisher] | None = None
    ) -> LocalBackend:
        """Open a backend that never runs a task, and needs no model.

        It submits, finds and decides as any other does. Its parts are its own.

        Args:
            config: The settings; of those of the model, only the checkpoint counts, for
                ``model`` and ``measure_prompt``.
            publishers: See ``Made``.

        Raises:
            DataFolderUnusable: The folder or the database cannot be read or written.
            InvalidRequest: A setting is not allowed.
            PublishFailed: An installed publisher cannot be loaded.
        """
        return cls(open_parts_of_library(config, publishers))

    # Calls that one part answers as they are; ``nbgen.backend`` describes them.
    cancel = answered_by("_scheduler", Running.cancel)
    waiting = answered_by("_scheduler", Running.waiting)
    running = answered_by("_scheduler", Running.running)
    offered = answered_by("_scheduler", Running.offered)
    run_offered = answered_by("_scheduler", Running.run_offered)
    prioritise = answered_by("_scheduler", Running.prioritise)
    pause = answered_by("_scheduler", Running.pause)
    resume = answered_by("_scheduler", Running.resume)
    queue_state = answered_by("_scheduler", Running.queue_state)
    get_progress = answered_by("_watching", WatchingCalls.get_progress)
    watch = answered_by("_watching", WatchingCalls.watch)
    watch_previews = answered_by("_watching", WatchingCalls.watch_previews)
    attempts = answered_by("_archive", Finding.attempts)
    batch_rows = answered_by("_archive", Finding.batch_rows)
    changed_rows = answered_by("_archive", Finding.changed_rows)
    keep_picture = answered_by("_archive", Pictures.keep_picture)
    read_picture = answered_by("_archive", Pictures.read_picture)
    review = answered_by("_reviews", Deciding.review)
    get_content = answered_by("_reviews", Deciding.get_content)
    model = answered_by("_description", Describing.model)
    measure_prompt = answered_by("_description", Describing.measure_prompt)

    # Running.

    def submit(
        self,
        request: GenerationRequest,
        *,
        task_id: str | None,
        priority: int,
        replace: bool = False,
    ) -> TaskRecord:
        """See ``nbgen.backend.Running``."""
        return self._submitter.submit(
            request, task_id=task_id, priority=priority, replace=replace
        )

    def submit_batch(
        self, batch_id: str, rows: Mapping[str, GenerationRequest], *, priority: int
    ) -> None:
        """See ``nbgen.backend.Running``."""
        self._submitter.submit_batch(batch_id, rows, priority=priority)

    def retry(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """See ``nbgen.backend.Running``."""
        return self._submitter.retry(task_ids)

    def retry_rows(self, batch_id: str, rows: Iterable[str]) -> None:
        """See ``nbgen.backend.Running``."""
        self._submitter.retry_rows(batch_id, rows)

    def ended(self, task_id: str) -> Future[TaskEnd]:
        """See ``nbgen.backend.Running``."""
        # Once all is closed, what has ended here is known still.
        return self.library.scheduler.ended(task_id)

    # Watching.

    def watch_changes(
        self, callback: ChangesCallback, *, since: Position | None = None
    ) -> StopWatching:
        """See ``nbgen.backend.Watching``."""
        self._check_open()
        return self.library.changes.watch(callback, since)

    # Finding.

    def list_tasks(self, query: TaskQuery) -> TaskPage:
        """See ``nbgen.backend.Finding``."""
        page = self._archive.list_tasks(query)
        return TaskPage(self._watching.with_live_steps(page), page.next_cursor)

    def get_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """See ``nbgen.backend.Finding``."""
        return self._watching.with_live_steps(self._archive.get_tasks(task_ids))

    # Pictures.

    def picture_path(self, name: str, *, check: bool = True) -> Path | None:
        """See ``nbgen.backend.Pictures``."""
        return self._archive.picture_path(name, check=check)

    def collect_garbage(self, *, dry_run: bool = True) -> list[str]:
        """See ``nbgen.backend.Pictures``."""
        return self._archive.collect_garbage(dry_run=dry_run)

    def check_pictures(self, *, repair: bool = False) -> CheckReport:
        """See ``nbgen.backend.Pictures``."""
        return self._archive.check_pictures(repair=repair)

    # Keeping.

    def delete(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """See ``nbgen.backend.Keeping``."""
        self._settled_keeper().delete(task_ids, force=force)

    def delete_old(self, old: OldTasks, *, dry_run: bool = True) -> list[str]:
        """See ``nbgen.backend.Keeping``."""
        return self._settled_keeper().delete_old(old, dry_run=dry_run)

    def clear_up(self, old: OldTasks | None, *, dry_run: bool = True) -> ClearedUp:
        """See ``nbgen.backend.Keeping``."""
        return self._settled_keeper().clear_up(old, dry_run=dry_run)

    def backup(self, path: Path, *, force: bool = False) -> BackedUp:
        """See ``nbgen.backend.Keeping``."""
        return self._settled_keeper().backup(path, force=force)

    # Deciding.

    def decide(
        self, requests: Iterable[DecisionRequest]
    ) -> list[Decision | NbgenError]:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.decide(list(requests))

    def request_changes(
        self, request: DecisionRequest, *, prompt: str | None
    ) -> TaskRecord | None:
        """See ``nbgen.backend.Deciding``."""
        return self._submitter.request_changes(request, prompt=prompt)

    def undo(
        self, task_id: str, *, reviewer_id: str, expect_version: int | None = None
    ) -> Decision:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.undo(
            task_id, reviewer_id=reviewer_id, expect_version=expect_version
        )

    def decisions(self, task_id: str | None = None) -> list[Decision]:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.decisions(task_id)

    def decided(self, decision: Decision, *, wait_s: float = 0.0) -> Decided:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.decided(decision, wait_s=wait_s)

    def put_content(
        self,
        task_id: str,
        metadata: Mapping[str, Any] | str,
        *,
        featured_image_url: str | None = None,
    ) -> ContentTask:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.put_content(
            task_id, metadata, featured_image_url=featured_image_url
        )

    def publications(
        self, task_id: str, *, wait_s: float = 0.0
    ) -> list[PublicationRecord]:
        """See ``nbgen.backend.Deciding``."""
        return self._reviews.publications(task_id, wait_s=wait_s)

    def close(self, *, finish: bool = False) -> None:
        """Close the parts, unless another backend uses them; see ``Backend.close``.

        If another uses them, it returns at once, and what runs goes on. A fork of the
        process closes nothing: the parts are not the fork's.

        Raises:
            KeyboardInterrupt: It came while this waited. It is raised once the backend
                is closed; a second one is raised at once and leaves the backend to be
                closed again.
        """
        if self._leave():
            self._parts.close(finish=finish)
        else:
            self._left = True

    # Each call takes its part here, so that all calls refuse alike once all is closed.

    @property
    def _archive(self) -> Archive:
        self._check_open()
        return self.library.archive

    @property
    def _description(self) -> ModelDescription:
        self._check_open()
        return self.library.description

    def _settled_keeper(self) -> Keeper:
        """Return the keeper, once ends that were told are stored as far as possible."""
        self._scheduler.save_ends()
        return self.library.keeper

    @property
    def _reviews(self) -> Reviews:
        self._check_open()
        return self.library.reviews

    @property
    def _watching(self) -> Watching:
        self._check_open()
        return self.library.watching

    def _check_open(self) -> None:
        if self._left or self._parts.is_closed:
            raise StudioClosed

    @property
    def _scheduler(self) -> Scheduler:
        self._check_open()
        return self.library.scheduler

    @property
    def _submitter(self) -> Submitter:
        self._check_open()
        return self.library.submitter
