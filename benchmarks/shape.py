"""Measures the shape of the package: classes, shared state, circles, long modules.

Run: ``.venv/bin/python benchmarks/shape.py``, or with the folder of another checkout's
package to compare: ``benchmarks/shape.py ../before/src/nbgen``.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "src" / "nbgen"
LONG = 400


class Package:
    """The modules of a package, parsed.

    Args:
        folder: Where the package lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees = {
            self._name(path): ast.parse(path.read_text())
            for path in sorted(folder.rglob("*.py"))
        }
        self.lengths = {
            self._name(path): path.read_text().count("\n")
            for path in sorted(folder.rglob("*.py"))
        }
        self.classes = {
            node.name: (module, node)
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def bases(self, name: str) -> list[str]:
        """Return the names of a class and of those of the package that it inherits."""
        _, node = self.classes[name]
        found = [name]
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in self.classes:
                found += self.bases(base.id)
        return found

    def methods(self, name: str) -> dict[str, ast.stmt]:
        """Return the public methods of a class, its own and those that it inherits.

        A name that is assigned a function counts: ``pause = forwarded(Running.pause)``.
        """
        found: dict[str, ast.stmt] = {}
        for each in self.bases(name):
            for node in self.classes[each][1].body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.setdefault(node.name, node)
                elif (
                    isinstance(node, ast.Assign)
                    and isinstance(node.targets[0], ast.Name)
                    and isinstance(node.value, (ast.Call, ast.Attribute))
                ):
                    found.setdefault(node.targets[0].id, node)
        return {name: node for name, node in found.items() if not name.startswith("_")}

    def shared_private_state(self) -> dict[str, set[str]]:
        """Return private attributes that classes of several modules use on ``self``.

        Attributes, not methods: ``self._store`` of a base that a subclass in another
        module reads or writes.
        """
        shared: dict[str, set[str]] = {}
        for name in self.classes:
            family = self.bases(name)
            functions = {
                node.name
                for each in family
                for node in self.classes[each][1].body
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
            users: dict[str, set[str]] = defaultdict(set)
            for each in family:
                module, node = self.classes[each]
                for attribute in _private_of_self(node):
                    if attribute not in functions:
                        users[attribute].add(module)
            for attribute, modules in users.items():
                if len(modules) > 1:
                    shared[f"{family[-1]}.{attribute}"] = modules
        return shared

    def circles(self) -> list[list[str]]:
        """Return the groups of modules that import each other, also for types only."""
        graph = {
            module: {
                imported
                for imported in self._imports(tree)
                if imported not in (module, self.folder.name)
            }
            for module, tree in self.trees.items()
            if module != self.folder.name
        }
        reach = {module: _reached(graph, module) for module in graph}
        groups = {
            frozenset(other for other in reach[module] if module in reach[other])
            for module in graph
            if module in reach[module]
        }
        return sorted(sorted(group) for group in groups)

    def _imports(self, tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [n if n in self.trees else str(node.module) for n in names]
            else:
                continue
            yield from (name for name in names if name in self.trees)


def _private_of_self(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
            and inner.attr.startswith("_")
            and not inner.attr.startswith("__")
        ):
            yield inner.attr


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        module = ahead.pop()
        if module in graph and module not in found:
            found.add(module)
            ahead.extend(graph[module])
    return found


def _is_one_liner(node: ast.stmt) -> bool:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return True
    body = node.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return len(body) <= 1


def main() -> None:
    """Print the figures of a package."""
    package = Package(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
    # The protocols of a seam are lists of calls, and hold nothing.
    counted = {
        name: package.methods(name)
        for name, (module, _) in package.classes.items()
        if not module.endswith(".backend") or ".local" in module
    }
    largest = max(counted, key=lambda name: len(counted[name]))
    short = sum(map(_is_one_liner, counted[largest].values()))
    print(
        f"largest class: {largest}, {len(counted[largest])} public methods, of which "
        f"{short} one-liners"
    )
    shared = package.shared_private_state()
    print(f"private attributes shared between modules: {len(shared)}")
    for attribute, modules in sorted(shared.items()):
        print(f"  {attribute}: {', '.join(sorted(modules))}")
    sources = "".join(path.read_text() for path in package.folder.rglob("*.py"))
    print("casts to Studio:", sources.count('cast("Studio"'))
    circles = package.circles()
    print("circles, imports for types included:", len(circles))
    for circle in circles:
        print(f"  {len(circle)}: {', '.join(circle)}")
    long = {m: n for m, n in package.lengths.items() if n > LONG}
    print(f"modules over {LONG} lines: {len(long)}")
    for module, lines in sorted(long.items()):
        print(f"  {module}: {lines}")
    top = [path for path in package.folder.glob("*.py") if path.stem != "__init__"]
    print("top-level modules:", len(top) + 1)


if __name__ == "__main__":
    main()
