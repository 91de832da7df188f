"""Is the breaker armed? Whether an enabled policy would block a principal once its risk is high. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clients.terms import Policy, ServicePrincipal, Unknown
from response.evidence import Armed, NotArmed
from response.levers import CONFIRM_COMPROMISED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ALL_OURS: Final = (
    "serviceprincipalsinmytenant"  # the token Conditional Access uses, lower-cased as we store ids
)
_WOULD_BITE: Final = (
    "an enabled Conditional Access policy that includes this service principal, has service principal risk high "
    "as a condition, covers all resources and blocks"
)


def armed(policies: Sequence[Policy], principal: ServicePrincipal) -> Armed | NotArmed | Unknown:
    """
    Tell whether some enabled policy would block ``principal`` at high risk.

    A policy with conditions that are not evaluated here (locations, filters, single resources) gives
    Unknown, unless another one surely blocks. Source: Conditional Access for workload identities.
    """
    if principal.kind not in CONFIRM_COMPROMISED.bites_on:
        return NotArmed(
            f"Conditional Access does not reach a {principal.kind.replace('_', ' ')}",
            "disabling the service principal",
        )
    verdicts = [
        (policy, _verdict(policy, principal))
        for policy in policies
        if "high" in policy.risk_levels and policy.blocks
    ]
    if sure := tuple(policy.id for policy, verdict in verdicts if verdict == ""):
        return Armed(sure)
    if doubts := [verdict for _, verdict in verdicts if isinstance(verdict, Unknown)]:
        return doubts[0]
    said = [verdict for _, verdict in verdicts if isinstance(verdict, str)]
    return NotArmed("; ".join(said) or "no policy blocks on high service principal risk", _WOULD_BITE)


def _verdict(policy: Policy, principal: ServicePrincipal) -> str | Unknown:
    """Empty when the policy surely blocks; otherwise the reason why not, or why that is unknown."""
    name = f"policy {policy.id}"
    if policy.state == "enabledForReportingButNotEnforced":
        return f"{name} only reports"
    if policy.state != "enabled":
        return f"{name} is not enabled"
    included = (
        principal.object_id in policy.include_service_principals
        or _ALL_OURS in policy.include_service_principals
    )
    if principal.object_id in policy.exclude_service_principals:
        return f"{name} excludes this service principal"
    if not included:
        wrong = principal.app_id in policy.include_service_principals
        return (
            f"{name} lists the appId, which is no object id"
            if wrong
            else f"{name} does not include this service principal"
        )
    if policy.other_conditions:
        return Unknown(
            f"{name} has conditions this version does not evaluate: {', '.join(policy.other_conditions)}"
        )
    if "all" not in policy.include_applications or policy.exclude_applications:
        return Unknown(f"{name} blocks only some resources")
    return ""


def policy_to_body(policy: Policy) -> dict[str, Any]:
    """Give a policy as JSON for the store."""
    return {
        "id": policy.id,
        "display_name": policy.display_name[:200],
        "state": policy.state,
        "include_service_principals": sorted(policy.include_service_principals),
        "exclude_service_principals": sorted(policy.exclude_service_principals),
        "risk_levels": sorted(policy.risk_levels),
        "include_applications": sorted(policy.include_applications),
        "exclude_applications": sorted(policy.exclude_applications),
        "blocks": policy.blocks,
        "other_conditions": list(policy.other_conditions),
    }


def policy_from_body(body: Mapping[str, Any]) -> Policy:
    """Read back what ``policy_to_body`` wrote. Raises: KeyError when it is something else."""
    return Policy(
        id=body["id"],
        display_name=body["display_name"],
        state=body["state"],
        include_service_principals=frozenset(body["include_service_principals"]),
        exclude_service_principals=frozenset(body["exclude_service_principals"]),
        risk_levels=frozenset(body["risk_levels"]),
        include_applications=frozenset(body["include_applications"]),
        exclude_applications=frozenset(body["exclude_applications"]),
        blocks=body["blocks"],
        other_conditions=tuple(body["other_conditions"]),
    )
