"""constraints.txt pins all that `make` installs, to versions that pyproject allows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

TOOL = Path(__file__).parent.parent.parent / "tools" / "pin.py"


@pytest.fixture
def pin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="pinned are Linux's packages")
def test_the_constraints_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--check"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_out_of_date_is_named(pin: ModuleType) -> None:
    roots = [Requirement("pytest>=9"), Requirement("pluggy>=1")]
    pinned = "".join(f"{name}==99\n" for name in pin.closure(roots))
    assert pin.out_of_date(pinned, roots) == []
    [fault] = pin.out_of_date(pinned.replace("pytest==99", "pytest==8"), roots)
    assert fault.startswith("constraints.txt pins pytest to 8, but pyproject.toml asks")
    [fault] = pin.out_of_date(pinned.replace("pluggy==99\n", ""), roots)
    assert fault.startswith("pluggy is needed, but constraints.txt does not pin it.")


def test_no_build_and_no_cuda_library_is_pinned(pin: ModuleType) -> None:
    text = pin.CONSTRAINTS.read_text()
    assert "+" not in text
    assert "nvidia" not in text
    assert "torch==" in text
    assert "torch" in pin.closure([Requirement("torch")])
