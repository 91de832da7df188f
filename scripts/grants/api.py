"""The app registration ``Agentbreaker API``: what it must look like. Role ids are ours and always the same."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from handlers.auth import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP_CLAIMS: Final = "SecurityGroup"
"""Without groups in the token Easy Auth cannot compare them with ``callerGroupIds`` (infra/modules/app.bicep)."""
MARK: Final = "agentbreaker:grant-permissions"
"""Tag by which a repeat knows the registration it made."""
_ROLE_IDS: Final = uuid.UUID("b2f6a7de-3f4e-4d0c-9b53-2b7f1c1f7c55")
SCOPE_ID: Final = str(uuid.uuid5(_ROLE_IDS, "access"))
_SCOPE: Final = {
    "id": SCOPE_ID,
    "value": "access",
    "type": "User",
    "isEnabled": True,
    "adminConsentDisplayName": "Call Agentbreaker",
    "adminConsentDescription": "Call Agentbreaker as the person who is signed in. What they may do is said by app roles.",
    "userConsentDisplayName": "Call Agentbreaker",
    "userConsentDescription": "Call Agentbreaker as you. What you may do is said by app roles.",
}
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


def exposed(api: dict[str, Any], callers: Iterable[str] = ()) -> dict[str, Any]:
    """
    Give ``api`` as it must be, with what somebody else added left in.

    Tokens of version 2, because Easy Auth compares their issuer with the v2.0 endpoint's (infra/modules/app.bicep); one
    delegated scope, without which nobody can ask for a token for themselves; ``callers`` may ask without consent.
    """
    scopes = [scope for scope in api.get("oauth2PermissionScopes") or () if scope.get("id") != SCOPE_ID]
    clients = {
        str(client.get("appId")).lower(): client for client in api.get("preAuthorizedApplications") or ()
    }
    for caller in callers:
        held = clients.get(caller, {"appId": caller}).get("delegatedPermissionIds") or []
        clients[caller] = {"appId": caller, "delegatedPermissionIds": [*dict.fromkeys([*held, SCOPE_ID])]}
    return {
        "requestedAccessTokenVersion": 2,
        "oauth2PermissionScopes": [_SCOPE, *scopes],
        "preAuthorizedApplications": [
            {"appId": one.get("appId"), "delegatedPermissionIds": one.get("delegatedPermissionIds") or []}
            for one in clients.values()
        ],
    }


def without(api: dict[str, Any], caller: str) -> dict[str, Any]:
    """Give ``api`` with this caller authorised for our scope no more."""
    found = exposed(api)
    found["preAuthorizedApplications"] = [
        one for one in found["preAuthorizedApplications"] if str(one["appId"]).lower() != caller
    ]
    return found


def lets(application: dict[str, Any], caller: str) -> bool:
    """Tell whether a client may ask for tokens of people without their consent."""
    return any(
        str(one.get("appId")).lower() == caller and SCOPE_ID in (one.get("delegatedPermissionIds") or ())
        for one in _api(application).get("preAuthorizedApplications") or ()
    )


def _api(application: dict[str, Any]) -> dict[str, Any]:
    api = application.get("api")
    return api if isinstance(api, dict) else {}


def group_claims(application: dict[str, Any]) -> str:
    """Give ``groupMembershipClaims`` as it must be: what somebody chose, as long as it puts groups into tokens."""
    held = application.get("groupMembershipClaims")
    return held if isinstance(held, str) and held not in ("", "None") else GROUP_CLAIMS


def is_ours(application: dict[str, Any]) -> bool:
    """Tell whether the registration carries this script's mark."""
    return MARK in (application.get("tags") or ())


def is_complete(application: dict[str, Any]) -> bool:
    """Tell whether identifier URI, audience, group claims and all app roles are as they must be."""
    held = {str(role.get("id")): role for role in application.get("appRoles") or ()}
    return (
        f"api://{application.get('appId')}" in (application.get("identifierUris") or ())
        and application.get("signInAudience") == "AzureADMyOrg"
        and application.get("groupMembershipClaims") == group_claims(application)
        and _api(application).get("requestedAccessTokenVersion") == 2
        and any(one.get("id") == SCOPE_ID for one in _api(application).get("oauth2PermissionScopes") or ())
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
