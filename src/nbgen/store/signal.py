"""Tells that a database may have changed, whichever process changed it.

``wait`` and ``close`` belong to the thread that follows the changes; ``wake`` may be
called from any. A signal holds one connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from threading import Event
from typing import Any, Protocol

import sqlalchemy as sa

CHANNEL = "nbgen"
"""On which PostgreSQL notifies; the payload is empty."""

LONGEST_WAIT_S = 1.0
# Of the time from a commit to the follower, half of this is the usual part. Each look
# takes some microseconds, so more of them would keep an idle processor from resting.
_LOOK_EVERY_S = 0.04


class ChangeSignal(Protocol):
    """Waits for changes of one database."""

    def wait(self) -> None:
        """Return when something may have changed, at the latest after a second."""

    def wake(self) -> None:
        """Have ``wait`` return now; any thread may call it."""

    def close(self) -> None:
        """Close the connection; ``wait`` must not be under way."""


class FileSignal:
    """Looks at a number that SQLite keeps in memory that its processes share.

    The number tells a connection of the commits of all others, so this one writes
    nothing.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._woken = Event()
        self._connection: Any = None
        self._version: object = None

    def wait(self) -> None:
        """Return when something may have changed, at the latest after a second."""
        if self._connection is None:
            # Out of the pool, which would lend it to those who write.
            connection = self._engine.raw_connection()
            self._connection = connection.driver_connection
            connection.detach()
        until_s = time.monotonic() + LONGEST_WAIT_S
        is_woken = False
        while not is_woken and time.monotonic() < until_s:
            is_woken = self._woken.wait(_LOOK_EVERY_S)
            self._woken.clear()
            version = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                return

    def wake(self) -> None:
        """Have ``wait`` return now."""
        self._woken.set()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class ServerSignal:
    """Listens to what PostgreSQL notifies at each commit.

    A notification is a hint only: one that a dropped connection loses is made up for by
    the look after a second.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)
        self._pipe: tuple[int, ...] = (self._woken, self._wakes)

    def wait(self) -> None:
        """Return when something may have changed, at the latest after a second."""
        try:
            if self._connection is None:
                # It listens before the caller reads, so nothing falls in between.
                self._connection = self._listen()
                return
            ready, _, _ = select.select(
                [self._connection.fileno(), self._woken], [], [], LONGEST_WAIT_S
            )
            if self._woken in ready:
                os.read(self._woken, 1_024)
            if len(ready) > (self._woken in ready):
                self._take_notifications()
        except Exception:
            self._drop()
            raise

    def wake(self) -> None:
        """Have ``wait`` return now."""
        with contextlib.suppress(BlockingIOError):  # it is full of wakes
            os.write(self._wakes, b".")

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._drop()
        pipe, self._pipe = self._pipe, ()
        for end in pipe:
            os.close(end)

    def _listen(self) -> Any:
        connection = self._engine.raw_connection()
        driver: Any = connection.driver_connection
        connection.detach()
        driver.autocommit = True
        with driver.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        return driver

    def _take_notifications(self) -> None:
        if hasattr(self._connection, "pgconn"):  # psycopg, whose generator never ends
            for _ in self._connection.notifies(timeout=0):
                pass
        else:
            self._connection.poll()
            self._connection.notifies.clear()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
