"""Closing, and that every call and every documented error has a test here."""

from __future__ import annotations

import ast
import datetime as dt
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from nbgen.backend import (
    Backend,
    Deciding,
    Describing,
    Finding,
    Keeping,
    Pictures,
    Running,
    Watching,
)
from nbgen.errors import StudioClosed
from nbgen.schema import (
    WAITS_AGAIN,
    Decision,
    GenerationProgress,
    OldTasks,
    Outcome,
    Status,
    TaskQuery,
    Verdict,
)
from nbgen.testing import Gate
from tests.contract.conftest import MakeBackend
from tests.contract.making import (
    WAIT_S,
    asks,
    hold,
    hold_telling,
    made,
    png,
    says,
    submit,
)

PROTOCOLS = (
    Running,
    Watching,
    Finding,
    Pictures,
    Keeping,
    Deciding,
    Describing,
    Backend,
)
METHODS = {
    name: method
    for protocol in PROTOCOLS
    for name, method in vars(protocol).items()
    if inspect.isfunction(method) and not name.startswith("_")
}


OLD = OldTasks(older_than=dt.timedelta(days=90))


def ignore(_: object) -> None:
    pass


CALLS: dict[str, Callable[[Backend, Decision], Any]] = {
    "submit": lambda b, _: b.submit(asks(), task_id="a", priority=0),
    "submit_batch": lambda b, _: b.submit_batch("b", {"x": asks()}, priority=0),
    "retry": lambda b, _: b.retry(["a"]),
    "retry_rows": lambda b, _: b.retry_rows("b", ["x"]),
    "cancel": lambda b, _: b.cancel(["a"]),
    "ended": lambda b, _: b.ended("a"),
    "offered": lambda b, _: b.offered(),
    "run_offered": lambda b, _: b.run_offered(),
    "queue_state": lambda b, _: b.queue_state(),
    "attempts": lambda b, _: b.attempts("a"),
    "waiting": lambda b, _: b.waiting(),
    "running": lambda b, _: b.running(),
    "prioritise": lambda b, _: b.prioritise("a", 1),
    "pause": lambda b, _: b.pause(),
    "resume": lambda b, _: b.resume(),
    "get_progress": lambda b, _: b.get_progress("a"),
    "watch": lambda b, _: b.watch("a", ignore),
    "watch_changes": lambda b, _: b.watch_changes(ignore),
    "watch_previews": lambda b, _: b.watch_previews("a", ignore),
    "list_tasks": lambda b, _: b.list_tasks(TaskQuery()),
    "get_tasks": lambda b, _: b.get_tasks(["a"]),
    "batch_rows": lambda b, _: b.batch_rows("b"),
    "changed_rows": lambda b, _: b.changed_rows("b", None),
    "keep_picture": lambda b, _: b.keep_picture("image", png()),
    "read_picture": lambda b, _: b.read_picture("x"),
    "picture_path": lambda b, _: b.picture_path("x"),
    "check_pictures": lambda b, _: b.check_pictures(repair=False),
    "collect_garbage": lambda b, _: b.collect_garbage(dry_run=True),
    "delete": lambda b, _: b.delete(["a"], force=True),
    "delete_old": lambda b, _: b.delete_old(OLD),
    "clear_up": lambda b, _: b.clear_up(OLD),
    "backup": lambda b, _: b.backup(Path("backup.zip")),
    "decide": lambda b, _: b.decide([says("a", "ada")]),
    "request_changes": lambda b, _: b.request_changes(
        says("a", "ada", Verdict.CHANGES_REQUESTED, feedback="No"), prompt=None
    ),
    "undo": lambda b, _: b.undo("a", reviewer_id="ada", expect_version=None),
    "decisions": lambda b, _: b.decisions(None),
    "review": lambda b, _: b.review("a"),
    "decided": lambda b, decision: b.decided(decision, wait_s=0.0),
    "put_content": lambda b, _: b.put_content("c", {}, featured_image_url=None),
    "get_content": lambda b, _: b.get_content("a"),
    "publications": lambda b, _: b.publications("a", wait_s=0.0),
    "model": lambda b, _: b.model(),
    "measure_prompt": lambda b, _: b.measure_prompt("a cat"),
    "close": lambda _b, _: None,
}


def test_a_closed_backend_queues_nothing(make_backend: MakeBackend) -> None:
    backend = make_backend()
    made(backend, "a")
    backend.close(finish=False)
    with pytest.raises(StudioClosed):
        backend.submit(asks(), task_id="b", priority=0)
    with pytest.raises(StudioClosed):
        backend.submit_batch("b", {"x": asks()}, priority=0)
    with pytest.raises(StudioClosed):
        backend.retry(["a"])


