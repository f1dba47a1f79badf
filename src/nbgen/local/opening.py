"""Opens the parts of a local backend, and registers how to close them.

The last one that is opened is closed first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from nbgen.errors import DataFolderUnusable
from nbgen.generation.engine import Engine, EngineRunner
from nbgen.generation.process import ProcessEngine, load_sdxl
from nbgen.generation.thread import ThreadEngine
from nbgen.images import Images, find_owners, open_images
from nbgen.local.archive import Archive
from nbgen.local.config import StudioConfig
from nbgen.local.endings import Endings
from nbgen.local.finisher import Finisher
from nbgen.local.job_queue import JobQueue
from nbgen.local.keeper import Keeper
from nbgen.local.lane import Lane
from nbgen.local.live_writer import LiveWriter
from nbgen.local.outbox import Outbox
from nbgen.local.reviews import Reviews
from nbgen.local.runner_lock import RunnerLock
from nbgen.local.scheduler import Scheduler
from nbgen.local.submitter import Submitter
from nbgen.local.timings import Timings
from nbgen.local.watching import Watching
from nbgen.progress import ChangeFollower, ProgressService
from nbgen.review.installed import load_publishers
from nbgen.review.publishers import Publisher
from nbgen.review.quorum import read_quorum
from nbgen.schema import Draft, utc_now
from nbgen.store import Store
from nbgen.store.sqlite_file import UNPACK, file_at, read_identity


class Library(NamedTuple):
    """The open parts of a backend that finds, watches and decides."""

    store: Store
    turn: RunnerLock
    images: Images
    progress: ProgressService
    changes: ChangeFollower
    archive: Archive
    keeper: Keeper
    reviews: Reviews
    watching: Watching


class Workshop(NamedTuple):
    """The open parts of a backend that run tasks."""

    submitter: Submitter
    scheduler: Scheduler
    queue: JobQueue
    lane: Lane


def open_library(
    config: StudioConfig,
    progress: ProgressService | None,
    publishers: Sequence[Publisher] | None,
    opening: ExitStack,
) -> Library:
    """Open the store, the pictures and what works on them.

    Args:
        config: The settings.
        progress: Notifies watchers; None makes a service that is closed with the rest.
        publishers: Publish what is approved; None takes the installed ones.
        opening: Gets a callback that closes each part.

    Raises:
        DataFolderUnusable: The folder or the database cannot be read or written, or
            the pictures in the folder are of another database.
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    quorum = read_quorum(config.approvals_needed)
    publishers = load_publishers() if publishers is None else publishers
    _check_file(config)
    store = Store(config.folder, config.database_url)
    turn = RunnerLock(store.lock_folder)
    # The turn is released last, so that the next runner finds our tasks to take over.
    opening.callback(turn.release)
    opening.callback(store.close)
    _check_owner(config, store.identity, "another one")  # of PostgreSQL, known only now
    images = open_images(config.picture_place, owner=store.identity)
    if progress is None:
        progress = ProgressService()
        opening.callback(progress.close)
    changes = ChangeFollower(store.changes)
    opening.callback(changes.close)
    watching = Watching(store, progress, changes)
    opening.callback(watching.close)
    outbox = Outbox(store, images, publishers)
    opening.callback(outbox.close)
    archive = Archive(store, images, quorum)
    keeper = Keeper(store, images, quorum, progress)
    reviews = Reviews(store.decisions, images, outbox, quorum, utc_now)
    return Library(
        store, turn, images, progress, changes, archive, keeper, reviews, watching
    )


def _check_file(config: StudioConfig) -> None:
    """Refuse a SQLite file that does not belong to the pictures, before it is opened.

    A new database beside the pictures of a lost one would hide the loss.

    Raises:
        DataFolderUnusable: The file is missing, empty or another one.
    """
    file = file_at(config.folder, config.database_url)
    if file is None or not find_owners(config.folder / "images"):
        return
    try:
        identity = read_identity(file)
        size = file.stat().st_size if file.exists() else None
    except (OSError, sqlite3.Error):
        return  # opening it says what is wrong with it
    state = {None: "missing", 0: "empty"}.get(size, "another one")
    _check_owner(config, identity, state)


def _check_owner(config: StudioConfig, identity: str | None, state: str) -> None:
    """Refuse a database without a mark where only others have left theirs.

    Several databases may share a place that was chosen for the pictures.

    Args:
        config: The settings.
        identity: The identity of the database; None if it has none yet.
        state: What is wrong with the database, for the error.

    Raises:
        DataFolderUnusable: The pictures in the data folder are of other databases.
    """
    pictures = config.folder / "images"
    owners = find_owners(pictures) if config.picture_place == pictures else set()
    if not owners or identity in owners:
        return
    raise DataFolderUnusable(
        f"The data folder {str(config.folder)!r} has pictures, but their database is "
        f"not there: {_database_name(config)} is {state}. Nothing was changed. Put the "
        "same database back, or a copy of it. A backup is a database of its own: "
        f"unpack it into another folder with '{UNPACK}'. If the tasks are in another "
        "database, name that one with database or NBGEN_DATABASE. To start anew, move "
        f"the folder {str(pictures)!r} away."
    )


def _database_name(config: StudioConfig) -> str:
    file = file_at(config.folder, config.database_url)
    return "the database that was named" if file is None else repr(str(file))


def open_workshop(
    config: StudioConfig,
    engine: Engine | ProcessEngine | None,
    library: Library,
    draft: Draft,
    opening: ExitStack,
) -> Workshop:
    """Open the queue, the engine and what submits to them.

    Args:
        config: The settings.
        engine: Makes the pictures in this process; None makes one of the checkpoint.
        library: What finds, watches and decides.
        draft: Draws the ids, seeds and times of new tasks.
        opening: Gets a callback that closes each part.
    """
    store, progress = library.store, library.progress
    endings = Endings(store.tasks, progress)
    live = LiveWriter(store.live, progress)
    opening.callback(live.close)
    lane = Lane(
        _runner_maker(config, engine),
        store.tasks,
        library.images,
        progress,
        timings=Timings(config.folder / "timings.json", str(config.checkpoint)),
        endings=endings,
        live=live,
        finisher=Finisher(library.images, endings),
    )
    opening.callback(lane.close)
    if config.worker == "process":
        # Ahead of need; a thread would load while the caller goes on in Python.
        lane.prepare()
    queue = JobQueue(
        lane.run,
        # The model of another process that has something to run may need the memory.
        stop=lane.kill,
        on_idle=lane.release,
        idle_s=config.release_after,
        limit=config.queue_limit,
    )
    scheduler = Scheduler(
        store,
        progress,
        queue,
        endings,
        library.turn,
        take_over=config.take_over,
        rerun_lost=config.rerun_lost,
    )
    submitter = Submitter(
        store.tasks, library.archive, library.reviews, scheduler, draft
    )
    return Workshop(submitter, scheduler, queue, lane)


def _runner_maker(
    config: StudioConfig, engine: Engine | ProcessEngine | None
) -> Callable[[], EngineRunner]:
    def make_runner() -> EngineRunner:
        if isinstance(engine, ProcessEngine):
            return engine
        if engine is not None:
            return ThreadEngine(lambda: engine)
        load = partial(
            load_sdxl,
            config.checkpoint,
            loras=config.loras,
            memory_plan=config.memory_plan,
        )
        if config.worker == "thread":
            return ThreadEngine(load)
        process = ProcessEngine(load)
        process.start()
        return process

    return make_runner
