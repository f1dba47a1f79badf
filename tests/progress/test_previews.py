"""Previews: shown to whoever looks, made only while somebody looks."""

from __future__ import annotations

import logging

import pytest

from nbgen.progress import PreviewHub
from nbgen.schema import Preview

PREVIEW = Preview(b"\xff\xd8", 8, 8)


def test_previews_are_shown_to_all_who_look_at_the_task() -> None:
    hub = PreviewHub()
    one: list[Preview] = []
    other: list[Preview] = []
    hub.register("a", one.append)
    hub.register("a", other.append)
    hub.show("a", PREVIEW)
    hub.show("b", PREVIEW)
    assert one == other == [PREVIEW]


def test_previews_are_wanted_only_while_somebody_looks() -> None:
    hub = PreviewHub()
    assert not hub.wanted("a")
    seen: list[Preview] = []
    stop = hub.register("a", seen.append)
    stop_other = hub.register("a", lambda _preview: None)
    stop()
    stop()
    assert hub.wanted("a")
    hub.show("a", PREVIEW)
    stop_other()
    assert not hub.wanted("a")
    assert seen == []


def test_an_ended_task_has_no_previews() -> None:
    hub = PreviewHub()
    hub.register("a", lambda _preview: None)
    hub.forget("a")
    hub.forget("a")
    assert not hub.wanted("a")


def test_a_callback_that_raises_does_not_end_the_others_previews(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = PreviewHub()
    seen: list[Preview] = []

    def fail(_preview: Preview) -> None:
        raise RuntimeError("a watcher's fault")

    hub.register("a", fail)
    hub.register("a", seen.append)
    with caplog.at_level(logging.ERROR):
        hub.show("a", PREVIEW)
    assert seen == [PREVIEW]
    assert "A preview callback of task a raised." in caplog.text
