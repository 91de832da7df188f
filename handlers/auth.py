"""
Who calls, and may they. Roles come from Easy Auth's header and are checked here, failing closed.

Easy Auth authenticates and does not check app roles (configure-authentication-provider-aad). While it is
on, callers cannot set its headers; while it is off, anybody can. So without the platform's own word that
it is on, every call is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from handlers.http import Problem

if TYPE_CHECKING:
    from handlers.http import Request
    from settings import Settings


class Role(StrEnum):
    """App roles of this API (design: "HTTP")."""

    INCIDENT_SUBMIT = "Incident.Submit"
    EXECUTE = "Containment.Execute"
    APPROVE = "Containment.Approve"
    READ = "Containment.Read"
    SIGNAL_SUBMIT = "Signal.Submit"


# Claim types go through a mapping before they arrive, so both forms are met (facts/azure-platform §1.7).
_ROLE_TYPES: Final = frozenset({"roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"})
_OBJECT_ID_TYPES: Final = frozenset({"oid", "http://schemas.microsoft.com/identity/claims/objectidentifier"})
_HEADER: Final = "x-ms-client-principal"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller: Entra object id and app roles."""

    object_id: str
    roles: frozenset[str]


def caller(request: Request, settings: Settings) -> Caller:
    """Read who calls. Raises: Problem 401 when nobody trustworthy says so."""
    if not settings.easy_auth:
        raise Problem(
            401,
            "easy_auth_off",
            "Authentication (Easy Auth) is not switched on for this app, so no caller can be trusted. Switch it on; "
            "on a laptop use the local host (make up).",
        )
    header = request.headers.get(_HEADER)
    if not header:
        raise Problem(
            401, "not_authenticated", "The call carries no identity. Call with a token for this API."
        )
    claims = _claims(header)
    object_ids = {value for kind, value in claims if kind in _OBJECT_ID_TYPES}
    if len(object_ids) != 1:
        raise Problem(401, "no_object_id", "The caller's identity carries no single object id.")
    roles = frozenset(value for kind, value in claims if kind in _ROLE_TYPES)
    return Caller(object_ids.pop().lower(), roles)


def require(who: Caller, role: Role) -> None:
    """Let pass only callers that hold ``role``, spelled exactly so. Raises: Problem 403."""
    if role not in who.roles:
        known = sorted(who.roles & set(Role))
        raise Problem(403, "missing_role", f"This needs the app role {role}.", required=str(role), held=known)


def _claims(header: str) -> list[tuple[str, str]]:
    """
    Give claim types and values.

    The header's own ``role_typ`` is not believed: only the two types above are roles, so that no other
    claim (say, a display name) can be promoted to one.
    """
    try:
        principal: Any = json.loads(base64.b64decode(header, validate=True))
        return [(str(claim["typ"]), str(claim["val"])) for claim in principal["claims"]]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise Problem(401, "unreadable_identity", "The caller's identity header cannot be read.") from error
