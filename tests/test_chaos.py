"""Processes that share a queue are stopped, frozen and killed; no task suffers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.chaos import WRONG, Chaos


@pytest.mark.timeout(300)
def test_each_task_ends_once_whatever_happens_to_its_processes(
    tmp_path: Path,
    database: str | None,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drop = None
    if database is not None:
        monkeypatch.setenv("NBGEN_DATABASE", database)
        server = request.getfixturevalue("postgresql_server")
        drop = partial(server.drop_connections, database)
    chaos = Chaos(tmp_path, 1, drop_connections=drop)
    chaos.run(disturbances=8)
    assert {name: chaos.counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)
    # That there was something to lose.
    assert chaos.counts["tasks acknowledged"] > 30, chaos.counts
    assert chaos.counts["kills"] + chaos.counts["stops"] > 2, chaos.counts
    assert chaos.counts["attempts lost"] + chaos.counts["attempts given_back"], (
        chaos.counts
    )
