"""What a process acknowledged before it was killed is there when a studio opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashing import WRONG, Crashes


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_when_a_process_is_killed(tmp_path: Path) -> None:
    crashes = Crashes(tmp_path, seed=2026)
    for _ in range(25):
        crashes.kill_one()
    crashes.check_all()
    assert {name: crashes.counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)
    # That there was something to lose.
    for name in (
        "tasks acknowledged",
        "decisions acknowledged",
        "finished tasks checked",
        "changes",
    ):
        assert crashes.counts[name] > 25, crashes.counts
    assert crashes.counts["attempts lost"], crashes.counts
    assert crashes.counts["processes"] == 5, crashes.counts
