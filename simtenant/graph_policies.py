"""
Conditional Access policies over Graph: created, changed, deleted; and shown as one version declares them.

Bodies are checked against what contracts/graph-*.subset.yaml declares (conditionalAccessPolicy and what it is made of).
Guesses, because no contract says it: the code of a refused body, that PATCH merges objects and replaces lists (as OData
says of complex properties), and that a named location that does not exist is refused.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant import permissions
from simtenant.clock import iso
from simtenant.graph_base import Audited, GraphBase
from simtenant.graph_wire import BETA, Call, GraphRefusedError, Json, Operation, by_id, json_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

_POLICIES: Final = "/identity/conditionalAccess/policies"
_STATES: Final = frozenset({"enabled", "disabled", "enabledForReportingButNotEnforced"})
_AGENT_CONDITIONS: Final = frozenset({"agentIdRiskLevels", "agents", "agentContext"})
_AGENT_CLIENTS: Final = frozenset(
    {"includeAgentIdServicePrincipals", "excludeAgentIdServicePrincipals", "agentIdServicePrincipalFilter"}
)
_WRITABLE: Final = frozenset({"displayName", "state", "conditions", "grantControls", "sessionControls"})
_DECLARED: Final[Mapping[str, frozenset[str]]] = {
    "conditions": frozenset(
        {
            "applications",
            "authenticationFlows",
            "clientAppTypes",
            "clientApplications",
            "devices",
            "insiderRiskLevels",
            "locations",
            "platforms",
            "servicePrincipalRiskLevels",
            "signInRiskLevels",
            "userRiskLevels",
            "users",
        }
    ),
    "applications": frozenset(
        {
            "applicationFilter",
            "excludeApplications",
            "includeApplications",
            "includeAuthenticationContextClassReferences",
            "includeUserActions",
        }
    ),
    "clientApplications": frozenset(
        {"excludeServicePrincipals", "includeServicePrincipals", "servicePrincipalFilter"}
    ),
    "users": frozenset(
        {
            f"{way}{what}"
            for way in ("include", "exclude")
            for what in ("Groups", "GuestsOrExternalUsers", "Roles", "Users")
        }
    ),
    "locations": frozenset({"includeLocations", "excludeLocations"}),
    "authenticationFlows": frozenset({"transferMethods"}),
    "grantControls": frozenset(
        {
            "authenticationStrength",
            "builtInControls",
            "customAuthenticationFactors",
            "operator",
            "termsOfUse",
        }
    ),
}
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "clientAppTypes": frozenset(
        {"all", "browser", "mobileAppsAndDesktopClients", "exchangeActiveSync", "easSupported", "other"}
    ),
    "servicePrincipalRiskLevels": frozenset({"low", "medium", "high", "hidden", "none"}),
    "builtInControls": frozenset(
        {
            "block",
            "mfa",
            "compliantDevice",
            "domainJoinedDevice",
            "approvedApplication",
            "compliantApplication",
            "passwordChange",
        }
    ),
}
_FLAGS: Final[Mapping[str, frozenset[str]]] = {
    "agentIdRiskLevels": frozenset({"low", "medium", "high"}),
    "transferMethods": frozenset({"none", "deviceCodeFlow", "authenticationTransfer"}),
}
_LISTS: Final = (
    "includeApplications",
    "excludeApplications",
    "includeServicePrincipals",
    "excludeServicePrincipals",
    "includeAgentIdServicePrincipals",
    "excludeAgentIdServicePrincipals",
    "includeUsers",
    "excludeUsers",
    "includeGroups",
    "excludeGroups",
    "includeLocations",
    "excludeLocations",
)


class PolicyWrites(GraphBase):
    """The operations that change policies; reading them is in ``graph.py``."""

    def _policy_operations(self) -> tuple[Operation, ...]:
        one, write = f"{_POLICIES}/{{id}}", permissions.POLICY_WRITE
        return (
            Operation("POST", _POLICIES, write, self._create_policy),
            Operation("PATCH", one, write, self._patch_policy),
            Operation("DELETE", one, write, self._delete_policy),
        )

    async def _create_policy(self, call: Call) -> web.Response:
        self._may_write(call, "Policy.Read.All", "Application.Read.All")
        body = await call.body()
        self._check(body, call.version)
        _check_whole(body)
        stored = self._tenant.add_policy(body)
        self._audit_policy(call, "Add conditional access policy", "Add", None, stored)
        context = f"https://graph.microsoft.com/{call.version}/$metadata#identity/conditionalAccess/policies/$entity"
        return json_answer({"@odata.context": context, **policy_in(stored, call.version)}, status=201)

    async def _patch_policy(self, call: Call) -> web.Response:
        self._may_write(call, "Policy.Read.All", "Application.Read.All")
        policy, body = by_id(self._tenant.policies, call.ids["id"]), await call.body()
        self._check(body, call.version)
        before, after = copy.deepcopy(policy), _merged(policy, body)
        _check_whole(after)
        policy.update(after, modifiedDateTime=iso(self._now()))
        self._audit_policy(call, "Update conditional access policy", "Update", before, policy)
        return web.Response(status=204)

    async def _delete_policy(self, call: Call) -> web.Response:
        self._may_write(call, "Policy.Read.All")
        policy = by_id(self._tenant.policies, call.ids["id"])
        self._tenant.policies.remove(policy)
        self._audit_policy(call, "Delete conditional access policy", "Delete", policy, None)
        return web.Response(status=204)

    def _may_write(self, call: Call, *further: str) -> None:
        """Refuse where a permission is missing that the permission file lists beside the writing one."""
        if missing := [role for role in further if role not in call.claims.roles]:
            raise GraphRefusedError(
                403, "AccessDenied", f"You cannot perform the requested operation, missing {missing[0]}."
            )
        if not self._tenant.settings.licensed:
            # facts/entra.md §1: also for a policy that only reports.
            raise GraphRefusedError(
                403,
                "AccessDenied",
                "Your account is not licensed for this. Please upgrade your subscription.",
            )

    def _check(self, body: Mapping[str, Any], version: str) -> None:
        """Refuse what the version does not declare. Raises: GraphRefusedError (400)."""
        _only(body, _WRITABLE, "conditionalAccessPolicy")
        if "state" in body and body["state"] not in _STATES:
            raise _bad(f"state {body['state']!r} is no conditionalAccessPolicyState")
        if "displayName" in body and not (isinstance(body["displayName"], str) and body["displayName"]):
            raise _bad("displayName must be a text")
        conditions = _object(body, "conditions")
        beta = version == BETA
        _only(
            conditions, _DECLARED["conditions"] | (_AGENT_CONDITIONS if beta else frozenset()), "conditions"
        )
        parts = {name: _object(conditions, name) for name in conditions if name in _DECLARED}
        if "grantControls" in body:
            parts["grantControls"] = _object(body, "grantControls")
        for name, part in parts.items():
            further = _AGENT_CLIENTS if beta and name == "clientApplications" else frozenset()
            _only(part, _DECLARED[name] | further, name)
        for part in (conditions, *parts.values()):
            _check_values(part)
        known = {"All", "AllTrusted", *(str(one["id"]) for one in self._tenant.named_locations)}
        for name, ids in parts.get("locations", {}).items():
            if unknown := [one for one in ids or () if one not in known]:
                raise _bad(f"{name}: named location {unknown[0]!r} does not exist")

    def _audit_policy(
        self, call: Call, operation: str, kind: str, before: Json | None, after: Json | None
    ) -> None:
        shown = after or before or {}
        # Property name from facts/log-tables.md §4; the target's type, category and service are not confirmed.
        change = ("ConditionalAccessPolicy", _text(before), _text(after))
        self._audit(
            call,
            operation,
            kind,
            Audited(str(shown["id"]), str(shown["displayName"]), "Policy", (change,)),
            category="Policy",
            service="Conditional Access",
        )


def policy_in(policy: Json, version: str) -> Json:
    """Show a policy as one version declares it: v1.0 has no agent conditions (facts/entra.md §2)."""
    if version == BETA:
        return policy
    conditions = {
        name: value
        for name, value in (policy.get("conditions") or {}).items()
        if name not in _AGENT_CONDITIONS
    }
    if clients := conditions.get("clientApplications"):
        conditions["clientApplications"] = {
            name: value for name, value in clients.items() if name not in _AGENT_CLIENTS
        }
    return {**policy, "conditions": conditions}


def _text(policy: Json | None) -> str:
    return "" if policy is None else json.dumps(policy)


def _bad(why: str) -> GraphRefusedError:
    return GraphRefusedError(400, "BadRequest", f"Policy contains invalid values: {why}.")


def _only(found: Mapping[str, Any], declared: frozenset[str], where: str) -> None:
    for name in found:
        if name not in declared and not name.startswith("@odata."):
            raise _bad(f"'{name}' is no property of {where} that can be written")


def _object(found: Mapping[str, Any], name: str) -> Json:
    value = found.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(f"{name} must be an object")
    return value


def _check_values(part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if name in _WORDS or name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise _bad(f"{name} must be a list of texts")
            if wrong := [one for one in value if name in _WORDS and one not in _WORDS[name]]:
                raise _bad(f"{name}: {wrong[0]!r} is no member")
        elif name in _FLAGS and value is not None:
            members = [one.strip() for one in value.split(",")] if isinstance(value, str) else [""]
            if not set(members) <= _FLAGS[name]:
                raise _bad(f"{name} must be members joined by commas")


def _check_whole(policy: Mapping[str, Any]) -> None:
    """Refuse a policy without what the contract's descriptions call required."""
    conditions = policy.get("conditions") or {}
    if not policy.get("displayName") or not policy.get("state"):
        raise _bad("displayName and state are required")
    if not conditions.get("applications") or not conditions.get("clientAppTypes"):
        raise _bad("conditions.applications and conditions.clientAppTypes are required")
    if not conditions.get("users") and not conditions.get("clientApplications"):
        raise _bad("either users or clientApplications is required")


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    merged = copy.deepcopy(dict(old))
    for name, value in new.items():
        both = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = _merged(merged[name], value) if both else copy.deepcopy(value)
    return merged
