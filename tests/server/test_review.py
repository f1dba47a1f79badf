"""The HTTP API of review, asked as an outside client would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nbgen.review.publishers import FolderPublisher
from nbgen.schema import ApprovalStatus
from nbgen.server import Server
from nbgen.studio import Studio
from tests.server.client import Answer, ask

CONTENT = "/api/content/tasks"


def decide(server: Server, task_id: str, **body: Any) -> Answer:
    body = {"reviewer_id": "ada", **body}
    return ask(server, f"{CONTENT}/{task_id}/approve", body)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body["error"]["code"]


def test_undo_really_undoes(studio: Studio, server: Server) -> None:
    studio.put_content("post", {})
    assert decide(server, "post", approved=False).body["version"] == 1
    undone = decide(server, "post", undo=True)
    assert (undone.status, undone.body["approval_status"]) == (200, "pending")
    assert undone.body["message"] == "Undone by ada."
    assert code(decide(server, "post", undo=True)) == (409, "decision_conflict")
    approved = decide(server, "post", approved=True)
    assert (approved.body["approval_status"], approved.body["version"]) == (
        "approved",
        3,
    )
    assert code(decide(server, "nope", undo=True)) == (404, "unknown_task")
    assert code(decide(server, "post", undo="yes")) == (422, "invalid_request")


def test_what_was_decided_meanwhile_is_not_overwritten(
    studio: Studio, server: Server
) -> None:
    studio.put_content("post", {})
    decide(server, "post", approved=True, expect_version=0)
    late = decide(server, "post", approved=False, reviewer_id="bob", expect_version=0)
    assert code(late) == (409, "decision_conflict")
    assert "it was approved by ada at 2" in late.body["error"]["message"]
    knowing = decide(
        server,
        "post",
        approved=False,
        reviewer_id="bob",
        expect_version=1,
        tags=["dark"],
    )
    assert (knowing.status, knowing.body["approval_status"]) == (200, "rejected")
    assert studio.decisions("post")[-1].tags == ("dark",)
    wrong = decide(server, "post", approved=False, expect_version="1")
    assert wrong.body["error"]["field"] == "expect_version"


def test_content_is_put_merged_and_read(server: Server) -> None:
    path = f"{CONTENT}/post"
    assert code(ask(server, path)) == (404, "unknown_task")
    first = {"task_metadata": {"seo": {"slug": "cats"}}}
    ask(server, path, first, method="PUT")
    second = {
        "task_metadata": '{"seo": {"lang": "en"}}',
        "featured_image_url": "https://x.org/a.png",
    }
    put = ask(server, path, second, method="PUT")
    assert put.body["task_metadata"] == {"seo": {"slug": "cats", "lang": "en"}}
    assert put.body == ask(server, path).body
    again = ask(server, path, {}, method="PUT")
    assert again.body["featured_image_url"] == "https://x.org/a.png"
    approved = decide(server, "post", approved=True)
    assert approved.body["featured_image_url"] == "https://x.org/a.png"
    assert ask(server, path).body["approval_status"] == "approved"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"task_metadata": []}, "task_metadata"),
        ({"task_metadata": "{"}, "task_metadata"),
        ({"task_metadata": None}, "task_metadata"),
        ({"featured_image_url": 5}, "featured_image_url"),
        ({"featured_image_url": ""}, "featured_image_url"),
    ],
)
def test_content_that_is_none(server: Server, body: Any, field: str) -> None:
    answer = ask(server, f"{CONTENT}/post", body, method="PUT")
    assert (answer.status, answer.body["error"]["field"]) == (422, field)
    assert ask(server, f"{CONTENT}/post").status == 404


def test_content_without_a_picture_says_so(studio: Studio, server: Server) -> None:
    studio.put_content("post", {"image_url": None})
    answer = decide(server, "post", approved=True)
    assert (answer.status, answer.body["featured_image_url"]) == (200, None)
    assert "There is no featured image" in answer.body["message"]


def test_the_answer_says_where_it_was_published(
    make_studio: Callable[..., Studio],
    make_server: Callable[..., Server],
    tmp_path: Path,
) -> None:
    studio = make_studio(publishers=[FolderPublisher(tmp_path / "out")])
    server = make_server(studio)
    studio.generate("a cat", task_id="a").result(30)
    first = decide(server, "a", approved=True)
    assert first.body["published_url"] == (tmp_path / "out" / "a.png").as_uri()
    assert decide(server, "a", approved=True).body == first.body


def test_a_failed_publication_claims_no_success(
    make_studio: Callable[..., Studio],
    make_server: Callable[..., Server],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    studio = make_studio(publishers=[FolderPublisher(tmp_path / "file")])
    server = make_server(studio)
    studio.put_content("post", {})
    answer = decide(server, "post", approved=True)
    assert (answer.status, answer.body["published_url"]) == (200, None)
    assert answer.body["message"].endswith("failed and is tried again: folder.")
    [record] = studio.publications("post")
    assert "could not be published" in str(record.error)
    assert studio.get_content("post").approval_status is ApprovalStatus.APPROVED


def test_many_decisions_at_once(studio: Studio, server: Server) -> None:
    for name in ("a", "b"):
        studio.put_content(name, {})
    path = f"{CONTENT}/bulk-decide"
    item = {"task_id": "a", "approved": True, "reviewer_id": "ada"}
    answer = ask(
        server,
        path,
        {
            "decisions": [
                item,
                {**item, "approved": False},
                {**item, "task_id": "nope"},
                {**item, "human_feedback": 5},
                "what",
                {**item, "task_id": "b", "approved": False},
            ]
        },
    )
    assert answer.status == 207
    results = answer.body["results"]
    assert [result["status"] for result in results] == [200, 409, 404, 422, 422, 200]
    assert results[3]["error"]["field"] == "human_feedback"
    assert [result.get("approval_status") for result in results] == [
        "approved",
        *[None] * 4,
        "rejected",
    ]
    assert ask(server, path, {"decisions": [item]}).status == 200
    for wrong in ([], [item] * 501, {"a": 1}, None):
        refused = ask(server, path, {"decisions": wrong})
        assert (refused.status, refused.body["error"]["field"]) == (422, "decisions")


def test_tasks_are_filtered_and_paged(studio: Studio, server: Server) -> None:
    for name in "abc":
        studio.generate(f"Straße {name}", task_id=name).result(30)
    query = f"?limit=2&text={quote('STRASSE')}&status=completed"
    first = ask(server, f"/api/tasks{query}").body
    assert [task["task_id"] for task in first["tasks"]] == ["c", "b"]
    rest = ask(server, f"/api/tasks{query}&cursor={first['next_cursor']}").body
    assert [task["task_id"] for task in rest["tasks"]] == ["a"]
    assert rest["next_cursor"] is None
    created = first["tasks"][0]["created_at"]
    since = ask(server, f"/api/tasks?since={created}").body["tasks"]
    assert [task["task_id"] for task in since] == ["c"]
    for field, value in {"since": "now", "cursor": "x", "status": "done"}.items():
        wrong = ask(server, f"/api/tasks?{field}={value}")
        assert (wrong.status, wrong.body["error"]["field"]) == (422, field)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_no_body_makes_the_server_fail(
    make_studio: Callable[..., Studio],
    make_server: Callable[..., Server],
    database: str,
) -> None:
    """On PostgreSQL, which takes fewer texts than SQLite does."""
    studio = make_studio(database=database)
    server = make_server(studio)
    studio.put_content("post", {})
    nul, half = "a\0b", "\ud800"
    nested: Any = "x"
    for _ in range(400):
        nested = [nested]
    hostile: list[Any] = [nul, half, nested, 10**400, True, {}, [half], [nul]]
    for wrong in hostile:
        for field in (
            "reviewer_id",
            "human_feedback",
            "featured_image_url",
            "image",
            "tags",
            "expect_version",
        ):
            answer = decide(server, "post", approved=False, **{field: wrong})
            assert answer.status in (200, 409, 422), (field, wrong, answer)
        for metadata in ({"image_url": wrong}, {"result": f'{{"image": "{half}"}}'}):
            content = {"task_metadata": metadata}
            assert ask(server, f"{CONTENT}/a", content, method="PUT").status < 500
            decide(server, "a", undo=True, expect_version=studio.review("a").version)
            approved = decide(server, "a", approved=True)
            assert approved.status in (200, 409), (metadata, approved)
    for address in (
        "/api/batches/%00",
        "/api/tasks?text=%00",
        "/api/tasks?since=0001-01-01T00:00:00%2B14:00",
        "/api/tasks?since=9999-12-31T23:59:59-14:00",
    ):
        assert ask(server, address).status in (200, 404, 422), address
    image = {"prompt": "a cat", "image": "data:image/png;base64,\u00e9"}
    assert ask(server, "/api/media/generate", image).status == 422


def test_a_wrong_item_of_a_bulk_harms_no_other(studio: Studio, server: Server) -> None:
    studio.put_content("post", {})
    items = [
        {"task_id": "post", "approved": True, "reviewer_id": "ada"},
        {"task_id": "\ud800", "approved": True, "reviewer_id": "ada"},
        {"task_id": ["x"], "approved": True, "reviewer_id": "a\0b"},
    ]
    answer = ask(server, f"{CONTENT}/bulk-decide", {"decisions": items})
    assert answer.status == 207
    assert [result["status"] for result in answer.body["results"]] == [200, 422, 422]
    assert answer.body["results"][1]["task_id"] is None


def test_publications_can_be_looked_at(
    make_studio: Callable[..., Studio],
    make_server: Callable[..., Server],
    tmp_path: Path,
) -> None:
    """Also one that fails, long after the approval was answered."""
    place = tmp_path / "out"
    place.write_text("in the way")
    studio = make_studio(publishers=[FolderPublisher(place)])
    server = make_server(studio)
    studio.generate("a cat", task_id="cat").result(30)
    decide(server, "cat", approved=True)
    [shown] = ask(server, "/api/tasks/cat").body["publications"]
    assert (shown["publisher"], shown["state"], shown["attempts"]) == (
        "folder",
        "pending",
        1,
    )
    assert "could not be published" in shown["error"]
    studio.put_content("cat", {})
    assert ask(server, f"{CONTENT}/cat").body["publications"] == [shown]
