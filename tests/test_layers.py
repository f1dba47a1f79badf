"""Imports point one way, and heavy packages are loaded only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "nbgen"

# From the ground up: a part imports its own and those of lower rows, never another of
# its own row.
ROWS = [
    {"errors", "settings", "atomic", "threads"},
    {"schema"},
    {"wire"},
    {"progress", "images", "review", "generation"},
    {"store"},
    {"backend"},
    {"local", "remote", "testing"},
    {"handles", "forwarding"},
    {"frames", "exporting"},
    {"framing", "keeping"},
    {"studio"},
    # The plugin's fixtures open studios; the other helpers for tests know none.
    {"widgets", "server", "cli", "testing.plugin"},
    {"__main__"},
]
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

LONGEST_MODULE = 400

# The two faces that the command line puts together.
EXCEPTIONS = {("cli", "server")}

# Which modules may import a package that is slow to load or belongs to one face.
HOMES = {
    "diffusers": {
        "nbgen.generation.loading",
        "nbgen.generation.schedule",
        "nbgen.generation.sdxl",
    },
    "huggingface_hub": {"nbgen.generation.checkpoints"},
    "torch": {
        "nbgen.generation.loading",
        "nbgen.generation.preview",
        "nbgen.generation.sampling",
        "nbgen.generation.sdxl",
    },
    "transformers": {"nbgen.generation.loading"},
    "tokenizers": {"nbgen.generation.tokenizing"},
    "sqlalchemy": {"nbgen.store"},
    "alembic": {"nbgen.store.opening", "nbgen.store.migrations"},
    "filelock": {"nbgen.store.owners", "nbgen.store.turn"},
    "fsspec": {"nbgen.images.bucket"},
    "platformdirs": {"nbgen.settings"},
    "rich": {"nbgen.cli"},
    "typer": {"nbgen.cli"},
    "tornado": {"nbgen.server", "nbgen.remote.client", "nbgen.review.webhook"},
    "websockets": {"nbgen.remote.client"},
    "ipywidgets": {"nbgen.widgets"},
    "traitlets": {"nbgen.widgets"},
    "IPython": {"nbgen.widgets"},
    "pytest": {"nbgen.testing.plugin"},
    "msgspec": {"nbgen"},
    "numpy": {"nbgen.frames"},
    "pandas": {"nbgen.errors.requests", "nbgen.frames"},
    "PIL": {
        "nbgen.generation",
        "nbgen.images.inputs",
        "nbgen.testing",
    },
    "nbgen": {"nbgen"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()


def imports(path: Path, *, for_types: bool = True) -> Iterator[str]:
    """Yield what a file imports, anywhere in it.

    Args:
        for_types: Whether imports that only a type checker follows count.
    """
    tree = ast.parse(path.read_text())
    left_out = {
        inner
        for node in ast.walk(tree)
        if not for_types
        and isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path} has a relative import"
            for alias in node.names:
                # `from nbgen.wire import session` imports a module, not the package.
                module = f"{node.module}.{alias.name}"
                yield module if module in MODULES else node.module


def part(module: str) -> str | None:
    names = module.removeprefix("nbgen").strip(".")
    return names if names in ROW_OF else names.split(".")[0] or None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """An import for types binds the reader as any other does."""
    here = part(module)
    if here is None:
        return  # the package itself names everything
    for imported in imports(MODULES[module]):
        there = part(imported) if imported.split(".")[0] == "nbgen" else here
        if there in (here, None) or (here, there) in EXCEPTIONS:
            continue
        assert ROW_OF[str(there)] < ROW_OF[here], f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_facade_knows_the_local_backend(module: str) -> None:
    """So a studio at a distance serves the faces and the handles alike."""
    # The plugin opens studios that share nothing, unlike all others of a process.
    if part(module) in ("local", "studio", "testing.plugin", None):
        return
    known = {part(each) for each in imports(MODULES[module]) if each in MODULES}
    assert "local" not in known


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of modules of which each imports, in the end, itself."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            module = ahead.pop()
            if module not in found:
                found.add(module)
                ahead.extend(graph[module])
        return found

    reach = {module: reached(module) for module in graph}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in graph
        if module in reach[module]
    }
    return sorted(sorted(group) for group in groups)


def test_no_modules_import_each_other() -> None:
    """Not even for types, nor through others."""
    left_out = {"nbgen"}
    graph = {
        module: (set(imports(path)) & MODULES.keys()) - left_out - {module}
        for module, path in MODULES.items()
        if module not in left_out
    }
    assert circles(graph) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}
    assert circles(graph) == [["b", "c"], ["d"]]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_are_short_enough_to_read(module: str) -> None:
    lines = MODULES[module].read_text().count("\n")
    assert lines <= LONGEST_MODULE, f"{module} has {lines} lines: cut it by owner"


@pytest.mark.parametrize("module", MODULES)
def test_packages_are_imported_only_at_home(module: str) -> None:
    for imported in imports(MODULES[module], for_types=False):
        package = imported.split(".")[0]
        if package in sys.stdlib_module_names:
            continue
        homes = HOMES.get(package, set())
        assert any(module == home or module.startswith(home + ".") for home in homes), (
            f"{module} imports {package}"
        )


def test_import_loads_nothing_heavy() -> None:
    """``import nbgen`` itself stays light for those who only ask for its version."""
    program = (
        "import sys, nbgen; nbgen.__version__; "
        "heavy = {'torch', 'diffusers', 'tornado', 'pandas', 'ipywidgets', 'msgspec', "
        "'sqlalchemy', 'PIL'}; sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""


def test_opening_a_studio_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, nbgen; "
        f"nbgen.Studio({str(tmp_path)!r}, checkpoint='tiny').close(); "
        "sys.exit(str({'torch', 'diffusers', 'tornado', 'ipywidgets'}"
        " & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""


def test_making_a_picture_loads_no_torch(tmp_path: Path) -> None:
    """The process that makes it does, and a kernel stays as small as it was."""
    program = (
        "import sys, nbgen\n"
        f"with nbgen.Studio({str(tmp_path)!r}, checkpoint='tiny') as studio:\n"
        "    studio.generate('a red circle', num_inference_steps=2).result(60)\n"
        "sys.exit(str({'torch', 'diffusers'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("package", "name"), [("pandas", "read_frame"), ("ipywidgets", "BatchPanel")]
)
def test_a_package_that_is_not_installed_is_named(package: str, name: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; import nbgen\n"
        f"try: nbgen.{name}\n"
        "except nbgen.NbgenError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert f"the package {package}, which is not installed" in done.stderr
    assert "pip install 'nbgen[notebook]'" in done.stderr
