"""The studio decides, on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbgen.errors import (
    DecisionConflict,
    FeaturedImageMissing,
    InvalidRequest,
    NbgenError,
    StudioClosed,
    UnknownImage,
    UnknownTask,
)
from nbgen.schema import (
    ApprovalStatus,
    Decision,
    DecisionRequest,
    Outcome,
    Verdict,
)
from nbgen.store import Store
from nbgen.studio import Studio
from tests.store.test_tasks import add, end_all, record

MakeStudio = Callable[..., Studio]


@pytest.fixture
def studio(make_studio: MakeStudio, database: str | None) -> Studio:
    return make_studio(database=database)


def make(studio: Studio, task_id: str = "a", **more: Any) -> str:
    """Generate a task and return the URL of its first picture."""
    result = studio.generate("a cat", task_id=task_id, seed=7, **more).result(30)
    return result.images[0].url


def test_a_decision_is_in_the_log_and_on_the_record(studio: Studio) -> None:
    url = make(studio)
    decision = studio.reject(
        "a", reviewer_id="ada", feedback="Six fingers", tags=["hands"]
    )
    assert (decision.feedback, decision.tags) == ("Six fingers", ("hands",))
    assert (decision.version, decision.featured_image_url) == (1, None)
    found = studio.get_record("a")
    assert (found.decision, found.version) == (decision, 1)
    assert found.approval_status is ApprovalStatus.REJECTED
    undone = studio.undo("a", reviewer_id="ada")
    assert undone.supersedes == decision.sequence
    assert studio.get_record("a").decision is None
    approval = studio.approve("a", reviewer_id="ada", expect_version=2)
    assert approval.featured_image_url == url
    assert studio.decisions("a") == [decision, undone, approval]
    assert studio.decisions() == studio.decisions("a")
    [listed] = studio.tasks()
    assert (listed.decision, listed.version) == (approval, 3)


def test_one_of_several_pictures_is_approved(studio: Studio) -> None:
    make(studio, num_images=2)
    result = studio.get_record("a").result
    assert result is not None
    second = result.images[1]
    with pytest.raises(InvalidRequest, match="a picture of task 'a'"):
        studio.approve("a", reviewer_id="ada", image="0" * 32 + ".png")
    decision = studio.approve("a", reviewer_id="ada", image=second.url)
    assert (decision.image, decision.featured_image_url) == (second.name, second.url)


def test_changes_are_made_in_a_child(studio: Studio) -> None:
    make(studio)
    child = studio.request_changes(
        "a", reviewer_id="ada", feedback="At night", prompt="a cat at night"
    )
    assert child is not None
    child.result(30)
    found = studio.get_record(child.id)
    assert (found.parent_id, found.request.prompt) == ("a", "a cat at night")
    assert found.seed == studio.get_record("a").seed
    assert studio.get_record("a").approval_status is ApprovalStatus.CHANGES_REQUESTED
    again = studio.request_changes("a", reviewer_id="ada", feedback="At night")
    assert again is not None
    assert again.id == child.id
    assert len(studio.tasks()) == 2
    with pytest.raises(DecisionConflict, match="Undo it before the task is made again"):
        studio.retry("a")
    others: list[dict[str, Any]] = [
        {"reviewer_id": "bob", "feedback": "At night"},
        {"reviewer_id": "ada", "feedback": "By day"},
        {"reviewer_id": "ada", "feedback": "At night", "prompt": "a cat by day"},
    ]
    for asked in others:
        with pytest.raises(DecisionConflict):
            studio.request_changes("a", **asked)
    with pytest.raises(InvalidRequest, match="request_changes asks for changes"):
        studio.decide(
            "a", Verdict.CHANGES_REQUESTED, reviewer_id="ada", feedback="At night"
        )
    assert [decision.child_id for decision in studio.decisions("a")] == [child.id]
    with pytest.raises(DecisionConflict):
        studio.approve("a", reviewer_id="bob")
    with pytest.raises(InvalidRequest, match="feedback must be"):
        studio.request_changes(child.id, reviewer_id="ada", feedback=" ")


def test_the_same_prompt_again_draws_another_seed(studio: Studio) -> None:
    make(studio)
    child = studio.request_changes("a", reviewer_id="ada", feedback="Another")
    assert child is not None
    assert child.request.seed is None


def test_changes_to_what_cannot_be_decided_make_no_child(studio: Studio) -> None:
    make(studio)
    studio.approve("a", reviewer_id="ada")
    with pytest.raises(DecisionConflict):
        studio.request_changes("a", reviewer_id="bob", feedback="Darker")
    with pytest.raises(UnknownTask):
        studio.request_changes("b", reviewer_id="bob", feedback="Darker")
    assert len(studio.tasks()) == 1
    studio.close()
    with pytest.raises(StudioClosed):
        studio.generate("a dog")


def test_a_quorum_of_two(make_studio: MakeStudio, database: str | None) -> None:
    studio = make_studio(database=database, quorum="2")
    make(studio)
    first = studio.approve("a", reviewer_id="ada")
    assert studio.get_record("a").approval_status is ApprovalStatus.PENDING
    assert (
        studio.decided(first).message
        == "Approved by ada. It still needs 1 more approval."
    )
    studio.approve("a", reviewer_id="bob")
    assert studio.get_record("a").approval_status is ApprovalStatus.APPROVED


def test_many_are_decided_at_once_and_some_refused(studio: Studio) -> None:
    for name in ("a", "b"):
        make(studio, name)
    studio.reject("b", reviewer_id="eve")
    asked = [
        DecisionRequest(task_id=name, verdict=Verdict.APPROVED, reviewer_id="ada")
        for name in ("a", "b", "nope", "a")
    ]
    first, against, unknown, again = studio.decide_many(asked)
    assert isinstance(first, Decision)
    assert again == first
    assert isinstance(against, DecisionConflict)
    assert isinstance(unknown, UnknownTask)


def test_metadata_is_merged(studio: Studio) -> None:
    studio.put_content("post", {"title": "Cats", "seo": {"slug": "cats"}})
    put = studio.put_content("post", '{"seo": {"lang": "en"}, "title": "All cats"}')
    assert put.metadata == {"title": "All cats", "seo": {"slug": "cats", "lang": "en"}}
    assert studio.get_content("post") == put
    for wrong in ("[]", "{", 5, None, {"x": object()}):
        with pytest.raises(InvalidRequest):
            studio.put_content("post", wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownTask):
        studio.get_content("other")


def test_where_the_featured_image_is(studio: Studio) -> None:
    """The decision's own, then the metadata's, the task's, and what was generated."""
    generated = make(studio, "post")
    own, meta, task = (f"https://x.org/{name}.png" for name in ("own", "meta", "task"))
    expected: list[tuple[str | None, dict[str, Any], str | None, str]] = [
        (own, {"image": {"url": meta}}, task, own),
        (None, {"image": {"url": meta}}, task, meta),
        (None, {"image": None}, None, task),
    ]
    found = [studio.approve("post", reviewer_id="ada").featured_image_url]
    for url, metadata, featured, _ in expected:
        studio.undo("post", reviewer_id="ada")
        studio.put_content("post", metadata, featured_image_url=featured)
        decision = studio.approve("post", reviewer_id="ada", featured_image_url=url)
        found.append(decision.featured_image_url)
    assert found == [generated, *(row[3] for row in expected)]


