"""What every ``EngineRunner`` does, whether its engine is in this process or not."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from PIL import Image

from nbgen.errors import EngineFailed, InvalidRequest, WorkerDied
from nbgen.generation.drawing import Delivery, Drawing
from nbgen.generation.engine import Cancelled, Engine, EngineRunner, Work
from nbgen.generation.events import (
    Ended,
    EngineEvent,
    PictureMade,
    StageStarted,
    StepFinished,
)
from nbgen.generation.process import ProcessEngine
from nbgen.generation.recipe import encode_picture
from nbgen.generation.thread import ThreadEngine
from nbgen.schema import OutputFormat, Stage
from nbgen.testing.engine import PatternEngine
from tests.generation.engines import (
    FailingEngine,
    HeldEngine,
    LateEngine,
    SlowEngine,
    TellingEngine,
    missing,
)
from tests.generation.recorder import Recorder, make_request, run, run_in, start_in

ROOT = Path(__file__).parent.parent.parent
MakeRunner = Callable[..., EngineRunner]


class Logging(Recorder):
    """Remembers the events in the order in which they came."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events: list[EngineEvent] = []

    def report(self, event: EngineEvent) -> None:
        self.events.append(event)
        super().report(event)


@pytest.fixture(params=["thread", "process"])
def make_runner(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeRunner]:
    """Return a function that makes a runner of each kind and closes it."""
    monkeypatch.syspath_prepend(ROOT)
    runners: list[EngineRunner] = []

    def make(make_engine: Callable[[], Engine], **options: Any) -> EngineRunner:
        kind = ThreadEngine if request.param == "thread" else ProcessEngine
        runners.append(kind(make_engine, **options))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


