"""The HTTP API, asked as an outside client would."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from nbgen.errors import (
    EngineFailed,
    InvalidRequest,
    NbgenError,
    PortTaken,
    UnknownTask,
)
from nbgen.generation.checkpoints import TINY_FOLDER
from nbgen.local.backend import LocalBackend
from nbgen.schema import Decision, GenerationRequest
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.testing import Gate, PatternEngine
from tests.generation.recorder import to_png
from tests.server.client import ask

MakeStudio = Callable[..., Studio]
MakeServer = Callable[..., Server]

GENERATE = "/api/media/generate"
A_PNG = to_png(Image.new("RGB", (8, 8), "red"))


def error_of(answer: Any) -> tuple[int, str, str | None]:
    error = answer.body["error"]
    assert set(error) <= {"code", "message", "field", "details"}
    assert "Traceback" not in error["message"]
    return answer.status, error["code"], error.get("field")


@pytest.mark.parametrize("path", [GENERATE, "/api/media/generate-image"])
def test_generate_answers_when_the_picture_is_there(server: Server, path: str) -> None:
    body = {"prompt": "a cat", "task_id": "a", "count": 3, "style": "x", "title": "y"}
    answer = ask(server, path, body)
    assert answer.status == 200
    assert answer.body["success"] is True
    assert (answer.body["task_id"], answer.body["message"]) == ("a", "Done")
    assert answer.body["generation_time"] > 0
    url = answer.body["image_url"]
    assert answer.body["image"] == {
        "url": url,
        "source": "sdxl",
        "width": 64,
        "height": 64,
    }
    picture = ask(server, url)
    assert picture.body.startswith(b"\x89PNG")
    assert picture.headers["Content-Type"] == "image/png"
    assert "immutable" in picture.headers["Cache-Control"]
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    etag = {"If-None-Match": picture.headers["ETag"]}
    assert ask(server, url, headers=etag).status == 304
    assert ask(server, url, method="HEAD").body == b""


def test_a_full_queue_is_429(tmp_path: Path, make_server: MakeServer) -> None:
    with Studio(tmp_path / "full", engine=PatternEngine(), queue_limit=0) as studio:
        answer = ask(make_server(studio), GENERATE, {"prompt": "a cat"})
    assert error_of(answer) == (429, "queue_full", None)


def test_a_request_that_is_repeated_with_its_key_makes_one_task(
    studio: Studio, server: Server
) -> None:
    body, key = {"prompt": "a cat"}, {"Idempotency-Key": "8e03978e-40d5"}
    first = ask(server, GENERATE, body, headers=key)
    again = ask(server, GENERATE, body, headers=key)
    assert first.body["task_id"] == again.body["task_id"]
    assert [record.id for record in studio.tasks()] == [first.body["task_id"]]
    other = ask(server, GENERATE, {"prompt": "a dog"}, headers=key)
    assert error_of(other) == (409, "task_conflict", None)
    both = ask(server, GENERATE, {**body, "task_id": "a"}, headers=key)
    assert error_of(both) == (422, "invalid_request", "Idempotency-Key")
    long = ask(server, GENERATE, body, headers={"Idempotency-Key": "a" * 256})
    assert error_of(long) == (422, "invalid_request", "Idempotency-Key")


def test_files_of_other_kinds(server: Server) -> None:
    for kind, start in (("webp", b"RIFF"), ("jpeg", b"\xff\xd8")):
        body = {"prompt": "a cat", "output_format": kind, "metadata": "none"}
        picture = ask(server, ask(server, GENERATE, body).body["image_url"])
        assert picture.headers["Content-Type"] == f"image/{kind}"
        assert picture.body.startswith(start)


def test_a_picture_to_start_from_is_sent_or_named(
    studio: Studio, server: Server
) -> None:
    url = "data:image/png;base64," + base64.b64encode(A_PNG).decode()
    body = {"prompt": "a cat", "image": url, "mask": url, "task_id": "a"}
    made = ask(server, GENERATE, body)
    assert made.status == 200
    request = studio.task("a").request
    assert request.image == request.mask
    assert studio.image_path(request.image or "") is not None
    named = {"prompt": "a cat", "image": made.body["image_url"], "task_id": "b"}
    assert ask(server, GENERATE, named).status == 200


@pytest.mark.parametrize(
    "image",
    [
        "data:image/png;base64,!",
        "data:image/png;base64,AAAA",
        "data:text",
        "/etc/passwd",
        "/images/" + "0" * 32 + ".png",
        5,
    ],
)
def test_what_is_no_picture_is_refused(
    studio: Studio, server: Server, image: object
) -> None:
    """Above all a path: no client may read the server's files."""
    answer = ask(server, GENERATE, {"prompt": "a cat", "image": image})
    assert error_of(answer) == (422, "invalid_request", "image")
    assert studio.tasks() == []


