"""
Which modules of a generated SDK the app can reach, found by reading code; docs/package.md has the rule in words.

The SDK imports almost everything inside functions: a request builder's property imports the builder it gives, a
coroutine imports the models it parses. So what is reached depends on which functions run. Nothing is known here of
types; a function counts as running when its *name* is said in code that can hold an object of the SDK. That takes
too many for reached, never too few, as long as names are written and not computed (which is refused).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packer.faults import PackageError
from packer.importing import (
    functions,
    imports,
    is_member,
    module_of,
    module_path,
    named,
    running,
    with_parents,
    within,
    written,
)
from packer.saying import Said, computed_name, hidden_coroutine, listen, name_of, verbs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packer.files import Files


@dataclass(frozen=True, slots=True)
class NotReached:
    """A function of a kept module that imports what was left out, and why that is safe: its name is never said."""

    module: str
    function: str
    imports: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Reach:
    """Paths of the modules reached, and the functions in them that would meet a module left out."""

    kept: frozenset[str]
    exceptions: tuple[NotReached, ...]


def reached(sdk: str, installed: Files, app: Mapping[str, str]) -> Reach:
    """
    Find what of the package ``sdk`` the app can reach.

    ``app``: source of our deployed modules by path. Raises: PackageError where an attribute's name is computed in
    code of ours that holds objects of the SDK, or where ours imports a module that the SDK has not got.
    """
    said, roots = Said(), {sdk}
    ours = {path: ast.parse(source, path) for path, source in app.items()}
    for path, tree in ours.items():
        wanted = {
            name for name in (*imports(tree, module_of(path), path), *written(tree, sdk)) if within(name, sdk)
        }
        missing = {
            name for name in wanted if module_path(name, installed) is None and not is_member(name, installed)
        }
        if missing:
            raise PackageError(
                f"{path} imports {', '.join(sorted(missing))}, which {sdk} has not got", "mend the import"
            )
        roots |= wanted
    holders = {path.rpartition("/")[0] for path, tree in ours.items() if _holds(tree, path, sdk)}
    for path, tree in ours.items():
        if path.rpartition("/")[0] in holders:
            if computed := computed_name(tree):
                raise PackageError(
                    f"{path}, line {computed}: the name of an attribute is computed, so what of {sdk} it reaches is not known",
                    "write the name",
                )
            if hidden := hidden_coroutine(tree):
                raise PackageError(
                    f"{path}, line {hidden}: a parameter is awaited, so which coroutine of {sdk} runs is not known",
                    "await it where it is made, or hand on the function and not what it gave",
                )
            listen(tree, said)
    core_classes: set[str] = set()
    for path in installed:
        if path.endswith(".py") and path.split("/")[0].startswith(("kiota_", f"{sdk}_")):
            tree = ast.parse(installed.read(path))
            listen(tree, said, core=True)
            core_classes |= {
                node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and verbs(node)
            }
            roots |= {name for name in imports(tree, module_of(path), path) if within(name, sdk)}
    return _closed(sdk, installed, roots, said, core_classes)


def _closed(sdk: str, installed: Files, roots: set[str], said: Said, core_classes: set[str]) -> Reach:
    """Follow imports of what runs until neither a module nor a name is new."""
    trees: dict[str, ast.Module] = {}
    waiting, before = set(roots), -1
    while waiting or said.size() != before:
        before = said.size()
        for name in sorted(waiting):
            for package in with_parents(name):
                path = module_path(package, installed)
                if path is not None and path not in trees:
                    trees[path] = ast.parse(installed.read(path))
        waiting = set()
        for path, tree in trees.items():
            for node in running(tree, said):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    waiting |= {n for n in named(node, module_of(path), path) if within(n, sdk)}
            for function in functions(tree):
                if said.runs(function[1]):
                    listen(function[1], said)
        waiting = {
            name
            for name in waiting
            if any(
                (path := module_path(p, installed)) is not None and path not in trees
                for p in with_parents(name)
            )
        }
    for path, tree in trees.items():
        # Such a base would call, as its own method, what the SDK's class has put in its place.
        for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            if bases := core_classes & {name_of(base) for base in kind.bases}:
                raise PackageError(
                    f"{path}: {kind.name} derives from {bases}, which awaits methods of its own",
                    "report this",
                )
    exceptions = tuple(_exceptions(sdk, installed, trees, said))
    return Reach(frozenset(trees), exceptions)


def _exceptions(
    sdk: str, installed: Files, trees: Mapping[str, ast.Module], said: Said
) -> Iterator[NotReached]:
    for path, tree in sorted(trees.items()):
        for name, function in functions(tree):
            imported = {n for n in imports(function, module_of(path), path) if within(n, sdk)}
            lost = sorted(
                n for n in imported if (p := module_path(n, installed)) is not None and p not in trees
            )
            if not lost:
                continue
            if said.runs(
                function
            ):  # cannot be, as the closure followed it: checked, because a release rests on it
                raise PackageError(
                    f"{path}: {name} may run and imports {lost[0]}, which is left out", "report this"
                )
            reason = (
                "never awaited" if isinstance(function, ast.AsyncFunctionDef) else "its name is never said"
            )
            yield NotReached(module_of(path), name, tuple(lost), reason)


def _holds(tree: ast.AST, path: str, sdk: str) -> bool:
    """Tell whether a file of ours holds objects of the SDK; the files beside it may, too. It imports the SDK or its core."""
    return any(
        name.startswith(("kiota_", f"{sdk}.", f"{sdk}_")) for name in imports(tree, module_of(path), path)
    )
