"""Conditional Access policies as Graph sends them, parsed into ``clients/terms.py: Policy``. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clients.fields import part, text, words
from clients.terms import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is evaluated of a policy; anything else that is not empty makes the answer about it unknown.
_KNOWN_CONDITIONS: Final = frozenset(
    {"clientAppTypes", "applications", "users", "clientApplications", "servicePrincipalRiskLevels"}
)
_KNOWN_APPLICATIONS: Final = frozenset({"includeApplications", "excludeApplications"})
_KNOWN_CLIENTS: Final = frozenset({"includeServicePrincipals", "excludeServicePrincipals"})


def policy_from_graph(found: Mapping[str, Any]) -> Policy:
    """Parse one policy; what is present and not evaluated is named in ``other_conditions``."""
    conditions = part(found, "conditions")
    clients, applications = part(conditions, "clientApplications"), part(conditions, "applications")
    other = [
        *_others(conditions, _KNOWN_CONDITIONS),
        *_others(clients, _KNOWN_CLIENTS),
        *_others(applications, _KNOWN_APPLICATIONS),
    ]
    if words(conditions, "clientAppTypes") not in (frozenset(), frozenset({"all"})):
        other.append("clientAppTypes")
    return Policy(
        id=text(found, "id").lower(),
        display_name=text(found, "displayName"),
        state=text(found, "state"),
        include_service_principals=words(clients, "includeServicePrincipals"),
        exclude_service_principals=words(clients, "excludeServicePrincipals"),
        risk_levels=words(conditions, "servicePrincipalRiskLevels"),
        include_applications=words(applications, "includeApplications"),
        exclude_applications=words(applications, "excludeApplications"),
        blocks="block" in words(part(found, "grantControls"), "builtInControls"),
        other_conditions=tuple(other),
    )


def _others(part: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    return [name for name, value in part.items() if name not in known and "@odata" not in name and value]
