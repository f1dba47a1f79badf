"""A closed database touches nothing any more, whatever other threads do."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from nbgen.errors import StudioClosed
from nbgen.store.database import Database
from nbgen.store.tables import tasks

COUNT = sa.select(sa.func.count()).select_from(tasks)


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute(COUNT).scalar_one())


def delete(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(tasks.delete())


def until_refused(database: Database) -> None:
    """Return once the database is being closed."""
    with contextlib.suppress(StudioClosed):
        while True:
            count(database)


class Held:
    """A thread in a transaction that ends when it is let go."""

    def __init__(self, database: Database, *, writes: bool) -> None:
        self._database = database
        self._writes = writes
        self._began, self.go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._began.wait(10)

    def end(self) -> None:
        self.go_on.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        opening = self._database.writing if self._writes else self._database.reading
        with opening() as connection:
            connection.execute(tasks.delete() if self._writes else COUNT)
            self._began.set()
            assert self.go_on.wait(30)


@pytest.mark.parametrize(
    "use",
    [
        count,
        delete,
        lambda database: database.is_gone("0" * 32),
        lambda database: database.renew_ownership(),
    ],
    ids=["read", "write", "ask for an owner", "renew"],
)
def test_a_closed_database_refuses_every_call(
    tmp_path: Path, database: str | None, use: Callable[[Database], object]
) -> None:
    opened = Database(tmp_path / "data", database)
    use(opened)
    opened.close()
    shutil.rmtree(tmp_path / "data", ignore_errors=database is not None)
    with pytest.raises(StudioClosed, match=r"Open another with Studio\(\)"):
        use(opened)
    opened.close()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("writes", [False, True])
def test_closing_waits_for_a_transaction_under_way(
    tmp_path: Path, writes: bool
) -> None:
    opened = Database(tmp_path / "data")
    held = Held(opened, writes=writes)
    closing = threading.Thread(target=opened.close)
    closing.start()
    until_refused(opened)
    assert closing.is_alive()
    held.end()
    closing.join(10)
    assert not closing.is_alive()
    assert [path.name for path in (tmp_path / "data").glob("nbgen*")] == [
        "nbgen.sqlite"
    ]


def test_a_transaction_that_outlasts_the_closing_leaves_no_file_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Database(tmp_path / "data", close_timeout_s=0.01)
    held = Held(opened, writes=True)
    opened.close()
    assert "still under way" in caplog.text
    assert (tmp_path / "data" / "nbgen.sqlite-wal").exists()
    held.end()
    # SQLite removes its side files with the last connection.
    assert not (tmp_path / "data" / "nbgen.sqlite-wal").exists()
    shutil.rmtree(tmp_path / "data")


def test_the_folder_stays_away_while_many_threads_use_the_database(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    for _ in range(5):
        opened = Database(folder)
        ended: list[type[BaseException]] = []
        running = threading.Barrier(7)

        def use(
            work: Callable[[Database], object],
            opened: Database = opened,
            ended: list[type[BaseException]] = ended,
            running: threading.Barrier = running,
        ) -> None:
            try:
                work(opened)
                running.wait(10)
                while True:
                    work(opened)
            except BaseException as error:  # noqa: BLE001 - asserted on below
                ended.append(type(error))

        threads = [
            threading.Thread(target=use, args=[work])
            for work in (count, delete, count, delete, count, delete)
        ]
        for thread in threads:
            thread.start()
        running.wait(10)
        opened.close()
        shutil.rmtree(folder)
        for thread in threads:
            thread.join(10)
        assert ended == [StudioClosed] * 6
        assert not folder.exists()
