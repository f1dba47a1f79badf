"""A step is told of when the device has done it, and not before."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from nbgen.generation.device_steps import RUN_AHEAD, DoneSteps
from nbgen.schema import Stage
from tests.generation.recorder import Recorder


class FakeEvent:
    """A place in the queue of a device that is there when the test says so."""

    def __init__(self) -> None:
        self.recorded = threading.Event()
        self.waited_for = threading.Event()
        self.done = threading.Event()

    def record(self) -> None:
        self.recorded.set()

    def synchronize(self) -> None:
        assert self.recorded.is_set()
        self.waited_for.set()
        assert self.done.wait(30)


class FakeDevice:
    """Makes the events of so many steps."""

    def __init__(self, steps: int) -> None:
        self.events = [FakeEvent() for _ in range(steps)]
        self._left = iter(self.events)

    def make_event(self) -> FakeEvent:
        return next(self._left)

    def finish(self, steps: int) -> None:
        """Have the first so many steps be done."""
        for event in self.events[:steps]:
            event.done.set()


class Told(Recorder):
    """Remembers stages and steps in one line, as they are told."""

    def __init__(self) -> None:
        super().__init__()
        self.line: SimpleQueue[Stage | str] = SimpleQueue()

    def start_stage(self, stage: Stage) -> None:
        super().start_stage(stage)
        self.line.put(stage)

    def finish_step(self) -> None:
        super().finish_step()
        self.line.put("step")

    def next(self, count: int) -> list[Stage | str]:
        return [self.line.get(timeout=10) for _ in range(count)]


def step_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "nbgen-steps"]


def test_a_step_is_told_of_only_when_it_is_done() -> None:
    told, device = Told(), FakeDevice(2)
    with DoneSteps(told, device.make_event) as done:
        done.start_stage(Stage.BASE_MODEL)
        done.finish_step()
        done.finish_step()
        assert told.next(1) == [Stage.BASE_MODEL]
        assert device.events[0].waited_for.wait(10)
        assert told.line.empty()
        device.finish(1)
        assert told.next(1) == ["step"]
        assert device.events[1].waited_for.wait(10)
        assert told.line.empty()
        device.finish(2)
        assert told.next(1) == ["step"]


def test_stages_and_steps_keep_their_order() -> None:
    told, device = Told(), FakeDevice(3)
    with DoneSteps(told, device.make_event) as done:
        done.start_stage(Stage.BASE_MODEL)
        done.finish_step()
        done.start_stage(Stage.REFINER_MODEL)
        done.finish_step()
        done.start_stage(Stage.DECODE)
        assert told.next(1) == [Stage.BASE_MODEL]
        assert device.events[0].waited_for.wait(10)
        assert told.line.empty()  # the next stage waits for the step before it
        device.finish(3)
    assert told.next(4) == ["step", Stage.REFINER_MODEL, "step", Stage.DECODE]


def test_the_host_waits_when_the_device_is_too_far_behind() -> None:
    assert RUN_AHEAD == 2
    told, device = Told(), FakeDevice(5)
    enqueued: SimpleQueue[int] = SimpleQueue()

    def sample() -> None:
        with DoneSteps(told, device.make_event) as done:
            done.start_stage(Stage.BASE_MODEL)
            for step in range(1, 6):
                done.finish_step()
                enqueued.put(step)

    sampling = threading.Thread(target=sample)
    sampling.start()
    for finished in range(1, 6):
        # The step after the two that may be ahead has been recorded, and waits.
        beyond = min(finished + RUN_AHEAD, 5)
        assert device.events[beyond - 1].recorded.wait(10)
        assert not any(event.recorded.is_set() for event in device.events[beyond:])
        device.finish(finished)
    sampling.join(10)
    assert [enqueued.get(timeout=10) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert told.next(6) == [Stage.BASE_MODEL, *["step"] * 5]


def test_leaving_tells_the_rest_and_ends_the_thread() -> None:
    told, device = Told(), FakeDevice(2)
    with DoneSteps(told, device.make_event) as done:
        assert len(step_threads()) == 1
        done.start_stage(Stage.BASE_MODEL)
        done.finish_step()
        done.finish_step()
        device.finish(2)
    assert told.line.qsize() == 3
    assert step_threads() == []


def test_an_error_inside_leaves_no_thread() -> None:
    told, device = Told(), FakeDevice(1)

    def sample() -> None:
        with DoneSteps(told, device.make_event) as done:
            done.start_stage(Stage.BASE_MODEL)
            done.finish_step()
            device.finish(1)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        sample()
    assert step_threads() == []
    assert told.steps == [Stage.BASE_MODEL]


def test_a_device_that_fails_ends_the_telling_and_nothing_else() -> None:
    class Broken(FakeEvent):
        def synchronize(self) -> None:
            raise RuntimeError("an illegal memory access")

    told = Told()
    with DoneSteps(told, Broken) as done:
        done.start_stage(Stage.BASE_MODEL)
        done.finish_step()
    assert told.steps == []
    assert step_threads() == []


def test_on_the_cpu_a_step_that_has_returned_is_done() -> None:
    told = Told()
    with DoneSteps(told, None) as done:
        done.start_stage(Stage.BASE_MODEL)
        done.finish_step()
        assert told.line.qsize() == 2
        assert step_threads() == []
