"""Previews reach the callbacks of their task, and nobody else."""

from __future__ import annotations

import pytest

from nbgen.progress import PreviewHub, ProgressService
from nbgen.schema import Preview

PREVIEW = Preview(b"jpeg", 8, 8)


def test_previews_go_to_the_callbacks_of_their_task() -> None:
    hub = PreviewHub()
    first: list[Preview] = []
    second: list[Preview] = []
    other: list[Preview] = []
    hub.register("a", first.append)
    hub.register("a", second.append)
    hub.register("b", other.append)
    hub.show("a", PREVIEW)
    hub.show("nobody's", PREVIEW)
    assert (first, second, other) == ([PREVIEW], [PREVIEW], [])


def test_previews_are_wanted_while_a_callback_is_registered() -> None:
    hub = PreviewHub()
    assert not hub.wanted("a")
    leave_first = hub.register("a", lambda _: None)
    leave_last = hub.register("a", lambda _: None)
    leave_first()
    leave_first()
    assert hub.wanted("a")
    leave_last()
    assert not hub.wanted("a")


def test_a_callback_that_is_registered_twice_is_called_until_both_end() -> None:
    hub = PreviewHub()
    seen: list[Preview] = []
    callback = seen.append
    leave_first = hub.register("a", callback)
    leave_last = hub.register("a", callback)
    leave_first()
    leave_first()
    hub.show("a", PREVIEW)
    assert seen == [PREVIEW]
    leave_last()
    assert not hub.wanted("a")


def test_a_callback_that_raises_does_not_end_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_preview: Preview) -> None:
        raise ValueError("no")

    hub = PreviewHub()
    seen: list[Preview] = []
    hub.register("a", fail)
    hub.register("a", seen.append)
    hub.show("a", PREVIEW)
    assert seen == [PREVIEW]
    assert "A preview callback of task a raised." in caplog.text


def test_the_end_of_a_task_drops_its_preview_callbacks() -> None:
    service = ProgressService()
    leave = service.previews.register("a", lambda _: None)
    service.create_progress("a", 1)
    assert service.previews.wanted("a")
    service.mark_complete("a")
    assert not service.previews.wanted("a")
    leave()
