"""The real pipelines, on the checkpoint that comes with nbgen, seen over the socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from websockets.sync.client import connect

from nbgen.server import Server
from nbgen.studio import Studio
from tests.server.client import ask, socket_url
from tests.server.test_progress_socket import read, read_all


def test_the_server_says_which_model_it_has(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    with Studio(tmp_path, checkpoint="tiny") as studio:
        server = make_server(studio)
        task = studio.generate("a red circle", num_inference_steps=2)
        task.result(100)
        answer = ask(server, "/api/model")
        made_with = task.record.made_with
    assert answer.status == 200
    model = answer.body["model"]
    assert (model["name"], model["native_size"]) == ("tiny", [128, 128])
    assert model["sizes"] == [{"ratio": "1:1", "width": 128, "height": 128}]
    assert (model["prompt_limit"], model["has_refiner"]) == (38, True)
    assert model["device"] == made_with["device"]


def test_sdxl_tells_every_step_and_shows_its_picture(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    with Studio(tmp_path, checkpoint="tiny") as studio:
        server = make_server(studio)
        with connect(socket_url(server, "hero-1")) as client:
            assert read(client)["type"] == "status"
            studio.generate(
                "a red circle", task_id="hero-1", num_inference_steps=10, seed=7
            ).result(100)
            messages, code = read_all(client)
        steps: dict[int, str] = {}
        for message in messages:
            steps.setdefault(message["current_step"], message["current_stage"])
        assert list(steps) == list(range(11))
        stages = [steps[step] for step in range(1, 11)]
        assert stages == sorted(stages)
        assert set(stages) == {"base_model", "refiner_model"}
        assert [m["status"] for m in messages].count("completed") == 1
        assert (messages[-1]["percentage"], code) == (100.0, 1000)
        [image] = messages[-1]["result"]["images"]
        assert ask(server, image["url"]).body.startswith(b"\x89PNG")
