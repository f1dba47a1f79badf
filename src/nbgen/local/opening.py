"""Opens the parts of a local backend, and registers how to close them.

The last one that is opened is closed first.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from nbgen.errors import DataFolderUnusable
from nbgen.generation.engine import Engine, EngineRunner
from nbgen.generation.model import ModelDescription
from nbgen.generation.process import ProcessEngine, load_sdxl
from nbgen.generation.thread import ThreadEngine
from nbgen.images import Images, find_owners, open_images
from nbgen.local.archive import Archive
from nbgen.local.config import StudioConfig
from nbgen.local.endings import Endings
from nbgen.local.ends import Ends
from nbgen.local.finisher import Finisher
from nbgen.local.keeper import Keeper
from nbgen.local.lane import Lane
from nbgen.local.live_writer import LiveWriter
from nbgen.local.outbox import Outbox
from nbgen.local.reviews import Reviews
from nbgen.local.runner import Runner
from nbgen.local.scheduler import Scheduler
from nbgen.local.submitter import Submitter
from nbgen.local.timings import Timings
from nbgen.local.watching import Watching
from nbgen.progress import ChangeFollower, ProgressService
from nbgen.review.installed import load_publishers
from nbgen.review.publishers import Publisher
from nbgen.review.quorum import read_quorum
from nbgen.schema import Draft, utc_now
from nbgen.schema.checks import LONGEST_LANE_NAME
from nbgen.store import Store
from nbgen.store.sqlite_file import UNPACK, file_at, read_identity
from nbgen.store.turn import Turn


class Stock(NamedTuple):
    """What all other parts work with."""

    store: Store
    turn: Turn
    images: Images
    progress: ProgressService
    changes: ChangeFollower
    ends: Ends


class Workshop(NamedTuple):
    """The open parts that run tasks."""

    runner: Runner
    lane: Lane
    endings: Endings
    description: ModelDescription


class Library(NamedTuple):
    """The open parts that submit, find, watch and decide."""

    store: Store
    images: Images
    progress: ProgressService
    changes: ChangeFollower
    scheduler: Scheduler
    submitter: Submitter
    archive: Archive
    keeper: Keeper
    reviews: Reviews
    watching: Watching
    description: ModelDescription


def open_stock(
    config: StudioConfig, progress: ProgressService | None, opening: ExitStack
) -> Stock:
    """Open the store and the pictures, and what tells of changes.

    Args:
        config: The settings.
        progress: Notifies watchers; None makes a service that is closed with the rest.
        opening: Gets a callback that closes each part.

    Raises:
        DataFolderUnusable: The folder or the database cannot be read or written, or
            the pictures in the folder are of another database.
        InvalidRequest: A setting is not allowed.
    """
    _check_file(config)
    store = Store(config.folder, config.database_url, config.queue_name)
    turn = store.open_turn()
    # The turn is released last, so that the next runner finds that we are gone.
    opening.callback(turn.release)
    opening.callback(store.close)
    _check_owner(config, store.identity, "another one")  # of PostgreSQL, known only now
    images = open_images(config.picture_place, owner=store.identity)
    if progress is None:
        progress = ProgressService()
        opening.callback(progress.close)
    changes = ChangeFollower(store.changes)
    opening.callback(changes.close)
    service = progress
    ends = Ends(
        store.tasks,
        changes,
        # Of a task that it tracks, the end is told by whoever runs it.
        runs_here=lambda task_id: service.get_progress(task_id) is not None,
    )
    opening.callback(ends.close)
    return Stock(store, turn, images, progress, changes, ends)


def open_library(
    config: StudioConfig,
    stock: Stock,
    workshop: Workshop | None,
    *,
    publishers: Sequence[Publisher] | None,
    draft: Draft,
    opening: ExitStack,
) -> Library:
    """Open what submits, finds, watches and decides.

    Args:
        config: The settings.
        stock: What they work with.
        workshop: What runs tasks here; None for nothing.
        publishers: Publish what is approved; None takes the installed ones.
        draft: Draws the ids, seeds and times of new tasks.
        opening: Gets a callback that closes each part.

    Raises:
        InvalidRequest: A setting is not allowed.
        PublishFailed: An installed publisher cannot be loaded.
    """
    store, turn, images, progress, changes, ends = stock
    quorum = read_quorum(config.approvals_needed)
    publishers = load_publishers() if publishers is None else publishers
    watching = Watching(store, turn, progress, changes)
    opening.callback(watching.close)
    outbox = Outbox(store, images, publishers)
    opening.callback(outbox.close)
    archive = Archive(store, images, quorum)
    keeper = Keeper(store, images, quorum, progress)
    reviews = Reviews(store.decisions, images, outbox, quorum, utc_now)
    scheduler = Scheduler(
        store,
        turn,
        ends,
        config.queue_limit,
        runner=None if workshop is None else workshop.runner,
        endings=None if workshop is None else workshop.endings,
    )
    submitter = Submitter(store.tasks, archive, reviews, scheduler, draft)
    return Library(
        store,
        images,
        progress,
        changes,
        scheduler,
        submitter,
        archive,
        keeper,
        reviews,
        watching,
        ModelDescription(config.checkpoint)
        if workshop is None
        else workshop.description,
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
    stock: Stock,
    opening: ExitStack,
) -> Workshop:
    """Open the engine and what runs the tasks of the queue on it.

    Args:
        config: The settings.
        engine: Makes the pictures in this process; None makes one of the checkpoint.
        stock: What they work with.
        opening: Gets a callback that closes each part.
    """
    store, turn, images, progress, changes, ends = stock
    description = ModelDescription(config.checkpoint if engine is None else None)
    endings = Endings(store.tasks, store.running, progress, ends)
    live = LiveWriter(store.live, progress)
    opening.callback(live.close)
    lane = Lane(
        # Not its domain: clients read the name.
        platform.node().partition(".")[0][:LONGEST_LANE_NAME] or "this machine",
        _runner_maker(config, engine, description.loaded),
        images,
        progress,
        timings=Timings(config.folder / "timings.json", str(config.checkpoint)),
        endings=endings,
        live=live,
        finisher=Finisher(images, endings),
    )
    opening.callback(lane.close)
    runner = Runner(
        store,
        turn,
        changes,
        lane,
        forget=progress.forget,
        was_told=endings.has_unsaved_end,
        idle_s=config.release_after,
        take_over=config.take_over,
        # A thread would load while the caller goes on in Python.
        prepares=config.worker == "process",
    )
    opening.callback(runner.end_beats)
    return Workshop(runner, lane, endings, description)


def _runner_maker(
    config: StudioConfig,
    engine: Engine | ProcessEngine | None,
    on_loaded: Callable[[Mapping[str, str]], None],
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
            return ThreadEngine(load, on_loaded=on_loaded)
        process = ProcessEngine(load, on_loaded=on_loaded)
        process.start()
        return process

    return make_runner
