"""A pytest plugin: studios that draw patterns, on folders of their own.

Ask for it in the ``conftest.py`` at the top of your tests::

    pytest_plugins = ["nbgen.testing.plugin"]

It is not an entry point, so that it costs nothing in projects that do not use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from nbgen.testing.gate import Gate


class MakeStudio(Protocol):
    """Opens a studio on the test's folder, which is closed after the test.

    All studios of one test share the folder ``data`` in its ``tmp_path``.
    """

    def __call__(
        self,
        before_step: Callable[[int], None] | None = None,
        **options: Any,
    ) -> Studio:
        """Open a studio.

        Args:
            before_step: Called before each step, as by ``PatternEngine``. A ``Gate`` is
                opened after the test, so that closing need not wait for it.
            options: Keywords of ``Studio``. The engine is a ``PatternEngine`` unless
                one is given.
        """


@pytest.fixture
def make_nbgen_studio(tmp_path: Path) -> Iterator[MakeStudio]:
    """Return a function that opens studios which draw patterns, without torch."""
    studios: list[Studio] = []
    gates: list[Gate] = []

    def make(
        before_step: Callable[[int], None] | None = None, **options: Any
    ) -> Studio:
        if isinstance(before_step, Gate):
            gates.append(before_step)
        options.setdefault("engine", PatternEngine(before_step))
        studio = Studio(tmp_path / "data", **options)
        studios.append(studio)
        return studio

    yield make
    for gate in gates:
        gate.open()
    for studio in studios:
        studio.close()


@pytest.fixture
def nbgen_studio(make_nbgen_studio: MakeStudio) -> Studio:
    """Return an open studio that draws patterns, without torch."""
    return make_nbgen_studio()
