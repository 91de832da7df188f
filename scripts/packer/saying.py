"""Which names code says, and which coroutines of these names it may await; see ``reach``."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BY_NAME: Final = frozenset({"getattr", "hasattr", "setattr", "delattr", "attrgetter", "methodcaller"})
_RUNS_LATER: Final = frozenset(
    {
        "gather",
        "create_task",
        "ensure_future",
        "wait_for",
        "wait",
        "shield",
        "as_completed",
        "run",
        "start_soon",
    }
)


@dataclass(slots=True)
class Said:
    """
    Names said in code. ``called``: functions of that name may run; ``awaited``: coroutines of that name may, too.

    A coroutine's body runs only once somebody awaits it, so ``answers.get("id")`` runs no coroutine ``get``.
    """

    called: set[str] = field(default_factory=set)
    awaited: set[str] = field(default_factory=set)

    def size(self) -> int:
        """Count the names; they only grow."""
        return len(self.called) + len(self.awaited)

    def runs(self, function: Function) -> bool:
        """Tell whether a function may run."""
        if function.name.startswith("__") and function.name.endswith("__"):
            return True
        return function.name in (self.awaited if isinstance(function, ast.AsyncFunctionDef) else self.called)


class Everything(Said):
    """Every function may run."""

    def runs(self, function: Function) -> bool:  # noqa: ARG002  # every one does
        """Say yes."""
        return True


def listen(tree: ast.AST, said: Said, *, core: bool = False) -> None:
    """Add the names that code says, and those it may await. ``core``: a class's calls of its own methods are its own."""
    awaited_names = set(_awaited_names(tree))
    own = set(_own_calls(tree)) if core else set()
    called_functions: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute() | ast.Name() as function):
                called_functions.add(id(function))
                by_name = {
                    argument.value
                    for argument in node.args
                    if isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                    and name_of(function) in _BY_NAME
                }
                said.called |= by_name
                said.awaited |= by_name
            case _:
                pass
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            said.called.add(name_of(node))
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Load)
                and id(node) not in called_functions
            ):
                said.awaited.add(node.attr)  # handed on uncalled: whoever gets it may call and await it
        for call in _may_be_awaited(node, awaited_names):
            if id(call.func) not in own:
                said.awaited.add(name_of(call.func))


def _may_be_awaited(node: ast.AST, awaited_names: set[str]) -> Iterator[ast.Call]:
    """Give the calls in a node whose result may be awaited: there, as a task, under a name, or by who calls us."""
    match node:
        case ast.Await(value=ast.Call() as call):
            yield call
        case ast.Lambda(body=value) | ast.Yield(value=ast.expr() as value):
            yield from _calls(value)
        case ast.Call(func=ast.Attribute() | ast.Name() as function) if name_of(function) in _RUNS_LATER:
            for argument in (*node.args, *(named.value for named in node.keywords)):
                yield from _calls(argument)
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in awaited_names:
            yield from _calls(value)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name in awaited_names:
            yield from _calls(value)
        case ast.NamedExpr(target=ast.Name(id=name), value=value) if name in awaited_names:
            yield from _calls(value)
        case ast.FunctionDef():
            for inner in ast.walk(node):  # a plain function may give a coroutine to who awaits its result
                if (
                    isinstance(inner, ast.Return)
                    and isinstance(inner.value, ast.Call)
                    and _gives_coroutine(node)
                ):
                    yield inner.value
        case _:
            pass


def verbs(kind: ast.ClassDef) -> set[str]:
    """Give the coroutines of a class that it awaits itself and whose names an SDK's builder may have."""
    defined = {node.name for node in kind.body if isinstance(node, ast.AsyncFunctionDef)}
    return defined & {"get", "post", "put", "patch", "delete", "head"}


def _awaited_names(tree: ast.AST) -> Iterator[str]:
    """Give the names that are awaited, or handed to what awaits them."""
    for node in ast.walk(tree):
        match node:
            case ast.Await(value=ast.Name(id=name)):
                yield name
            case ast.Call(func=ast.Attribute() | ast.Name() as function) if name_of(function) in _RUNS_LATER:
                yield from (one.id for one in ast.walk(node) if isinstance(one, ast.Name))
            case _:
                pass


def _own_calls(tree: ast.AST) -> Iterator[int]:
    """Give the ids of ``self.name`` where the class around it defines ``name``."""
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        defined = {node.name for node in kind.body if isinstance(node, Function)}
        for node in ast.walk(kind):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in defined:
                    yield id(node)
                case _:
                    pass


def hidden_coroutine(tree: ast.AST) -> int | None:
    """Give the line where a function awaits its own parameter: what coroutine that is cannot be read here."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
        given = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
        for node in ast.walk(function):
            if isinstance(node, ast.Await) and isinstance(node.value, ast.Name) and node.value.id in given:
                return node.lineno
    return None


def _gives_coroutine(function: ast.FunctionDef) -> bool:
    """Tell whether a plain function may give a coroutine: it says so, or says nothing of what it gives."""
    if function.returns is None:
        return True
    said = ast.unparse(function.returns)
    return any(word in said for word in ("Awaitable", "Coroutine", "Future", "Task", "Any", "object"))


def _calls(value: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(value) if isinstance(node, ast.Call))


def name_of(node: ast.AST) -> str:
    """Give the name of an attribute or variable; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def computed_name(tree: ast.AST) -> int | None:
    """Give the line where an attribute's name is computed, if there is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            name = node.args[1] if len(node.args) > 1 else None
            if not isinstance(name, ast.Constant):
                return node.lineno
    return None
