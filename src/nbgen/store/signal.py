"""Tells that a database may have changed, whichever process changed it.

``wait`` and ``rest`` belong to the thread that follows the changes; any thread may call
``wake`` and ``tell``. A signal holds one connection of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import time
from io import FileIO
from pathlib import Path
from threading import Event, Lock
from typing import Any, Protocol

import sqlalchemy as sa

logger = logging.getLogger(__name__)

CHANNEL = "nbgen"
"""On which PostgreSQL notifies; the payload is empty."""

LONGEST_WAIT_S = 1.0
_ASK_NEWEST = "SELECT max(number) FROM changes"
# Where a system has no named pipes. Half of it is the usual time until a change of
# another process is seen; each look costs a wake-up of the processor.
_LOOK_EVERY_S = 0.04
_BELL = ".bell"


class ChangeSignal(Protocol):
    """Waits for changes of one database."""

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one."""

    def wake(self) -> None:
        """Have ``wait`` return now; any thread may call it."""

    def tell(self) -> None:
        """Tell the followers of other processes of a commit; any thread may call it."""

    def rest(self) -> None:
        """Release what waiting needs; ``wait`` must not be under way."""

    def close(self) -> None:
        """Release everything; ``wait`` must not be under way."""


class FileSignal:
    """Wakes the followers of a SQLite file, in this and in other processes.

    Each follower has a named pipe in a folder beside the file, and whoever commits
    writes a byte into each of them. That is a hint only: it may be lost with a process
    that dies after its commit. So a follower also looks, once a second, at a number
    that SQLite keeps in the memory that its processes share. The number tells a
    connection of the commits of all others, so this one writes nothing.

    Args:
        engine: The database.
        folder: Where the pipes lie; made if it does not exist.
        own: The name of this process's pipe.
    """

    def __init__(self, engine: sa.Engine, folder: Path, own: str) -> None:
        self._engine = engine
        self._folder = folder
        self._own = f"{own}{_BELL}"
        self._bell: FileIO | None = None
        self._woken = Event()  # where there is no pipe
        self._lock = Lock()  # over the writing into the pipe, and its closing
        self._connection: Any = None
        self._version: object = None

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one."""
        if self._connection is None:
            # Out of the pool, which would lend it to those who write.
            connection = self._engine.raw_connection()
            self._connection = connection.driver_connection
            self._version = None  # another connection counts from another number
            connection.detach()
            self._bell = self._make_bell()
            return True  # what was committed before the pipe was there told nobody
        until_s = time.monotonic() + LONGEST_WAIT_S
        is_woken = False
        while not is_woken:
            is_woken = self._sleep()
            if self._has_changed():
                return True
            if time.monotonic() > until_s:
                return False
        return False

    def wake(self) -> None:
        """Have ``wait`` return now."""
        self._woken.set()
        with self._lock:  # or it might be closed, and its number be another file's
            if self._bell is not None:
                self._bell.write(b".")

    def tell(self) -> None:
        """Tell the followers of other processes of a commit."""
        self.wake()
        try:
            with os.scandir(self._folder) as found:
                names = [entry.name for entry in found]
        except OSError:  # nobody has followed yet
            return
        for name in names:
            if name.endswith(_BELL) and name != self._own:
                _ring(self._folder / name)

    def rest(self) -> None:
        """Close the connection, and remove the pipe; ``wait`` makes others."""
        with self._lock:
            bell, self._bell = self._bell, None
            if bell is not None:
                with contextlib.suppress(OSError):  # the folder may have vanished
                    (self._folder / self._own).unlink()
                bell.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection, and remove the pipe."""
        self.rest()

    def _sleep(self) -> bool:
        """Wait until somebody wakes this; return False after the longest time."""
        if self._bell is None:
            is_woken = self._woken.wait(_LOOK_EVERY_S)
        else:
            is_woken = bool(_readable(self._bell))
            if is_woken:
                self._bell.read(4_096)
        if is_woken:  # else one that comes just now would be lost
            self._woken.clear()
        return is_woken

    def _has_changed(self) -> bool:
        version = self._connection.execute("PRAGMA data_version").fetchone()
        last, self._version = self._version, version
        return bool(version != last)

    def _make_bell(self) -> FileIO | None:
        """Make the pipe and open it; return None where that cannot be."""
        if not hasattr(os, "mkfifo"):
            return None
        path = self._folder / self._own
        unfinished = path.with_suffix(".new")
        try:
            self._folder.mkdir(exist_ok=True)
            unfinished.unlink(missing_ok=True)
            os.mkfifo(unfinished)
            # For writing too, or it would be at its end whenever nobody else writes.
            bell = FileIO(os.open(unfinished, os.O_RDWR | os.O_NONBLOCK), "r+")
            # Only now: a pipe that nobody reads would be removed.
            unfinished.replace(path)
        except OSError as error:  # a file system without pipes
            logger.info("Changes are looked for; there can be no pipe: %s", error)
            return None
        return bell


