"""Each backend, through one fixture."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbgen.backend import Backend
from nbgen.testing import Gate, MemoryBackend, PatternEngine
from tests import postgresql

MakeBackend = Callable[..., Backend]


class Clock:
    """The time of day; a test may put it forward."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return which backend is tested, and what it keeps its tasks in."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(kind: str, request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Return the URL of an empty database; None for any kind but PostgreSQL."""
    if kind != "postgresql":
        yield None
        return
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def clock() -> Clock:
    """Return the clock that a backend in memory tells the age of pictures by."""
    return Clock()


@pytest.fixture
def make_backend(
    kind: str, database_url: str | None, clock: Clock, tmp_path: Path
) -> Iterator[MakeBackend]:
    """Return a function that opens a backend and closes it after the test.

    All that are local share one data folder and one database.

    The function takes ``before_step`` of ``PatternEngine`` or an ``engine``, and
    ``queue_limit``, ``quorum`` and ``publishers``. With ``runs=False`` a local one
    never runs a task. With a ``checkpoint`` it has that one and no engine of the test.
    """
    backends: list[Backend] = []
    gates: list[Gate] = []

    def make(
        before_step: Callable[[int], None] | None = None,
        *,
        publishers: Any = (),
        runs: bool = True,
        checkpoint: str | None = None,
        **options: Any,
    ) -> Backend:
        if isinstance(before_step, Gate):
            gates.append(before_step)
        engine = options.pop("engine", None)
        if engine is None and checkpoint is None:
            engine = PatternEngine(before_step)
        backend: Backend
        if kind == "memory":
            backend = MemoryBackend(
                engine,
                checkpoint=checkpoint,
                publishers=publishers,
                now=clock,
                **options,
            )
        else:
            from nbgen.local.backend import LocalBackend
            from nbgen.local.config import StudioConfig

            config = StudioConfig(
                data_dir=tmp_path / "data",
                checkpoint=checkpoint or "tiny",
                worker="thread",
                database=database_url,
                **options,
            )
            if runs:
                backend = LocalBackend.open(
                    config, engine=engine, publishers=publishers
                )
            else:
                backend = LocalBackend.open_library(config, publishers=publishers)
        backends.append(backend)
        return backend

    yield make
    for gate in gates:
        gate.open()  # or the closing would wait for it
    for backend in backends:
        backend.close(finish=False)


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    """Return an open backend that draws patterns."""
    return make_backend()


@pytest.fixture
def make_old(clock: Clock) -> Callable[[Backend, str], None]:
    """Return a function that has a picture be two hours old."""

    def make(backend: Backend, name: str) -> None:
        two_hours = dt.timedelta(hours=2)
        path = backend.picture_path(name)
        if path is None:
            clock.ahead += two_hours
        else:
            long_ago = (dt.datetime.now(dt.UTC) - two_hours).timestamp()
            os.utime(path, (long_ago, long_ago))

    return make
