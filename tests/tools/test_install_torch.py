"""The installer reads its one pin and knows a machine without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parent.parent.parent / "tools" / "install_torch.py"


@pytest.fixture
def install_torch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_torch", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pin_is_read(install_torch: ModuleType) -> None:
    assert install_torch.pinned_version("a==1\ntorch==2.13.0\n") == "2.13.0"
    text = install_torch.CONSTRAINTS.read_text()
    assert install_torch.pinned_version(text)
    with pytest.raises(SystemExit, match="does not pin torch"):
        install_torch.pinned_version("torch>=2")


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("#!/bin/sh\necho 'GPU 0: A card (UUID: GPU-1)'", True),
        ("#!/bin/sh\necho 'No devices were found'", False),
        ("#!/bin/sh\nexit 9", False),
        (None, False),
    ],
)
def test_a_gpu_is_what_the_driver_lists(
    install_torch: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    found: bool,
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path))
    assert install_torch.has_nvidia_gpu() is found


def test_nothing_is_done_where_torch_is_installed(
    install_torch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install_torch.main() == 0
    assert "is installed." in capsys.readouterr().out
