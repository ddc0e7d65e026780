"""The structure that ARCHITECTURE.md describes: no circle, no crowded folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mechguard", "interp", "probes", "steering", "analyses")
MOST = 15  # modules in a folder

# Modules that import others by a name that they put together, and what they may import so.
BY_NAME = {
    "interp._lazy": (),
    "mechguard": (),
    "analyses.registry": ("analyses.*.analysis",),
    "analyses.cli": ("analyses.cli.verbs.*", "analyses.cli.artefacts.*"),
    "steering.training.registry": ("steering.training.methods.*",),
    "probes.scorers.judge": (),
}
"""`interp._lazy` and the door repeat what they import under TYPE_CHECKING; a judge is a user's."""


def _files() -> list[Path]:
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _matches(name: str, pattern: str) -> bool:
    one, other = name.split("."), pattern.split(".")
    return len(one) == len(other) and all(b in ("*", a) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def imports() -> networkx.DiGraph:
    """Which module imports which: anywhere in it, under TYPE_CHECKING, and by name."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = networkx.DiGraph()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            found.add_edge(module, other)
        for pattern in BY_NAME.get(module, ()):
            targets = [other for other in graph.modules if _matches(other, pattern)]
            assert targets, pattern
            found.add_edges_from((module, other) for other in targets)
    return found


def test_there_is_no_circle(imports: networkx.DiGraph) -> None:
    circles = [sorted(some) for some in networkx.strongly_connected_components(imports)]
    assert [some for some in circles if len(some) > 1] == []


def _importers_by_name() -> Iterator[str]:
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = getattr(called, "attr", getattr(called, "id", None))
            if name in ("import_module", "__import__"):
                yield _module(path)


def test_modules_that_import_by_name_are_known() -> None:
    assert set(_importers_by_name()) == set(BY_NAME)


def test_no_folder_is_crowded() -> None:
    folders: dict[Path, int] = {}
    for path in _files():
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    crowded = {str(home.relative_to(ROOT)): n for home, n in folders.items() if n > MOST}
    assert crowded == {}


def test_every_folder_says_what_it_is_for() -> None:
    for folder in {path.parent for path in _files()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))), folder
