"""Studios of one process on one folder share the queue, the engine and the threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import InvalidRequest, StudioClosed, TaskUnfinished
from nbgen.generation.memory_plan import MemoryPlan
from nbgen.review.publishers import Publication, Publisher
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.parts import library, workshop


class Named:
    """A publisher that does nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def publish(self, publication: Publication) -> str | None:
        raise NotImplementedError


def wait_closed(folder: Path) -> None:
    """Wait until what closes collected studios is done; then nobody owns tasks."""
    for thread in threading.enumerate():
        if thread.name == "nbgen-closing":
            thread.join(30)
    assert list((folder / "owners").iterdir()) == []


def test_the_second_studio_runs_what_it_is_given_in_the_first_one_s_engine(
    tmp_path: Path,
) -> None:
    gate = Gate(at_step=2)
    first = Studio(tmp_path, engine=PatternEngine(gate))
    second = Studio(tmp_path)
    assert workshop(first) is workshop(second)
    assert library(first) is library(second)
    mine = first.generate("a cat", num_inference_steps=3)
    yours = second.generate("a dog", num_inference_steps=3)
    gate.wait_reached()
    assert first.waiting() == second.waiting() == [yours.id]
    gate.open()
    assert second.task(mine.id).result(10).images
    assert first.task(yours.id).result(10).images
    first.close()
    second.close()


def test_the_last_one_that_closes_ends_the_work(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    first = Studio(tmp_path, engine=PatternEngine(gate))
    second = Studio(tmp_path)
    task = first.generate("a cat", num_inference_steps=3)
    gate.wait_reached()
    first.close()
    first.close()
    with pytest.raises(StudioClosed):
        first.generate("a dog")
    with pytest.raises(StudioClosed):
        first.get_progress(task.id)
    assert second.get_progress(task.id).current_step == 1
    gate.open()
    assert second.task(task.id).result(10).images
    second.close()
    with pytest.raises(StudioClosed):
        second.tasks()
    wait_closed(tmp_path)


def test_another_one_after_the_last_is_a_new_one(tmp_path: Path) -> None:
    with Studio(tmp_path, engine=PatternEngine(), queue_limit=1) as studio:
        before = workshop(studio)
    with Studio(tmp_path, engine=PatternEngine(), queue_limit=2) as studio:
        assert workshop(studio) is not before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"checkpoint": "sdxl"}, "checkpoint must be 'tiny', as in the studio that"),
        ({"queue_limit": 6}, "queue_limit must be 5, as in the studio that"),
        ({"quorum": "2"}, "quorum must be 'any', as in"),
        ({"memory_plan": MemoryPlan()}, "memory_plan must be None, as in"),
        ({"engine": PatternEngine()}, "engine must be the same, as in the studio"),
        ({"publishers": []}, "publishers must be the same, as in the studio"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_open_studio_has_not_is_refused_by_name(
    tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    with Studio(tmp_path, "tiny", engine=PatternEngine(), queue_limit=5) as studio:
        with pytest.raises(InvalidRequest, match=f"^{said}"):
            Studio(tmp_path, **words)
        assert studio.generate("a cat", num_inference_steps=1).result(10).images


def test_what_is_the_same_or_not_given_is_shared(tmp_path: Path) -> None:
    engine = PatternEngine()
    with (
        Studio(str(tmp_path), "tiny", engine=engine, loras={Path("a"): 0.5}) as first,
        Studio(tmp_path / ".", loras={"a": 0.5}, engine=engine, quorum="any") as second,
        Studio(tmp_path, checkpoint="tiny") as third,
    ):
        assert workshop(first) is workshop(second) is workshop(third)


def test_another_folder_or_database_is_another_studio(tmp_path: Path) -> None:
    with (
        Studio(tmp_path / "a", engine=PatternEngine()) as first,
        Studio(tmp_path / "b", engine=PatternEngine()) as second,
        Studio(
            tmp_path / "a",
            engine=PatternEngine(),
            database=f"sqlite:///{tmp_path}/other.sqlite",
        ) as third,
    ):
        assert len({id(workshop(each)) for each in (first, second, third)}) == 3


def test_one_that_nobody_refers_to_counts_as_closed(tmp_path: Path) -> None:
    studio = Studio(tmp_path, engine=PatternEngine())
    with Studio(tmp_path) as other:
        del studio
        gc.collect()
        assert other.generate("a cat", num_inference_steps=1).result(10).images
    wait_closed(tmp_path)


def test_the_last_one_that_is_collected_ends_the_work(tmp_path: Path) -> None:
    gate = Gate(at_step=2)
    task = Studio(tmp_path, engine=PatternEngine(gate)).generate("a cat")
    gate.wait_reached()
    gc.collect()
    task_id = task.id  # the handle alone keeps it open
    assert task.progress.current_step == 1
    del task
    gate.open()
    gc.collect()
    wait_closed(tmp_path)
    with Studio(tmp_path, engine=PatternEngine(), take_over=True) as again:
        assert again.task(task_id).result(10).images


def test_one_that_was_closed_closes_nothing_when_it_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        "nbgen.local.parts.start_thread", lambda name, _target: started.append(name)
    )
    studio = Studio(tmp_path, engine=PatternEngine())
    studio.close()
    del studio
    gc.collect()
    assert started == []


def test_of_many_that_open_at_once_all_share(tmp_path: Path) -> None:
    engine = PatternEngine()
    start = threading.Barrier(8)

    def open_one(_number: int) -> Studio:
        start.wait(10)
        return Studio(tmp_path, engine=engine)

    with ThreadPoolExecutor(8) as pool:
        studios = list(pool.map(open_one, range(8)))
    assert len({id(workshop(studio)) for studio in studios}) == 1
    for studio in studios:
        studio.close()
    wait_closed(tmp_path)


def test_one_that_opens_while_the_last_one_closes_finds_what_that_gives_back(
    tmp_path: Path,
) -> None:
    gate = Gate(at_step=2)
    first = Studio(tmp_path, engine=PatternEngine(gate))
    runs = first.generate("a cat", num_inference_steps=3)
    waits = first.generate("a dog", num_inference_steps=3)
    gate.wait_reached()
    closing = threading.Thread(target=first.close)
    closing.start()
    with pytest.raises(TaskUnfinished):
        waits.result(10)  # so it is closing
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Studio, tmp_path, engine=PatternEngine(), take_over=True)
        gate.open()
        second = opening.result(10)
    closing.join()
    assert second.task(runs.id).result(10).images
    assert second.task(waits.id).result(10).images
    second.close()


