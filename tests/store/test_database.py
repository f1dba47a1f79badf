"""The tables are brought up to date, from whatever was there."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from nbgen.errors import DataFolderUnusable
from nbgen.schema import TaskQuery, Verdict
from nbgen.server import Server
from nbgen.store import Store
from nbgen.store import opening as module
from nbgen.store.database import Database
from nbgen.store.sqlite_file import read_identity
from nbgen.store.tables import decisions, metadata, publications
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests import postgresql
from tests.server.client import ask
from tests.store.test_tasks import add, record

# What was kept before there were migrations.
OLD_TABLES = """
CREATE TABLE tasks (
    number INTEGER NOT NULL, id VARCHAR(128) NOT NULL, owner VARCHAR(32) NOT NULL,
    request TEXT NOT NULL, seed BIGINT NOT NULL, status VARCHAR(16) NOT NULL,
    outcome VARCHAR(16), error TEXT, created_at VARCHAR(40) NOT NULL,
    ended_at VARCHAR(40), current_step INTEGER NOT NULL, result TEXT,
    PRIMARY KEY (number), UNIQUE (id)
);
CREATE INDEX ix_tasks_status ON tasks (status);
CREATE TABLE decisions (
    number INTEGER NOT NULL, task_id VARCHAR(128) NOT NULL,
    verdict VARCHAR(16) NOT NULL, reviewer_id TEXT NOT NULL, feedback TEXT,
    featured_image_url TEXT, decided_at VARCHAR(40) NOT NULL,
    PRIMARY KEY (number), FOREIGN KEY(task_id) REFERENCES tasks (id)
);
CREATE INDEX ix_decisions_task_id ON decisions (task_id);
INSERT INTO tasks VALUES (3, 'a', 'nobody', '{"prompt": "A Cat"}', 7, 'completed',
    'succeeded', NULL, '2026-01-02T03:04:05+00:00',
    '2026-01-02T03:04:06.500000+00:00', 50, NULL);
INSERT INTO decisions VALUES (5, 'a', 'approved', 'ada', 'Fine', '/images/x.png',
    '2026-01-02T03:05:00+00:00');
