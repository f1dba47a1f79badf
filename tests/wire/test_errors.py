"""Every error has a code, a status, a place on the page and a way back."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbgen.errors
from nbgen import errors
from nbgen.errors import InvalidRequest, NbgenError, RowMistake
from nbgen.wire.errors import ErrorBody, error_from_wire, error_status, error_to_wire

PAGE = Path(__file__).parent.parent.parent / "docs" / "protocol.md"

MISTAKE = RowMistake(3, None, "steps", "500", "must be a whole number from 1 to 150")

# An error of each class whose arguments are not a message.
EXAMPLES: dict[str, NbgenError] = {
    "InvalidRequest": InvalidRequest("width", 1001, "a multiple of 8"),
    "RowErrors": errors.RowErrors("1 of 4 rows asks for what is wrong.", [MISTAKE]),
    "WorkerDied": errors.WorkerDied("It was killed.", of_memory=True),
    "UnknownImage": errors.UnknownImage("a.png"),
    "PictureDamaged": errors.PictureDamaged("a.png"),
    "UnknownBatch": errors.UnknownBatch("pets"),
    "PackageMissing": errors.PackageMissing("pandas", "notebook"),
    "QueueFull": errors.QueueFull(4, 4, 1),
    "UnknownTask": errors.UnknownTask("a"),
    "TaskConflict": errors.TaskConflict("a"),
    "TaskNotEnded": errors.TaskNotEnded("a"),
    "TaskNotWaiting": errors.TaskNotWaiting("a"),
    "TaskSucceeded": errors.TaskSucceeded("a"),
    "PortTaken": errors.PortTaken("127.0.0.1", 8000, "Address already in use"),
    "ServerUnreachable": errors.ServerUnreachable("http://a", "refused"),
    "UnexpectedAnswer": errors.UnexpectedAnswer("http://a", "418"),
    "StudioClosed": errors.StudioClosed(),
}


def family(kind: type[NbgenError] = NbgenError) -> Iterator[type[NbgenError]]:
    """Yield nbgen's classes of errors; other tests may have made some of their own."""
    if kind.__module__.partition(".")[0] == "nbgen":
        yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def example(kind: type[NbgenError]) -> NbgenError:
    if kind.__name__ in EXAMPLES:
        return EXAMPLES[kind.__name__]
    if issubclass(kind, errors.TaskError):
        return kind("a", "It is wrong.")
    return kind("It is wrong.")


def sent(error: NbgenError) -> NbgenError:
    data = msgspec.json.encode(error_to_wire(error))
    return error_from_wire(msgspec.json.decode(data, type=ErrorBody))


def content(error: NbgenError) -> tuple[Any, ...]:
    return type(error), error.args, str(error), error.code, vars(error)


@pytest.mark.parametrize("kind", list(family()))
def test_every_error_comes_back_equal(kind: type[NbgenError]) -> None:
    error = example(kind)
    assert content(sent(error)) == content(error)
    assert content(pickle.loads(pickle.dumps(error))) == content(error)


@pytest.mark.parametrize("kind", list(family()))
def test_every_error_has_a_status_and_stands_on_the_page(
    kind: type[NbgenError],
) -> None:
    status = error_status(example(kind))
    row = re.search(rf"^\| {status}\b.*`{kind.code}`", PAGE.read_text(), re.MULTILINE)
    assert row, f"docs/protocol.md needs `{kind.code}` in its row of {status}"


def test_every_code_is_of_one_error() -> None:
    codes = [kind.code for kind in family()]
    assert len(codes) == len(set(codes))
    assert set(nbgen.errors.__all__) == {kind.__name__ for kind in family()} | {
        "RowMistake"
    }


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: list[tuple[str, str, str]] = []
    ancestors: list[str] = []
    for line in str(nbgen.errors.__doc__).splitlines():
        found = re.match(r" {4}((?:│   |├── |└── )*)(\w+)(?: +([a-z_]+) )?", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        del ancestors[depth:]
        if depth:
            drawn.append((found[2], ancestors[-1], found[3]))
        ancestors.append(found[2])
    real = [
        (kind.__name__, kind.__bases__[0].__name__, kind.code)
        for kind in family()
        if kind is not NbgenError
    ]
    assert sorted(drawn) == sorted(real)


def test_a_class_that_is_not_known_has_the_status_of_its_parent() -> None:
    class Refused(errors.TaskConflict):
        """One that somebody derived."""

    assert error_status(Refused("a")) == 409
    assert content(sent(Refused("a"))) == content(errors.TaskConflict("a"))


def test_a_code_of_a_newer_server_is_kept() -> None:
    error = error_from_wire(ErrorBody("too_early", "Come back.", {"hour": 3}))
    assert (type(error), str(error), error.code) == (
        NbgenError,
        "Come back.",
        "too_early",
    )
    assert vars(error)["hour"] == 3
    assert content(sent(error)) == content(error)


def test_details_are_what_a_program_needs() -> None:
    body = error_to_wire(errors.UnknownTask("a"))
    assert (body.code, body.details, body.field) == (
        "unknown_task",
        {"task_id": "a"},
        None,
    )
    wrong = error_to_wire(EXAMPLES["InvalidRequest"])
    assert (wrong.field, wrong.details) == (
        "width",
        {"field": "width", "allowed": "a multiple of 8"},
    )


def test_the_mistakes_of_a_table_come_back_as_a_table() -> None:
    back = sent(EXAMPLES["RowErrors"])
    assert isinstance(back, errors.RowErrors)
    [row] = back.table.itertuples(index=False)
    assert (row.row, row.field, row.value) == (3, "steps", "500")


@given(st.text(), st.text() | st.integers() | st.none(), st.text(), st.text())
def test_a_field_is_renamed_here_and_there(
    field: str, value: object, allowed: str, called: str
) -> None:
    error = InvalidRequest(field, value, allowed)
    here, there = error.renamed(called), sent(error)
    assert isinstance(there, InvalidRequest)
    assert content(here) == content(InvalidRequest(called, value, allowed))
    assert content(there.renamed(called)) == content(here)
