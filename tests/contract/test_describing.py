"""Which model draws, and how much of a prompt it reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from nbgen.backend import Backend
from nbgen.errors import InvalidRequest
from nbgen.schema import ModelSize, PromptLength
from tests.contract.conftest import MakeBackend

LONG = "a red circle " * 13 + "and a blue square"


@pytest.mark.parametrize("runs", [True, False])
def test_the_model_is_that_of_the_checkpoint(
    make_backend: MakeBackend, runs: bool
) -> None:
    backend = make_backend(checkpoint="tiny", runs=runs)
    facts = backend.model()
    assert facts is not None
    assert (facts.name, facts.native_size) == ("tiny", (128, 128))
    assert facts.sizes == (ModelSize(ratio="1:1", width=128, height=128),)
    assert (facts.prompt_limit, facts.has_refiner) == (38, True)
    assert facts.knows is not None
    assert facts.device is None


def test_a_prompt_is_measured(make_backend: MakeBackend) -> None:
    backend = make_backend(checkpoint="tiny")
    fits = PromptLength(tokens=3, limit=38, cut_at=None)
    assert backend.measure_prompt("a red circle") == fits
    length = backend.measure_prompt(LONG)
    assert length is not None
    assert (length.tokens, length.limit) == (43, 38)
    assert LONG[length.cut_at :] == "circle and a blue square"
    empty = PromptLength(tokens=0, limit=38, cut_at=None)
    assert backend.measure_prompt("") == empty


def test_a_prompt_may_be_longer_than_a_request_allows(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(checkpoint="tiny")
    length = backend.measure_prompt("red " * 10_000)
    assert length == PromptLength(tokens=10_000, limit=38, cut_at=38 * 4)


def test_only_a_text_is_measured(backend: Backend) -> None:
    with pytest.raises(InvalidRequest, match="text must be a text"):
        backend.measure_prompt(5)  # type: ignore[arg-type]


def test_of_an_engine_of_ones_own_nothing_is_known(backend: Backend) -> None:
    assert backend.model() is None
    assert backend.measure_prompt("a cat") is None


def test_of_a_checkpoint_that_is_not_here_nothing_is_known(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(checkpoint="nope", runs=False)
    assert backend.model() is None
    assert backend.measure_prompt("a cat") is None


def test_many_threads_may_be_the_first_to_ask(make_backend: MakeBackend) -> None:
    backend = make_backend(checkpoint="tiny")
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(backend.measure_prompt, ["a red circle"] * 8))
        facts = list(pool.map(lambda _: backend.model(), range(8)))
    assert lengths == [PromptLength(tokens=3, limit=38, cut_at=None)] * 8
    assert facts == [facts[0]] * 8