"""


def test_the_migrations_make_the_tables(tmp_path: Path, database: str | None) -> None:
    opened = Database(tmp_path, database)
    with opened.writing() as connection:
        # Of PostgreSQL alone; nor do the tables say that it is unlogged.
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, *_: name != "live"}
        )
        found = compare_metadata(context, metadata)
    opened.close()
    assert found == []


def test_the_newest_migration_is_the_one_that_is_looked_for() -> None:
    scripts = ScriptDirectory(str(Path(module.__file__).parent / "migrations"))
    assert scripts.get_heads() == [module._NEWEST_MIGRATION]


def test_decisions_and_publications_survive_their_new_tables(
    tmp_path: Path, database: str | None
) -> None:
    url = database or f"sqlite:///{tmp_path / 'nbgen.sqlite'}"
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", "nbgen.store:migrations")
    now = dt.datetime.now(dt.UTC)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        decided = {
            "task_id": "a",
            "verdict": "approved",
            "reviewer_id": "ada",
            "tags": "[]",
            "decided_at": now,
        }
        first = {"sequence": 5, "version": 1, "supersedes": None, "child_id": "b"}
        second = {"sequence": 7, "version": 2, "supersedes": 5, "child_id": None}
        connection.execute(decisions.insert(), [decided | first, decided | second])
        published = {
            "number": 3,
            "decision": 7,
            "task_id": "a",
            "publisher": "site",
            "state": "published",
            "attempts": 1,
            "next_at": now,
            "url": "https://site.example/1",
        }
        connection.execute(publications.insert(), published)
    engine.dispose()
    store = Store(tmp_path, database)
    log = store.decisions.list_decisions("a")
    assert [(d.sequence, d.supersedes, d.child_id) for d in log] == [
        (5, None, "b"),
        (7, 5, None),
    ]
    [found] = store.publications.list_publications("a")
    assert (found.number, found.decision, found.url) == (3, 7, published["url"])
    store.close()


def test_what_was_kept_before_migrations_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "nbgen.sqlite") as connection:
        connection.executescript(OLD_TABLES)
    connection.close()
    store = Store(tmp_path)
    [task] = store.tasks.list_tasks(TaskQuery(limit=10, text="a cat"))
    store.close()
    assert (task.id, task.request.prompt, task.current_step) == ("a", "A Cat", 50)
    assert task.created_at == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    [decision] = task.decisions
    assert (decision.sequence, decision.verdict) == (5, Verdict.APPROVED)
    assert (decision.reviewer_id, decision.version) == ("ada", 1)
    again = Database(tmp_path)
    with again.reading() as connection_again:
        names = sa.inspect(connection_again).get_table_names()
    again.close()
    assert not [name for name in names if name.startswith("old_")]


def test_many_may_open_at_once(tmp_path: Path, database: str | None) -> None:
    barrier = threading.Barrier(4)
    opened: list[Store] = []

    def open_store() -> None:
        barrier.wait()
        opened.append(Store(tmp_path, database))

    threads = [threading.Thread(target=open_store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        store.close()


def test_the_tables_of_a_newer_nbgen_are_left_alone(
    tmp_path: Path, database: str | None
) -> None:
    opened = Database(tmp_path, database)
    with opened.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    opened.close()
    with pytest.raises(DataFolderUnusable, match=r"newer nbgen .* update nbgen"):
        Database(tmp_path, database)


def test_sqlite_keeps_what_it_was_told(tmp_path: Path) -> None:
    opened = Database(tmp_path)
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with opened.reading() as connection:
        for name, expected in pragmas.items():
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == expected
    opened.close()


def test_a_database_that_fails_says_so_and_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nbgen.sqlite'}?timeout=0"
    with (
        Studio(tmp_path, engine=PatternEngine(), database=url) as studio,
        Server(studio) as server,
        closing(sqlite3.connect(tmp_path / "nbgen.sqlite")) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataFolderUnusable, match=r"locked\. Nothing .* try again"):
            studio.generate("a cat", task_id="a")
        answer = ask(server, "/api/content/tasks/b", {}, method="PUT")
        assert answer.status == 503
        assert answer.body["error"]["code"] == "data_folder_unusable"
        other.rollback()
        assert studio.tasks() == []
        assert studio.generate("a cat", task_id="a").result(10).images


def test_what_the_database_refuses_is_said_without_the_statement(
    tmp_path: Path, database: str | None
) -> None:
    opened = Database(tmp_path, database)
    for opening in (opened.writing, opened.reading):
        with (
            pytest.raises(DataFolderUnusable, match="Nothing was changed") as raised,
            opening() as connection,
        ):
            connection.execute(sa.text("SELECT secret FROM nowhere"))
        assert "secret" not in str(raised.value)
    opened.close()


def test_a_text_that_postgresql_cannot_keep_is_said(
    tmp_path: Path, postgresql_server: postgresql.Server
) -> None:
    opened = Database(tmp_path, postgresql_server.new_database())
    with (
        pytest.raises(DataFolderUnusable, match="NUL"),
        opened.writing() as connection,
    ):
        connection.execute(sa.select(sa.literal("a\0cat")))
    opened.close()


def test_of_a_commit_whose_answer_is_lost_nothing_is_claimed(
    tmp_path: Path, database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, database)
    dialect = store._database._engine.dialect
    commit = dialect.do_commit

    def commit_and_fail(connection: Any) -> None:
        commit(connection)
        raise dialect.loaded_dbapi.OperationalError("the connection is lost")

    monkeypatch.setattr(dialect, "do_commit", commit_and_fail)
    with pytest.raises(
        DataFolderUnusable, match=r"lost\. It is not known whether"
    ) as e:
        add(store, record())
    assert "Nothing" not in str(e.value)
    monkeypatch.undo()
    assert store.tasks.get_task("a") is not None
    store.close()


def test_a_database_keeps_its_identity(tmp_path: Path, database: str | None) -> None:
    first = Store(tmp_path, database)
    again = Store(tmp_path / "elsewhere", database)
    assert (again.identity == first.identity) is (database is not None)
    again.close()
    first.close()
    reopened = Store(tmp_path, database)
    assert reopened.identity == first.identity
    reopened.close()


def test_an_sqlite_file_has_its_locks_beside_it_whoever_opens_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "one").mkdir()
    folder = (tmp_path / "one").resolve()
    (tmp_path / "link").symlink_to(folder)
    expected = {
        f"sqlite:///{tmp_path}/one/nbgen.sqlite": folder,
        f"sqlite:///{tmp_path}/link/nbgen.sqlite": folder,
        f"sqlite:///file:{tmp_path}/one/nbgen.sqlite?uri=true": folder,
        f"sqlite:///{tmp_path}/one/shared.db": folder / "shared.db.locks",
    }
    for url, lock_folder in expected.items():
        opened = Database(tmp_path / "two", url)
        assert opened.lock_folder == lock_folder
        opened.close()
    by_default = Database(tmp_path / "link")
    assert by_default.lock_folder == folder
    by_default.close()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies in a folder, with the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def make_foreign(folder: Path) -> Path:
    """Make the database of another program, and return its file."""
    file = folder / "nbgen.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "CREATE TABLE notes (text); CREATE TABLE alembic_version (version_num)"
        )
    return file


@pytest.mark.parametrize("form", ["the folder", "a URL", "a file: URL"])
def test_the_database_of_another_program_is_left_as_it_is(
    tmp_path: Path, form: str
) -> None:
    file = make_foreign(tmp_path)
    url = {
        "the folder": None,
        "a URL": f"sqlite:///{file}",
        "a file: URL": f"sqlite:///file:{file}?uri=true",
    }[form]
    before = contents(tmp_path)
    with pytest.raises(DataFolderUnusable, match=r"another program.*\bnotes\b"):
        Store(tmp_path, url)
    assert contents(tmp_path) == before


def test_a_file_in_use_by_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(make_foreign(tmp_path))) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE more (text)")
        names = set(contents(tmp_path))
        with pytest.raises(DataFolderUnusable, match=r"tables .*more.*notes"):
            Store(tmp_path)
        assert set(contents(tmp_path)) == names


@pytest.mark.parametrize("data", [b"notes", b"\0" * 8_192, b"not a database" * 100])
def test_a_file_that_is_not_of_sqlite_is_left_as_it_is(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "nbgen.sqlite").write_bytes(data)
    with pytest.raises(DataFolderUnusable, match=r"not a SQLite .*nbgen restore FILE"):
        Store(tmp_path)
    assert contents(tmp_path) == {"nbgen.sqlite": data}


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "nbgen.sqlite").touch()
    store = Store(tmp_path)
    assert store.identity
    store.close()


def overwrite_pages(file: Path, first: int) -> None:
    """Write over all pages of a database from that one on."""
    size, page = file.stat().st_size, 4_096
    with file.open("r+b") as opened:
        opened.seek(first * page)
        opened.write(b"\xff" * (size - first * page))


def test_a_damaged_database_says_how_to_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, record())
    store.close()
    overwrite_pages(tmp_path / "nbgen.sqlite", 1)
    with pytest.raises(
        DataFolderUnusable, match=r"malformed\..*backup.*pictures.*safe.*\.recover"
    ):
        Store(tmp_path)


def test_a_database_that_is_damaged_while_it_is_open_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    Store(tmp_path).close()
    store = Store(tmp_path)
    overwrite_pages(tmp_path / "nbgen.sqlite", 1)
    with pytest.raises(DataFolderUnusable, match=r"malformed\..*backup.*\.recover"):
        store.tasks.list_tasks(TaskQuery())
    store.close()


def test_to_look_at_a_database_drops_no_lock_of_this_process(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when it closes the file once."""
    store = Store(tmp_path)
    add(store, record())
    assert read_identity(tmp_path / "nbgen.sqlite") == store.identity
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('SELECT count(*) FROM tasks').fetchone(); c.close()"
    )
    # The last one to close a database removes its side files.
    command = [sys.executable, "-c", program, str(tmp_path / "nbgen.sqlite")]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "nbgen.sqlite-wal").exists()
    store.close()
