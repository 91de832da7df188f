"""
Enough of Bicep to ask what a file says: its declarations, and its resources as values.

A literal becomes itself; everything else (a symbol, a call, a text with something in it) stays ``Expression`` with its
source, so that a test never takes what is decided at deployment for a constant.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tree_sitter_bicep
from tree_sitter import Language, Parser

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
FUNCTIONS = frozenset(
    [
        "any",
        "utcNow",
        "concat",
        "contains",
        "empty",
        "environment",
        "extensionResourceId",
        "filter",
        "format",
        "guid",
        "items",
        "join",
        "json",
        "length",
        "loadJsonContent",
        "loadTextContent",
        "loadYamlContent",
        "map",
        "replace",
        "resourceGroup",
        "resourceId",
        "string",
        "subscription",
        "subscriptionResourceId",
        "toLower",
        "union",
        "uniqueString",
    ]
)


@dataclass(frozen=True)
class Expression:
    """What is known only at deployment, as it is written."""

    text: str


@dataclass(frozen=True)
class Declared:
    """A resource or module: symbol, type or path, its object as values, whether it only refers to what exists."""

    symbol: str
    target: str
    body: dict
    existing: bool
    conditional: bool


class Bicep:
    """One file, parsed."""

    def __init__(self, source: str, path: Path) -> None:
        self.source, self.path = source, path
        self.root = Parser(Language(tree_sitter_bicep.language())).parse(source.encode()).root_node

    def broken(self) -> bool:
        return self.root.has_error

    def declarations(self, kind: str) -> list:
        return [node for node in self.root.named_children if node.type == f"{kind}_declaration"]

    def names(self, kind: str) -> set[str]:
        return {node.named_children[0].text.decode() for node in self.declarations(kind)}

    def parameters(self) -> dict[str, bool]:
        """Name to whether it must be given: those without a default."""
        return {
            node.named_children[0].text.decode(): len(node.named_children) < 3
            for node in self.declarations("parameter")
        }

    def decorated(self) -> dict[str, str]:
        """Parameter and output names to the decorators that stand above them."""
        found, above = {}, ""
        for node in self.root.named_children:
            if node.type == "decorators":
                above = node.text.decode()
            elif node.type in ("parameter_declaration", "output_declaration"):
                found[node.named_children[0].text.decode()], above = above, ""
        return found

    def defaults(self) -> dict[str, object]:
        return {
            node.named_children[0].text.decode(): value(node.named_children[2])
            for node in self.declarations("parameter")
            if len(node.named_children) > 2
        }

    def variable(self, name: str) -> object:
        (node,) = (n for n in self.declarations("variable") if n.named_children[0].text.decode() == name)
        return value(node.named_children[1])

    def declared(self, kind: str) -> list[Declared]:
        return [_declared(node) for node in self.declarations(kind)]

    def resource(self, symbol: str) -> dict:
        """The body of a resource. Raises: KeyError when the file has none of that name."""
        return {each.symbol: each for each in self.declared("resource")}[symbol].body


@cache
def load(name: str) -> Bicep:
    """Read a file below infra/."""
    path = INFRA / name
    return Bicep(path.read_text(), path)


def files() -> list[str]:
    return sorted(str(path.relative_to(INFRA)) for path in INFRA.rglob("*.bicep"))


def at(body: object, path: str) -> object:
    """Follow a dotted path into values. Raises: KeyError where it ends early."""
    for name in path.split("."):
        if not isinstance(body, dict):
            raise KeyError(path)
        body = body[name]
    return body


def value(node) -> object:
    match node.type:
        case "object":
            return {
                prop.named_children[0].text.decode().strip("'"): value(prop.named_children[1])
                for prop in node.named_children
                if prop.type == "object_property" and len(prop.named_children) > 1
            }
        case "array":
            return [value(item) for item in node.named_children if item.type != "comment"]
        case "boolean":
            return node.text == b"true"
        case "number":
            return int(node.text)
        case "string" if all(child.type == "string_content" for child in node.named_children):
            return node.text.decode()[1:-1]
        case _:
            return Expression(node.text.decode())


def object_in(node):
    """The object of a declaration, through its condition or loop."""
    for child in node.named_children:
        if child.type == "object":
            return child
        if child.type in ("if_statement", "for_statement"):
            inner = object_in(child)
            if inner is not None:
                return inner
    return None


def _declared(node) -> Declared:
    symbol, target = (child.text.decode().strip("'") for child in node.named_children[:2])
    head = node.text.decode().split("=")[0]
    body = object_in(node)
    return Declared(
        symbol,
        target,
        value(body) if body is not None else {},
        existing=" existing" in head,
        conditional=any(child.type == "if_statement" for child in node.named_children),
    )


def declared_in(file: Bicep, symbol: str) -> Declared:
    """A module by its symbol."""
    (found,) = (each for each in file.declared("module") if each.symbol == symbol)
    return found


def unresolved(file: Bicep) -> list[str]:
    """Names that nothing declares, and functions that are not among those known here."""
    known = set().union(*(file.names(kind) for kind in ("parameter", "variable", "resource", "module")))
    return sorted(set(_unresolved(file.root, frozenset(known))))


def _unresolved(node, known: frozenset[str]):
    children = node.named_children
    match node.type:
        case "decorators" | "type" | "comment" | "target_scope_assignment":
            return
        case "identifier":
            if node.text.decode() not in known:
                yield node.text.decode()
            return
        case "call_expression" if children[0].type == "identifier":
            name = children[0].text.decode()
            if name not in FUNCTIONS:
                yield f"{name}()"
            children = children[1:]
        case "object_property" if children[0].type == "identifier":
            children = children[1:]
        case "for_statement":
            *loop, source, body = [child for child in children if child.type != "comment"]
            yield from _unresolved(source, known)
            names = {name.text.decode() for each in loop for name in _identifiers(each)}
            yield from _unresolved(body, known | names)
            return
        case "lambda_expression":
            known |= {children[0].text.decode()}
            children = children[1:]
        case kind if kind.endswith("_declaration"):
            children = children[1:]
    for child in children:
        yield from _unresolved(child, known)


def _identifiers(node):
    if node.type in ("identifier", "loop_variable", "loop_enumerator"):
        yield node
    for child in node.named_children:
        yield from _identifiers(child)


def used(file: Bicep) -> set[str]:
    """Names that stand anywhere but where they are declared."""
    found = set()

    def walk(node) -> None:
        skip = 1 if node.type.endswith("_declaration") else 0
        if node.type == "object_property" and node.named_children[0].type == "identifier":
            skip = 1
        if node.type == "identifier":
            found.add(node.text.decode())
        for child in node.named_children[skip:]:
            walk(child)

    walk(file.root)
    return found


def contract(caller: Bicep, target: str) -> tuple[dict[str, bool], set[str]]:
    """Parameters (name to whether it must be given) and outputs of a module, Bicep or JSON."""
    path = (caller.path.parent / target).resolve()
    if path.suffix == ".json":
        template = json.loads(path.read_text())
        given = {name: "defaultValue" not in each for name, each in template["parameters"].items()}
        return given, set(template.get("outputs", {}))
    module = Bicep(path.read_text(), path)
    return module.parameters(), module.names("output")
