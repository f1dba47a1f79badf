"""Followers are woken at a commit of any process, and rest in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nbgen.store import Store
from nbgen.store import signal as module
from tests import postgresql
from tests.store.test_tasks import add, record


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.2)


@pytest.fixture
def url(database: str | None) -> str | None:
    return database


@pytest.fixture
def store(tmp_path: Path, url: str | None) -> Iterator[Store]:
    store = Store(tmp_path, url)
    yield store
    store.close()


@pytest.fixture
def other(tmp_path: Path, url: str | None) -> Iterator[Store]:
    """Return another store on the same data, as another process has one."""
    store = Store(tmp_path, url)
    yield store
    store.close()


def settle(store: Store) -> None:
    """Wait until nothing is left to be told."""
    while store.changes.wait():
        pass


def waiting(store: Store) -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(store.changes.wait()))
    thread.start()
    return thread, answers


def test_nothing_has_changed_where_nobody_commits(store: Store) -> None:
    settle(store)
    assert not store.changes.wait()


def test_a_commit_here_or_elsewhere_is_a_change(store: Store, other: Store) -> None:
    for number, writer in enumerate((store, other, store)):
        settle(store)
        thread, answers = waiting(store)
        add(writer, record(f"t{number}"))
        thread.join(10)
        assert answers == [True]


def test_a_change_right_after_a_rest_is_not_lost(store: Store, other: Store) -> None:
    for number in range(5):
        store.changes.rest()
        assert store.changes.wait()  # it begins anew, and what was before is read
        add(other, record(f"t{number}"))
        assert store.changes.wait()


def test_a_change_between_two_waits_is_not_lost(store: Store, other: Store) -> None:
    settle(store)
    add(other, record())
    assert store.changes.wait()


def test_a_wait_can_be_ended(store: Store) -> None:
    settle(store)
    thread, answers = waiting(store)
    store.changes.wake()
    thread.join(10)
    assert answers == [False]


def bells(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "followers").glob("*"))


def test_the_pipe_goes_with_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert bells(tmp_path) == []  # nobody follows
    store.changes.wait()
    assert len(bells(tmp_path)) == 1
    store.close()
    assert bells(tmp_path) == []


def test_the_pipe_of_a_process_that_died_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.changes.wait()
    dead = tmp_path / "followers" / "dead.bell"
    os.mkfifo(dead)
    add(store, record())
    assert len(bells(tmp_path)) == 1
    store.close()


def test_a_pipe_that_is_full_holds_up_no_commit(tmp_path: Path) -> None:
    """Its follower may be stopped, or busy in a callback."""
    store, other = Store(tmp_path), Store(tmp_path)
    store.changes.wait()
    [name] = bells(tmp_path)
    full = os.open(tmp_path / "followers" / name, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4_096))
    add(other, record())
    store.changes.wake()
    assert store.changes.wait()
    os.close(full)
    other.close()
    store.close()


@pytest.mark.parametrize("lost", ["no pipes", "no folder"])
def test_changes_are_seen_where_there_can_be_no_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost == "no pipes":
        monkeypatch.delattr(os, "mkfifo")
    else:
        (tmp_path / "followers").write_text("in the way")
    store, other = Store(tmp_path), Store(tmp_path)
    settle(store)
    thread, answers = waiting(store)
    add(other, record())
    thread.join(10)
    assert answers == [True]
    other.close()
    store.close()


def test_a_change_whose_byte_was_lost_is_seen_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that commits may die before it tells."""
    store, other = Store(tmp_path), Store(tmp_path)
    settle(store)
    monkeypatch.setattr(module, "_ring", lambda _path: None)
    add(other, record())
    assert store.changes.wait()
    other.close()
    store.close()


def test_following_goes_on_after_its_connection_was_dropped(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    store, other = Store(tmp_path, url), Store(tmp_path, url)
    settle(store)
    postgresql_server.drop_connections(url)
    add(other, record())
    assert store.changes.wait()  # it listens anew, and what was committed is read
    settle(store)
    add(other, record("b"))
    assert store.changes.wait()
    other.close()
    store.close()
