"""A layer imports only from layers below it; CONTRIBUTING.md draws them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "virtscope"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "bitmatch"}),
    frozenset({"block", "memory"}),
    frozenset({"volume"}),
    frozenset({"fs"}),
    frozenset({"storage"}),
    frozenset({"kernel", "inspect", "extract", "host"}),
    frozenset({"guest"}),
    frozenset({"sandbox", "trace", "lockcheck"}),
    frozenset({"fleet"}),
    frozenset({"cli"}),
)
"""From the bottom up. Members of one layer do not import each other."""

ONLY_IMPORTERS = {
    "libvirt": {"host/libvirt.py"},
    "drgn": {"kernel/program.py", "kernel/btf_types.py"},
    "clang": {"lockcheck/", "bitmatch/"},
    "clingo": {"inspect/engine.py"},
}
"""Heavy engines and the files (or folders) that alone may import them."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer_of(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported at run time, with its line; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    package = ["virtscope", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                yield ".".join([*base, node.module or ""]).rstrip("."), node.lineno
            elif node.module == "virtscope":
                for alias in node.names:
                    yield f"virtscope.{alias.name}", node.lineno
            elif node.module:
                yield node.module, node.lineno


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    for name, line in imports(path):
        if not name.startswith("virtscope."):
            continue
        target = name.split(".")[1]
        if target in (part, "__version__"):
            continue
        assert layer_of(target) < layer_of(part), (
            f"{path.relative_to(SOURCE)}:{line} imports {name}, which is not in a layer below {part}"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_engines_have_one_importer(path: Path) -> None:
    place = str(path.relative_to(SOURCE))
    for name, line in imports(path):
        allowed = ONLY_IMPORTERS.get(name.split(".")[0])
        if allowed is not None:
            assert any(
                place == item or (item.endswith("/") and place.startswith(item)) for item in allowed
            ), f"{place}:{line} imports {name}; only {', '.join(sorted(allowed))} may"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(path) for path in modules()} - {"__init__", "__main__"}
    assert parts <= frozenset().union(*LAYERS)


def test_only_commands_print() -> None:
    for path in modules():
        if part_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path.relative_to(SOURCE)}:{node.lineno} prints"