def test_content_without_a_picture_is_decided_and_said(studio: Studio) -> None:
    studio.put_content("post", {"featured_image_url": None})
    decision = studio.approve("post", reviewer_id="ada")
    assert decision.featured_image_url is None
    said = studio.decided(decision).message
    assert said.startswith("Approved by ada. There is no featured image: none was")
    assert "image.url" in said
    content = studio.get_content("post")
    assert (content.decision, content.version) == (decision, 1)
    studio.undo("post", reviewer_id="ada")
    assert studio.request_changes("post", reviewer_id="b", feedback="More") is None


def test_what_was_generated_needs_a_picture(studio: Studio) -> None:
    url = make(studio)
    path = studio.image_path(url.removeprefix("/images/"))
    assert path is not None
    path.unlink()
    with pytest.raises(UnknownImage, match="There is no picture"):
        studio.read_image(path.name)
    studio.put_content("a", {"title": "Cats"})
    with pytest.raises(FeaturedImageMissing, match=r"task_metadata \(featured_image"):
        studio.approve("a", reviewer_id="ada")
    assert studio.decisions("a") == []


def test_what_failed_here_may_be_decided_as_content(
    make_studio: MakeStudio, database: str | None
) -> None:
    def fail(_step: int) -> None:
        raise NbgenError("No.")

    studio = make_studio(fail, database=database)
    task = studio.generate("a cat", task_id="post")
    with pytest.raises(NbgenError):
        task.result(30)
    with pytest.raises(DecisionConflict, match="is failed; only a completed"):
        studio.approve("post", reviewer_id="ada")
    studio.put_content("post", {})
    assert studio.approve("post", reviewer_id="ada").featured_image_url is None


