"""Tells whose process is gone: every open store holds a lock that dies with it.

Thread-safe. With SQLite the lock is on a file beside the database; with PostgreSQL it
is held by a connection, so it works between machines too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa
from filelock import FileLock, Timeout


class Owners(Protocol):
    """Those who run tasks of one database.

    Attributes:
        own: The name of this one.
    """

    own: str

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""

    def close(self) -> None:
        """Let the others see that this one is gone."""


class FileOwners:
    """Owners that hold locked files in a folder.

    Args:
        folder: Where the files lie; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.own = uuid4().hex
        self._lock = FileLock(self._path(self.own))
        self._lock.acquire(timeout=0)

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""
        if owner == self.own:
            return False
        lock = FileLock(self._path(owner))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        self._path(owner).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Let the others see that this one is gone."""
        self._lock.release()
        self._path(self.own).unlink(missing_ok=True)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"


class SessionOwners:
    """Owners that hold advisory locks of PostgreSQL.

    Args:
        engine: The database; one of its connections is kept.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.own = uuid4().hex
        # Outside transactions: one that stays open for days would stop PostgreSQL
        # from clearing up.
        self._connection = engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        )
        self._connection.execute(sa.select(sa.func.pg_advisory_lock(_key(self.own))))

    def is_gone(self, owner: str) -> bool:
        """Say whether the process of an owner has ended."""
        if owner == self.own:
            return False
        took = self._connection.scalar(
            sa.select(sa.func.pg_try_advisory_lock(_key(owner)))
        )
        if took:
            self._connection.execute(sa.select(sa.func.pg_advisory_unlock(_key(owner))))
        return bool(took)

    def close(self) -> None:
        """Let the others see that this one is gone."""
        if not self._connection.closed:
            # One that is only closed goes back to the pool with its locks.
            self._connection.invalidate()
            self._connection.close()


def _key(owner: str) -> int:
    # An advisory lock is called by a signed number of 64 bits.
    return UUID(owner).int >> 65
