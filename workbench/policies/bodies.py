"""Policy bodies: what of them is compared, how they differ, what is widened by a change. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from clients import fields

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

Json = dict[str, Any]

REPORT_ONLY: Final = "enabledForReportingButNotEnforced"
ENABLED: Final = "enabled"
# Set by Graph, or bound to one reading: no part of what a person wrote.
_READ_ONLY: Final = frozenset(
    {"id", "createdDateTime", "modifiedDateTime", "deletedDateTime", "templateId", "description"}
)
_AGENT_FIELDS: Final = re.compile(r"agentId|AgentId|^agents$|^agentContext$")
_FLAGS: Final = frozenset({"agentIdRiskLevels", "transferMethods"})
_EXCLUSION: Final = re.compile(r"^conditions\.(clientApplications|users)\.exclude\w+$")


def printable(text: object) -> str:
    """Give foreign text as ``fields.printable`` does, at most 200 characters."""
    shown = fields.printable(text)
    return shown if len(shown) <= 200 else shown[:200] + "…"


def canonical(body: Mapping[str, Any]) -> Json:
    """
    Give what two readings of the same policy have in common.

    Graph adds identifiers, times, nulls and empty lists, and does not promise an order; a list here is a set. GUIDs and
    words are compared as written but for case in GUIDs. What is empty and what is missing are the same to Graph.
    """
    return {
        name: kept
        for name, value in sorted(body.items())
        if name not in _READ_ONLY
        and "@odata" not in name
        and (kept := _kept(name, value)) not in (None, "", [], {})
    }


def _kept(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: kept
            for key, item in sorted(value.items())
            if "@odata" not in key and (kept := _kept(key, item)) not in (None, "", [], {})
        }
    if isinstance(value, list):
        return sorted((_kept("", item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, str):
        if name in _FLAGS:
            return ",".join(sorted(part.strip() for part in value.split(",")))
        return value.lower() if re.fullmatch(r"[0-9a-fA-F-]{36}", value) else value
    return value


def fingerprint(body: Mapping[str, Any]) -> str:
    """SHA-256 of what is compared, state included."""
    return hashlib.sha256(json.dumps(canonical(body), sort_keys=True).encode()).hexdigest()


def content(body: Mapping[str, Any]) -> Json:
    """What is compared, without the state."""
    return {name: value for name, value in canonical(body).items() if name != "state"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say line by line how ``new`` differs from ``old``; safe to print."""
    before, after = dict(_leaves(canonical(old))), dict(_leaves(canonical(new)))
    lines = []
    for path in sorted({*before, *after}):
        was, becomes = before.get(path), after.get(path)
        if was == becomes:
            continue
        if isinstance(was, list) or isinstance(becomes, list):
            lines += [f"- {path}: {_shown(item)}" for item in was or [] if item not in (becomes or [])]
            lines += [f"+ {path}: {_shown(item)}" for item in becomes or [] if item not in (was or [])]
        else:
            lines += [] if was is None else [f"- {path}: {_shown(was)}"]
            lines += [] if becomes is None else [f"+ {path}: {_shown(becomes)}"]
    return lines


def only_excludes_more(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether ``new`` differs from ``old`` by further exclusions of principals, users or groups and by nothing else."""
    before, after = dict(_leaves(content(old))), dict(_leaves(content(new)))
    for path in {*before, *after}:
        was, becomes = before.get(path), after.get(path)
        if was == becomes:
            continue
        if path == "displayName":
            return False
        lists = all(value is None or isinstance(value, list) for value in (was, becomes))
        if not (_EXCLUSION.match(path) and lists and set(was or ()) <= set(becomes or ())):
            return False
    return True


def patch(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> Json:
    """
    Give the body of a PATCH that turns ``current`` into ``wanted``; never the state.

    What the tenant has and we do not want is emptied by name: whether Graph merges or replaces objects is not documented,
    and this does the same either way.
    """
    made = _patched(canonical(current), canonical(wanted))
    return {name: value for name, value in made.items() if name != "state"}


def _patched(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> Json:
    made: Json = {}
    for name in {*current, *wanted}:
        was, becomes = current.get(name), wanted.get(name)
        if isinstance(was, dict) and isinstance(becomes, dict):
            made[name] = _patched(was, becomes)
        elif becomes is None:
            made[name] = [] if isinstance(was, list) else None
        else:
            made[name] = becomes
    return made


def needs_beta(body: Mapping[str, Any]) -> bool:
    """Whether a body has conditions that only the beta version declares: those of agent identities."""
    return any(_AGENT_FIELDS.search(part) for path, _ in _leaves(body) for part in path.split("."))


def is_for_people(body: Mapping[str, Any]) -> bool:
    """Whether users, groups, roles or guests are in scope."""
    users = (body.get("conditions") or {}).get("users") or {}
    included = [name for name, value in users.items() if name.startswith("include") and value]
    return any(users[name] != ["None"] for name in included)


def excluded(body: Mapping[str, Any]) -> frozenset[str]:
    """Give the object ids that a body excludes by name, lower-cased: principals, agents and users; no groups, no filters."""
    conditions = body.get("conditions") or {}
    clients, users = conditions.get("clientApplications") or {}, conditions.get("users") or {}
    lists = (
        clients.get("excludeServicePrincipals"),
        clients.get("excludeAgentIdServicePrincipals"),
        users.get("excludeUsers"),
    )
    return frozenset(one.lower() for ids in lists for one in ids or () if isinstance(one, str))


def exclusions_without(
    body: Mapping[str, Any], template: Mapping[str, Any], filled_in: Container[str]
) -> list[str]:
    """
    Give, as "path: value", what ``body`` leaves out and ``template`` neither leaves out itself nor has a place for.

    ``filled_in`` are the paths of lists that ids are filled into, where the template has them.
    """
    places = dict(_leaves(template.get("conditions") or {}))
    lost = []
    for path, value in _leaves(body.get("conditions") or {}):
        names = path.split(".")
        leaves_out = any(name.startswith("exclude") for name in names) or (
            names[-1] == "mode" and value == "exclude"
        )
        if not leaves_out or not value or value == places.get(path) or (path in filled_in and path in places):
            continue
        lost.append(f"conditions.{path}: {_shown(value)}")
    return lost


def has_break_glass(body: Mapping[str, Any]) -> bool:
    """Whether a policy for people leaves somebody out by name."""
    users = (body.get("conditions") or {}).get("users") or {}
    return bool(users.get("excludeUsers") or users.get("excludeGroups"))


def unfilled(body: Mapping[str, Any]) -> list[str]:
    """Give the places that still hold a template's ``<…>``."""
    found = []
    for path, value in _leaves(body):
        items = value if isinstance(value, list) else [value]
        found += [f"{path}: {item}" for item in items if isinstance(item, str) and item.startswith("<")]
    return found


def _leaves(body: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def _shown(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))
