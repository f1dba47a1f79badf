"""Each field of a request and of a decision can be reached from everywhere.

Whoever adds a field to ``GenerationRequest`` or ``DecisionRequest`` finds here what
lacks it. What may lack a field is named below, with the reason.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from nbgen.cli.terminal import app
from nbgen.schema import (
    DECISION_FIELDS,
    PICTURE_FIELDS,
    REQUEST_FIELDS,
    DecisionRequest,
    GenerationRequest,
    Verdict,
)
from nbgen.server import Server
from nbgen.studio import Studio
from nbgen.widgets import GenerationPanel
from nbgen.widgets.request_form import RequestForm
from tests.schema.page import documented
from tests.schema.values import all_changed
from tests.server.client import ask
from tests.widgets.driver import Driver

REQUEST_NOT_IN = {
    "options": {
        "output_format": "the ending of --output says it",
    },
    "controls": {
        "image": "kept from the task or the arguments, and named in a line",
        "mask": "likewise",
    },
}

DECISION_NOT_IN = {
    "tables": {
        "expect_version": "it guards the taking of a decision, and is not recorded",
    },
    "HTTP": {
        "verdict": "it is approved: true or false; changes are requested in Python",
        "task_id": "it is in the address",
    },
    "approve": {"verdict": "it is the command"},
    "reject": {"verdict": "it is the command"},
    "panel": {
        "task_id": "it is that of the task that is shown",
        "verdict": "it is the button",
        "tags": "the panel asks for words in the feedback",
        "image": "the first picture is meant",
        "featured_image_url": "likewise",
        "expect_version": "a panel overrules nobody",
    },
}

WIRE_NAMES = {"feedback": "human_feedback"}
OPTION_NAMES = {"reviewer_id": "reviewer", "tags": "tag"}


@pytest.fixture
def picture(studio: Studio) -> str:
    """Return the name of a picture that the studio keeps."""
    return studio.keep_picture("image", Image.new("RGB", (80, 72), "red"))


def options_of(command: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return {option.name: option for option in group.commands[command].params}


def test_a_request_in_python(studio: Studio, picture: str) -> None:
    fields = all_changed(REQUEST_FIELDS, picture)
    for function in (Studio.generate, GenerationPanel):
        assert REQUEST_FIELDS.keys() <= inspect.signature(function).parameters.keys()
    studio.pause()
    assert studio.generate(**fields).request == GenerationRequest(**fields)


def test_a_request_over_http(studio: Studio, server: Server, picture: str) -> None:
    fields = all_changed(REQUEST_FIELDS, picture)
    studio.pause()
    ask(server, "/api/media/generate", {**fields, "task_id": "a", "wait": False})
    assert studio.get_record("a").request == GenerationRequest(**fields)


def test_a_request_in_tables(studio: Studio, picture: str) -> None:
    fields = all_changed(REQUEST_FIELDS, picture)
    studio.pause()
    studio.generate(**fields)
    [row] = studio.tasks_frame().to_dict("records")
    assert {name: row[name] for name in REQUEST_FIELDS} == fields


def test_a_request_on_the_command_line() -> None:
    lacking = REQUEST_FIELDS.keys() - options_of("generate").keys()
    assert lacking == REQUEST_NOT_IN["options"].keys()


def test_a_request_in_a_panel(studio: Studio, picture: str) -> None:
    """Generate in a panel that is attached to a task makes the same request again."""
    fields = all_changed(REQUEST_FIELDS, picture)
    studio.pause()
    first = studio.generate(**fields, task_id="a")
    panel = GenerationPanel(studio, "a")
    try:
        driver = Driver(panel)
        controls = {
            name
            for name, field in REQUEST_FIELDS.items()
            if driver.all_labelled(field.label)
        }
        lacking = REQUEST_FIELDS.keys() - controls
        assert lacking == REQUEST_NOT_IN["controls"].keys() == set(PICTURE_FIELDS)
        assert f"image {picture[:8]}….png" in driver.text()
        driver.labelled("Task id").value = "b"
        again = panel.generate()
    finally:
        panel.close()
    assert again.id == "b"
    assert again.request == first.request == GenerationRequest(**fields)


def test_a_form_shows_the_defaults() -> None:
    asked = RequestForm({"prompt": "a cat"}).values()
    assert asked.pop("task_id") is None
    assert GenerationRequest(**asked) == GenerationRequest(prompt="a cat")


@pytest.mark.parametrize(
    ("heading", "fields", "names"),
    [
        ("### Generate", REQUEST_FIELDS, {}),
        ("### Approve or reject", DECISION_FIELDS, WIRE_NAMES),
    ],
)
def test_the_protocol_page_has_each_field(
    heading: str, fields: dict[str, Any], names: dict[str, str]
) -> None:
    called = {names.get(name, name) for name in fields}
    exceptions = DECISION_NOT_IN["HTTP"] if fields is DECISION_FIELDS else {}
    assert called - documented(heading).keys() == exceptions.keys()


def test_a_decision_in_python() -> None:
    assert DECISION_FIELDS.keys() <= inspect.signature(Studio.decide).parameters.keys()


def test_a_decision_over_http_and_in_tables(studio: Studio, server: Server) -> None:
    made = studio.generate("a cat", task_id="a", num_inference_steps=3).result(10)
    fields = all_changed(DECISION_FIELDS, made.images[0].name)
    fields |= {"task_id": "a", "expect_version": 0, "verdict": Verdict.APPROVED}
    body = {WIRE_NAMES.get(name, name): value for name, value in fields.items()}
    for name in DECISION_NOT_IN["HTTP"]:
        del body[name]
    path = "/api/content/tasks/a/approve"
    assert ask(server, path, {**body, "approved": True}).status == 200
    [decision] = studio.decisions()
    recorded = DECISION_FIELDS.keys() - DECISION_NOT_IN["tables"].keys()
    asked = DecisionRequest(**fields)
    for name in recorded:
        assert getattr(decision, name) == getattr(asked, name)
    columns = {name: name for name in recorded} | {"image": "image_name"}
    [row] = studio.decisions_frame().to_dict("records")
    shown = {name: row[column] for name, column in columns.items()}
    assert shown == {name: fields[name] for name in recorded} | {
        "tags": "; ".join(fields["tags"])
    }


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_a_decision_on_the_command_line(command: str) -> None:
    options = options_of(command)
    called = {
        name for name in DECISION_FIELDS if OPTION_NAMES.get(name, name) in options
    }
    assert DECISION_FIELDS.keys() - called <= DECISION_NOT_IN[command].keys()


def test_a_decision_in_a_panel(studio: Studio) -> None:
    studio.generate("a cat", task_id="a", num_inference_steps=3).result(10)
    panel = GenerationPanel(studio, "a")
    try:
        driver = Driver(panel)
        driver.until_text("seed ")
        lacking = {
            name
            for name, field in DECISION_FIELDS.items()
            if not driver.all_labelled(field.label)
        }
    finally:
        panel.close()
    assert lacking == DECISION_NOT_IN["panel"].keys()


def test_a_kept_picture_is_named_whatever_it_is(tmp_path: Path) -> None:
    red = Image.new("RGB", (64, 64), "red")
    path = tmp_path / "a red square.png"
    red.save(path)
    for source, said in (
        (red, "image (Image)"),
        (path, "image a red square.png"),
        (path.read_bytes(), "image of "),
    ):
        form = RequestForm({"prompt": "a cat", "image": source})
        assert said in Driver(form).text()
        assert form.values()["image"] is source