class Pipe:
    """A named pipe that lets the pictures of ``HeldEngine`` go."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end = os.open(path, os.O_RDWR)

    def let_go(self, pictures: int = 1) -> None:
        os.write(self._end, b"x" * pictures)

    def close(self) -> None:
        os.close(self._end)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "pipe")
    yield pipe
    pipe.let_go(100)  # whatever a test that failed has left
    pipe.close()


def test_the_facts_of_an_engine_are_told_when_it_is_made(
    make_runner: MakeRunner,
) -> None:
    told: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    runner = make_runner(PatternEngine, on_loaded=told.put)
    for _ in range(2):
        run_in(runner, Recorder(), num_inference_steps=2)
    assert told.get(timeout=30) == {"checkpoint": "pattern"}
    assert told.empty()


def test_events_come_in_order_and_the_end_comes_last(make_runner: MakeRunner) -> None:
    seen = Logging()
    runner = make_runner(TellingEngine)
    run_in(runner, seen, num_inference_steps=10, num_images=3)
    kinds = [
        type(event).__name__ for event in seen.events if event not in seen.pictures
    ]
    assert kinds == [
        "StageStarted",
        "Planned",
        "StageStarted",
        *["StepFinished"] * 8,
        "StageStarted",
        *["StepFinished"] * 2,
        "StageStarted",
        "StageStarted",
        "Ended",
    ]
    assert seen.stages[-2:] == [Stage.DECODE, Stage.SAVE]
    assert seen.events[-1] == Ended()
    assert [(made.index, made.seed) for made in seen.pictures] == [
        (0, 7),
        (1, 8),
        (2, 9),
    ]


@pytest.mark.parametrize("kind", OutputFormat)
def test_the_files_are_those_of_the_engine_s_pictures(
    make_runner: MakeRunner, kind: OutputFormat
) -> None:
    """Byte for byte, so nothing tells the runners apart."""
    fields: dict[str, Any] = {"num_images": 2, "output_format": kind, "width": 72}
    drawn = run(PatternEngine(), Recorder(), **fields)
    seen = Recorder()
    run_in(make_runner(PatternEngine), seen, **fields)
    facts = {"checkpoint": "pattern"}
    assert seen.pictures == [
        PictureMade(
            index=index,
            seed=7 + index,
            width=72,
            height=64,
            output_format=kind,
            data=encode_picture(
                picture,
                make_request(**fields),
                seed=7 + index,
                index=index,
                facts=facts,
            ),
            facts=facts,
        )
        for index, picture in enumerate(drawn)
    ]


def test_a_cancel_ends_it_within_two_steps_and_nothing_follows(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(partial(SlowEngine, tmp_path / "step"))
    seen = Logging(cancel_after=3)
    with pytest.raises(Cancelled):
        run_in(runner, seen, num_inference_steps=100)
    assert len(seen.steps) == 3
    assert seen.events[-3:-1] == [StepFinished(), StepFinished()]
    assert int((tmp_path / "step").read_text()) <= 3 + 2
    assert len(run_in(runner, Recorder(), num_inference_steps=2)) == 1


def test_what_is_cancelled_before_it_begins_ends_at_once(
    make_runner: MakeRunner,
) -> None:
    seen = Logging()
    seen.cancel.cancel()
    with pytest.raises(Cancelled):
        run_in(make_runner(TellingEngine), seen)
    assert len(seen.events) == 1


def test_an_error_is_the_end(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(FailingEngine)
    seen = Logging()
    with pytest.raises(InvalidRequest) as raised:
        run_in(runner, seen, prompt="size")
    assert vars(raised.value) == vars(InvalidRequest("width", 7, "more"))
    assert StageStarted(Stage.SAVE) not in seen.events
    with (
        caplog.at_level(logging.CRITICAL, "nbgen"),
        pytest.raises((ValueError, EngineFailed), match="boom"),
    ):
        run_in(runner, Recorder(), prompt="boom")
    assert len(run_in(runner, Recorder())) == 1


def test_an_engine_that_cannot_be_made_is_an_error_each_time(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(missing)
    for _ in range(2):
        with pytest.raises(Exception, match=r"Gone\. Put it back\."):
            run_in(runner, Recorder())


def test_a_picture_that_cannot_be_read_is_an_error(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Image.Image):
        def save(self, *arguments: Any, **_options: Any) -> None:
            arguments[0].write(b"no picture")

    with (
        caplog.at_level(logging.CRITICAL, "nbgen"),
        pytest.raises((OSError, EngineFailed), match="cannot identify image"),
    ):
        run_in(make_runner(TellingEngine), Recorder(), image=Broken())


def test_a_callback_that_raises_is_the_end(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    class Faulty(Logging):
        def finish_step(self) -> None:
            super().finish_step()
            if len(self.steps) == 2:
                raise RuntimeError("a watcher's fault")

    runner = make_runner(partial(SlowEngine, tmp_path / "step"))
    with pytest.raises(RuntimeError, match="fault"):
        run_in(runner, Faulty(), num_inference_steps=150)
    assert int((tmp_path / "step").read_text()) < 10
    assert len(run_in(runner, Recorder(), num_inference_steps=2)) == 1


def test_a_preview_that_comes_after_the_end_is_dropped(make_runner: MakeRunner) -> None:
    runner = make_runner(LateEngine)
    first, second = Logging(), Logging()
    for seen in (first, second):
        run_in(runner, seen, num_inference_steps=2)
    assert first.previews.qsize() == second.previews.qsize() == 1
    assert isinstance(first.events[-1], Ended)


def test_the_engine_draws_on_while_pictures_are_encoded(
    make_runner: MakeRunner, pipe: Pipe
) -> None:
    runner = make_runner(partial(HeldEngine, pipe.path))
    first, second = Recorder(), Recorder()
    start_in(runner, first, prompt="held", num_images=2)
    assert first.stages[-1] is Stage.SAVE
    start_in(runner, second, prompt="a cat", num_inference_steps=5)
    assert len(second.steps) == 5
    assert not first.has_ended.is_set()
    assert not second.has_ended.is_set()
    pipe.let_go(2)
    assert first.has_ended.wait(30)
    assert second.has_ended.wait(30)
    assert (len(first.pictures), len(second.pictures)) == (2, 1)


def test_a_cancel_ends_the_encoding(make_runner: MakeRunner, pipe: Pipe) -> None:
    runner = make_runner(partial(HeldEngine, pipe.path))
    first, second = Recorder(), Recorder()
    start_in(runner, first, prompt="held", num_images=3)
    pipe.let_go()
    start_in(runner, second)
    first.cancel.cancel()
    # For all that are left: the cancel may reach a process after the next picture.
    pipe.let_go(2)
    assert first.has_ended.wait(30)
    assert isinstance(first.ended[0].error, Cancelled)
    assert len(first.pictures) <= 1
    assert second.has_ended.wait(30)
    assert second.ended == [Ended()]


def test_a_cancel_waits_for_the_encoding_of_no_other_work(
    make_runner: MakeRunner, pipe: Pipe
) -> None:
    runner = make_runner(partial(HeldEngine, pipe.path))
    first, second = Recorder(), Recorder(cancel_after=2)
    start_in(runner, first, prompt="held")
    start_in(runner, second, prompt="slow", num_inference_steps=50)
    assert second.has_ended.wait(30)
    assert isinstance(second.ended[0].error, Cancelled)
    assert not first.has_ended.is_set()
    pipe.let_go()
    assert first.has_ended.wait(30)
    assert first.ended == [Ended()]


def drawings() -> set[int]:
    return {id(part) for part in gc.get_objects() if type(part) is Drawing}


def test_a_cancel_leaves_nothing_of_the_work_in_memory() -> None:
    during: list[set[int]] = []

    class Looking(Recorder):
        def finish_step(self) -> None:
            during.append(drawings())
            super().finish_step()

    runner, seen = ThreadEngine(PatternEngine), Looking(cancel_after=2)
    gc.collect()
    before = drawings()
    gc.disable()  # or it would find what holds itself
    try:
        start_in(runner, seen, num_inference_steps=50)
        assert seen.has_ended.wait(30)
        assert during[0] - before
        runner.close()
        seen.ended.clear()
        assert not drawings() - before
    finally:
        gc.enable()


def test_pictures_before_an_error_are_good(make_runner: MakeRunner, pipe: Pipe) -> None:
    seen = Recorder()
    start_in(
        make_runner(partial(HeldEngine, pipe.path)), seen, prompt="held, then fails"
    )
    assert not seen.has_ended.is_set()
    pipe.let_go()
    assert seen.has_ended.wait(30)
    assert len(seen.pictures) == 1
    assert isinstance(seen.ended[0].error, InvalidRequest)


def test_closing_waits_for_the_encoding(make_runner: MakeRunner, pipe: Pipe) -> None:
    runner = make_runner(partial(HeldEngine, pipe.path))
    seen = Recorder()
    start_in(runner, seen, prompt="held")
    closing = threading.Thread(target=runner.close)
    closing.start()
    closing.join(0.3)  # it must wait for the picture, so this times out
    assert closing.is_alive()
    pipe.let_go()
    closing.join(30)
    assert seen.ended == [Ended()]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("nbgen-")]


def test_pictures_keep_their_order_when_the_interpreter_exits(pipe: Pipe) -> None:
    """Then the encoder takes nothing more, and may still be busy."""
    encoder = ThreadPoolExecutor(1)
    engine = HeldEngine(pipe.path)
    seen = Logging()

    class Exiting(PatternEngine):
        def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
            for picture in engine.generate(*args, **kwargs):
                yield picture
                encoder.shutdown(wait=False)

    drawing = Drawing(
        Work(make_request(prompt="held", num_images=2), 7),
        Delivery(seen.report, seen.cancel),
        wants_preview=seen.wants_preview,
        encoder=encoder,
    )
    running = threading.Thread(target=drawing.run, args=(Exiting,))
    running.start()
    running.join(0.3)  # it must wait for the first picture, so this times out
    assert running.is_alive()
    pipe.let_go(2)
    running.join(30)
    assert [made.index for made in seen.pictures] == [0, 1]
    assert seen.events[-1] == Ended()
    engine.close()


def test_a_process_that_dies_takes_what_is_being_encoded_along(
    monkeypatch: pytest.MonkeyPatch, pipe: Pipe
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    runner = ProcessEngine(partial(HeldEngine, pipe.path))
    seen = Recorder()
    start_in(runner, seen, prompt="held")
    assert runner.process_id is not None
    os.kill(runner.process_id, signal.SIGKILL)
    assert seen.has_ended.wait(30)
    assert isinstance(seen.ended[0].error, WorkerDied)
    assert len(run_in(runner, Recorder())) == 1
    runner.close()
