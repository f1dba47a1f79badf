"""The thread that writes a panel's traits goes on, whatever happens to it."""

from __future__ import annotations

import threading

import pytest

from nbgen.widgets import pump as module
from nbgen.widgets.pump import Pump


def test_a_state_that_cannot_be_shown_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_AFTER_FAILURE_S", 0.01)
    broken = [True]
    shown = threading.Event()

    def render() -> None:
        if broken:
            broken.pop()
            raise ValueError("no")
        shown.set()

    pump = Pump(render)
    pump.wake()
    assert shown.wait(10)
    pump.close()
    assert "could not be brought up to date" in caplog.text
