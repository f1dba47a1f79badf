"""Whose process is gone is seen by the others, and who is not is not taken for gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.local.backend import LocalBackend
from nbgen.local.config import StudioConfig
from nbgen.store import Store
from nbgen.store.database import Database
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests import postgresql
from tests.store.test_tasks import add, claim, record

DIE = """
import os, sys
from pathlib import Path
from nbgen.store.database import Database

database = Database(Path(sys.argv[1]), sys.argv[2] or None)
print(database.owner, flush=True)
os.kill(os.getpid(), 9)
"""


def owner_that_died(folder: Path, url: str | None) -> str:
    """Open the database in a process that is killed; return how it was marked."""
    program = [sys.executable, "-c", DIE, str(folder), url or ""]
    done = subprocess.run(
        program,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PGAPPNAME": "dead"},
    )
    if url is not None:
        postgresql.wait_until_gone(url, "dead")
    return done.stdout.strip()


def test_an_owner_is_gone_when_its_process_is(
    tmp_path: Path, database: str | None
) -> None:
    dead = owner_that_died(tmp_path, database)
    first, second = Database(tmp_path, database), Database(tmp_path, database)
    assert first.is_gone(dead)
    assert not first.is_gone(first.owner)
    assert not first.is_gone(second.owner)
    second.close()
    assert first.is_gone(second.owner)
    first.close()


def test_all_who_ask_at_once_see_who_is_gone(
    tmp_path: Path, database: str | None
) -> None:
    """None is taken for the owner while it asks."""
    dead = [owner_that_died(tmp_path, database)]
    for _ in range(40):
        closed = Database(tmp_path, database)
        dead.append(closed.owner)
        closed.close()
    askers = [Database(tmp_path, database) for _ in range(4)]
    begins = threading.Barrier(len(askers))

    def ask(asker: Database) -> list[bool]:
        answers = []
        for owner in dead:
            begins.wait(10)
            answers.append(asker.is_gone(owner))
        return answers

    with ThreadPoolExecutor(len(askers)) as pool:
        answers = list(pool.map(ask, askers))
    for asker in askers:
        asker.close()
    assert answers == [[True] * len(dead)] * len(askers)


def test_what_dead_processes_left_is_cleared_up(tmp_path: Path) -> None:
    alive = Database(tmp_path)
    for _ in range(3):
        owner_that_died(tmp_path, None)
    locks = tmp_path / "owners"
    opened = Database(tmp_path)
    assert {path.stem for path in locks.iterdir()} == {alive.owner, opened.owner}
    assert not opened.is_gone(alive.owner)
    opened.close()
    alive.close()
    assert list(locks.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="There a file that is open stays.")
def test_an_owner_that_opens_while_others_clear_up_is_seen(tmp_path: Path) -> None:
    """A file that was removed before it was locked would be a lock on nothing."""
    databases = [Database(tmp_path) for _ in range(3)]
    for database in databases:
        assert (tmp_path / "owners" / f"{database.owner}.lock").exists()
        database.close()


def test_an_owner_whose_connection_was_dropped_comes_back(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    dropped, other = Database(tmp_path, url), Database(tmp_path, url)
    postgresql_server.drop_connections(url)
    assert other.is_gone(dropped.owner)
    assert not dropped.is_gone(other.owner)
    assert not other.is_gone(dropped.owner)
    postgresql_server.drop_connections(url)
    dropped.renew_ownership()
    assert not other.is_gone(dropped.owner)
    dropped.close()
    assert other.is_gone(dropped.owner)
    other.close()


def test_a_dropped_connection_costs_no_task(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    left = Store(tmp_path, url)
    add(left, record("left"))
    left.close()
    with Studio(tmp_path, engine=PatternEngine(), database=url) as studio:
        postgresql_server.drop_connections(url)
        studio.generate("a cat").result(10)
        assert studio.offered() == ["left"]
    # To begin is to ask who is gone, on the connection that was dropped.
    store = Store(tmp_path, url)
    postgresql_server.drop_connections(url)
    generation = store.running.begin(take_over=True)
    assert claim(store, generation).id == "left"
    postgresql_server.drop_connections(url)
    store.close()


def test_a_submission_makes_its_owner_seen(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    """So whoever has the turn runs it, and offers it to nobody."""
    url = postgresql_server.new_database()
    runner = Store(tmp_path, url)
    config = StudioConfig(data_dir=tmp_path, database=url)
    with Studio(backend=LocalBackend.open_library(config)) as studio:
        postgresql_server.drop_connections(url)
        studio.generate("a cat", task_id="a")
        runner.running.begin(take_over=False)
        assert studio.offered() == []
        assert studio.waiting() == ["a"]
    runner.close()


def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    with postgresql.running_server() as server:
        database = Database(tmp_path, server.new_database())
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        database.renew_ownership()
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        database.is_gone("nobody")
    database.close()
