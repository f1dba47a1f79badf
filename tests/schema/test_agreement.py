"""Limits and defaults are the same wherever they are shown."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import operator
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Required, get_origin, get_type_hints

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nbgen.backend import Running
from nbgen.cli.terminal import app
from nbgen.errors import InvalidRequest
from nbgen.frames.batch import generate_frame
from nbgen.handles.task import Task
from nbgen.schema import (
    DECISION_FIELDS,
    PICTURE_FIELDS,
    REQUEST_FIELDS,
    Decision,
    DecisionFields,
    DecisionRequest,
    GenerationRequest,
    RequestFields,
    TaskQuery,
    Verdict,
    check_field,
    check_request_names,
    decision_of,
    describe_request,
    make_decision_request,
    says_the_same,
    takes_request_fields,
)
from nbgen.schema.checks import HIGHEST_PRIORITY, MOST_LISTED, check_priority
from nbgen.schema.fields import Field
from nbgen.studio import Studio
from nbgen.widgets.request_form import RequestForm
from tests.schema.page import documented
from tests.schema.values import all_changed
from tests.widgets.driver import Driver

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
PICTURE = "0123456789abcdef0123456789abcdef.png"
BOUNDED = [
    (name, field)
    for name, field in REQUEST_FIELDS.items()
    if field.kind in (int, float)
]


class AnyPicture:
    """Stands for the types that a picture may have."""


def properties(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of each field."""
    [_], parts = msgspec.json.schema_components([struct], ref_template="{name}")
    found: dict[str, Any] = parts[struct.__name__]["properties"]
    return found


def number_schema(name: str) -> dict[str, Any]:
    """Return the part of a field's JSON schema that says which numbers it takes."""
    whole: dict[str, Any] = properties(GenerationRequest)[name]
    kinds = whole.get("anyOf", [whole])
    [found] = [kind for kind in kinds if kind["type"] != "null"]
    return dict(found)


def admits(schema: Mapping[str, Any], number: float) -> bool:
    """Say whether a JSON schema admits a number."""
    bounds: dict[str, Callable[[float, float], bool]] = {
        "minimum": operator.ge,
        "maximum": operator.le,
        "exclusiveMinimum": operator.gt,
        "exclusiveMaximum": operator.lt,
        "multipleOf": lambda whole, multiple: whole % multiple == 0,
    }
    return all(
        holds(number, schema[key]) for key, holds in bounds.items() if key in schema
    )


def near(field: Field) -> st.SearchStrategy[Any]:
    """Return numbers of a field's kind, many of them near its limits."""
    limits = [limit for key, limit in field.limits.items() if key != "multiple_of"]
    steps = st.integers(-20, 20)
    whole = st.tuples(st.sampled_from([int(x) for x in limits]), steps).map(sum)
    if field.kind is int:
        return whole | st.integers()
    return whole | st.floats(allow_nan=False) | st.floats(-0.5, 21)


@pytest.mark.parametrize(("name", "field"), BOUNDED)
@given(data=st.data())
def test_the_json_schema_admits_what_a_request_takes(
    name: str, field: Field, data: st.DataObject
) -> None:
    number = data.draw(near(field))
    admitted = admits(number_schema(name), number)
    refused = None
    try:
        GenerationRequest(**{"prompt": "a cat", name: number})
    except InvalidRequest as error:
        refused = error.field
    assert refused == (None if admitted else name)


@given(
    values=st.fixed_dictionaries(
        {}, optional={name: near(field) for name, field in BOUNDED}
    )
)
def test_what_a_body_may_hold_is_what_a_request_takes(values: dict[str, Any]) -> None:
    """Decoding JSON applies the same limits as making a request in Python."""
    body = {"prompt": "a cat", **values}
    try:
        request = GenerationRequest(**body)
    except InvalidRequest:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(body, GenerationRequest)
    else:
        assert msgspec.convert(body, GenerationRequest) == request


@pytest.mark.parametrize("struct", [GenerationRequest, DecisionRequest])
def test_the_json_schema_has_labels_help_and_defaults(
    struct: type[msgspec.Struct],
) -> None:
    fields = REQUEST_FIELDS if struct is GenerationRequest else DECISION_FIELDS
    schema = properties(struct)
    assert schema.keys() == fields.keys()
    for name, field in fields.items():
        assert schema[name]["title"] == field.label
        assert schema[name]["description"] == field.help
        if not field.required:
            assert schema[name]["default"] == msgspec.to_builtins(field.default)


def test_every_field_has_a_label_of_its_own_and_help() -> None:
    for fields in (REQUEST_FIELDS, DECISION_FIELDS):
        labels = [field.label for field in fields.values()]
        assert len(set(labels)) == len(labels)
        for field in fields.values():
            assert field.help[0].isupper()
            assert not field.help.endswith(".")


