"""Whose process is gone is seen by the others, and who is not is not taken for gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nbgen.errors import DataFolderUnusable
from nbgen.store import Store
from nbgen.store.database import Database
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests import postgresql
from tests.store.test_tasks import record

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
    left.tasks.add_tasks([record("left")])
    left.close()
    with Studio(
        tmp_path, engine=PatternEngine(), database=url, take_over=False
    ) as studio:
        postgresql_server.drop_connections(url)
        studio.generate("a cat").result(10)
    # To take over is to ask who is gone, on the connection that was dropped.
    store = Store(tmp_path, url)
    postgresql_server.drop_connections(url)
    assert [task.id for task in store.tasks.adopt_tasks()] == ["left"]
    assert store.tasks.start_task("left")
    postgresql_server.drop_connections(url)
    store.close()


def test_a_task_that_begins_makes_its_owner_seen(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    url = postgresql_server.new_database()
    store, other = Store(tmp_path, url), Store(tmp_path, url)
    store.tasks.add_tasks([record()])
    postgresql_server.drop_connections(url)
    assert store.tasks.start_task("a")
    other.tasks.adopt_tasks()
    found = store.tasks.get_task("a")
    assert found is not None
    assert found.outcome is None
    store.close()
    other.close()


def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    with postgresql.running_server() as server:
        database = Database(tmp_path, server.new_database())
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        database.renew_ownership()
    with pytest.raises(DataFolderUnusable, match="The database failed"):
        database.is_gone("nobody")
    database.close()
