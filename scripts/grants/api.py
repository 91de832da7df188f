"""The app registration ``Agentbreaker API``: what it must look like. Role ids are ours and always the same."""

from __future__ import annotations

import uuid
from typing import Any, Final

from handlers.auth import Role

MARK: Final = "agentbreaker:grant-permissions"
"""Tag by which a repeat knows the registration it made."""
_ROLE_IDS: Final = uuid.UUID("b2f6a7de-3f4e-4d0c-9b53-2b7f1c1f7c55")
_TEXT: Final = {
    Role.INCIDENT_SUBMIT: ("Application",),
    Role.SIGNAL_SUBMIT: ("Application",),
    Role.EXECUTE: ("Application", "User"),
    Role.APPROVE: ("User",),  # approving is a person's
    Role.READ: ("Application", "User"),
}
_MEANING: Final = {
    Role.INCIDENT_SUBMIT: "Hand over a Sentinel incident (the playbook).",
    Role.SIGNAL_SUBMIT: "Report a signal of another detection product.",
    Role.EXECUTE: "Order a containment, or take one back.",
    Role.APPROVE: "Approve what somebody else ordered.",
    Role.READ: "Read containments, reports and readiness.",
}


def role_id(role: Role) -> str:
    """Give the id of an app role: the same in every tenant."""
    return str(uuid.uuid5(_ROLE_IDS, role.value))


def app_roles() -> list[dict[str, Any]]:
    """Give the registration's app roles in Graph's JSON."""
    return [
        {
            "id": role_id(role),
            "value": role.value,
            "displayName": role.value,
            "description": _MEANING[role],
            "isEnabled": True,
            "allowedMemberTypes": list(_TEXT[role]),
        }
        for role in Role
    ]


def is_ours(application: dict[str, Any]) -> bool:
    """Tell whether the registration carries this script's mark."""
    return MARK in (application.get("tags") or ())


def is_complete(application: dict[str, Any]) -> bool:
    """Tell whether identifier URI, audience and all app roles are as they must be."""
    held = {str(role.get("id")): role for role in application.get("appRoles") or ()}
    return (
        f"api://{application.get('appId')}" in (application.get("identifierUris") or ())
        and application.get("signInAudience") == "AzureADMyOrg"
        and all(_agrees(held, wanted) for wanted in app_roles())
    )


def with_ours(application: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the app roles to write: ours, and after them what somebody else added."""
    ours = {role_id(role) for role in Role}
    return app_roles() + [role for role in application.get("appRoles") or () if role.get("id") not in ours]


def _agrees(held: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> bool:
    there = held.get(wanted["id"], {})
    return (
        there.get("value") == wanted["value"]
        and there.get("isEnabled") is True
        and sorted(there.get("allowedMemberTypes") or ()) == sorted(wanted["allowedMemberTypes"])
    )
