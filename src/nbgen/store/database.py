"""Begins transactions of a database, and notices when it changes or vanishes.

Thread-safe: each transaction takes a connection of its own from the pool.
``Database.close`` waits for the transactions of other threads; afterwards every
transaction raises ``StudioClosed``, so nothing touches the data folder any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nbgen.errors import DataFolderUnusable, StudioClosed
from nbgen.store.opening import open_database
from nbgen.store.signal import ChangeSignal, FileSignal, ServerSignal, open_session
from nbgen.store.sqlite_file import RESTORE, is_damage

logger = logging.getLogger(__name__)

APPENDED = "nbgen_appended"
"""Set in the ``info`` of a connection whose transaction appends to the change feed."""

_UNCHANGED = (
    "Nothing was changed. Check that it runs and that its disk has room, and try again."
)
_VANISHED = (
    "The data folder has vanished, or another was put in its place, while it was in "
    "use. Nothing more is kept. Put the folder back and open it again."
)
_UNKNOWN = (
    "It is not known whether the change was kept. Check that it runs and that its disk "
    "has room, and look before you try again."
)


class Database:
    """A SQLite file or a PostgreSQL database, with the tables of this version.

    Several processes may open it at the same time.

    Args:
        folder: Where ``nbgen.sqlite`` lies; made if it does not exist. PostgreSQL needs
            it not.
        url: ``postgresql+psycopg://…`` or ``sqlite:///…``; None is the file in the
            folder.
        close_timeout_s: How many seconds ``close`` waits for the transactions of other
            threads.

    Attributes:
        file: The SQLite file; None for PostgreSQL.
        identity: The id of this database, which stays when it is moved.
        lock_folder: Folder of the lock files shared by all processes that can run this
            queue: beside a SQLite file, whatever the data folder it is opened from. Of
            PostgreSQL, which holds its locks itself, it is the data folder.

    Raises:
        InvalidRequest: The URL is of neither kind, or of a database in memory.
        DataFolderUnusable: The folder or the database cannot be read or written, or a
            newer nbgen has been at it.

    Example::

        database = Database(Path("data"))
        with database.writing() as connection:
            connection.execute(tasks.delete())
        database.close()
    """

    def __init__(
        self, folder: Path, url: str | None = None, *, close_timeout_s: float = 15.0
    ) -> None:
        opened = open_database(folder, url)
        self._engine, self._owners, self.lock_folder, self.identity, file = opened
        self.file = file
        self._file_id = _file_id(file)
        self._signal: ChangeSignal
        if file is None:
            self._signal = ServerSignal(self._engine)
        else:
            bells = self.lock_folder / "followers"
            self._signal = FileSignal(self._engine, bells, self._owners.own)
        # SQLite lets one write, and the others look again after a while of sleep; our
        # own threads need not sleep.
        self._writer: AbstractContextManager[Any] = (
            nullcontext() if file is None else threading.Lock()
        )
        self._reading_engine = self._engine.execution_options(reading=True)
        self._close_timeout_s = close_timeout_s
        self._unused = threading.Condition()
        self._users = 0  # threads in a transaction, or on the way into one
        self._closed = False
        self._disposing = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Begin a transaction that is committed at the end, or rolled back.

        Raises:
            DataFolderUnusable: The database fails: a full disk, a lost connection, a
                data folder that has vanished.
            StudioClosed: The database is closed.
        """
        with self._use():
            with (
                _clear_errors(),
                self._writer,
                self._engine.connect() as connection,
                connection.begin() as transaction,
            ):
                connection.info.pop(APPENDED, None)  # of one that was rolled back
                yield connection
                with _clear_errors(_UNKNOWN):
                    transaction.commit()
                has_appended = connection.info.pop(APPENDED, False)
                # What was written into a file that is gone must not be acknowledged.
                self.check_file()
            if has_appended:
                self._signal.tell()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Begin a transaction that changes nothing and keeps no writer waiting.

        Raises:
            DataFolderUnusable: The database fails.
            StudioClosed: The database is closed.
        """
        with (
            self._use(),
            _clear_errors(),
            self._reading_engine.connect() as connection,
        ):
            yield connection

    def wait_for_changes(self) -> bool:
        """Return at a change, or after a second; say whether there may be one.

        It belongs to one thread at a time. Any process may have made the change.

        Raises:
            DataFolderUnusable: The database cannot be reached, or has vanished.
            StudioClosed: The database is closed.
        """
        with self._use():
            try:
                return self._signal.wait()
            except Exception as error:
                raise DataFolderUnusable(
                    f"The database cannot be followed: {_first_line(error)}. It is "
                    "tried again each second."
                ) from error

    def wake(self) -> None:
        """Have ``wait_for_changes`` return now."""
        self._signal.wake()

    def rest(self) -> None:
        """Release what waiting for changes needs; nobody follows for now."""
        self._signal.rest()

    @property
    def is_file(self) -> bool:
        """Whether this is a SQLite file."""
        return self.file is not None

    def open_session(self, statement: str) -> Any:
        """Return a connection of PostgreSQL's driver; see ``signal.open_session``.

        Raises:
            DataFolderUnusable: The database fails.
            StudioClosed: The database is closed.
        """
        with self._use():
            try:
                return open_session(self._engine, statement)
            except self._engine.dialect.loaded_dbapi.Error as error:
                raise _failure(error, _UNCHANGED) from error

    @property
    def owner(self) -> str:
        """What the tasks that are submitted here are marked with."""
        return self._owners.own

    def is_gone(self, owner: str) -> bool:
        """Return whether the process that submitted a task has ended.

        Raises:
            DataFolderUnusable: The database fails.
            StudioClosed: The database is closed.
        """
        with self._use(), _clear_errors():
            return self._owners.is_gone(owner)

    def renew_ownership(self) -> None:
        """Re-acquire the owner's lock if its connection was dropped.

        Raises:
            DataFolderUnusable: The database fails.
            StudioClosed: The database is closed.
        """
        with self._use(), _clear_errors():
            self._owners.renew()

    def close(self) -> None:
        """Close all connections; tasks left unfinished count as lost.

        Transactions of other threads may end first, within ``close_timeout_s``. A
        longer one loses nothing: its connection is closed when it ends. A second call
        waits again for the same.
        """
        with self._unused:
            self._closed = True
            unused = self._unused.wait_for(
                lambda: not self._users, self._close_timeout_s
            )
        self._owners.close()
        if unused:
            self._dispose()
        else:
            logger.warning(
                "A transaction is still under way %.0f s after its database was to be "
                "closed; its connection is closed once it ends.",
                self._close_timeout_s,
            )

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Count the caller as a user of the connections.

        Raises:
            StudioClosed: The database is closed.
            DataFolderUnusable: Its file has vanished.
        """
        with self._unused:
            if self._closed:
                raise StudioClosed
            self._users += 1
        try:
            # Before a connection is opened, which would make the file anew.
            self.check_file()
            yield
        finally:
            with self._unused:
                self._users -= 1
                was_last = self._closed and not self._users
                self._unused.notify_all()
            if was_last:  # ``close`` may have stopped waiting
                self._dispose()

    def _dispose(self) -> None:
        # One thread at a time: ``close`` may return only after the other one, too, has
        # closed its connections, the last of which removes SQLite's side files.
        with self._disposing:
            self._signal.close()
            self._engine.dispose()

    def check_file(self) -> None:
        """Refuse to go on with a file that is not the one that was opened.

        Raises:
            DataFolderUnusable: It has vanished, or another has its place.
        """
        if self.file is not None and _file_id(self.file) != self._file_id:
            raise DataFolderUnusable(_VANISHED)


@contextmanager
def _clear_errors(what_now: str = _UNCHANGED) -> Iterator[None]:
    """Tell the database's own failures from mistakes in what it is asked."""
    try:
        yield
    except sa.exc.IntegrityError:  # says something of the rows: an id is taken
        raise
    except sa.exc.DBAPIError as error:
        raise _failure(error.orig, what_now) from error


def _failure(cause: BaseException | None, what_now: str) -> DataFolderUnusable:
    # The first line; behind it PostgreSQL quotes the statement.
    reason = f"The database failed: {_first_line(cause)}."
    if is_damage(cause):
        what_now = RESTORE
    return DataFolderUnusable(f"{reason} {what_now}", reason=reason)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _file_id(file: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from another of its name; None if there is none."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)
