"""The site uses the library as anybody else: by its public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import antiphon
import encore

SOURCES = sorted(Path(encore.__file__).parent.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Everything of antiphon that a module names: where, and what."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from ((where, alias.name) for alias in node.names if alias.name.split(".")[0] == "antiphon")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "antiphon":
            yield from ((where, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "antiphon":
            yield where, f"antiphon.{node.attr}"


def test_only_public_names_of_the_library_are_used() -> None:
    used = [found for path in SOURCES for found in imported(path)]
    assert len(used) > 10
    public = {"antiphon"} | {f"antiphon.{name}" for name in antiphon.__all__}
    assert [(where, name) for where, name in used if name not in public] == []
