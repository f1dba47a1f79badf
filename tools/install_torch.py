"""Installs the torch build that suits this machine into the running environment.

The ordinary Linux build brings several gigabytes of CUDA libraries, which a machine
without a GPU has no use for. docs/install.md explains the order of what is tried.
Needs nothing but the standard library and pip.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def main() -> int:
    """Install torch unless it is there; return the exit code."""
    try:
        print(f"torch {importlib.metadata.version('torch')} is installed.")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return 0
    version = pinned_version(CONSTRAINTS.read_text())
    if sys.platform == "linux":
        if not has_nvidia_gpu() and pip("install", f"torch=={version}+cpu", quiet=True):
            return 0
        # uv knows where PyTorch publishes its builds, and picks one for the driver.
        if pip("install", "uv") and uv(f"torch=={version}"):
            return 0
        print("No build chosen for this machine is to be had: taking the ordinary one.")
    return 0 if pip("install", f"torch=={version}") else 1


def pinned_version(constraints: str) -> str:
    """Return the version that the constraints pin torch to."""
    found = re.search(r"^torch==(\S+)$", constraints, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{CONSTRAINTS} does not pin torch==VERSION.")
    return found[1]


def has_nvidia_gpu() -> bool:
    """Return whether the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listed = subprocess.run([tool, "-L"], capture_output=True, check=False)
    return listed.returncode == 0 and b"GPU" in listed.stdout


def pip(*arguments: str, quiet: bool = False) -> bool:
    """Run pip in this environment and return whether it succeeded."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, capture_output=quiet, check=False)
    return done.returncode == 0


def uv(requirement: str) -> bool:
    """Install with uv, which picks the build for this machine's driver or CPU."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    chosen = subprocess.run(
        [*command, "--torch-backend=auto", requirement], check=False
    )
    return chosen.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
