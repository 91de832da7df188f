"""What modules import, and where a module lies."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from packer.saying import Everything, Function, Said

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator


def imports(tree: ast.AST, module: str, path: str) -> Iterator[str]:
    """Give the names that code of a module imports anywhere in it, but for type checkers."""
    everything = Everything()
    for node in running(tree, everything):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from named(node, module, path)


def imported(tree: ast.AST, path: str) -> Iterator[str]:
    """Give the names that a module imports anywhere in it, but for type checkers."""
    return imports(tree, module_of(path), path)


def named(node: ast.Import | ast.ImportFrom, module: str, path: str) -> Iterator[str]:
    """Give the absolute names that one statement imports: the module, and each name as if it were a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.split(".") if path.endswith("/__init__.py") else module.split(".")[:-1]
        above = package[: len(package) - (node.level - 1)]
        base = ".".join([*above, *([node.module] if node.module else [])])
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)


def running(node: ast.AST, said: Said) -> Iterator[ast.AST]:
    """Give the nodes that can run: not those for type checkers, not bodies of functions that nobody calls."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function) and not said.runs(child):
            continue
        if isinstance(child, ast.If) and _for_types(child):
            for other in child.orelse:
                yield other
                yield from running(other, said)
            continue
        yield child
        yield from running(child, said)


def _for_types(node: ast.If) -> bool:
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Give functions and methods with their names as a reader would say them; not those inside functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")


def written(tree: ast.AST, sdk: str) -> Iterator[str]:
    """Give module names that stand as text, for import_module."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if text.startswith(f"{sdk}."):
                if all(part.isidentifier() for part in text.split(".")):
                    yield text
            case _:
                pass


def module_path(name: str, paths: Container[str]) -> str | None:
    """Give the file of a module among paths."""
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in paths), None)


def module_of(path: str) -> str:
    """Give the dotted name of a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def within(name: str, sdk: str) -> bool:
    """Tell whether a name is the package or below it."""
    return name == sdk or name.startswith(f"{sdk}.")


def is_member(name: str, installed: Container[str]) -> bool:
    """Tell whether a name is something inside a module, rather than a module."""
    return module_path(name.rpartition(".")[0], installed) is not None


def with_parents(name: str) -> Iterable[str]:
    """Give a dotted name after the packages above it, which are imported first."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
