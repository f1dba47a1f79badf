"""Opens a database, brings its tables up to date and begins transactions.

Thread-safe: each transaction takes a connection of its own from the pool.
``Database.close`` waits for the transactions of other threads; afterwards every
transaction raises ``StudioClosed``, so nothing touches the data folder any more.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from nbgen.errors import DataFolderUnusable, InvalidRequest, StudioClosed
from nbgen.settings import DATABASE_FILE
from nbgen.store.owners import FileOwners, Owners, SessionOwners
from nbgen.store.signal import ChangeSignal, FileSignal, ServerSignal
from nbgen.store.tables import identity

logger = logging.getLogger(__name__)

# Those that need no event loop, of databases whose SQL we know.
_DRIVERS = ("pysqlite", "psycopg", "psycopg2")
_BUSY_TIMEOUT_S = 10
_BUSY_PAUSE_S = 0.01
_NEWEST_MIGRATION = "0005"
_MIGRATION_LOCK = 0x6E6267656E
"""Any number will do, as long as all processes take the same."""

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
        identity: The id of this database, which stays when it is moved.
        lock_folder: Folder of the lock files shared by all processes that can run this
            queue: beside a SQLite file, whatever the data folder it is opened from; in
            the data folder with PostgreSQL, where each folder has a queue of its own.

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
        parsed = _check_url(url) if url else _file_url(folder)
        try:
            opened = _open(parsed, folder)
        except (OSError, sa.exc.DBAPIError) as error:
            cause = getattr(error, "orig", None) or error
            where = (
                f"The data folder {str(folder)!r} cannot be used: {cause}. Choose "
                "another with data_dir, --data-dir or NBGEN_DATA_DIR."
                if url is None
                else f"The database {parsed.render_as_string()} cannot be used: "
                f"{' '.join(str(cause).split())} Check that it runs, and the URL given "
                "as database or NBGEN_DATABASE."
            )
            raise DataFolderUnusable(where) from error
        self._engine, self._owners, self.lock_folder, self.identity, file = opened
        self._file = file
        self._file_id = _file_id(file)
        self._signal: ChangeSignal
        if file is None:
            self._signal = ServerSignal(self._engine)
        else:
            self._signal = FileSignal(self._engine)
        # SQLite lets one write, and the others look again after a while of sleep; our
        # own threads need not sleep.
        self._writer: AbstractContextManager[Any] = (
            threading.Lock() if parsed.get_backend_name() == "sqlite" else nullcontext()
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
        with (
            self._use(),
            _clear_errors(),
            self._writer,
            self._engine.connect() as connection,
            connection.begin() as transaction,
        ):
            yield connection
            with _clear_errors(_UNKNOWN):
                transaction.commit()
            # What was written into a file that is gone must not be acknowledged.
            self._check_file()
            if self.is_file:  # PostgreSQL notifies this process as it does others
                self._signal.wake()

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

    def wait_for_changes(self) -> None:
        """Return when something may have changed, at the latest after a second.

        It belongs to one thread at a time. Any process may have made the change.

        Raises:
            DataFolderUnusable: The database cannot be reached, or has vanished.
            StudioClosed: The database is closed.
        """
        with self._use():
            try:
                self._signal.wait()
            except Exception as error:
                raise DataFolderUnusable(
                    f"The database cannot be followed: {_first_line(error)}. It is "
                    "tried again each second."
                ) from error

    def wake(self) -> None:
        """Have ``wait_for_changes`` return now."""
        self._signal.wake()

    @property
    def is_file(self) -> bool:
        """Whether this is a SQLite file."""
        return self._file is not None

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
            self._check_file()
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

    def _check_file(self) -> None:
        """Refuse to go on with a file that is not the one that was opened."""
        if self._file is not None and _file_id(self._file) != self._file_id:
            raise DataFolderUnusable(_VANISHED)


@contextmanager
def _clear_errors(what_now: str = _UNCHANGED) -> Iterator[None]:
    """Tell the database's own failures from mistakes in what it is asked."""
    try:
        yield
    except sa.exc.IntegrityError:  # says something of the rows: an id is taken
        raise
    except sa.exc.DBAPIError as error:
        # The first line; behind it PostgreSQL quotes the statement.
        cause = _first_line(error.orig)
        reason = f"The database failed: {cause}."
        raise DataFolderUnusable(f"{reason} {what_now}", reason=reason) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _check_url(url: str) -> sa.URL:
    with suppress(sa.exc.ArgumentError, ImportError):
        parsed = sa.make_url(url)
        if parsed.get_driver_name() in _DRIVERS:
            return parsed
    # Not the value: it may hold a password.
    raise InvalidRequest(
        "database",
        url.partition(":")[0],
        "a URL that starts with postgresql+psycopg:// or sqlite:///",
    )


