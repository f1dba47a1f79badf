"""Writes constraints.txt: the versions that nbgen is tested with.

Run it in the environment that the tests have passed in::

    .venv/bin/python tools/pin.py            # pin what is installed
    .venv/bin/python tools/pin.py --check    # only say what is out of date

Pinned is all that `make` installs: what pyproject.toml names, and what that needs in
turn. Not pinned are the CUDA libraries, which only some builds of torch need; and torch
itself is pinned without its build (``+cpu``), so that one file serves every machine.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = ("notebook",)
GROUPS = ("test",)
HEADER = """\
# What `make` installs: the versions that nbgen is tested with, written by
# tools/pin.py. pyproject.toml keeps open ranges for those who install nbgen into an
# environment of their own.
"""
# They come with some builds of torch only, which name their versions themselves.
OF_TORCH = re.compile(r"(nvidia|cuda)-.*|triton|torch-.*")


def main() -> int:
    """Write or check the constraints; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    roots = list(requirements(pyproject))
    if not check:
        pins = {name: installed_version(name) for name in sorted(closure(roots))}
        lines = "".join(f"{name}=={version}\n" for name, version in pins.items())
        CONSTRAINTS.write_text(HEADER + lines)
        return 0
    faults = out_of_date(CONSTRAINTS.read_text(), roots)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def requirements(pyproject: dict[str, dict[str, object]]) -> Iterator[Requirement]:
    """Yield what `make` asks pip for."""
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    lists = [project["dependencies"], *(extras[extra] for extra in EXTRAS)]
    lists += [groups[group] for group in GROUPS]
    for entries in lists:
        assert isinstance(entries, list)
        yield from map(Requirement, entries)


def closure(roots: list[Requirement]) -> set[str]:
    """Return the names of the packages that are needed in this environment."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    ahead = [(root, "") for root in roots]
    while ahead:
        wanted, of_extra = ahead.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(wanted.name)
        if OF_TORCH.fullmatch(name):
            continue
        names.add(name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            needed = metadata.distribution(name).requires or []
            ahead.extend((Requirement(line), extra) for line in needed)
    return names


def installed_version(name: str) -> str:
    """Return the version of an installed package, without the build (``+cpu``)."""
    return metadata.version(name).partition("+")[0]


def out_of_date(constraints: str, roots: list[Requirement]) -> list[str]:
    """Return what is wrong with the constraints, a sentence for each fault."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE))
    again = "Run tools/pin.py in an environment in which the tests pass."
    faults = [
        f"{name} is needed, but constraints.txt does not pin it. {again}"
        for name in sorted(closure(roots) - pins.keys())
    ]
    for root in roots:
        version = pins.get(canonicalize_name(root.name))
        if version is not None and not root.specifier.contains(version):
            faults.append(
                f"constraints.txt pins {root.name} to {version}, but pyproject.toml "
                f"asks for {root.specifier}. {again}"
            )
    return faults


if __name__ == "__main__":
    sys.exit(main())
