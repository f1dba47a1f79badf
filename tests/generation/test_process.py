"""An engine in a process of its own: the same pictures, and nothing left behind."""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from PIL import Image

from nbgen.errors import (
    CheckpointNotFound,
    EngineFailed,
    GenerationFailed,
    InvalidRequest,
    NbgenError,
    TaskUnfinished,
    UnknownTask,
    WorkerDied,
)
from nbgen.generation import process, spawning, worker_process
from nbgen.generation.engine import Cancelled, CancelToken, Engine
from nbgen.generation.process import ProcessEngine, load_sdxl
from nbgen.generation.sdxl import SDXLEngine
from nbgen.generation.thread import ThreadEngine
from nbgen.generation.worker_process import ProcessTiming
from nbgen.schema import MOST_DEATHS, AttemptOutcome, Preview, Stage
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from tests.generation.engines import (
    DyingEngine,
    EchoEngine,
    FailingEngine,
    GarblingEngine,
    HeldEngine,
    HungEngine,
    LookingEngine,
    PacedEngine,
    SlowEngine,
    TellingEngine,
    UnportableEngine,
    leaving,
    missing,
)
from tests.generation.recorder import Recorder, start_in
from tests.generation.recorder import run as run_here
from tests.generation.recorder import run_in as run
from tests.parts import workshop

ROOT = Path(__file__).parent.parent.parent
MakeProcess = Callable[..., ProcessEngine]


class Acting(Recorder):
    """Does something after a step."""

    def __init__(self, after: int, act: Callable[[], object]) -> None:
        super().__init__()
        self._after = after
        self._act = act

    def finish_step(self) -> None:
        super().finish_step()
        if len(self.steps) == self._after:
            self._act()


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def make_process() -> Iterator[MakeProcess]:
    """Return a function that makes an engine in a process and closes it."""
    engines: list[ProcessEngine] = []

    def make(make_engine: Callable[[], Engine], **timing: float) -> ProcessEngine:
        engines.append(ProcessEngine(make_engine, ProcessTiming(**timing)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def test_a_model_tells_its_device_before_there_is_work() -> None:
    told: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    engine = ProcessEngine(partial(load_sdxl, "tiny"), on_loaded=told.put)
    engine.start()
    try:
        facts = told.get(timeout=100)
    finally:
        engine.close()
    assert facts["checkpoint"] == "tiny"
    assert facts["device"]


def pid_of(engine: ProcessEngine) -> int:
    """Return the id of the process, which starts if it does not run."""
    engine.start()
    assert engine.process_id is not None
    return engine.process_id


def pid_seen(engine: ProcessEngine, **fields: Any) -> int:
    """Return the id of the process that makes a picture."""
    recorder = Recorder()
    run(engine, recorder, **{"num_inference_steps": 2, **fields})
    return int(recorder.facts["pid"])


def wait_until_gone(pid: int) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            assert select.select([handle], [], [], 30)[0], f"process {pid} lives on"
        finally:
            os.close(handle)


def kill(engine: ProcessEngine, number: int = signal.SIGKILL) -> None:
    pid = pid_of(engine)
    os.kill(pid, number)
    wait_until_gone(pid)


def test_nothing_tells_it_from_the_engine_itself(make_process: MakeProcess) -> None:
    there, here = Recorder(), Recorder()
    engine = make_process(TellingEngine)
    fields: dict[str, Any] = {"num_inference_steps": 10, "num_images": 3}
    pictures = run(engine, there, **fields)
    expected = run_here(PatternEngine(), here, **fields)
    assert [p.tobytes() for p in pictures] == [p.tobytes() for p in expected]
    assert {(p.mode, p.size) for p in pictures} == {("RGB", (64, 64))}
    # What saving is begun with comes from the runner.
    assert there.stages == [*here.stages, Stage.SAVE]
    assert (there.planned, there.steps) == (here.planned, here.steps)
    assert there.facts == {"checkpoint": "pattern", "pid": str(pid_of(engine))}


def test_the_process_stays_between_generations(make_process: MakeProcess) -> None:
    engine = make_process(TellingEngine)
    pid = pid_of(engine)
    for _ in range(3):
        assert pid_seen(engine) == pid != os.getpid()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_pictures_to_start_from_cross_over(
    make_process: MakeProcess, tmp_path: Path, mode: str
) -> None:
    Image.effect_noise((40, 24), 80).convert(mode).save(tmp_path / "image.png")
    mask = Image.effect_noise((40, 24), 80)
    with Image.open(tmp_path / "image.png") as image:
        echoed = run(make_process(EchoEngine), Recorder(), image=image, mask=mask)
        assert [p.convert("RGB").tobytes() for p in echoed] == [
            p.convert("RGB").tobytes() for p in (image, mask)
        ]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            signal.SIGKILL,
            "was killed, most likely by the system because memory ran out",
        ),
        (signal.SIGSEGV, r"died \(SIGSEGV\)\. Submit the task again"),
    ],
)
def test_a_process_that_dies_is_said_and_replaced(
    make_process: MakeProcess, tmp_path: Path, number: int, said: str
) -> None:
    engine = make_process(partial(SlowEngine, tmp_path / "step"))
    first = pid_of(engine)
    recorder = Acting(2, lambda: kill(engine, number))
    with pytest.raises(WorkerDied, match=said):
        run(engine, recorder, num_inference_steps=100)
    assert len(recorder.steps) < 100
    assert pid_seen(engine) != first
    assert len(run(engine, Recorder())) == 1


