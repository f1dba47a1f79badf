"""Imports point one way, and heavy packages are loaded only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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
    {"studio"},
    {"widgets", "server", "cli"},
    {"__main__"},
]
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

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
    "sqlalchemy": {"nbgen.store"},
    "alembic": {"nbgen.store.database", "nbgen.store.migrations"},
    "filelock": {"nbgen.store.owners", "nbgen.local.runner_lock"},
    "fsspec": {"nbgen.images.bucket"},
    "platformdirs": {"nbgen.settings"},
    "rich": {"nbgen.cli"},
    "typer": {"nbgen.cli"},
    "tornado": {"nbgen.server", "nbgen.remote.client", "nbgen.review.webhook"},
    "websockets": {"nbgen.remote.client"},
    "ipywidgets": {"nbgen.widgets"},
    "traitlets": {"nbgen.widgets"},
    "IPython": {"nbgen.widgets"},
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


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, anywhere in it, but for a type checker's eyes."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path} has a relative import"
            yield node.module


def part(module: str) -> str | None:
    names = module.split(".")
    return names[1] if len(names) > 1 else None


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    here = part(module)
    if here is None:
        return  # the package itself names everything
    for imported in imports(modules()[module]):
        there = part(imported) if imported.split(".")[0] == "nbgen" else here
        if there in (here, None) or (here, there) in EXCEPTIONS:
            continue
        assert ROW_OF[str(there)] < ROW_OF[here], f"{module} imports {imported}"


@pytest.mark.parametrize("module", modules())
def test_packages_are_imported_only_at_home(module: str) -> None:
    for imported in imports(modules()[module]):
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


def test_public_names_exist() -> None:
    import nbgen

    assert sorted(nbgen.__all__) == dir(nbgen) == sorted(set(nbgen.__all__))
    for name in nbgen.__all__:
        assert getattr(nbgen, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    import nbgen

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = nbgen.no_such_name
