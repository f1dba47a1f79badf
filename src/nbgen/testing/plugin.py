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

from nbgen.local.backend import LocalBackend
from nbgen.local.config import config_of
from nbgen.studio import Studio
from nbgen.testing.engine import PatternEngine
from nbgen.testing.gate import Gate


def open_alone(
    data_dir: str | Path | None = None, checkpoint: str | Path = "auto", **options: Any
) -> Studio:
    """Open a studio with parts of its own, also if one is open on the same folder.

    Args:
        data_dir: See ``Studio``.
        checkpoint: See ``Studio``.
        options: The further keywords of ``Studio``.
    """
    made = {
        name: options.pop(name, None) for name in ("engine", "progress", "publishers")
    }
    config = config_of(data_dir, checkpoint, options)
    return Studio(backend=LocalBackend.open(config, **made))


class MakeStudio(Protocol):
    """Opens a studio on the test's folder, which is closed after the test.

    All studios of one test are on the folder ``data`` in its ``tmp_path``. Each has an
    engine, a queue and threads of its own.
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
        studio = open_alone(tmp_path / "data", **options)
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
