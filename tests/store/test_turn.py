"""One at a time has the turn at running a queue; both kinds of turn say the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.store import Store
from nbgen.store.turn import FileTurn, SessionTurn, Turn
from tests import postgresql

HOLD = """
import sys
from pathlib import Path
from nbgen.store import Store

store = Store(Path(sys.argv[1]), sys.argv[2] or None)
turn = store.open_turn()
assert turn.take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stores(tmp_path: Path, database: str | None) -> Iterator[list[Store]]:
    """Return two stores on the same data, as two processes have them."""
    stores = [Store(tmp_path, database) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def turns(stores: list[Store]) -> Iterator[list[Turn]]:
    """Return the turns of two at one queue."""
    turns = [store.open_turn() for store in stores]
    yield turns
    for turn in turns:
        turn.release()


def test_the_turn_is_of_the_database_s_kind(
    turns: list[Turn], database: str | None
) -> None:
    assert isinstance(turns[0], FileTurn if database is None else SessionTurn)


def test_one_of_two_has_the_turn_until_it_is_released(turns: list[Turn]) -> None:
    first, second = turns
    assert first.take()
    assert first.take()
    assert not second.take()
    second.release()
    assert not second.take()
    first.release()
    assert second.take()
    assert not first.take()


def test_one_of_many_that_take_it_at_once_has_it(
    tmp_path: Path, database: str | None
) -> None:
    store = Store(tmp_path, database)
    turns = [store.open_turn() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda turn: turn.take(), turns))
    for turn in turns:
        turn.release()
    store.close()
    assert taken.count(True) == 1


def test_each_queue_has_a_turn_of_its_own(tmp_path: Path, database: str | None) -> None:
    stores = [Store(tmp_path, database, queue) for queue in ("default", "nights")]
    turns = [store.open_turn() for store in stores]
    assert [turn.take() for turn in turns] == [True, True]
    for turn, store in zip(turns, stores, strict=True):
        turn.release()
        store.close()


def test_a_holder_that_is_killed_frees_the_turn(
    tmp_path: Path, database: str | None, turns: list[Turn]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), database or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PGAPPNAME": "killed"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        assert not turns[0].take()
        assert turns[0].last_beat() is not None
        process.kill()
    if database is not None:
        postgresql.wait_until_gone(database, "killed")
    assert turns[0].take()


def test_a_sign_of_life_is_seen_by_others(
    stores: list[Store], turns: list[Turn]
) -> None:
    first, second = turns
    assert second.last_beat() is None
    assert first.take()
    generation = stores[0].running.begin(take_over=False)
    seen = [second.last_beat()]
    for _ in range(3):
        time.sleep(0.01)  # a file knows when it was written, and clocks have ticks
        assert first.beat(generation)
        seen.append(second.last_beat())
    assert None not in seen
    assert len(set(seen)) == 4
    assert seen[-1] == first.last_beat() == second.last_beat()
    first.release()
    assert second.last_beat() is None


def test_whoever_has_released_the_turn_gives_no_sign_of_life(
    stores: list[Store], turns: list[Turn]
) -> None:
    """A late one must not take the turn anew, which nobody would release."""
    first, second = turns
    assert first.take()
    generation = stores[0].running.begin(take_over=False)
    first.release()
    assert not first.beat(generation)
    assert second.last_beat() is None
    assert second.take()
    generation = stores[1].running.begin(take_over=False)
    assert not first.beat(generation - 1)
    assert second.beat(generation)


def test_a_turn_whose_connection_was_dropped_is_kept_while_nobody_takes_it(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    first, second = Store(tmp_path, url), Store(tmp_path, url)
    turn, other = first.open_turn(), second.open_turn()
    assert turn.take()
    generation = first.running.begin(take_over=False)
    postgresql_server.drop_connections(url)
    assert turn.beat(generation)
    assert not other.take()
    postgresql_server.drop_connections(url)
    assert other.take()
    later = second.running.begin(take_over=False)
    assert not turn.beat(generation)
    assert other.beat(later)
    turn.release()
    assert not turn.take()
    other.release()
    assert turn.take()
    turn.release()
    first.close()
    second.close()


def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    with postgresql.running_server() as server:
        store = Store(tmp_path, server.new_database())
        turn = store.open_turn()
        assert turn.take()
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        turn.beat(1)
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        store.open_turn().take()
    turn.release()
    store.close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    turn = FileTurn(tmp_path / "file" / "locks", "default")
    with pytest.raises(DataFolderUnusable, match=r"cannot be used: .*Choose another"):
        turn.take()
    (tmp_path / "file").unlink()
    (tmp_path / "file" / "locks").mkdir(parents=True)
    assert turn.take()
    turn.release()