def test_a_wrong_flag_keeps_no_picture(server: Server, tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(A_PNG).decode()
    body = {"prompt": "a cat", "image": url, "wait": "no"}
    assert error_of(ask(server, GENERATE, body)) == (422, "invalid_request", "wait")
    assert not list(tmp_path.rglob("*.png"))


def test_generation_that_is_not_asked_for(studio: Studio, server: Server) -> None:
    body = {"prompt": "a cat", "use_generation": False, "task_id": "of another/kind"}
    answer = ask(server, GENERATE, body)
    assert (answer.status, answer.body["success"]) == (200, False)
    assert (answer.body["image_url"], answer.body["image"]) == ("", None)
    assert studio.tasks() == []


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"wait": False}, {}), ({}, {"Prefer": "respond-async"})],
)
def test_generate_without_waiting(
    server: Server, body: dict[str, Any], headers: dict[str, str]
) -> None:
    body = {"prompt": "a cat", "task_id": "a", **body}
    answer = ask(server, GENERATE, body, headers=headers)
    assert (answer.status, answer.body["task_id"]) == (202, "a")
    assert answer.headers["Location"] == answer.body["links"]["self"] == "/api/tasks/a"
    assert ask(server, answer.body["links"]["self"]).body["task_id"] == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": 20.5},
        {"guidance_scale": 21},
        {"width": 1001},
        {"prompt": ""},
        {"prompt": None},
        {"prompt": "x" * 100_000},
        {"task_id": "a/b"},
        {"task_id": 7},
        {"use_refinement": "yes"},
        {"use_generation": 1},
        {"high_quality": "yes"},
        {"wait": "no"},
    ],
)
def test_a_wrong_input_is_named(
    studio: Studio, server: Server, wrong: dict[str, Any]
) -> None:
    answer = ask(server, GENERATE, {"prompt": "a cat", **wrong})
    [field] = wrong
    assert error_of(answer) == (422, "invalid_request", field)
    assert answer.body["error"]["message"].startswith(f"{field} must be ")
    assert len(answer.body["error"]["message"]) < 300
    assert studio.tasks() == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "bad_request", None)),
        (b"", (400, "bad_request", None)),
        (b"\xff", (400, "bad_request", None)),
        (b"[" * 20_000, (400, "bad_request", None)),
        (b"[]", (422, "invalid_request", "body")),
        (b"{}", (422, "invalid_request", "prompt")),
    ],
)
def test_a_body_that_is_none(server: Server, body: bytes, expected: Any) -> None:
    assert error_of(ask(server, GENERATE, body, method="POST")) == expected


def test_the_same_id_twice(server: Server, studio: Studio) -> None:
    body = {"prompt": "a cat", "task_id": "a"}
    first, again = ask(server, GENERATE, body), ask(server, GENERATE, body)
    assert first.body == again.body
    other = ask(server, GENERATE, {**body, "prompt": "a dog"})
    assert error_of(other) == (409, "task_conflict", None)
    assert len(studio.tasks()) == 1