def test_every_call_raises_once_the_backend_is_closed(backend: Backend) -> None:
    assert CALLS.keys() == METHODS.keys()
    made(backend, "a")
    [decision] = backend.decide([says("a", "ada")])
    assert isinstance(decision, Decision)
    backend.close(finish=False)
    errors = {}
    for name, call in CALLS.items():
        try:
            call(backend, decision)
        except Exception as error:  # noqa: BLE001 - whatever a closed backend may raise
            errors[name] = type(error)
    refused = {name for name, error in errors.items() if error is StudioClosed}
    assert METHODS.keys() - refused == {"close", "ended"}


def test_a_closed_backend_knows_the_ends_that_it_has_seen(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend()
    made(backend, "made")
    backend.pause()
    submit(backend, "waits")
    backend.close()
    assert backend.ended("made").result(0).outcome is Outcome.SUCCEEDED
    for task_id in ("waits", "unknown"):
        with pytest.raises(StudioClosed):
            backend.ended(task_id)


def test_closing_gives_back_what_runs(make_backend: MakeBackend) -> None:
    backend, gate, is_asked = hold_telling(make_backend)
    submit(backend, "waits")
    states: SimpleQueue[GenerationProgress] = SimpleQueue()
    backend.watch("runs", states.put)
    ends = [backend.ended(task_id) for task_id in ("runs", "waits")]
    closing = threading.Thread(target=backend.close, kwargs={"finish": False})
    closing.start()
    assert is_asked.wait(WAIT_S)
    gate.open()
    closing.join(WAIT_S)
    assert [end.result(0).outcome for end in ends] == [None, None]
    told = [states.get_nowait() for _ in range(states.qsize())]
    assert told[-1].status is Status.PENDING
    assert told[-1].message == WAITS_AGAIN
    assert [state.seq for state in told] == sorted({state.seq for state in told})


def test_closing_gives_back_nothing_that_a_person_cancelled(
    make_backend: MakeBackend,
) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "waits")
    runs, waits = backend.ended("runs"), backend.ended("waits")
    backend.pause()
    backend.cancel(["runs"])
    closing = threading.Thread(target=backend.close, kwargs={"finish": False})
    closing.start()
    gate.open()
    closing.join(WAIT_S)
    assert runs.result(0).outcome is Outcome.CANCELLED
    assert waits.result(0).outcome is None


def test_closing_can_let_the_running_task_finish(make_backend: MakeBackend) -> None:
    backend, gate = hold(make_backend)
    submit(backend, "waits")
    runs, waits = backend.ended("runs"), backend.ended("waits")
    backend.pause()
    closing = [
        threading.Thread(target=backend.close, kwargs={"finish": True})
        for _ in range(2)
    ]
    for thread in closing:
        thread.start()
    gate.open()
    for thread in closing:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert runs.result(0).outcome is Outcome.SUCCEEDED
    assert waits.result(0).outcome is None
    backend.close(finish=True)


def test_closing_leaves_no_thread(make_backend: MakeBackend) -> None:
    before = set(threading.enumerate())
    backend = make_backend()
    ended: list[Status] = []
    backend.watch("a", lambda progress: ended.append(progress.status))
    made(backend, "a")
    backend.close(finish=False)
    backend.close(finish=False)
    assert set(threading.enumerate()) <= before
    assert ended[-1] is Status.COMPLETED


def test_an_end_of_the_watching_may_come_late(make_backend: MakeBackend) -> None:
    backend = make_backend(Gate(at_step=99))
    stop = backend.watch("a", ignore)
    stop_previews = backend.watch_previews("a", ignore)
    backend.close(finish=False)
    stop()
    stop_previews()


# That the suite is whole: what the protocols document, some test above does.


def calls_in(node: ast.AST) -> set[str]:
    return {
        call.func.attr
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in ("backend", "other", "paused_backend")
    }


def all_tests() -> Iterator[ast.AST]:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node


def raised_in(test: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each call that a test expects an error of, with the error's name."""
    for block in ast.walk(test):
        if not isinstance(block, ast.With):
            continue
        for item in block.items:
            found = re.match(r"pytest\.raises\((\w+)", ast.unparse(item.context_expr))
            if found is not None:
                for name in calls_in(block):
                    yield name, found[1]


def documented_errors(method: Callable[..., Any]) -> set[str]:
    _, _, raises = (inspect.getdoc(method) or "").partition("Raises:\n")
    return set(re.findall(r"^    (\w+):", raises, re.MULTILINE))


def test_every_method_is_called_by_a_test() -> None:
    called = set().union(*map(calls_in, all_tests()))
    assert METHODS.keys() - called == set()


def test_documented_errors_are_found() -> None:
    assert documented_errors(METHODS["ended"]) == {"UnknownTask"}
    assert documented_errors(METHODS["retry"]) >= {"TaskNotEnded", "QueueFull"}


@pytest.mark.parametrize("name", METHODS)
def test_every_documented_error_is_expected_by_a_test(name: str) -> None:
    expected = {
        error for test in all_tests() for call, error in raised_in(test) if call == name
    }
    assert documented_errors(METHODS[name]) - expected == set()
