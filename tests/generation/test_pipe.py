"""Whatever is sent through the pipes to and from a process arrives as it was."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbgen.errors import (
    EngineFailed,
    InvalidRequest,
    NbgenError,
    OutOfMemory,
    WorkerDied,
)
from nbgen.generation.engine import Cancelled, Work
from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    Planned,
    PreviewMade,
    StageStarted,
    StepFinished,
    Warned,
)
from nbgen.generation.pipe import (
    Cancel,
    Command,
    Load,
    Loaded,
    Message,
    Outbox,
    PipeEnd,
    Start,
    WantPreview,
    decode_command,
    decode_message,
    encode,
)
from nbgen.schema import (
    GenerationRequest,
    OutputFormat,
    Preview,
    SchedulerName,
    Stage,
    StagePlan,
)

REQUEST = GenerationRequest(
    prompt="ein Bär 🐻",
    width=64,
    seed=2**32 - 1,
    scheduler=SchedulerName.UNIPC,
    image="0" * 32 + ".png",
    strength=0.5,
)


@pytest.mark.parametrize(
    "event",
    [
        Planned((StagePlan(Stage.LOAD, 0, 0), StagePlan(Stage.BASE_MODEL, 8, 8.5))),
        StageStarted(Stage.REFINER_MODEL),
        StepFinished(),
        Warned("Two words are not known: 'Bär', '🐻'."),
        PreviewMade(Preview(b"\xff\xd8\x00", 16, 8)),
        PictureMade(
            index=1,
            seed=2**32 - 1,
            width=64,
            height=8,
            output_format=OutputFormat.WEBP,
            data=bytes(range(256)) * 4_000,
            facts={"checkpoint": "tiny"},
        ),
        Ended(),
        Loaded({"device": "CPU"}),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_arrives_as_it_was(event: EngineEvent | Loaded) -> None:
    assert decode_message(encode(Message(3, event))) == Message(3, event)


@pytest.mark.parametrize(
    "command",
    [
        Load(b"\x80\x04K\x01."),
        Start(1, Work(REQUEST, 7, b"\x89PNG", None), True),
        Cancel(2),
        WantPreview(3, True),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_command_arrives_as_it_was(command: Command) -> None:
    assert decode_command(encode(command)) == command


def sent(error: BaseException) -> BaseException:
    event = decode_message(encode(Message(1, Ended(error, "where")))).event
    assert isinstance(event, Ended)
    assert event.traceback == "where"
    assert event.error is not None
    return event.error


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("width", 7, "more"),
        OutOfMemory("Too big."),
        WorkerDied("Gone.", of_memory=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_nbgen_arrives_as_itself(error: NbgenError) -> None:
    arrived = sent(error)
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_a_cancel_arrives_as_itself() -> None:
    assert type(sent(Cancelled())) is Cancelled


class _OfAnEngine(NbgenError):
    """An engine's own, without a code of its own."""

    def __init__(self, message: str) -> None:
        self.lock = threading.Lock()
        super().__init__(message)


def test_an_error_that_nbgen_does_not_know_arrives_with_its_message() -> None:
    arrived = sent(_OfAnEngine("Feed it."))
    assert isinstance(arrived, NbgenError)
    assert str(arrived) == "Feed it."


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (SystemExit("leave"), "SystemExit: leave"),
        (_Unspeakable(), "_Unspeakable"),
        (ValueError("half a \ud800"), "ValueError"),
        (OutOfMemory("half a \ud800"), "OutOfMemory"),
    ],
    ids=["error", "exit", "unspeakable", "half a character", "the same of ours"],
)
def test_any_other_error_arrives_by_name(error: BaseException, said: str) -> None:
    arrived = sent(error)
    assert type(arrived) is EngineFailed
    assert str(arrived) == said


def test_an_outbox_keeps_the_order_and_never_waits_for_the_reader() -> None:
    reading, writing = os.pipe()
    far = PipeEnd(reading)
    outbox = Outbox(PipeEnd(writing))
    os.close(reading)
    os.close(writing)
    sending = threading.Thread(target=outbox.send_waiting, daemon=True)
    sending.start()
    # Far more than the pipe holds, with long ones among the short.
    sent = [
        Message(number, Warned("x" * 10_000 if number % 100 == 0 else "short"))
        for number in range(20_000)
    ]
    for message in sent:
        outbox.put(message)
    assert [decode_message(far.recv_bytes()) for _ in sent] == sent
    outbox.put(sent[0])
    assert decode_message(far.recv_bytes()) == sent[0]


def test_bytes_of_any_length_go_through_a_pipe() -> None:
    """More than the system holds, so that both ends wait for each other."""
    reading, writing = os.pipe()
    far, near = PipeEnd(reading), PipeEnd(writing)
    os.close(reading)
    os.close(writing)
    sent = [b"", b"x", bytes(range(256)) * 4_000]
    with ThreadPoolExecutor(1) as other:
        sending = [other.submit(near.send_bytes, data) for data in sent]
        assert [far.recv_bytes() for _ in sent] == sent
        for done in sending:
            done.result(10)
    near.close()
    with pytest.raises(EOFError):
        far.recv_bytes()
    far.close()
