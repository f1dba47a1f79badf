"""Opens a SQLite file or a PostgreSQL database, and brings its tables up to date.

Holds no state, so any thread may call it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from nbgen.errors import DataFolderUnusable, InvalidRequest
from nbgen.settings import DATABASE_FILE
from nbgen.store.owners import (
    FileOwners,
    Owners,
    SessionOwners,
    describe_own,
    living_owners,
    living_sessions,
)
from nbgen.store.sqlite_file import RESTORE, file_at, is_damage, read_identity
from nbgen.store.tables import identity

# Those that need no event loop, of databases whose SQL we know.
_DRIVERS = ("pysqlite", "psycopg", "psycopg2")
_BUSY_TIMEOUT_S = 10
_BUSY_PAUSE_S = 0.01
_NEWEST_MIGRATION = "0007"
_MIGRATION_LOCK = 0x6E6267656E
"""Any number will do, as long as all processes take the same."""


class Opened(NamedTuple):
    """What an open database consists of.

    Attributes:
        engine: Gives connections.
        owners: The owners of its tasks.
        lock_folder: Folder of the lock files of its queue.
        identity: The id of the database.
        file: The SQLite file; None for PostgreSQL.
    """

    engine: sa.Engine
    owners: Owners
    lock_folder: Path
    identity: str
    file: Path | None


def open_database(folder: Path, url: str | None) -> Opened:
    """Open a database and bring its tables up to date; see ``Database``.

    Raises:
        InvalidRequest: The URL is of neither kind, or of a database in memory.
        DataFolderUnusable: The folder or the database cannot be read or written.
    """
    parsed = _check_url(url) if url else _file_url(folder)
    try:
        return _open(parsed, folder)
    except (OSError, sqlite3.Error, sa.exc.DBAPIError) as error:
        cause = getattr(error, "orig", None) or error
        if is_damage(cause):
            raise DataFolderUnusable(
                f"{file_at(folder, parsed)}: {cause}. {RESTORE}"
            ) from error
        where = (
            f"The data folder {str(folder)!r} cannot be used: {cause}. Choose "
            "another with data_dir, --data-dir or NBGEN_DATA_DIR."
            if url is None
            else f"The database {parsed.render_as_string()} cannot be used: "
            f"{' '.join(str(cause).split())} Check that it runs, and the URL given "
            "as database or NBGEN_DATABASE."
        )
        raise DataFolderUnusable(where) from error


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


def _open(url: sa.URL, folder: Path) -> Opened:
    if url.get_backend_name() == "sqlite":
        file = file_at(folder, url)
        if file is not None:
            read_identity(file)  # or a file of another program would be changed
        folder.mkdir(parents=True, exist_ok=True)
        # One that the URL names wins.
        timeout = {} if "timeout" in url.query else {"timeout": _BUSY_TIMEOUT_S}
        engine = sa.create_engine(url, connect_args=timeout)
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
    else:
        try:
            # A connection that the server or a firewall has dropped is noticed.
            # One that the URL or PGAPPNAME names wins.
            name = {"fallback_application_name": describe_own()}
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args=name)
            sa.event.listen(engine, "connect", _without_jit)
        except ImportError as error:
            raise OSError(f"{error}; pip install 'nbgen[postgresql]'") from error
    try:
        if engine.dialect.name == "sqlite":
            file = _database_file(engine)
            locks = _lock_folder(file)
            owners = locks / "owners"
            known_as = _migrate(engine, owners)
            return Opened(engine, FileOwners(owners), locks, known_as, file)
        known_as = _migrate(engine, None)
        return Opened(engine, SessionOwners(engine), folder, known_as, None)
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


def _migrate(engine: sa.Engine, owners: Path | None) -> str:
    """Bring the tables up to date, one process at a time, and return the identity.

    Args:
        engine: The database.
        owners: The folder of the owners' files; None for PostgreSQL.

    Raises:
        DataFolderUnusable: The tables are to be changed, and an older nbgen has the
            database open.
    """
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
            if owners is None:
                others = living_sessions(connection, _MIGRATION_LOCK)
            else:
                others = living_owners(owners)
            if others and known is not None:
                raise DataFolderUnusable(
                    "The tables of the data folder are of an older nbgen, which still "
                    f"has it open: {'; '.join(others)}. Nothing was changed. Close it: "
                    "restart its notebook kernel, or stop its server. Then open the "
                    "data folder again."
                )
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