def test_a_failure_is_said_and_not_an_error_of_http(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    def fail(_step: int) -> None:
        raise NbgenError("The model is missing. Put it back.")

    answer = ask(make_server(make_studio(fail)), GENERATE, {"prompt": "a cat"})
    assert (answer.status, answer.body["success"]) == (200, False)
    assert answer.body["message"] == "The model is missing. Put it back."
    assert answer.body["image_url"] == ""


def test_cancel_over_http(make_studio: MakeStudio, make_server: MakeServer) -> None:
    gate = Gate()
    studio = make_studio(gate)
    server = make_server(studio)
    ask(server, GENERATE, {"prompt": "a cat", "task_id": "a", "wait": False})
    ask(server, GENERATE, {"prompt": "a dog", "task_id": "b", "wait": False})
    waiting = ask(server, "/api/tasks/b/cancel", {})
    assert (waiting.body["status"], waiting.body["outcome"]) == ("failed", "cancelled")
    assert ask(server, "/api/tasks/a/cancel", {}).status == 200
    gate.open()
    answer = ask(server, GENERATE, {"prompt": "a cat", "task_id": "a"})
    assert answer.body["success"] is False
    assert answer.body["message"].startswith("Cancelled at step 0 of 50")
    assert error_of(ask(server, "/api/tasks/c/cancel", {})) == (
        404,
        "unknown_task",
        None,
    )


def test_delete_over_http(make_studio: MakeStudio, make_server: MakeServer) -> None:
    gate = Gate()
    studio = make_studio(gate)
    server = make_server(studio)
    ask(server, GENERATE, {"prompt": "a cat", "task_id": "a", "wait": False})
    busy = ask(server, "/api/tasks/a?force=true", method="DELETE")
    assert error_of(busy) == (409, "task_not_ended", None)
    gate.open()
    ask(server, GENERATE, {"prompt": "a cat", "task_id": "a"})
    ask(server, approve_path("a"), {"approved": True, "reviewer_id": "ada"})
    kept = ask(server, "/api/tasks/a", method="DELETE")
    assert error_of(kept) == (409, "task_protected", None)
    assert "?force=true" in kept.body["error"]["message"]
    unclear = ask(server, "/api/tasks/a?force=yes", method="DELETE")
    assert error_of(unclear) == (422, "invalid_request", "force")
    gone = ask(server, "/api/tasks/a?force=true", method="DELETE")
    assert (gone.status, gone.body) == (204, b"")
    for method in ("GET", "DELETE"):
        again = ask(server, "/api/tasks/a", method=method)
        assert error_of(again) == (404, "unknown_task", None)
    assert ask(server, "/api/tasks/a%20b", method="DELETE").status == 422


def test_a_client_that_hangs_up_does_not_stop_the_task(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    studio = make_studio(gate)
    server = make_server(studio)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", GENERATE, '{"prompt": "a cat", "task_id": "a"}')
    gate.wait_reached()
    connection.close()
    gate.open()
    studio.task("a").result(10)
    assert ask(server, "/health").status == 200


def test_a_batch_is_followed(studio: Studio, server: Server) -> None:
    request = GenerationRequest(prompt="a cat", num_inference_steps=5)
    studio.submit_batch({"a": request, "b": request}, batch_id="pets").result(10)
    studio.generate("a dog", num_inference_steps=5).result(10)
    progress = ask(server, "/api/batches/pets")
    assert progress.status == 200
    assert (progress.body["total"], progress.body["succeeded"]) == (2, 2)
    assert progress.body["percentage"] == 100.0
    tasks = ask(server, "/api/tasks?batch_id=pets").body["tasks"]
    assert [(task["task_id"], task["batch_row"]) for task in tasks] == [
        ("pets:b", "b"),
        ("pets:a", "a"),
    ]
    unknown = ask(server, "/api/batches/cows")
    assert unknown.status == 404
    assert unknown.body["error"]["code"] == "unknown_batch"


def test_tasks_are_listed(studio: Studio, server: Server) -> None:
    for name in "abc":
        studio.generate(f"a cat {name}", task_id=name, seed=7).result(10)
    tasks = ask(server, "/api/tasks?limit=2").body["tasks"]
    assert [task["task_id"] for task in tasks] == ["c", "b"]
    single = [ask(server, f"/api/tasks/{name}").body for name in "cb"]
    assert [body.pop("publications") for body in single] == [[], []]
    assert tasks == single
    assert (tasks[0]["seed"], tasks[0]["approval_status"]) == (7, "pending")
    assert tasks[0]["request"]["prompt"] == "a cat c"
    for limit in ("0", "1001", "9" * 5_000, "x"):
        wrong = ask(server, f"/api/tasks?limit={limit}")
        assert error_of(wrong) == (422, "invalid_request", "limit")


@pytest.mark.parametrize("path", [GENERATE, "/nope"])
def test_a_body_that_is_too_large(server: Server, path: str) -> None:
    large = b"x" * (1024 * 1024 + 1)
    assert error_of(ask(server, path, large)) == (413, "too_large", None)
    assert ask(server, "/health").status == 200


@pytest.mark.parametrize("length", ["9" * 18, "9" * 5_000, "-1", "x"])
def test_a_length_that_cannot_be_ends_the_connection_in_silence(
    server: Server, length: str, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", GENERATE)
    connection.putheader("Content-Length", length)
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()
    assert ask(server, "/health").status == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/tasks/nope", (404, "unknown_task", None)),
        ("GET", "/api/tasks/a%2Fb", (422, "invalid_request", "task_id")),
        ("GET", "/api/nope", (404, "not_found", None)),
        ("DELETE", "/api/tasks", (405, "method_not_allowed", None)),
        ("GET", "/images/nope.png", (404, "not_found", None)),
        ("GET", "/images/..%2Fnbgen.sqlite", (404, "not_found", None)),
        ("GET", "/ws/image-generation/a", (426, "websocket_required", None)),
    ],
)
def test_every_error_is_json(
    server: Server, method: str, path: str, expected: Any
) -> None:
    assert error_of(ask(server, path, method=method)) == expected


def test_a_fault_of_ours_shows_no_traceback(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(LocalBackend, "list_tasks", fail)
    answer = ask(server, "/api/tasks")
    assert error_of(answer) == (500, "internal_error", None)
    assert "secret" not in json.dumps(answer.body)


def test_what_is_no_text_and_not_ours_is_ignored(server: Server) -> None:
    assert ask(server, "/api/tasks?x=%ff").status == 200


def test_a_damaged_picture_is_an_error_and_not_a_picture(
    studio: Studio, server: Server
) -> None:
    task = studio.generate("a cat", task_id="a")
    [image] = task.result(30).images
    assert ask(server, image.url).status == 200
    task.image_paths[0].write_bytes(b"not a picture")
    answer = ask(server, image.url)
    assert (answer.status, answer.body["error"]["code"]) == (409, "picture_damaged")
    assert answer.body["error"]["details"] == {"name": image.name}
    assert "same request and seed" in answer.body["error"]["message"]
    body = {"approved": True, "reviewer_id": "ada"}
    refused = ask(server, approve_path("a"), body)
    assert (refused.status, refused.body["error"]["code"]) == (409, "picture_damaged")


def test_health_says_that_the_data_folder_has_vanished(
    make_studio: Callable[..., Studio],
    make_server: Callable[..., Server],
    tmp_path: Path,
) -> None:
    studio = make_studio()
    server = make_server(studio)
    [database] = tmp_path.rglob("nbgen.sqlite")
    away = database.parent.rename(tmp_path / "away")
    answer = ask(server, "/health")
    assert (answer.status, answer.body["status"]) == (503, "unhealthy")
    assert "The data folder has vanished" in answer.body["message"]
    assert str(tmp_path) not in answer.body["message"]
    refused = ask(server, "/api/media/generate", {"prompt": "a cat", "wait": False})
    assert error_of(refused)[:2] == (503, "data_folder_unusable")
    away.rename(database.parent)
    assert ask(server, "/health").body == {"status": "healthy"}


def test_of_an_engine_of_ones_own_no_model_is_told(server: Server) -> None:
    answer = ask(server, "/api/model")
    assert (answer.status, answer.body) == (200, {"model": None})


def test_health(server: Server) -> None:
    for path in ("/health", "/api/media/health"):
        answer = ask(server, path)
        assert (answer.status, answer.body) == (200, {"status": "healthy"})


def approve_path(task_id: str) -> str:
    return f"/api/content/tasks/{task_id}/approve"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_approve(studio: Studio, server: Server, method: str) -> None:
    result = studio.generate("a cat", task_id="a").result(10)
    body = {"approved": True, "human_feedback": "Lovely", "reviewer_id": "ada"}
    answer = ask(server, approve_path("a"), body, method=method)
    assert answer.status == 200
    timestamp = answer.body.pop("approval_timestamp")
    assert timestamp.endswith("+00:00")
    decision = answer.body.pop("decision")
    assert msgspec.convert(decision, Decision) == studio.decisions("a")[0]
    assert answer.body == {
        "task_id": "a",
        "approval_status": "approved",
        "featured_image_url": result.images[0].url,
        "published_url": None,
        "reviewer_id": "ada",
        "message": "Approved by ada.",
        "version": 1,
    }
    again = ask(server, approve_path("a"), body)
    assert again.body == {
        **answer.body,
        "approval_timestamp": timestamp,
        "decision": decision,
    }
    agreed = ask(server, approve_path("a"), {"approved": True, "reviewer_id": "bob"})
    assert agreed.body["reviewer_id"] == "bob"
    assert agreed.body["featured_image_url"] == result.images[0].url
    assert again.body["reviewer_id"] == "ada"
    against = ask(server, approve_path("a"), {**body, "approved": False})
    assert error_of(against) == (409, "decision_conflict", None)
    assert ask(server, "/api/tasks/a").body["decision"]["feedback"] == "Lovely"


def test_false_never_approves(studio: Studio, server: Server) -> None:
    studio.generate("a cat", task_id="a").result(10)
    body = {"approved": False, "reviewer_id": "ada", "human_feedback": "Too dark"}
    answer = ask(server, approve_path("a") + "?approved=true", body)
    assert answer.body["approval_status"] == "rejected"
    assert answer.body["featured_image_url"] is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "invalid_request", "approved")),
        ({"approved": "true"}, (422, "invalid_request", "approved")),
        ({"approved": 1}, (422, "invalid_request", "approved")),
        ({"approved": True}, (422, "invalid_request", "reviewer_id")),
        (
            {"approved": True, "reviewer_id": "ada", "human_feedback": 5},
            (422, "invalid_request", "human_feedback"),
        ),
        (
            {"approved": True, "reviewer_id": "ada", "featured_image_url": ""},
            (422, "invalid_request", "featured_image_url"),
        ),
    ],
)
def test_a_wrong_decision_decides_nothing(
    studio: Studio, server: Server, body: dict[str, Any], expected: Any
) -> None:
    studio.generate("a cat", task_id="a").result(10)
    assert error_of(ask(server, approve_path("a"), body)) == expected
    assert studio.get_record("a").approval_status == "pending"


