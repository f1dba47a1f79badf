"""A data folder that vanishes, or is replaced, under an open store is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.progress import ChangeFollower
from nbgen.schema import Changes, TaskQuery
from nbgen.store import Store
from nbgen.store.database import Database
from tests.store.test_tasks import add, record

Break = Callable[[Path], None]


def remove(folder: Path) -> None:
    """Remove a folder in one instant, which no follower can see half done."""
    removed = folder.with_name("removed")
    folder.rename(removed)
    shutil.rmtree(removed)


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def remove_the_file(folder: Path) -> None:
    (folder / "nbgen.sqlite").unlink()


def replace(folder: Path) -> None:
    """Put a copy in its place, as a program that synchronises folders does."""
    before = folder.with_name("before")
    folder.rename(before)
    shutil.copytree(before, folder, ignore=shutil.ignore_patterns("*.bell"))


def put_back_an_old_file(folder: Path) -> None:
    file = folder / "nbgen.sqlite"
    old = file.with_name("old")
    shutil.copy(file, old)
    old.replace(file)


breakages = pytest.mark.parametrize(
    "breaks", [remove, move_away, remove_the_file, replace, put_back_an_old_file]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    yield store
    store.close()


@breakages
def test_nothing_is_acknowledged_and_no_file_is_made(
    store: Store, folder: Path, breaks: Break
) -> None:
    add(store, record("a"))
    breaks(folder)
    before = sorted(path.name for path in folder.glob("*"))
    with pytest.raises(DataFolderUnusable, match="has vanished, or another was put"):
        add(store, record("b"))
    with pytest.raises(DataFolderUnusable, match="has vanished"):
        store.tasks.list_tasks(TaskQuery())
    assert sorted(path.name for path in folder.glob("*")) == before


def test_what_vanishes_during_a_transaction_is_not_acknowledged(folder: Path) -> None:
    database = Database(folder)
    with (
        pytest.raises(DataFolderUnusable, match="has vanished"),
        database.writing(),
    ):
        move_away(folder)
    database.close()


@breakages
def test_followers_are_told(store: Store, folder: Path, breaks: Break) -> None:
    told: SimpleQueue[Changes] = SimpleQueue()
    follower = ChangeFollower(store.changes)
    follower.watch(told.put)
    assert told.get(timeout=10).problem is None
    breaks(folder)
    problem = told.get(timeout=10).problem
    assert problem is not None
    assert "The data folder has vanished" in problem
    follower.close()


def test_a_folder_that_comes_back_is_used_again(store: Store, folder: Path) -> None:
    """A drive that was disconnected for a moment, say."""
    told: SimpleQueue[Changes] = SimpleQueue()
    follower = ChangeFollower(store.changes)
    follower.watch(told.put)
    told.get(timeout=10)
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    assert told.get(timeout=10).problem is not None
    elsewhere.rename(folder)
    assert told.get(timeout=10).problem is None
    add(store, record("a"))
    assert told.get(timeout=10).changes[0].id == "a"
    follower.close()