def test_handles_of_one_that_is_gone_keep_nothing_open_that_another_closes(
    tmp_path: Path,
) -> None:
    studio = Studio(tmp_path, engine=PatternEngine())
    task = studio.generate("a cat", num_inference_steps=1)
    task.result(10)
    studio = Studio(tmp_path)  # as in a cell that runs again
    gc.collect()
    studio.close()
    assert list((tmp_path / "owners").iterdir()) == []
    with pytest.raises(StudioClosed):
        task.watch(print)


def test_one_that_takes_long_to_open_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def load() -> list[Publisher]:
        opening.set()
        assert go_on.wait(30)
        return []

    other = Studio(tmp_path / "other", engine=PatternEngine())
    same = Studio(tmp_path / "other")
    monkeypatch.setattr("nbgen.local.opening.load_publishers", load)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(Studio, tmp_path / "slow", engine=PatternEngine())
        assert opening.wait(10)
        assert Studio(tmp_path / "other").tasks() == []
        same.close()
        other.close()
        go_on.set()
        slow.result(10).close()


FORK = """
import os, sys, threading
from nbgen.local import parts
from nbgen.studio import Studio
from nbgen.testing import PatternEngine

studio = Studio(sys.argv[1], engine=PatternEngine())
with parts._lock:
    pid = os.fork()
    if pid == 0:
        studio.close()
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(studio.generate("a cat", num_inference_steps=1).result(10).images[0].width)
"""


def test_a_fork_waits_for_no_lock_of_its_parent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("64\n", "")


def test_a_quorum_that_changed_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Studio(tmp_path, engine=PatternEngine()):
        monkeypatch.setenv("NBGEN_QUORUM", "2")
        with pytest.raises(InvalidRequest, match=r"^quorum must be 'any', as in"):
            Studio(tmp_path)


def test_publishers_of_the_same_kind_and_name_are_the_same(tmp_path: Path) -> None:
    with (
        Studio(tmp_path, engine=PatternEngine(), publishers=[Named("a")]) as first,
        Studio(tmp_path, publishers=[Named("a")]) as second,
    ):
        assert workshop(first) is workshop(second)
        with pytest.raises(InvalidRequest, match=r"^publishers must be the same"):
            Studio(tmp_path, publishers=[Named("b")])


# A notebook's user runs the same cell again and again; ``Out`` keeps each studio.
TEN_TIMES = """
import os, subprocess, sys, threading
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
cell = '''
from nbgen.studio import Studio
studio = Studio(data_dir={folder!r}, checkpoint="tiny")
studio
'''.format(folder=sys.argv[1])
for number in range(10):
    shell.run_cell(cell, store_history=True).raise_error()
    if number == 0:  # by the end of a task, all threads have begun
        shell.user_ns["studio"].generate("a cat", num_inference_steps=1).result(60)
        before = sorted(thread.name for thread in threading.enumerate())
engines = subprocess.run(
    ["pgrep", "-c", "-P", str(os.getpid()), "python"], capture_output=True, text=True
)
assert sorted(thread.name for thread in threading.enumerate()) == before
result = shell.user_ns["studio"].generate("a red circle", num_inference_steps=1)
print(engines.stdout.strip(), len(result.result(60).images))
"""


def test_a_cell_that_runs_ten_times_starts_one_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TEN_TIMES, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")},
    )
    assert done.stdout.splitlines()[-1:] == ["1 1"], done.stdout + done.stderr
