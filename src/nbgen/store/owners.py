"""Tells whose process is gone: every open store holds a lock that dies with it.

Thread-safe. With SQLite the lock is on a file beside the database; with PostgreSQL it
is held by a connection, so it works between machines too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa
from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

_MOMENT_S = 10.0


class Owners(Protocol):
    """Those who run tasks of one database.

    Attributes:
        own: The name of this one.
    """

    own: str

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""

    def renew(self) -> None:
        """Re-acquire the owner's lock if its connection was dropped.

        So other processes keep treating the owner as alive.
        """

    def close(self) -> None:
        """Release the owner's lock, so that other processes see that it has ended."""


def describe_own() -> str:
    """Return what others call this process, where it is in their way."""
    return f"nbgen {version('nbgen')} on {platform.node() or 'this machine'}"


def living_owners(folder: Path) -> list[str]:
    """Return what the owners are called whose processes live, of those in a folder."""
    found = []
    for path in sorted(folder.glob("*.lock")):
        if is_free(path):
            continue
        opened = dt.datetime.fromtimestamp(path.stat().st_mtime)  # noqa: DTZ006
        try:
            name = path.with_suffix(".txt").read_text(encoding="utf-8")
        except (OSError, ValueError):
            name = "an older nbgen"
        found.append(f"{name}, which opened it at {opened:%Y-%m-%d %H:%M}")
    return found


def is_free(path: Path, and_then: Callable[[], None] = lambda: None) -> bool:
    """Return whether nobody holds the lock on a file; asking keeps nobody from it long.

    Args:
        path: The file; one that is not there is free.
        and_then: Called if it is free, while nobody can take the lock.
    """
    if sys.platform == "win32":
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        # There no file is removed that anybody has open.
        with contextlib.suppress(OSError):
            and_then()
        return True
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        # Shared, or one of two who ask at once would take the other for the holder.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        and_then()
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def living_sessions(connection: sa.Connection, but: int) -> list[str]:
    """Return what the owners are called that have sessions of PostgreSQL.

    Args:
        connection: The database.
        but: The key of a lock that is not an owner's.
    """
    query = sa.text(
        "SELECT DISTINCT coalesce(nullif(application_name, ''), 'an older nbgen'), "
        "coalesce(host(client_addr), 'this machine'), backend_start "
        "FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() "
        "AND datname = current_database() "
        "AND ((classid::bigint << 32) | objid::bigint) <> :but"
    )
    return [
        f"{name} from {host}, which opened it at {began:%Y-%m-%d %H:%M} UTC"
        for name, host, began in connection.execute(query, {"but": but})
    ]


class FileOwners:
    """Owners that hold locked files in a folder.

    Args:
        folder: Where the files lie; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.own = uuid4().hex
        self._name = folder / f"{self.own}.txt"
        # For an nbgen that changes the tables; it will not while this one is open.
        self._name.write_text(describe_own(), encoding="utf-8")
        self._lock = FileLock(self._path(self.own))
        # Another that opens may look at the file, and remove it, before it is locked.
        self._lock.acquire(timeout=_MOMENT_S, poll_interval=0.01)
        for path in folder.glob("*.lock"):
            with contextlib.suppress(OSError):  # it may be another user's
                self.is_gone(path.stem)  # which removes those of processes that died

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""
        if owner == self.own:
            return False
        path = self._path(owner)
        # While it is locked, or it might be somebody's by now.
        return is_free(path, partial(self._remove, path))

    def renew(self) -> None:
        """Do nothing: a lock on a file lasts as long as its process."""

    def close(self) -> None:
        """Release the owner's lock, so that other processes see that it has ended."""
        self._name.unlink(missing_ok=True)
        self._lock.release()
        self._path(self.own).unlink(missing_ok=True)

    @staticmethod
    def _remove(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_suffix(".txt").unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"


class SessionOwners:
    """Owners that hold advisory locks of PostgreSQL.

    The lock goes with its connection, which a restart, a failover or a firewall may
    drop while the process lives. Others then take this one's tasks over; what they have
    not taken is its own again as soon as it takes the lock again, on another
    connection, which it does whenever it is used.

    Args:
        engine: The database; one of its connections is kept.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.own = uuid4().hex
        self._engine = engine
        self._asking = threading.Lock()
        self._is_held = False
        self._connection = self._connect()
        self.renew()

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""
        self.renew()
        if owner == self.own:
            return False
        key = _key(owner)
        with self._asking:
            # Shared, or one of two who ask at once would take the other for the owner.
            lock = sa.func.pg_try_advisory_lock_shared(key)
            took = bool(self._connection.scalar(sa.select(lock)))
            if took:
                unlock = sa.func.pg_advisory_unlock_shared(key)
                self._connection.execute(sa.select(unlock))
        return took

    def renew(self) -> None:
        """Re-acquire the owner's lock if its connection was dropped.

        So other processes keep treating the owner as alive.
        """
        with self._asking:
            try:
                self._connection.execute(sa.select(1))
            except sa.exc.SQLAlchemyError:
                self._drop()
                self._connection = self._connect()
            if not self._is_held:
                # Not to be waited for: the server may take the old connection for alive
                # for hours yet, and as long as it does this one counts as here.
                lock = sa.func.pg_try_advisory_lock(_key(self.own))
                self._is_held = bool(self._connection.scalar(sa.select(lock)))

    def close(self) -> None:
        """Release the owner's lock, so that other processes see that it has ended."""
        with self._asking:
            # The server notices a closed connection some time later.
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
            self._drop()

    def _connect(self) -> sa.Connection:
        self._is_held = False
        # Outside transactions: one that stays open for days would stop PostgreSQL
        # from clearing up.
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _drop(self) -> None:
        if not self._connection.closed:
            # One that is only closed goes back to the pool with its locks.
            self._connection.invalidate()
            self._connection.close()


def _key(owner: str) -> int:
    # An advisory lock is called by a signed number of 64 bits.
    return UUID(owner).int >> 65
