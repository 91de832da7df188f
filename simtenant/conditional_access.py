"""
Conditional Access for workload identities, as a pure function.

What is known about it is in facts/entra.md §2 and §3: single-tenant service
principals of this tenant only; conditions location and risk; block is the only
grant. Agent identities have conditions of their own (beta) and the others do
not reach them. What this evaluation does not know (a condition meant for users,
a filter on attributes, which no simulated principal carries) does not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simtenant.tenant import Principal

Json = dict[str, Any]


class Result(StrEnum):
    """What one policy did to one sign-in, in the sign-in log's words."""

    SUCCESS = "success"
    FAILURE = "failure"
    NOT_APPLIED = "notApplied"
    NOT_ENABLED = "notEnabled"
    REPORT_ONLY_FAILURE = "reportOnlyFailure"
    REPORT_ONLY_NOT_APPLIED = "reportOnlyNotApplied"


class Reason(StrEnum):
    """Why a policy does not apply: members of Graph's whatIfAnalysisReasons."""

    NOT_ENOUGH_INFORMATION = "notEnoughInformation"
    WORKLOAD_IDENTITIES = "workloadIdentities"
    AGENT_IDENTITIES = "agentIdentities"
    AGENT_ID_RISK = "agentIdRisk"
    APPLICATION = "application"
    USER_ACTIONS = "userActions"
    CLIENT_APPS = "clientApps"
    LOCATION = "location"
    SIGN_IN_RISK = "signInRisk"
    USER_RISK = "userRisk"
    DEVICE_PLATFORM = "devicePlatform"
    DEVICES = "devices"
    EMPTY_POLICY = "emptyPolicy"
    POLICY_NOT_ENABLED = "policyNotEnabled"


# Conditions that only a user's sign-in can meet. A policy that has one never
# matches a service principal; with the reason What If gives for users.
_OF_USERS: Final[Mapping[str, Reason]] = {
    "signInRiskLevels": Reason.SIGN_IN_RISK,
    "userRiskLevels": Reason.USER_RISK,
    "platforms": Reason.DEVICE_PLATFORM,
    "devices": Reason.DEVICES,
}


