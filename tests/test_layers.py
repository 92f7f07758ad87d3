"""Imports go one way. The order is that of ARCHITECTURE.md; a room may import those before it, never those after it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = [
    "wording",
    "types",
    "clock",
    "crops",
    "geometry",
    "patching",
    "families",
    "discover",
    "parts",
    "budget",
    "select",
    "merge",
    "similarity",
    "matching",
    "cells",
    "clusters",
    "falling",
    "diversity",
    "layout",
    "query",
    "images",
    "prompt",
    "places",
    "observe",
    "callers",
    "paid",
    "tower",
    "splice",
    "hops",
    "head",
    "methods",
    "surroundings",
    "answer",
    "cost",
    "flow",
    "reduced",
    "doctor",
    "tiny",
    "convert",
    "evaluate",
    "train",
    "figures",
    "cli",
    "__main__",
]
SOURCE = Path(__file__).parent.parent / "src" / "simignore"
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """The rooms of this package that a file imports, lazily or not; what is only for type checkers does not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "simignore":
            parts = (node.module or "").split(".")
            names += [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("simignore.")]
    return [name for name in names if name in ROOMS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    if path == SOURCE / "__init__.py":
        return  # the front door names every room, and opens each only when asked
    own = room(path)
    assert own in ROOMS, f"{own} is a new room: give it a place in ROOMS"
    later = [name for name in imported(path) if ROOMS.index(name) > ROOMS.index(own)]
    assert not later, f"{own} imports {later}, which come after it"


def test_only_the_list_of_methods_imports_a_method():
    concrete = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    for path in FILES:
        if path.parent.name == "methods" and path.name == "__init__.py":
            continue
        modules = [
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        found = [
            module for module in modules if module.startswith("simignore.methods.") and module.split(".")[2] in concrete
        ]
        assert not found, f"{path} imports {found}; take it from simignore.methods"


def test_only_the_splice_writes_masks_positions_and_caches():
    """`attention_mask=` and friends as arguments of a model call appear in no method."""
    for path in (SOURCE / "methods").glob("*.py"):
        words = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)}
        assert not words & {"attention_mask", "position_ids", "past_key_values"}, path


def test_importing_the_package_is_light_and_all_names_are_there():
    code = (
        "import sys, simignore; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules;"
        "[getattr(simignore, name) for name in simignore.__all__]; assert 'torch' in sys.modules;"
        "assert set(simignore.__all__) <= set(dir(simignore))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import simignore

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = simignore.nothing