def _file_url(folder: Path) -> sa.URL:
    return sa.URL.create("sqlite", database=str(folder / DATABASE_FILE))


class _Opened(NamedTuple):
    engine: sa.Engine
    owners: Owners
    lock_folder: Path
    identity: str
    file: Path | None


def _open(url: sa.URL, folder: Path) -> _Opened:
    if url.get_backend_name() == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        # One that the URL names wins.
        timeout = {} if "timeout" in url.query else {"timeout": _BUSY_TIMEOUT_S}
        engine = sa.create_engine(url, connect_args=timeout)
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
    else:
        try:
            # A connection that the server or a firewall has dropped is noticed.
            engine = sa.create_engine(url, pool_pre_ping=True)
            sa.event.listen(engine, "connect", _without_jit)
        except ImportError as error:
            raise OSError(f"{error}; pip install 'nbgen[postgresql]'") from error
    try:
        if engine.dialect.name == "sqlite":
            file = _database_file(engine)
            locks = _lock_folder(file)
            known_as = _migrate(engine)
            return _Opened(engine, FileOwners(locks / "owners"), locks, known_as, file)
        known_as = _migrate(engine)
        return _Opened(engine, SessionOwners(engine), folder, known_as, None)
    except BaseException:
        engine.dispose()
        raise


def _database_file(engine: sa.Engine) -> Path:
    """Return the file of a SQLite database, by whatever name it is opened."""
    with engine.execution_options(reading=True).connect() as connection:
        found = connection.exec_driver_sql("PRAGMA database_list").first()
    if found is None or not found.file:
        allowed = "the URL of a file, sqlite:///…: what is in memory does not last"
        raise InvalidRequest("database", str(engine.url), allowed)
    return Path(found.file).resolve()


def _file_id(file: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from another of its name; None if there is none."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _lock_folder(file: Path) -> Path:
    """Return the folder for the locks of a SQLite file.

    Two databases in one folder do not keep each other's tasks from running.
    """
    if file.name == DATABASE_FILE:
        return file.parent
    return file.with_name(f"{file.name}.locks")


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred: two writers that both read first would
    # fail with "database is locked". We begin ourselves, in _on_begin.
    connection.isolation_level = None
    _write_ahead(connection)
    # Who was told that a task has ended or was decided may act on it at once. With
    # NORMAL a power cut may take the last commits back, and the answer would be a lie.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _write_ahead(connection: Any) -> None:
    """Keep a log beside the file, so that nobody who reads waits for who writes."""
    give_up_at_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # Of several that open a new file, one changes it; here alone SQLite does
            # not wait by itself.
            busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up_at_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _on_begin(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _without_jit(connection: Any, _record: Any) -> None:
    # Compiling a query takes longer than any of ours does.
    with connection.cursor() as cursor:
        cursor.execute("SET jit = off")
    connection.commit()


def _migrate(engine: sa.Engine) -> str:
    """Bring the tables up to date, one process at a time, and return the identity."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK))
            )
        known = None
        if sa.inspect(connection).has_table("alembic_version"):
            known = connection.scalar(
                sa.text("SELECT version_num FROM alembic_version")
            )
        # Usually there is nothing to do, and importing alembic takes a tenth of a
        # second.
        if known != _NEWEST_MIGRATION:
            _upgrade(connection)
        known_as: str = connection.execute(sa.select(identity.c.id)).scalar_one()
        return known_as


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "nbgen.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise OSError(
            f"a newer nbgen has changed its tables ({error}); update nbgen"
        ) from error
