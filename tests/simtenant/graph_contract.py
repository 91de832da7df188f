"""Microsoft's published contract of Graph, where this machine has it, and what is checked against it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from desk import shared_folder
from jsonschema import Draft202012Validator, FormatChecker

SHARED = shared_folder()


@lru_cache
def contract(version: str) -> dict[str, Any]:
    assert SHARED is not None
    # The C loader: these two files are half a megabyte each.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (SHARED / "contracts" / f"graph-{version}.subset.yaml").read_text()
    loaded: dict[str, Any] = as_json_schema(yaml.load(text, Loader=loader))  # noqa: S506 (both loaders are safe)
    return loaded


def as_json_schema(node: Any) -> Any:
    """Turn OpenAPI 3.0's nullable into JSON Schema."""
    if isinstance(node, list):
        return [as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    turned = {name: as_json_schema(value) for name, value in node.items()}
    if turned.pop("nullable", None) is True and isinstance(turned.get("type"), str):
        turned["type"] = [turned["type"], "null"]
        if "enum" in turned:
            turned["enum"] = [*turned["enum"], None]
    return turned


def response_schema(version: str, method: str, template: str, status: int) -> dict[str, Any] | None:
    """Return the schema of a response, None where it has no body. An undocumented answer fails."""
    responses = contract(version)["paths"][template][method.lower()]["responses"]
    documented = responses.get(str(status)) or responses.get(f"{status // 100}XX") or responses.get("default")
    assert documented is not None, f"{method} {template} answered {status}, which is not documented"
    content = documented.get("content")
    return content["application/json"]["schema"] if content else None


def check(version: str, method: str, template: str, status: int, body: Any) -> None:
    schema = response_schema(version, method, template, status)
    if schema is None:
        assert body == ""
        return
    root = {**schema, "components": contract(version)["components"]}
    errors = [
        f"{error.json_path}: {error.message[:200]}"
        for error in Draft202012Validator(root, format_checker=FormatChecker()).iter_errors(body)
    ]
    assert errors == [], errors


def declared(version: str, name: str) -> set[str]:
    """Return the property names of a schema and everything it is made of."""
    names: set[str] = set()
    waiting: list[Any] = [{"$ref": f"#/components/schemas/{name}"}]
    while waiting:
        node = waiting.pop()
        if "$ref" in node:
            node = contract(version)["components"]["schemas"][node["$ref"].rpartition("/")[2]]
        names |= set(node.get("properties", {}))
        waiting += node.get("allOf", [])
    return names


def check_request(version: str, method: str, template: str, body: Any) -> None:
    """Check a body of ours: valid, and no property that the schema does not declare, at any depth."""
    content = contract(version)["paths"][template][method.lower()]["requestBody"]["content"]
    schema = closed(content["application/json"]["schema"])
    root = {**schema, "components": closed(contract(version)["components"])}
    errors = [
        f"{error.json_path}: {error.message[:200]}"
        for error in Draft202012Validator(root, format_checker=FormatChecker()).iter_errors(body)
    ]
    assert errors == [], errors


def closed(node: Any) -> Any:
    """
    Refuse undeclared properties wherever a schema is referred to.

    Where it refers, not where it is declared: a schema is also a part (``allOf``) of those that extend it.
    """
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    turned = {name: closed(value) for name, value in node.items() if name != "allOf"}
    if "allOf" in node:
        turned["allOf"] = [one if "$ref" in one else closed(one) for one in node["allOf"]]
    if "$ref" in turned:
        turned["unevaluatedProperties"] = False
    return turned