@dataclass(frozen=True, slots=True)
class SignIn:
    """
    A token request, or the one that What If is asked about.

    ``covered`` is whether workload identity policies reach the principal at all
    (single-tenant application of this tenant), ``agent`` whether it is an agent
    identity. ``risk_level`` is the level in effect, ``None`` where What If was
    not told; so are ``ip_address`` and ``country``.
    """

    object_id: str
    covered: bool
    agent: bool
    resource_app_id: str
    ip_address: str | None
    country: str | None
    risk_level: str | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What one policy did. ``reasons`` is empty where it applies, also when only reported."""

    policy: Json
    result: Result
    reasons: tuple[Reason, ...]

    @property
    def matches(self) -> bool:
        """Whether every condition is met, whatever the policy's state."""
        return not set(self.reasons) - {Reason.POLICY_NOT_ENABLED}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What all policies did to one sign-in."""

    applied: tuple[Applied, ...]

    @property
    def blocked(self) -> bool:
        """Whether an enabled policy blocks the sign-in."""
        return any(one.result is Result.FAILURE for one in self.applied)

    @property
    def status(self) -> str:
        """ConditionalAccessStatus of the sign-in log: failure, or notApplied (report-only does not count)."""
        if self.blocked:
            return "failure"
        return "success" if any(one.result is Result.SUCCESS for one in self.applied) else "notApplied"


def sign_in_of(
    principal: Principal, resource_app_id: str, ip: str | None, country: str | None, risk_level: str | None
) -> SignIn:
    """Describe the sign-in of a principal to a resource."""
    return SignIn(
        object_id=principal.object_id,
        covered=principal.is_covered_by_conditional_access,
        agent=principal.agent_identity_type == "agentIdentity",
        resource_app_id=resource_app_id,
        ip_address=ip,
        country=country,
        risk_level=risk_level,
    )


def evaluate(policies: Sequence[Json], named_locations: Sequence[Json], sign_in: SignIn) -> Evaluation:
    """Apply every policy to a sign-in, in order; none stops another."""
    locations = {location["id"]: location for location in named_locations}
    return Evaluation(tuple(_apply(policy, locations, sign_in) for policy in policies))


def _apply(policy: Json, locations: Mapping[str, Json], sign_in: SignIn) -> Applied:
    reasons = _mismatches(policy, locations, sign_in)
    match policy.get("state"):
        case "enabled" if reasons:
            result = Result.NOT_APPLIED
        case "enabled":
            result = Result.FAILURE
        case "enabledForReportingButNotEnforced" if reasons:
            result = Result.REPORT_ONLY_NOT_APPLIED
        case "enabledForReportingButNotEnforced":
            result = Result.REPORT_ONLY_FAILURE
        case _:
            return Applied(policy, Result.NOT_ENABLED, (Reason.POLICY_NOT_ENABLED, *reasons))
    return Applied(policy, result, reasons)


def _mismatches(policy: Json, locations: Mapping[str, Json], sign_in: SignIn) -> tuple[Reason, ...]:
    conditions: Json = policy.get("conditions") or {}
    reasons: list[Reason] = []
    if not _blocks(policy):
        reasons.append(Reason.EMPTY_POLICY)
    if sign_in.agent:
        reasons += _agent_mismatches(conditions, sign_in)
    else:
        reasons += _workload_mismatches(conditions, sign_in)
    reasons += _application_mismatches(conditions.get("applications") or {}, sign_in)
    reasons += _location_mismatches(conditions.get("locations") or {}, locations, sign_in)
    if "all" not in (conditions.get("clientAppTypes") or ["all"]):
        reasons.append(Reason.CLIENT_APPS)
    reasons += [reason for name, reason in _OF_USERS.items() if conditions.get(name)]
    return tuple(dict.fromkeys(reasons))


def _blocks(policy: Json) -> bool:
    return "block" in ((policy.get("grantControls") or {}).get("builtInControls") or ())


def _workload_mismatches(conditions: Json, sign_in: SignIn) -> list[Reason]:
    clients: Json = conditions.get("clientApplications") or {}
    included = clients.get("includeServicePrincipals") or ()
    excluded = clients.get("excludeServicePrincipals") or ()
    named = "ServicePrincipalsInMyTenant" in included or sign_in.object_id in included
    left_out = "ServicePrincipalsInMyTenant" in excluded or sign_in.object_id in excluded
    filtered_out = (clients.get("servicePrincipalFilter") or {}).get("mode") == "include"
    if not sign_in.covered or not named or left_out or filtered_out:
        return [Reason.WORKLOAD_IDENTITIES]
    if conditions.get("agentIdRiskLevels"):
        return [Reason.AGENT_ID_RISK]
    levels = conditions.get("servicePrincipalRiskLevels") or ()
    if not levels or sign_in.risk_level in levels:
        return []
    # Graph v1.0 has no reason that means "risk of a service principal"
    # (facts/entra.md §3), so which one it gives is our guess.
    return [Reason.NOT_ENOUGH_INFORMATION if sign_in.risk_level is None else Reason.WORKLOAD_IDENTITIES]


def _agent_mismatches(conditions: Json, sign_in: SignIn) -> list[Reason]:
    clients: Json = conditions.get("clientApplications") or {}
    included = clients.get("includeAgentIdServicePrincipals") or ()
    excluded = clients.get("excludeAgentIdServicePrincipals") or ()
    named = "All" in included or sign_in.object_id in included
    left_out = "All" in excluded or sign_in.object_id in excluded
    filtered_out = (clients.get("agentIdServicePrincipalFilter") or {}).get("mode") == "include"
    if not named or left_out or filtered_out:
        return [Reason.AGENT_IDENTITIES]
    if conditions.get("servicePrincipalRiskLevels"):
        return [Reason.WORKLOAD_IDENTITIES]
    # A flags string ("medium,high"), not an array: facts/entra.md §2.
    levels = [
        level.strip() for level in (conditions.get("agentIdRiskLevels") or "").split(",") if level.strip()
    ]
    if not levels or sign_in.risk_level in levels:
        return []
    return [Reason.NOT_ENOUGH_INFORMATION if sign_in.risk_level is None else Reason.AGENT_ID_RISK]


def _application_mismatches(applications: Json, sign_in: SignIn) -> list[Reason]:
    included = applications.get("includeApplications") or ()
    excluded = applications.get("excludeApplications") or ()
    if not included and (
        applications.get("includeUserActions")
        or applications.get("includeAuthenticationContextClassReferences")
    ):
        return [Reason.USER_ACTIONS]
    if sign_in.resource_app_id in excluded or "All" in excluded:
        return [Reason.APPLICATION]
    if "All" in included or sign_in.resource_app_id in included:
        return []
    return [Reason.APPLICATION]


def _location_mismatches(condition: Json, locations: Mapping[str, Json], sign_in: SignIn) -> list[Reason]:
    included = condition.get("includeLocations") or ()
    excluded = condition.get("excludeLocations") or ()
    if not included and not excluded:
        return []
    # "All" holds for every address, so it needs none.
    needs_origin = [*(one for one in included if one != "All"), *excluded]
    if needs_origin and sign_in.ip_address is None and sign_in.country is None:
        return [Reason.NOT_ENOUGH_INFORMATION]
    if any(_is_in(place, locations, sign_in) for place in excluded):
        return [Reason.LOCATION]
    if any(_is_in(place, locations, sign_in) for place in included):
        return []
    return [Reason.LOCATION]


def _is_in(place: str, locations: Mapping[str, Json], sign_in: SignIn) -> bool:
    if place == "All":
        return True
    if place == "AllTrusted":
        return any(
            location.get("isTrusted") is True and _location_holds(location, sign_in)
            for location in locations.values()
        )
    location = locations.get(place)
    return location is not None and _location_holds(location, sign_in)


def _location_holds(location: Json, sign_in: SignIn) -> bool:
    if location.get("@odata.type") == "#microsoft.graph.countryNamedLocation":
        if not sign_in.country:
            return location.get("includeUnknownCountriesAndRegions") is True
        return sign_in.country in (location.get("countriesAndRegions") or ())
    if sign_in.ip_address is None:
        return False
    try:
        address = ip_address(sign_in.ip_address)
    except ValueError:
        # A made-up client address is in no range.
        return False
    return any(
        address in ip_network(ip_range["cidrAddress"], strict=False)
        for ip_range in location.get("ipRanges") or ()
    )
