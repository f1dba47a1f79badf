"""The protocol without sockets."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgen.schema import (
    GenerationProgress,
    GenerationResult,
    ImageRecord,
    Outcome,
    Stage,
    Status,
)
from nbgen.wire.progress import (
    GetProgress,
    KeepAlive,
    Ping,
    Pong,
    ProgressMessage,
    StatusMessage,
    decode_client_message,
    decode_server_message,
    encode,
)
from nbgen.wire.session import WatchSession

PONG = encode(Pong())

WAITING = GenerationProgress(
    task_id="a",
    seq=1,
    status=Status.PENDING,
    current_step=0,
    total_steps=50,
    current_stage=None,
    elapsed_time=0.0,
    estimated_remaining=0.0,
    remaining_known=False,
    overall_percentage=0.0,
    error=None,
    message="Waiting in the queue",
    timestamp=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
)


def state(seq: int, **changes: Any) -> GenerationProgress:
    return msgspec.structs.replace(
        WAITING, seq=seq, status=changes.pop("status", Status.GENERATING), **changes
    )


ENDED = state(9, status=Status.FAILED, outcome=Outcome.CANCELLED, error="Cancelled.")

V1 = [
    "type",
    "task_id",
    "status",
    "current_step",
    "total_steps",
    "percentage",
    "current_stage",
    "elapsed_time",
    "estimated_remaining",
    "error",
    "message",
    "timestamp",
]


def progress_message(progress: GenerationProgress) -> dict[str, Any]:
    message: dict[str, Any] = msgspec.to_builtins(ProgressMessage.of(progress))
    return message


def test_a_message_has_the_fields_of_version_1_and_few_more() -> None:
    message = progress_message(WAITING)
    assert list(message) == [*V1, "seq", "overall_percentage", "remaining_known"]
    assert message["current_stage"] == ""
    assert message["timestamp"] == "2026-01-02T00:00:00+00:00"


def test_the_percentage_is_that_of_the_steps() -> None:
    at_32 = state(3, current_step=32, current_stage=Stage.BASE_MODEL)
    message = progress_message(at_32)
    assert (message["percentage"], message["current_stage"]) == (64.0, "base_model")
    all_sampled = progress_message(state(4, current_step=50))
    assert all_sampled["percentage"] < 100


def test_how_it_ended_is_said_at_the_end_only() -> None:
    assert "outcome" not in progress_message(state(3))
    ended = progress_message(ENDED)
    assert (ended["outcome"], ended["result"]) == ("cancelled", None)
    done = state(
        9,
        status=Status.COMPLETED,
        outcome=Outcome.SUCCEEDED,
        result=GenerationResult(images=(), generation_time=1.5),
    )
    result = {"images": (), "generation_time": 1.5, "notes": ()}
    assert progress_message(done)["result"] == result


def test_an_unknown_task_is_waited_for() -> None:
    session = WatchSession("a")
    first = session.open(None)
    assert json.loads(first) == {
        "type": "status",
        "task_id": "a",
        "message": "Waiting for generation to start...",
    }
    assert session.receive('{"type": "get_progress"}') is None
    assert session.advance(WAITING)


def test_get_progress_gets_the_state_that_was_sent_last() -> None:
    session = WatchSession("a")
    session.open(WAITING)
    session.advance(state(2, current_step=1))
    answer = session.receive('{"type": "get_progress"}')
    assert answer is not None
    assert json.loads(answer)["seq"] == 2


def test_after_the_end_there_is_only_pong() -> None:
    session = WatchSession("a")
    session.open(WAITING)
    assert session.advance(ENDED)
    assert session.ended
    assert not session.advance(state(10))
    assert not session.advance(msgspec.structs.replace(ENDED, seq=11))
    assert session.receive('{"type": "get_progress"}') is None
    assert session.receive('{"type": "ping"}') == PONG


@given(st.lists(st.integers(1, 20).map(state) | st.just(ENDED), max_size=30))
def test_whatever_comes_no_state_is_sent_twice_or_out_of_order(
    states: list[GenerationProgress],
) -> None:
    session = WatchSession("a")
    session.open(None)
    sent = [progress for progress in states if session.advance(progress)]
    numbers = [progress.seq for progress in sent]
    assert numbers == sorted(set(numbers))
    assert [progress.status.ended for progress in sent[:-1]].count(True) == 0


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(json.dumps)
)
def test_whatever_a_client_sends_it_is_answered_as_the_page_says_or_not_at_all(
    frame: str | bytes,
) -> None:
    session = WatchSession("a")
    session.open(WAITING)
    assert session.receive(frame) is None
    assert session.receive('{"type": "ping"}') == PONG


@pytest.mark.parametrize(
    "frame", ["[" * 100_000, '{"type":' * 50_000, "1" * 10_000, '{"type": NaN}']
)
def test_frames_that_are_hard_to_read_are_ignored(frame: str) -> None:
    session = WatchSession("a")
    session.open(WAITING)
    assert session.receive(frame) is None


def test_all_numbers_are_finite() -> None:
    numbers = [v for v in progress_message(WAITING).values() if isinstance(v, float)]
    assert len(numbers) == 4
    assert all(map(math.isfinite, numbers))


_RESULTS = st.builds(
    GenerationResult,
    images=st.lists(
        st.builds(
            ImageRecord,
            name=st.text(),
            url=st.text(),
            width=st.integers(1, 2048),
            height=st.integers(1, 2048),
            seed=st.integers(0, 2**32 - 1),
        ),
        max_size=2,
    ).map(tuple),
    generation_time=st.floats(0, 1e6),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)
_STATES = st.builds(
    GenerationProgress,
    task_id=st.text(),
    seq=st.integers(1, 10**12),
    status=st.sampled_from(Status),
    current_step=st.integers(0, 150),
    total_steps=st.integers(1, 150),
    current_stage=st.none() | st.sampled_from(Stage),
    elapsed_time=st.floats(0, 1e6),
    estimated_remaining=st.floats(0, 1e6),
    remaining_known=st.booleans(),
    overall_percentage=st.floats(0, 100),
    error=st.none() | st.text(),
    message=st.text(),
    timestamp=st.datetimes(timezones=st.just(dt.UTC)),
)


@given(_STATES, st.none() | st.sampled_from(Outcome), st.none() | _RESULTS)
def test_a_client_rebuilds_an_equal_state(
    progress: GenerationProgress, outcome: Outcome | None, result: Any
) -> None:
    if outcome is not None:
        progress = msgspec.structs.replace(progress, outcome=outcome, result=result)
    message = decode_server_message(encode(ProgressMessage.of(progress)))
    assert isinstance(message, ProgressMessage)
    assert message.progress == progress


def test_other_messages_come_back_equal() -> None:
    status = StatusMessage(task_id="a")
    for message in (status, KeepAlive(), Pong()):
        assert decode_server_message(encode(message)) == message
    for asked in (Ping(), GetProgress()):
        assert decode_client_message(encode(asked)) == asked
    assert encode(KeepAlive()) == '{"type":"keep-alive"}'
    assert encode(Pong()) == '{"type":"pong"}'


def test_fields_and_messages_of_a_newer_server_are_no_trouble() -> None:
    message = progress_message(WAITING)
    newer = json.dumps({**message, "lane": "cuda:1", "attempt": 2})
    assert decode_server_message(newer) == ProgressMessage.of(WAITING)
    assert decode_server_message('{"type": "weather"}') is None
    staged = decode_server_message(json.dumps({**message, "current_stage": "upscale"}))
    assert isinstance(staged, ProgressMessage)
    assert staged.progress == WAITING
