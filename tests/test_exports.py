"""The public names: which they are, where they come from, and what a type checker sees.

A name leaves ``PUBLIC`` only with an entry in CHANGELOG.md.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import nbgen
import nbgen.testing

PUBLIC = {
    "Batch",
    "BatchPanel",
    "DecisionRequest",
    "FolderPublisher",
    "GenerationPanel",
    "GenerationProgress",
    "GenerationRequest",
    "GenerationResult",
    "NbgenError",
    "ProgressService",
    "RowErrors",
    "Studio",
    "Task",
    "WebhookPublisher",
    "__version__",
    "read_frame",
    "recipe",
}


def imports_for_types() -> dict[str, str]:
    """Return the module that each name is imported from for a type checker."""
    tree = ast.parse(Path(nbgen.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        str(alias.asname): str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_these_names_are_public() -> None:
    assert sorted(nbgen.__all__) == sorted(PUBLIC) == dir(nbgen)


def test_a_star_import_brings_them_all() -> None:
    names: dict[str, object] = {}
    exec("from nbgen import *", names)
    assert names.keys() >= PUBLIC


def test_a_type_checker_sees_what_is_imported_when_first_used() -> None:
    seen = imports_for_types()
    assert seen.keys() == PUBLIC - {"__version__"}
    for name, module in seen.items():
        assert getattr(nbgen, name) is getattr(import_module(module), name)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_name_can_be_the_first_to_be_used(name: str) -> None:
    program = f"import nbgen; value = nbgen.{name}; print(value.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == (name, "")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = nbgen.no_such_name


def test_the_helpers_for_tests_are_public() -> None:
    assert {"Gate", "PatternEngine", "collect_progress"} <= set(nbgen.testing.__all__)
    for name in nbgen.testing.__all__:
        assert getattr(nbgen.testing, name).__doc__
