"""
Who may call the local functions host: named keys, and the Entra identity each stands for.

In Azure, Easy Auth checks a token and tells the app who calls in ``X-MS-CLIENT-PRINCIPAL``. Here a key does
the first and the host the second, in the same words, so that the app runs unchanged.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHORTEST: Final = 16
# Made at first start, one for each role of design.md §6, so that requester and approver are two people.
_FIRST: Final = {
    "master": (),
    "playbook": ("Incident.Submit",),
    "source": ("Signal.Submit",),
    "analyst": ("Containment.Execute", "Containment.Read"),
    "approver": ("Containment.Approve", "Containment.Read"),
    "reader": ("Containment.Read",),
}
_OBJECT_ID: Final = "http://schemas.microsoft.com/identity/claims/objectidentifier"


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key and the caller it stands for. Without ``object_id`` it stands for nobody; ``master`` opens /admin."""

    name: str
    key: str
    object_id: str = ""
    roles: tuple[str, ...] = ()
    master: bool = False

    def __repr__(self) -> str:
        return f"HostKey(name={self.name!r}, roles={self.roles!r})"

    def principal_headers(self) -> dict[str, str]:
        """
        Give the headers that Easy Auth would set for this caller; none for nobody.

        Source: learn.microsoft.com/azure/app-service/configure-authentication-user-identities.
        """
        if not self.object_id:
            return {}
        claims = [
            ("name", self.name),
            (_OBJECT_ID, self.object_id),
            *(("roles", role) for role in self.roles),
        ]
        principal = {
            "auth_typ": "aad",
            "claims": [{"typ": typ, "val": value} for typ, value in claims],
            "name_typ": "name",
            "role_typ": "roles",
        }
        return {
            "x-ms-client-principal": base64.b64encode(json.dumps(principal).encode()).decode("ascii"),
            "x-ms-client-principal-id": self.object_id,
            "x-ms-client-principal-name": self.name,
            "x-ms-client-principal-idp": "aad",
        }


class HostKeys:
    """The keys of one host, by name."""

    def __init__(self, keys: Mapping[str, HostKey]) -> None:
        self.by_name = dict(keys)

    def find(self, presented: str) -> HostKey | None:
        """Give the key that was presented. Looks at all of them, so that timing tells nothing."""
        matches = [
            key for key in self.by_name.values() if hmac.compare_digest(key.key.encode(), presented.encode())
        ]
        return matches[0] if matches else None


def load_or_create(path: Path) -> HostKeys:
    """
    Read the keys file; when there is none, write one with random keys that only its owner can read.

    The file is ``{name: {"key", "objectId", "roles", "master"}}``, all but ``key`` optional.
    Raises: ValueError that names every fault, never a key.
    """
    try:
        # 0600 from the first byte on, and never over a file that is there.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _parse(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(_new(), file, indent=2)
    return _parse(path)


def _new() -> dict[str, dict[str, Any]]:
    return {
        name: {"key": secrets.token_urlsafe(32), "master": True}
        if name == "master"
        else {"key": secrets.token_urlsafe(32), "objectId": str(uuid4()), "roles": list(roles)}
        for name, roles in _FIRST.items()
    }


def _parse(path: Path) -> HostKeys:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not an object of named keys")  # noqa: TRY004 - the content is wrong, not a type
    faults = [fault for name, entry in content.items() if (fault := _fault(name, entry))]
    if not faults and len({entry["key"] for entry in content.values()}) < len(content):
        faults.append("two names share a key")
    if faults:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    return HostKeys(
        {
            name: HostKey(
                name,
                entry["key"],
                entry.get("objectId", ""),
                tuple(entry.get("roles", ())),
                entry.get("master", False),
            )
            for name, entry in content.items()
        }
    )


def _fault(name: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"{name} is not an object"
    key, roles = entry.get("key"), entry.get("roles", [])
    if not isinstance(key, str) or len(key) < _SHORTEST:
        return f"{name} has no key of at least {_SHORTEST} characters"
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        return f"{name} has roles that are no list of names"
    if not isinstance(entry.get("objectId", ""), str) or not isinstance(entry.get("master", False), bool):
        return f"{name} has an objectId that is no text, or a master that is no true or false"
    return ""