def test_a_process_that_died_between_two_tasks_costs_none(
    make_process: MakeProcess,
) -> None:
    engine = make_process(TellingEngine)
    run(engine, Recorder())
    kill(engine)
    assert len(run(engine, Recorder())) == 1


def test_cancel_takes_at_most_two_steps(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(partial(SlowEngine, tmp_path / "step"))
    pid = pid_of(engine)
    recorder = Recorder(cancel_after=3)
    with pytest.raises(Cancelled):
        run(engine, recorder, num_inference_steps=100)
    assert len(recorder.steps) == 3
    # The third step was done; what it does in the one where it notices is lost.
    assert int((tmp_path / "step").read_text()) <= 3 + 2
    assert pid_seen(engine) == pid


def test_a_cancel_as_the_work_begins_is_not_for_the_work_before(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    class CancelsAsItBegins(Recorder):
        def wants_preview(self) -> bool:
            self.cancel.cancel()
            return False

    engine = make_process(partial(SlowEngine, tmp_path / "step"))
    pid = pid_of(engine)
    for _ in range(2):
        with pytest.raises(Cancelled):
            run(engine, CancelsAsItBegins(), num_inference_steps=150)
        assert pid_seen(engine, num_inference_steps=1) == pid
        assert (tmp_path / "step").read_text() == "1"


def test_a_process_that_takes_no_request_is_killed_once_cancelled(
    make_process: MakeProcess,
) -> None:
    engine = make_process(TellingEngine, cancel_s=0.2)
    run(engine, Recorder())
    os.kill(pid_of(engine), signal.SIGSTOP)

    class CancelsSoonAfter(Recorder):
        def wants_preview(self) -> bool:
            canceller.start()
            return False

    recorder = CancelsSoonAfter()
    canceller = threading.Timer(0.1, recorder.cancel.cancel)
    with pytest.raises(Cancelled):
        run(engine, recorder, image=Image.effect_noise((1000, 1000), 80))
    canceller.join()
    assert len(run(engine, Recorder())) == 1


def test_cancel_before_the_start_starts_nothing(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(process, "WorkerProcess", fail)
    engine = make_process(TellingEngine)
    recorder = Recorder()
    recorder.cancel.cancel()
    with pytest.raises(Cancelled):
        run(engine, recorder)
    assert engine.process_id is None


def test_a_process_that_hangs_is_killed_once_cancelled(
    make_process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_process(HungEngine, cancel_s=0.2)
    pid = pid_of(engine)
    with caplog.at_level(logging.ERROR, "nbgen"), pytest.raises(Cancelled):
        run(engine, Recorder(cancel_after=2), num_inference_steps=10)
    wait_until_gone(pid)
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_a_process_that_hangs_while_it_encodes_is_killed_once_all_is_cancelled(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    engine = make_process(partial(HeldEngine, pipe), cancel_s=0.2)
    recorder = Recorder()
    start_in(engine, recorder, prompt="held")
    assert not recorder.has_ended.is_set()
    recorder.cancel.cancel()
    assert recorder.has_ended.wait(30)
    assert isinstance(recorder.ended[0].error, Cancelled)


def test_a_process_that_cannot_be_understood_is_killed(
    make_process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_process(GarblingEngine)
    with (
        caplog.at_level(logging.CRITICAL, "nbgen"),
        pytest.raises(WorkerDied, match="cannot be understood") as raised,
    ):
        run(engine, Recorder())
    assert not raised.value.of_memory


def test_a_process_that_says_nothing_any_more_is_killed(
    make_process: MakeProcess,
) -> None:
    engine = make_process(HungEngine, silence_s=1.0)
    pid = pid_of(engine)
    recorder = Recorder()
    with pytest.raises(WorkerDied, match="said nothing") as raised:
        run(engine, recorder, num_inference_steps=10)
    # Not for a lack of memory, so it is not tried again.
    assert not raised.value.of_memory
    assert len(recorder.steps) == 2
    wait_until_gone(pid)
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_a_process_that_says_nothing_is_told_of_and_ends_at_once_when_cancelled(
    make_process: MakeProcess,
) -> None:
    engine = make_process(HungEngine, quiet_s=0.2, cancel_s=3_600.0)
    pid = pid_of(engine)
    recorder = Recorder()
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(run, engine, recorder, num_inference_steps=10)
        first = recorder.silences.get(timeout=30)
        assert 0.2 <= first < recorder.silences.get(timeout=30)
        recorder.cancel.cancel()
        with pytest.raises(Cancelled):
            ran.result(30)
    wait_until_gone(pid)
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_a_process_is_not_silent_at_its_usual_pace(make_process: MakeProcess) -> None:
    engine = make_process(partial(PacedEngine, 0.3), quiet_s=0.1)
    recorder = Recorder()
    assert len(run(engine, recorder, num_inference_steps=6)) == 1
    assert recorder.silences.empty()


def test_a_callback_that_takes_long_is_no_silence(make_process: MakeProcess) -> None:
    """While it runs, nothing that the process says is read."""
    go_on = threading.Event()
    recorder = Acting(2, lambda: go_on.wait(2))
    engine = make_process(TellingEngine, quiet_s=0.1)
    assert len(run(engine, recorder, num_inference_steps=4)) == 1
    assert recorder.silences.empty()


def test_a_process_that_was_long_idle_is_not_taken_to_hang(
    make_process: MakeProcess,
) -> None:
    engine = make_process(TellingEngine, silence_s=30.0)
    run(engine, Recorder())
    pid = pid_of(engine)
    assert engine._child is not None
    engine._child.heard_s -= 1_000
    run(engine, Recorder())
    assert pid_of(engine) == pid


def test_an_error_arrives_as_what_it_is(make_process: MakeProcess) -> None:
    engine = make_process(FailingEngine)
    with pytest.raises(InvalidRequest) as raised:
        run(engine, Recorder(), prompt="size")
    expected = InvalidRequest("width", 7, "more")
    assert (str(raised.value), raised.value.__dict__) == (
        str(expected),
        expected.__dict__,
    )


@pytest.mark.parametrize(
    ("prompt", "said"), [("boom", "ValueError: boom"), ("exit", "SystemExit: leave")]
)
def test_another_error_is_named_and_its_traceback_logged(
    make_process: MakeProcess,
    caplog: pytest.LogCaptureFixture,
    prompt: str,
    said: str,
) -> None:
    engine = make_process(FailingEngine)
    pid = pid_of(engine)
    with (
        caplog.at_level(logging.ERROR, "nbgen"),
        pytest.raises(EngineFailed) as raised,
    ):
        run(engine, Recorder(), prompt=prompt)
    assert str(raised.value) == said
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "engines.py" in record.getMessage()
    run(engine, Recorder())
    assert pid_of(engine) == pid


def test_an_engine_that_cannot_be_made_is_said_each_time(
    make_process: MakeProcess,
) -> None:
    engine = make_process(missing)
    for _ in range(2):
        with pytest.raises(CheckpointNotFound, match=r"Gone\. Put it back\."):
            run(engine, Recorder())


def test_an_engine_that_leaves_while_it_is_made_is_said_each_time(
    make_process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_process(leaving)
    pid = pid_of(engine)
    with caplog.at_level(logging.CRITICAL, "nbgen"):
        for _ in range(2):
            with pytest.raises(EngineFailed, match="SystemExit: no model"):
                run(engine, Recorder())
    assert pid_of(engine) == pid


def test_an_error_that_holds_what_cannot_be_sent_arrives_all_the_same(
    make_process: MakeProcess,
) -> None:
    engine = make_process(UnportableEngine)
    pid = pid_of(engine)
    with pytest.raises(NbgenError, match=r"^No\.$"):
        run(engine, Recorder(), num_inference_steps=3)
    assert len(run(engine, Recorder(), num_inference_steps=1)) == 1
    assert pid_of(engine) == pid


def test_why_a_process_cannot_start_is_logged(
    make_process: MakeProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = "import nothing_of_the_kind"
    monkeypatch.setattr("nbgen.generation.spawning._PROGRAM", program)
    engine = make_process(TellingEngine)
    with (
        caplog.at_level(logging.ERROR, "nbgen"),
        pytest.raises(WorkerDied, match="exit status 1"),
    ):
        run(engine, Recorder())
    [record] = caplog.records
    assert "No module named 'nothing_of_the_kind'" in record.getMessage()


def test_a_process_without_its_threads_is_ended(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = spawning.start_child

    def remember() -> Any:
        parts = start()
        started.append(parts[-1])
        return parts

    def fail(*_args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker_process, "start_child", remember)
    engine = make_process(TellingEngine)
    with monkeypatch.context() as patch:
        patch.setattr(worker_process, "start_thread", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            engine.start()
    assert started[0].returncode == -signal.SIGKILL
    assert len(run(engine, Recorder())) == 1


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("width", 7, "more"),
        CheckpointNotFound("gone"),
        UnknownTask("a"),
        TaskUnfinished("a", "Not yet."),
    ],
)
def test_errors_can_be_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (
        type(error),
        str(error),
        error.__dict__,
    )


def test_previews_are_made_from_when_somebody_looks(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(partial(LookingEngine, tmp_path / "step"))

    class LooksLate(Acting):
        def __init__(self) -> None:
            super().__init__(5, self.look)

        def look(self) -> None:
            self._looks = True

    recorder = LooksLate()
    run(engine, recorder, num_inference_steps=40)
    # Its own show their step; those of the pattern come between them.
    seen = [preview for preview in shown(recorder) if preview.jpeg.isdigit()]
    # Whoever looks after step 5 need not see step 6, whose work has begun.
    assert [int(p.jpeg) for p in seen] == list(range(41 - len(seen), 41))
    assert 20 < len(seen) <= 35
    unseen = Recorder()
    run(engine, unseen, num_inference_steps=5)
    assert shown(unseen) == []


def shown(recorder: Recorder) -> list[Preview]:
    return [recorder.previews.get() for _ in range(recorder.previews.qsize())]


def test_a_callback_that_raises_ends_the_generation(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(partial(SlowEngine, tmp_path / "step"))

    def fail() -> None:
        raise RuntimeError("a reporter's fault")

    with pytest.raises(RuntimeError, match="fault"):
        run(engine, Acting(2, fail), num_inference_steps=150)
    assert int((tmp_path / "step").read_text()) < 10
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_an_interrupt_is_not_for_the_child(make_process: MakeProcess) -> None:
    engine = make_process(TellingEngine)
    run(engine, Recorder())
    pid = pid_of(engine)
    os.kill(pid, signal.SIGINT)
    assert pid_seen(engine) == pid


def test_closing_leaves_nothing(make_process: MakeProcess) -> None:
    engine = make_process(HungEngine)
    run(engine, Recorder(), num_inference_steps=2)
    pid = pid_of(engine)
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    engine.close()
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"nbgen-commands", "nbgen-events", "nbgen-watchdog"}
    assert len(run(engine, Recorder(), num_inference_steps=2)) == 1


def test_closing_ends_one_that_is_stopped(
    make_process: MakeProcess,
) -> None:
    engine = make_process(TellingEngine, close_s=0.1)
    run(engine, Recorder())
    pid = pid_of(engine)
    os.kill(pid, signal.SIGSTOP)
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cancel_calls_back_once() -> None:
    token = CancelToken()
    called: list[str] = []
    token.on_cancel(lambda: called.append("before"))
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("after"))
    assert called == ["before", "after"]


SCRIPT = """
import sys, os, signal, tempfile, threading
sys.path.insert(0, {root!r})
from nbgen.generation.engine import CancelToken
from nbgen.generation.process import ProcessEngine
from nbgen.schema import GenerationRequest
from nbgen.studio import Studio
from tests.generation.engines import *
from tests.generation.recorder import Recorder, run_in as run
print("begins", flush=True)
"""


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-c", program, *arguments]


@pytest.mark.parametrize("inline", [False, True])
def test_a_script_needs_no_guard_and_sees_no_noise(
    tmp_path: Path, inline: bool
) -> None:
    """Neither does ``python -c``, whose main module is no file."""
    program = SCRIPT.format(root=str(ROOT)) + (
        "engine = ProcessEngine(NoisyEngine)\n"
        "print(len(run(engine, Recorder(), num_inference_steps=2)))\n"
        "engine.close()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    command = python(program) if inline else [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("begins\n1\n", "")


@pytest.mark.parametrize("forks", [False, True])
def test_a_parent_that_is_killed_takes_its_child_along(
    tmp_path: Path, forks: bool
) -> None:
    """Also when a fork of the parent lives on, as a pool's workers do."""
    program = SCRIPT.format(root=str(ROOT)) + (
        f"from functools import partial; from pathlib import Path\n"
        f"engine = ProcessEngine(partial(SlowEngine, Path({str(tmp_path)!r}) / 'n'))\n"
        "recorder = Recorder()\n"
        "run(engine, recorder, num_inference_steps=1)\n"
        "fork = 0\n"
        f"if {forks}:\n"
        "    fork = os.fork()\n"
        "    if fork == 0:\n"
        "        signal.pause()\n"
        "print(recorder.facts['pid'], fork, flush=True)\n"
        "run(engine, Recorder(), num_inference_steps=150)\n"
    )
    with subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        child, fork = map(int, parent.stdout.readline().split())
        parent.kill()
        parent.wait()
        try:
            wait_until_gone(child)
        finally:
            if fork:
                os.kill(fork, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only there has it a lifeline")
def test_a_parent_that_is_killed_takes_its_child_along_from_native_code(
    tmp_path: Path,
) -> None:
    program = SCRIPT.format(root=str(ROOT)) + (
        "from functools import partial; from pathlib import Path\n"
        f"file = Path({str(tmp_path / 'now')!r})\n"
        "engine = ProcessEngine(partial(NativeEngine, file))\n"
        "engine.start()\n"
        "print(engine.process_id, flush=True)\n"
        "run(engine, Recorder(), num_inference_steps=3)\n"
    )
    with subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        child = int(parent.stdout.readline())
        while not (tmp_path / "now").exists():
            assert parent.poll() is None
        parent.kill()
        parent.wait()
        wait_until_gone(child)


@pytest.mark.parametrize("closes", [False, True])
def test_a_script_that_ends_early_leaves_nothing(tmp_path: Path, closes: bool) -> None:
    program = SCRIPT.format(root=str(ROOT)) + (
        "from functools import partial; from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "engine = ProcessEngine(partial(SlowEngine, folder / 'n'))\n"
        "studio = Studio(folder, engine=engine)\n"
        "started = threading.Event()\n"
        "task = studio.generate('a cat', num_inference_steps=150)\n"
        "task.watch(lambda p: started.set() if p.current_step else None)\n"
        "started.wait()\n"
        "print(engine.process_id, flush=True)\n"
        f"{'studio.close()' if closes else ''}\n"
    )
    done = subprocess.run(python(program), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    wait_until_gone(int(done.stdout.split()[1]))


def test_a_task_whose_process_died_is_tried_again(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(partial(SlowEngine, tmp_path / "step"))
    with Studio(tmp_path / "data", engine=engine) as studio:
        task = studio.generate("a cat", num_inference_steps=150)
        stepped = threading.Event()
        task.watch(lambda p: stepped.set() if p.current_step else None)
        assert stepped.wait(30)
        kill(engine, signal.SIGSEGV)
        assert task.result(30).images
        lost, _ = task.attempts
        assert lost.outcome is AttemptOutcome.LOST
        studio.generate("a cat", num_inference_steps=1).result(30)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_task_that_died_of_memory_is_tried_three_times(
    times: int, make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(partial(DyingEngine, tmp_path / "died", times))
    with Studio(tmp_path / "data", engine=engine) as studio:
        task = studio.generate("a cat", num_images=2, num_inference_steps=5)
        if times < MOST_DEATHS:
            assert len(task.result(30).images) == 2
        else:
            with pytest.raises(
                GenerationFailed, match=r"ended 3 times.*memory ran out"
            ):
                task.result(30)
        assert len(task.attempts) == min(times + 1, MOST_DEATHS)
        assert "memory ran out" in (task.attempts[0].error or "")


def test_a_studio_that_nobody_used_ends_its_process(tmp_path: Path) -> None:
    with Studio(tmp_path, "tiny") as studio:
        engine = workshop(studio).lane.prepare()
        assert isinstance(engine, ProcessEngine)
        pid = pid_of(engine)
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_studio_may_do_without_a_process(tmp_path: Path) -> None:
    with Studio(tmp_path, "tiny", worker="thread") as studio:
        task = studio.generate("a red circle", num_inference_steps=1)
        task.result(60)
        assert isinstance(workshop(studio).lane.prepare(), ThreadEngine)
        assert task.record.made_with["checkpoint"] == "tiny"
    with pytest.raises(InvalidRequest, match="worker must be 'process' or 'thread'"):
        Studio(tmp_path, "tiny", worker="fork")  # type: ignore[arg-type]


def test_an_idle_studio_ends_the_process(
    make_process: MakeProcess, tmp_path: Path
) -> None:
    engine = make_process(TellingEngine)
    with Studio(tmp_path, engine=engine, release_after=0.01) as studio:
        task = studio.generate("a cat", num_inference_steps=1)
        task.result(30)
        wait_until_gone(int(task.record.made_with["pid"]))
        studio.generate("a cat", num_inference_steps=1).result(30)


def test_the_pixels_of_the_real_engine_are_the_same(make_process: MakeProcess) -> None:
    engine = make_process(partial(load_sdxl, "tiny"))
    engine.start()
    fields: dict[str, Any] = {"num_inference_steps": 4, "width": 64, "height": 64}
    here, there = SDXLEngine("tiny"), Recorder()
    [expected] = run_here(here, Recorder(), **fields)
    [picture] = run(engine, there, **fields)
    assert picture.tobytes() == expected.tobytes()
    assert there.facts == here.facts()
    assert len(there.steps) == 4


def test_the_real_engine_shows_previews_and_is_cancelled(
    make_process: MakeProcess,
) -> None:
    engine = make_process(partial(load_sdxl, "tiny"))
    recorder = Recorder(looks=True, cancel_after=60)
    with pytest.raises(Cancelled):
        run(engine, recorder, num_inference_steps=150)
    assert shown(recorder)
    assert len(recorder.steps) == 60
    assert len(run(engine, Recorder(), num_inference_steps=1)) == 1
