"""The newest states of running tasks, for other processes to read.

They lie beside the feed: they are written five times a second, are not durable, and are
gone when the process that runs the tasks is. Each owner of tasks has one place, for the
states of all tasks that it runs.

Thread-safety: ``write`` belongs to one thread at a time; any thread may call ``read``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from nbgen.schema import GenerationProgress
from nbgen.store.database import Database

logger = logging.getLogger(__name__)

_SUFFIX = ".json"
_CHECK_OWNERS_EVERY_S = 1.0

# Not of the tables that both kinds of database have: PostgreSQL alone has it.
live = sa.Table(
    "live",
    sa.MetaData(),
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("states", sa.Text, nullable=False),
)


class LiveStates:
    """The newest states of the tasks that run, here and in other processes.

    Args:
        database: Whose owners may run tasks.

    Example::

        states = LiveStates(database)
        states.write([progress])
        states.read()  # those of other owners
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._place: _Place = (
            _Files(database.lock_folder / "live")
            if database.is_file
            else _Rows(database)
        )
        self._checked_at_s: dict[str, float] = {}

    def write(self, states: Sequence[GenerationProgress]) -> None:
        """Replace the states of the tasks that run here; none removes them.

        Raises:
            OSError: The folder cannot be written. With PostgreSQL, the driver's error.
            StudioClosed: The database is closed.
        """
        if states:
            encoded = msgspec.json.encode(states).decode()
            self._place.put(self._database.owner, encoded)
        else:
            self._place.drop(self._database.owner)

    def check_folder(self) -> None:
        """Look whether the data folder is still there.

        Raises:
            DataFolderUnusable: It has vanished, or another has its place.
        """
        self._database.check_file()

    def read(self) -> dict[str, GenerationProgress]:
        """Return the newest states of tasks that run in other processes, by their ids.

        Raises:
            DataFolderUnusable: The database fails.
        """
        found: dict[str, GenerationProgress] = {}
        for owner, text in self._place.read():
            if owner == self._database.owner or not self._is_alive(owner):
                continue
            try:
                states = msgspec.json.decode(text, type=list[GenerationProgress])
            except msgspec.MsgspecError:  # written by another version of nbgen
                logger.warning("The live states of another process cannot be read.")
                continue
            found.update((state.task_id, state) for state in states)
        return found

    def close(self) -> None:
        """Release what the writing holds; nobody writes meanwhile."""
        self._place.close()

    def _is_alive(self, owner: str) -> bool:
        """Return whether the owner's process lives; drop its states if it does not."""
        now_s = time.monotonic()
        if now_s < self._checked_at_s.get(owner, 0.0) + _CHECK_OWNERS_EVERY_S:
            return True
        if self._database.is_gone(owner):
            self._checked_at_s.pop(owner, None)
            self._place.drop(owner)
            return False
        self._checked_at_s[owner] = now_s
        return True


class _Place(Protocol):
    """Where texts lie, one for each owner."""

    def put(self, owner: str, text: str) -> None:
        """Replace the text of an owner."""

    def drop(self, owner: str) -> None:
        """Remove the text of an owner, if there is one."""

    def read(self) -> Iterable[tuple[str, str]]:
        """Return all owners with their texts."""

    def close(self) -> None:
        """Release what it holds."""


class _Files:
    """A file for each owner, in a folder beside a SQLite database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, owner: str, text: str) -> None:
        """Replace the file; a reader sees the old or the new one."""
        unfinished = self._folder / f"{owner}.new"
        try:
            unfinished.write_text(text, encoding="utf-8")
        except FileNotFoundError:
            self._folder.mkdir(exist_ok=True)
            unfinished.write_text(text, encoding="utf-8")
        # Without waiting for the disk: after a power cut nothing runs.
        unfinished.replace(self._folder / f"{owner}{_SUFFIX}")

    def drop(self, owner: str) -> None:
        """Remove the file, and an unfinished one."""
        for suffix in (_SUFFIX, ".new"):
            with contextlib.suppress(OSError):  # it may be another user's
                (self._folder / f"{owner}{suffix}").unlink(missing_ok=True)

    def read(self) -> Iterable[tuple[str, str]]:
        """Return all owners with their texts."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # removed since
                yield path.stem, path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _Rows:
    """A row for each owner, in an unlogged table of PostgreSQL.

    What is written needs one round trip, on a connection of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: Any = None

    def put(self, owner: str, text: str) -> None:
        """Replace the row."""
        self._execute(
            "INSERT INTO live (owner, states) VALUES (%s, %s) "
            "ON CONFLICT (owner) DO UPDATE SET states = EXCLUDED.states",
            owner,
            text,
        )

    def drop(self, owner: str) -> None:
        """Remove the row."""
        with self._database.writing() as connection:
            connection.execute(live.delete().where(live.c.owner == owner))

    def read(self) -> Iterable[tuple[str, str]]:
        """Return all owners with their texts."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(live.c.owner, live.c.states)).all()
        return [(row.owner, row.states) for row in rows]

    def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):  # it may have been dropped
                session.close()

    def _execute(self, statement: str, *values: str) -> None:
        try:
            if self._session is None:
                # Without waiting for the disk: after a crash nothing runs.
                begins = "SET synchronous_commit = off"
                self._session = self._database.open_session(begins)
            with self._session.cursor() as cursor:
                cursor.execute(statement, values)
        except BaseException:
            self.close()  # the next writing opens another
            raise
