"""Fixtures shared by all tests: studios on temporary folders, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, sync_playwright

from nbgen.server import Server, Timing
from nbgen.studio import Studio
from tests import postgresql

if TYPE_CHECKING:  # pytest rewrites a plugin only if it is not imported before
    from nbgen.testing.plugin import MakeStudio

pytest_plugins = ["nbgen.testing.plugin"]

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


@pytest.fixture(scope="session", autouse=True)
def _interrupts_raise() -> None:
    """Have SIGINT raise KeyboardInterrupt, also in tests that run in the background.

    A shell starts what runs behind it (``nohup make test &``) with SIGINT ignored, and
    then Python installs no handler.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test for lack of a program; fail in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} In CI, no test may be skipped for lack of it.")
    pytest.skip(reason)


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
def make_studio(make_nbgen_studio: MakeStudio) -> MakeStudio:
    """Return a function that opens a studio on the test's folder and closes it."""
    return make_nbgen_studio


@pytest.fixture
def studio(nbgen_studio: Studio) -> Studio:
    """Return an open studio that draws patterns."""
    return nbgen_studio


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
        skip_or_fail(
            "Chromium is not installed: run `apt-get install chromium` as root."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()