def test_tasks_are_paged_and_filtered(studio: Studio) -> None:
    for name in "abc":
        studio.generate(f"a cat {name}", task_id=name).result(30)
    page = studio.tasks(limit=2, text="CAT", status="completed")
    assert [task.id for task in page] == ["c", "b"]
    rest = studio.tasks(limit=2, cursor=page.next_cursor)
    assert ([task.id for task in rest], rest.next_cursor) == (["a"], None)
    assert studio.tasks(since=dt.datetime.now(dt.UTC)) == []
    wrong: list[dict[str, Any]] = [
        {"status": "done"},
        {"limit": 0},
        {"since": dt.datetime(2026, 1, 1)},
        {"cursor": "x"},
    ]
    for arguments in wrong:
        [field] = arguments
        with pytest.raises(InvalidRequest) as raised:
            studio.tasks(**arguments)
        assert raised.value.field == field


def test_the_history_of_a_task(studio: Studio) -> None:
    make(studio)
    found = studio.get_record("a")
    assert found.started_at is not None
    assert found.ended_at is not None
    assert found.created_at <= found.started_at <= found.ended_at
    assert {"base_model", "refiner_model", "decode"} <= set(found.stages)
    steps = {stage: len(times) for stage, times in found.step_times.items()}
    assert sum(steps.values()) == found.request.num_inference_steps
    assert set(steps) == {"base_model", "refiner_model"}
    for stage, times in found.step_times.items():
        assert 0 < sum(times) <= found.stages[stage] + 0.01
    assert found.made_with == {"checkpoint": "pattern"}


DECIDE = """
import json, sys, threading
from pathlib import Path
from nbgen.errors import DecisionConflict
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine

folder, database, process = sys.argv[1:]
studio = Studio(folder, engine=PatternEngine(), database=database or None)
won, lost = [], []

def work(number):
    name = f"p{process}-{number}"
    # The one from the first on, the other from the last, so that each wins some.
    for task in range(TASKS)[:: 1 - 2 * int(process)]:
        verdict = studio.approve if number % 2 else studio.reject
        try:
            decision = verdict(f"t{task}", reviewer_id=name, expect_version=0)
        except DecisionConflict as error:
            lost.append([f"t{task}", name, str(error)])
        else:
            won.append([decision.task_id, name])

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([won, lost]), flush=True)
studio.close()
"""


def test_of_decisions_that_race_one_stands(
    tmp_path: Path, database: str | None
) -> None:
    """Two processes of eight threads: one wins each task, and the rest hear of it."""
    count = 100
    store = Store(tmp_path, database)
    ids = [f"t{number}" for number in range(count)]
    add(store, *map(record, ids))
    end_all(store, Outcome.SUCCEEDED)
    for task_id in ids:
        store.decisions.put_content(task_id, {"image_url": "https://x.org/a.png"}, None)
    program = DECIDE.replace("TASKS", str(count))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), database or "", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    answers = [json.loads(output) for output in outputs]
    won = [tuple(entry) for wins, _ in answers for entry in wins]
    lost = [tuple(entry) for _, losses in answers for entry in losses]
    log = store.decisions.list_decisions(None)
    store.close()
    assert sorted(won) == sorted((d.task_id, d.reviewer_id) for d in log)
    assert sorted(d.task_id for d in log) == sorted(ids)
    assert {d.version for d in log} == {1}
    winners = dict(won)
    assert len(set(lost)) == len(lost) == 15 * count
    for task_id, loser, told in lost:
        assert loser != winners[task_id]
        assert f"ed by {winners[task_id]} at " in told


def test_threads_that_agree_each_have_one_vote(studio: Studio) -> None:
    make(studio)
    barrier = threading.Barrier(8)
    found: list[Decision] = []

    def approve(name: str) -> None:
        barrier.wait()
        found.append(studio.approve("a", reviewer_id=name))

    # Each of them twice, as if the answer had not been heard.
    threads = [threading.Thread(target=approve, args=[f"r{n % 4}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert {decision.sequence for decision in found} == {
        decision.sequence for decision in studio.decisions("a")
    }
    assert len(studio.decisions("a")) == 4
    assert studio.get_record("a").decision == studio.decisions("a")[0]


def test_a_bulk_may_be_longer_than_a_database_has_locks(studio: Studio) -> None:
    make(studio)
    ids = ["a", *(f"t{number}" for number in range(70_000))]
    requests = [
        DecisionRequest(task_id=task_id, verdict=Verdict.REJECTED, reviewer_id="ada")
        for task_id in ids
    ]
    first, *others = studio.decide_many(requests)
    assert isinstance(first, Decision)
    assert len(others) == 70_000
    assert {type(answer) for answer in others} == {UnknownTask}