def test_keywords_are_those_of_the_struct() -> None:
    """``RequestFields`` has the names and the types of ``GenerationRequest``."""
    hints = get_type_hints(GenerationRequest)
    del hints["prompt"]
    # Looser: a text for the member of a closed set, and any picture for its name.
    hints |= {
        name: str for name, kind in hints.items() if isinstance(kind, type(StrEnum))
    }
    hints |= dict.fromkeys(PICTURE_FIELDS, AnyPicture | None)
    keywords = get_type_hints(RequestFields, localns={"PictureSource": AnyPicture})
    assert list(keywords.items()) == list(hints.items())


def test_keywords_of_a_decision_are_those_of_the_struct() -> None:
    """``DecisionFields`` has the names and the types of ``DecisionRequest``."""
    hints = get_type_hints(DecisionRequest)
    # They stand before the keywords.
    del hints["task_id"], hints["verdict"]
    # Looser: any words will do.
    assert hints["tags"] == tuple[str, ...]
    hints["tags"] = Iterable[str]
    assert get_type_hints(DecisionFields) == hints
    needed = {name for name in hints if DECISION_FIELDS[name].required}
    shown = get_type_hints(DecisionFields, include_extras=True)
    assert needed == {
        name for name, hint in shown.items() if get_origin(hint) is Required
    }


