"""Fixtures shared by all tests: studios on temporary folders, and a real Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, sync_playwright

from nbgen.server import Server, Timing
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests import postgresql

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Chromium refuses its sandbox to root, and must not look for updates. It also keeps
# pages of public names off this machine, which would hide whether the server does.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=LocalNetworkAccessChecks",
]


# The first example of a test may be drawn while something else has the machine.
settings.register_profile(
    "nbgen", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nbgen")

# Ended tasks close soon; the other times are the protocol's.
QUICK = Timing(closing_grace_s=0.05)


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test off the user's data folder."""
    monkeypatch.setenv("NBGEN_DATA_DIR", str(tmp_path / "default-data"))
    for name in set(os.environ) - {"NBGEN_DATA_DIR", "NBGEN_EXAMPLES"}:
        if name.startswith("NBGEN_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """Return a running PostgreSQL."""
    with postgresql.running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """Return the URL of a database of each kind; None is the file in the folder."""
    if request.param == "sqlite":
        return None
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server.new_database()


@pytest.fixture
def make_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Return a function that opens a studio on the test's folder and closes it."""
    studios: list[Studio] = []

    def make(
        before_step: Callable[[int], None] | None = None, **options: Any
    ) -> Studio:
        engine = PatternEngine(before_step)
        studio = Studio(tmp_path / "data", engine=engine, **options)
        studios.append(studio)
        return studio

    yield make
    for studio in studios:
        studio.close()


@pytest.fixture
def studio(make_studio: Callable[..., Studio]) -> Studio:
    """Return an open studio that draws patterns."""
    return make_studio()


@pytest.fixture
def make_server() -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server on a studio and closes it."""
    servers: list[Server] = []

    def make(studio: Studio, **options: Any) -> Server:
        server = Server(studio, **{"timing": QUICK, **options})
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Server], studio: Studio) -> Server:
    """Return a running server of the test's studio."""
    return make_server(studio)


# For a module, not the session: while it is open, the test's thread has a running
# loop, and tests that run one of their own could not.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a real Chromium; skip where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: run `apt-get install chromium` as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()
