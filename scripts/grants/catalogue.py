"""Every Microsoft Graph permission that may be given to the app's identity, and what for. Read from the app's own tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from detections.dormant import SIGN_IN_REPORT_PERMISSION
from response.levers import CONFIRM_COMPROMISED, LEVERS, OPTIONAL_READ_PERMISSIONS, READ_PERMISSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

NEVER: Final = frozenset({"Policy.ReadWrite.ConditionalAccess", "RoleManagement.ReadWrite.Directory"})
"""Who holds one of these can lift the block, or make anybody an administrator; no lever needs them."""
SIGN_IN_REPORT: Final = "sign-in-report"

_READS: Final = {
    "Application.Read.All": "GET /servicePrincipals, /applications: who a finding is about, and its owners",
    "Policy.Read.All": "GET /identity/conditionalAccess/policies: whether a block would bite",
}
_DANGERS: Final = {
    "AppRoleAssignment.ReadWrite.All": "its holder can give itself and anybody every application permission: tenant takeover",
    "Application.ReadWrite.All": "its holder can add a secret to any application and act as it: tenant takeover",
    "DelegatedPermissionGrant.ReadWrite.All": "its holder can consent to any delegated permission in every user's name",
}
OPTIONAL_READS: Final = {
    "marks": "CustomSecAttributeAssignment.Read.All",
    "directory-roles": "RoleManagement.Read.Directory",
    "risk-detections": "IdentityRiskEvent.Read.All",
    "agents": "AgentIdentity.Read.All",
    "agent-users": "User.Read.All",
    "licence": "LicenseAssignment.Read.All",
}
"""Words for ``--with``."""


@dataclass(frozen=True, slots=True)
class Permission:
    """An application permission by its value, why it is given, and what its holder could do with it if that is much."""

    value: str
    why: str
    required: bool
    danger: str = ""


def chosen(levers: Iterable[str] = (), extras: Iterable[str] = ()) -> list[Permission]:
    """
    Give the permissions to grant, required ones first and then the named ones, each once.

    Raises: ValueError for a name that is no lever or extra, and for a permission that is never given.
    """
    found: dict[str, Permission] = {}
    for value in READ_PERMISSIONS:
        found[value] = _permission(value, _READS[value], required=True)
    for value in CONFIRM_COMPROMISED.permissions:
        found[value] = _permission(value, f"lever {CONFIRM_COMPROMISED.id}", required=True)
    for name in levers:
        if name not in LEVERS:
            raise ValueError(f"{name!r} is no lever; there are: {', '.join(LEVERS)}")
        for value in LEVERS[name].permissions:
            found.setdefault(value, _permission(value, f"lever {name}", required=False))
    for name in extras:
        if name == SIGN_IN_REPORT:
            value, why = SIGN_IN_REPORT_PERMISSION, "when applications last signed in"
        elif name in OPTIONAL_READS:
            value = OPTIONAL_READS[name]
            why = OPTIONAL_READ_PERMISSIONS[value]
        else:
            words = ", ".join((*OPTIONAL_READS, SIGN_IN_REPORT))
            raise ValueError(f"{name!r} is nothing that can be added; there are: {words}")
        found.setdefault(value, _permission(value, why, required=False))
    return list(found.values())


def everything() -> list[Permission]:
    """Give all that may ever have been given."""
    return chosen(LEVERS, (*OPTIONAL_READS, SIGN_IN_REPORT))


def named_only(levers: Iterable[str], extras: Iterable[str]) -> list[Permission]:
    """Give what the named levers and extras add to the required ones. Raises: ValueError as ``chosen``."""
    return [right for right in chosen(levers, extras) if not right.required]


def _permission(value: str, why: str, *, required: bool) -> Permission:
    if value in NEVER:
        raise ValueError(f"{value} is never given to the app, whatever its tables say")
    return Permission(value, why, required, _DANGERS.get(value, ""))
