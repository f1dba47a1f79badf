"""The turn at running a queue: one studio at a time has it, in whatever process.

Thread-safe. With SQLite the turn is a lock on a file beside the database; with
PostgreSQL, a lock that a connection holds. Either is freed when its process ends,
however that ends. The lock only elects a runner: the generation of the queue decides
whose writes count.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from filelock import FileLock, Timeout

from nbgen.errors import DataFolderUnusable
from nbgen.schema import DEFAULT_QUEUE
from nbgen.store.database import Database
from nbgen.store.owners import is_free
from nbgen.store.tables import queues


class Turn(Protocol):
    """The right to run the tasks of a queue."""

    def take(self) -> bool:
        """Take the turn if nobody has it; return whether it is had now.

        Raises:
            DataFolderUnusable: The folder cannot be written, or the database fails.
        """

    def beat(self, generation: int) -> bool:
        """Give a sign of life; return False once another has the turn.

        It is False, too, once the turn was released.

        Raises:
            DataFolderUnusable: The database fails, so it is not known.
        """

    def last_beat(self) -> object:
        """Return a value that changes with each sign of life of whoever has the turn.

        None if nobody has it.
        """

    def release(self) -> None:
        """Let others take the turn; no-op if it is not had."""


def open_turn(database: Database, queue: str) -> Turn:
    """Return the turn at running a queue, which is not taken yet."""
    if database.is_file:
        return FileTurn(database.lock_folder, queue)
    return SessionTurn(database, queue)


class FileTurn:
    """The turn as a lock on a file.

    Args:
        folder: The folder of the locks, which exists.
        queue: The name of the queue.
    """

    def __init__(self, folder: Path, queue: str) -> None:
        name = "runner" if queue == DEFAULT_QUEUE else f"runner-{queue}"
        self._folder = folder
        self._beat = folder / f"{name}.beat"
        self._lock = FileLock(folder / f"{name}.lock", thread_local=False)
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Take the turn if nobody has it; return whether it is had now."""
        with self._guard:
            if self._lock.is_locked:
                return True
            try:
                self._folder.stat()  # FileLock would make one that has vanished
                self._lock.acquire(timeout=0)
                self._beat.touch()
            except Timeout:
                return False
            except OSError as error:
                self._lock.release()
                raise DataFolderUnusable(
                    f"The data folder {str(self._folder)!r} cannot be used: {error}. "
                    "Choose another with data_dir, --data-dir or NBGEN_DATA_DIR."
                ) from error
            return True

    def beat(self, generation: int) -> bool:  # noqa: ARG002 - the lock outlasts all
        """Give a sign of life; the lock lasts as long as its process."""
        with self._guard:
            if not self._lock.is_locked:
                return False
            with contextlib.suppress(OSError):  # whoever writes is told of that
                self._beat.touch()
            return True

    def last_beat(self) -> object:
        """Return when the last sign of life was given; None if nobody has the turn."""
        if is_free(Path(self._lock.lock_file)):  # it was left by a process that died
            return None
        try:
            return self._beat.stat().st_mtime_ns
        except OSError:
            return None

    def release(self) -> None:
        """Let others take the turn; no-op if it is not had."""
        with self._guard:
            if self._lock.is_locked:
                with contextlib.suppress(OSError):
                    self._beat.unlink()
                self._lock.release()


class SessionTurn:
    """The turn as an advisory lock of PostgreSQL, on a connection of its own.

    A connection that was dropped frees the lock. The turn is lost by that only once
    another has taken it.

    Args:
        database: The database.
        queue: The name of the queue.
    """

    def __init__(self, database: Database, queue: str) -> None:
        self._database = database
        self._queue = queue
        digest = hashlib.sha256(f"nbgen queue {queue}".encode()).digest()
        self._key = int.from_bytes(digest[:7])  # of a signed number of 64 bits
        self._session: Any = None
        self._is_had = False
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Take the turn if nobody has it; return whether it is had now."""
        with self._guard:
            if not self._is_had:
                self._is_had = self._lock()
                if not self._is_had:
                    self._drop()
            return self._is_had

    def beat(self, generation: int) -> bool:
        """Give a sign of life; return False once another has the turn."""
        with self._guard:
            if not self._is_had:  # or it would be taken anew, for nobody to release
                return False
            try:
                return self._say(generation)
            except DataFolderUnusable:  # the connection alone may have been dropped
                return self._say(generation)

    def last_beat(self) -> object:
        """Return the number of the last sign of life; None if nobody has the turn."""
        held = sa.text(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND "
            "objsubid = 1 AND ((classid::bigint << 32) | objid::bigint) = :key AND "
            "database = (SELECT oid FROM pg_database WHERE datname = "
            "current_database())"
        )
        query = sa.select(queues.c.beat).where(queues.c.name == self._queue)
        with self._database.reading() as connection:
            if connection.execute(held, {"key": self._key}).first() is None:
                return None
            return connection.scalar(query)

    def release(self) -> None:
        """Let others take the turn; no-op if it is not had."""
        with self._guard:
            self._is_had = False
            if self._session is not None:
                # The server notices a closed connection some time later.
                with contextlib.suppress(Exception):
                    self._ask("SELECT pg_advisory_unlock_all()")
                self._drop()

    def _say(self, generation: int) -> bool:
        """Give a sign of life, with the lock taken again if it was dropped."""
        if self._session is None:
            self._lock()
        found = self._ask(
            "UPDATE queues SET beat = beat + 1 "
            "WHERE name = %s AND generation = %s RETURNING beat",
            self._queue,
            generation,
        )
        return found is not None

    def _lock(self) -> bool:
        """Connect and take the lock; return whether it was free."""
        self._session = self._database.open_session("SET synchronous_commit = off")
        found = self._ask("SELECT pg_try_advisory_lock(%s)", self._key)
        return bool(found[0])

    def _ask(self, statement: str, *values: object) -> Any:
        try:
            with self._session.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchone()
        except Exception as error:
            self._drop()  # the next one connects anew
            raise DataFolderUnusable(f"The database failed: {error}.") from error

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):  # it may have been dropped
                session.close()
