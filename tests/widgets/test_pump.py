"""The thread that writes a panel's traits goes on, whatever happens to it."""

from __future__ import annotations

import threading

import pytest

from nbgen.widgets.pump import Pump


def test_a_state_that_cannot_be_shown_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = [True]
    shown = threading.Event()

    def render() -> None:
        if broken:
            broken.pop()
            raise ValueError("no")
        shown.set()

    pump = Pump(render, interval_s=0.01, after_failure_s=0.01)
    pump.wake()
    assert shown.wait(10)
    pump.close()
    assert "could not be brought up to date" in caplog.text


def test_the_last_state_is_rendered_when_it_is_closed() -> None:
    rendered: list[str] = []
    state = ["first"]
    pump = Pump(lambda: rendered.append(state[0]))
    state[0] = "last"
    pump.close()
    pump.close()
    assert rendered == ["last"]


def test_it_may_be_closed_by_what_it_renders() -> None:
    closed = threading.Event()

    def render() -> None:
        pump.close()
        closed.set()

    pump = Pump(render)
    pump.wake()
    assert closed.wait(10)
    pump.close()
    assert "nbgen-panel" not in {thread.name for thread in threading.enumerate()}