@pytest.mark.parametrize(
    ("described", "allowed"),
    [
        (Running.submit, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (Running.prioritise, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (Studio.generate, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (Studio.generate_frame, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (generate_frame, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (check_priority, f"-{HIGHEST_PRIORITY:,} to {HIGHEST_PRIORITY:,}"),
        (Studio.tasks, f"1 to {MOST_LISTED:,}"),
        (TaskQuery, f"1 to {MOST_LISTED:,}"),
        (Task.variations, REQUEST_FIELDS["num_images"].allowed),
    ],
)
def test_a_limit_in_a_docstring_is_the_limit(described: Any, allowed: str) -> None:
    assert allowed in str(described.__doc__)


def test_help_and_completion_show_each_default() -> None:
    parameters = inspect.signature(Studio.generate).parameters
    for name, field in REQUEST_FIELDS.items():
        default = inspect.Parameter.empty if field.required else field.default
        assert parameters[name].default == default
    for function in (
        Studio.approve,
        Studio.reject,
        Studio.decide,
        Studio.request_changes,
    ):
        parameters = inspect.signature(function).parameters
        assert parameters["reviewer_id"].default is inspect.Parameter.empty
        assert parameters["reviewer_id"].annotation == "str"
        assert parameters["tags"].default == ()
        assert "    reviewer_id: Who decides" in str(function.__doc__)
    assert "    num_inference_steps: Sampling steps" in str(Studio.generate.__doc__)
    assert "(1 to 150)." in str(GenerationRequest.__doc__)


@pytest.mark.parametrize("tags", [["a", "b"], ("a", "b"), iter("ab"), {"a": 1, "b": 2}])
def test_tags_are_any_iterable_of_words(tags: Any) -> None:
    fields = {"reviewer_id": "ada", "tags": tags}
    request = make_decision_request("a", Verdict.REJECTED, fields)
    assert request.tags == ("a", "b")


@pytest.mark.parametrize("tags", ["ab", 7, None])
def test_tags_are_no_single_word(tags: Any) -> None:
    with pytest.raises(InvalidRequest, match="tags must be"):
        make_decision_request("a", Verdict.REJECTED, {"reviewer_id": "a", "tags": tags})


def test_own_parameters_of_a_function_stay() -> None:
    @takes_request_fields
    def draw(prompt: str, *, on: int = 3, **fields: Any) -> tuple[str, int, Any]:
        """Draw."""
        return prompt, on, fields

    assert draw("a", seed=7) == ("a", 3, {"seed": 7})
    shown = inspect.signature(draw)
    assert str(shown).startswith("(prompt: 'str', *, on: 'int' = 3, negative_prompt:")
    assert not any(each.kind is each.VAR_KEYWORD for each in shown.parameters.values())


def test_the_command_line_shows_limits_and_defaults() -> None:
    group: Any = typer.main.get_command(app)
    options = {option.name: option for option in group.commands["generate"].params}
    wide = {"COLUMNS": "400", "NO_COLOR": "1"}
    shown = CliRunner().invoke(app, ["generate", "--help"], env=wide).output
    for name, field in REQUEST_FIELDS.items():
        if name not in options or field.required:
            continue
        option = options[name]
        assert option.default == field.default
        if issubclass(field.kind, StrEnum):
            assert "|".join(field.kind) in shown
        else:
            assert field.allowed in option.help
    assert options["prompt"].required
    assert "1 to 2,000 characters" in options["prompt"].help
    assert "--steps" in options["num_inference_steps"].opts
    assert "--no-refine" in options["use_refinement"].secondary_opts


def test_the_form_shows_limits_and_choices() -> None:
    driver = Driver(RequestForm({}))
    for name, field in REQUEST_FIELDS.items():
        if field.is_picture:
            continue
        control = driver.labelled(field.label)
        assert field.help.partition(";")[0] in control.tooltip
        if issubclass(field.kind, StrEnum):
            assert [value for _label, value in control.options] == list(field.kind)
        elif name in ("width", "height", "seed"):
            assert control.placeholder in ("auto", "random")
            assert field.allowed in control.tooltip
        elif field.kind in (int, float):
            assert control.placeholder == field.allowed != ""
            assert float(control.value) == field.default
        elif field.kind is bool:
            assert control.value == field.default
    assert driver.labelled("Steps").placeholder == "1 to 150"
    assert driver.labelled("Guidance").placeholder == "0 to 20"
    assert driver.labelled("Images").placeholder == "1 to 16"


def test_the_protocol_page_shows_limits_and_defaults() -> None:
    page = documented("### Generate")
    for name, field in REQUEST_FIELDS.items():
        default, text = page[name]
        if issubclass(field.kind, StrEnum):
            assert set(field.kind) == {
                choice for choice in field.kind if f"`{choice}`" in default + text
            }
        else:
            assert field.allowed in text, name
        if field.required:
            assert default == "needed"
        elif field.default is None:
            assert default.startswith("null: ")
        else:
            shown = json.dumps(msgspec.to_builtins(field.default))
            assert default.strip("`").strip('"') == shown.strip('"')
    page = documented("### Approve or reject")
    for name in ("reviewer_id", "human_feedback", "tags", "featured_image_url"):
        field = DECISION_FIELDS[name.removeprefix("human_")]
        assert field.allowed in page[name][1], name
    for name in ("human_feedback", "tags", "image", "expect_version"):
        field = DECISION_FIELDS[name.removeprefix("human_")]
        shown = json.dumps(msgspec.to_builtins(field.default))
        assert page[name][0].strip("`") == shown


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("steps", "num_inference_steps"),
        ("Guidance", "guidance_scale"),
        ("promt", "prompt"),
        ("heigth", "height"),
        ("task-id", "task_id"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, closest: str) -> None:
    with pytest.raises(InvalidRequest, match=f"such as '{closest}'; got '{name}'"):
        check_request_names([name], "task_id")


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(InvalidRequest, match=r"one of prompt, negative_.*'zzz'"):
        check_request_names(["prompt", "zzz"])
    check_request_names(REQUEST_FIELDS)


def test_an_unknown_keyword_queues_nothing(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match="such as 'num_inference_steps'"):
        studio.generate("a cat", steps=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="such as 'priority'; got 'prioriti'"):
        studio.generate("a cat", prioriti=3)  # type: ignore[call-arg]
    assert studio.tasks() == []


def test_an_unknown_keyword_decides_nothing(studio: Studio) -> None:
    task = studio.generate("a cat", num_inference_steps=2)
    task.result(10)
    for decide in (studio.approve, studio.reject, studio.request_changes):
        with pytest.raises(InvalidRequest, match="such as 'reviewer_id'; got 'reviewe"):
            decide(task.id, reviewer="ada")  # type: ignore[call-arg]
    assert studio.decisions() == []


def test_an_unknown_setting_opens_no_studio(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="such as 'queue_limit'; got 'queue_limi"):
        Studio(tmp_path / "data", queue_limits=3)  # type: ignore[call-arg]
    assert not (tmp_path / "data").exists()


def test_a_field_alone_is_checked_as_in_a_request() -> None:
    assert check_field("width", 72) == 72
    assert check_field("width", None) is None
    with pytest.raises(InvalidRequest, match="width must be a multiple of 8"):
        check_field("width", 65)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_inference_steps": 1}, "1 step, seed random"),
        ({"num_inference_steps": 2, "seed": 7}, "2 steps, seed 7"),
        ({"width": 64, "height": 72}, "50 steps, 64x72, seed random"),
    ],
)
def test_a_request_in_a_few_words(fields: dict[str, Any], said: str) -> None:
    assert describe_request(GenerationRequest(prompt="a cat", **fields)) == said


def test_both_reprs_of_a_task_say_the_same(studio: Studio) -> None:
    task = studio.generate("a cat", num_inference_steps=1, seed=7)
    task.result(10)
    assert repr(task) == "Task(1 step, seed 7)"
    assert repr(task.record) == "TaskRecord(completed, 1 step, seed 7)"


def test_a_decision_takes_over_what_its_request_says() -> None:
    """Each field that the two have in common; none is copied by name."""
    values = all_changed(DECISION_FIELDS, PICTURE)
    values |= {"task_id": "a", "verdict": Verdict.REJECTED}
    request = DecisionRequest(**values)
    decision = decision_of(request, version=4, decided_at=NOW)
    common = set(DECISION_FIELDS) & set(Decision.__struct_fields__)
    assert set(DECISION_FIELDS) - common == {"expect_version"}
    for name in common:
        assert getattr(decision, name) == getattr(request, name)
    assert decision.version == 4
    assert says_the_same(decision, request)
    plain = DecisionRequest(
        task_id="a", verdict=Verdict.REJECTED, reviewer_id=request.reviewer_id
    )
    assert says_the_same(decision, plain)
    for name in common:
        field = DECISION_FIELDS[name]
        if not field.required:
            changed = decision_of(request, decided_at=NOW, **{name: field.default})
            assert not says_the_same(changed, request), name