def _readable(*files: Any) -> list[Any]:
    """Return which files can be read, as soon as one can, at the latest after a second.

    Unlike ``select.select`` it takes files of any number: a server has many.
    """
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(LONGEST_WAIT_S)]


def _ring(path: Path) -> None:
    """Write a byte into a follower's pipe; remove the pipe if its process is gone."""
    try:
        bell = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads it
            with contextlib.suppress(OSError):
                path.unlink()
        return
    try:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(bell, b".")
    finally:
        os.close(bell)


class ServerSignal:
    """Listens to what PostgreSQL notifies at each commit.

    A notification is a hint only: a connection that is dropped loses some. So the
    number of the newest change is asked for once a second, which also tells whether the
    connection still works.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._newest: object = None
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._wakes.setblocking(False)

    def wait(self) -> bool:
        """Return at a change, or after a second; say whether there may be one."""
        if self._connection is not None:
            try:
                return self._wait()
            except Exception as error:  # noqa: BLE001 - whatever a driver may raise
                logger.info("Listening anew: %s", error)
                self._drop()
        # It listens before the caller reads, so nothing falls in between.
        self._connection = self._listen()
        return True

    def wake(self) -> None:
        """Have ``wait`` return now; does nothing once the signal is closed."""
        with contextlib.suppress(OSError):  # it is full of wakes, or closed
            self._wakes.send(b".")

    def tell(self) -> None:
        """Do nothing: PostgreSQL notifies all processes, this one too."""

    def rest(self) -> None:
        """Close the connection: one that nobody reads from fills PostgreSQL's queue."""
        self._drop()

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._drop()
        self._woken.close()
        self._wakes.close()

    def _wait(self) -> bool:
        ready = _readable(self._connection.fileno(), self._woken)
        if self._woken in ready:
            self._woken.recv(1_024)
        if len(ready) > (self._woken in ready):
            self._take_notifications()
            return True
        return not ready and self._has_changed()

    def _listen(self) -> Any:
        return open_session(self._engine, f"LISTEN {CHANNEL}")

    def _has_changed(self) -> bool:
        newest: object
        if hasattr(self._connection, "pgconn"):  # psycopg 3; this takes a fifth of it
            answer = self._connection.pgconn.exec_(_ASK_NEWEST.encode())
            newest = answer.get_value(0, 0)
            if answer.error_message:
                raise OSError(answer.error_message.decode(errors="replace"))
            self._take_notifications()
        else:
            with self._connection.cursor() as cursor:
                cursor.execute(_ASK_NEWEST)
                newest = cursor.fetchone()
        last, self._newest = self._newest, newest
        return bool(newest != last)

    def _take_notifications(self) -> None:
        if hasattr(self._connection, "pgconn"):  # psycopg 3
            # Its own generator says nothing of a connection that was dropped.
            library = self._connection.pgconn
            library.consume_input()
            while library.notifies() is not None:
                pass
        else:
            self._connection.poll()
            self._connection.notifies.clear()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


def open_session(engine: sa.Engine, statement: str) -> Any:
    """Return a connection of PostgreSQL's driver that begins with a statement.

    It is out of the pool, which would lend it to others, and each of its statements is
    a transaction.
    """
    connection = engine.raw_connection()
    driver: Any = connection.driver_connection
    connection.detach()
    try:
        driver.autocommit = True
        with driver.cursor() as cursor:
            cursor.execute(statement)
    except BaseException:
        driver.close()
        raise
    return driver