def test_what_cannot_be_approved(
    make_studio: MakeStudio, make_server: MakeServer
) -> None:
    gate = Gate()
    gate.release()
    studio = make_studio(gate)
    server = make_server(studio)
    body = {"approved": True, "reviewer_id": "ada"}
    assert error_of(ask(server, approve_path("nope"), body))[:2] == (
        404,
        "unknown_task",
    )
    done = studio.generate("a cat", task_id="done")
    done.result(10)
    done.image_paths[0].unlink()
    assert error_of(ask(server, approve_path("done"), body))[:2] == (
        422,
        "featured_image_missing",
    )
    assert studio.get_record("done").approval_status == "pending"
    studio.generate("a cat", task_id="running")
    assert error_of(ask(server, approve_path("running"), body))[:2] == (
        409,
        "decision_conflict",
    )
    gate.open()


def test_an_unknown_checkpoint_fails_visibly(
    tmp_path: Path, make_server: MakeServer
) -> None:
    """A model that went away after the start is said to every client."""
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    # On a thread, which loads no model before it is needed.
    with Studio(tmp_path / "data", checkpoint=folder, worker="thread") as studio:
        (folder / "model_index.json").unlink()
        answer = ask(make_server(studio), GENERATE, {"prompt": "a cat"})
    assert (answer.status, answer.body["success"]) == (200, False)
    assert "is not a checkpoint: it has no model_index.json" in answer.body["message"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:3000", True),
        ("https://app.example.org", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://app.example.org", False),
        ("null", False),
    ],
)
def test_origins(
    studio: Studio, make_server: MakeServer, origin: str, allowed: bool
) -> None:
    server = make_server(studio, allow_origins=["https://app.example.org"])
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    preflight = ask(server, GENERATE, method="OPTIONS", headers=headers)
    shown = preflight.headers["Access-Control-Allow-Origin"]
    assert shown == (origin if allowed else None)
    assert preflight.headers["Vary"] == "Origin"
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    answer = ask(server, GENERATE, {"prompt": "a cat"}, headers=headers)
    assert answer.status == (200 if allowed else 403)
    upgrade = {
        **headers,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/ws/image-generation/a", headers=upgrade)
    assert connection.getresponse().status == (101 if allowed else 403)
    connection.close()


def test_another_host_name_is_refused(server: Server) -> None:
    """A page whose name was made to resolve to this machine reads nothing."""
    answer = ask(server, "/api/tasks", headers={"Host": "evil.example"})
    assert error_of(answer) == (421, "wrong_host", None)
    local = {"Host": f"localhost:{server.port}"}
    assert ask(server, "/api/tasks", headers=local).status == 200


def test_a_token_is_wanted_by_all(studio: Studio, make_server: MakeServer) -> None:
    server = make_server(studio, token="s3cret")
    for path in ("/api/tasks", "/health", "/images/x.png", "/ws/image-generation/a"):
        assert error_of(ask(server, path)) == (401, "access_denied", None)
        wrong = {"Authorization": "Bearer wrong"}
        answer = ask(server, path, headers=wrong)
        assert error_of(answer) == (403, "access_denied", None)
    right = {"Authorization": "Bearer s3cret"}
    assert ask(server, "/api/tasks", headers=right).status == 200
    assert ask(server, "/api/tasks?token=s3cret").status == 200


def test_beyond_loopback_a_token_is_needed(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match=r"--token or NBGEN_TOKEN") as raised:
        Server(studio, host="0.0.0.0")
    assert raised.value.field == "token"


@pytest.mark.parametrize("origin", ["*", "example.org", "https://a.org/path", ""])
def test_an_origin_that_is_none(studio: Studio, origin: str) -> None:
    with pytest.raises(InvalidRequest, match="allow_origins must be origins such as"):
        Server(studio, allow_origins=[origin])


@pytest.mark.timeout(20)
def test_a_port_that_is_taken(studio: Studio, server: Server) -> None:
    """The server's loop cannot begin, and ``start`` does not wait for it."""
    second = Server(studio, port=server.port)
    with pytest.raises(
        PortTaken, match=r"Cannot listen.*Choose another port with --port"
    ):
        second.start()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("nbgen-server") == 1
    second.close()
    server.close()
    second.start()
    assert ask(second, "/health").status == 200
    second.close()


def test_an_error_of_ours_is_logged(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[NbgenError] = [UnknownTask("a"), EngineFailed("It broke.")]

    def fail(*_arguments: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(LocalBackend, "list_tasks", fail)
    assert error_of(ask(server, "/api/tasks")) == (404, "unknown_task", None)
    assert caplog.records == []
    assert error_of(ask(server, "/api/tasks")) == (500, "engine_failed", None)
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], EngineFailed)
