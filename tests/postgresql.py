"""A PostgreSQL server of the tests' own, on a free port of this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest


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


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server; skip the test where there is none to run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: run `apt-get install postgresql`")
    # It refuses to be run by root.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="nbgen-pg-", dir="/tmp"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    control = [str(Path(initdb).with_name("pg_ctl")), "-D", str(data), "-w"]
    options = f"-c listen_addresses= -k {folder} -c fsync=off"
    try:
        create = [initdb, "-D", str(data), "-U", "nbgen", "-A", "trust", "--no-sync"]
        quiet = subprocess.DEVNULL
        subprocess.run(create, check=True, stdout=quiet, user=user, cwd="/")
        start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
        subprocess.run(start, check=True, stdout=quiet, user=user, cwd="/")
        yield Server(folder)
    finally:
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, stdout=quiet, user=user, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)
