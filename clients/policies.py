"""Conditional Access policies as Graph sends them, parsed into ``clients/terms.py: Policy``. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clients.fields import text
from clients.terms import AttributeFilter, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is read of each part of a policy. Anything else that is not empty is named in ``other_conditions``.
_CONDITIONS: Final = frozenset(
    {
        "agentIdRiskLevels",
        "agents",
        "applications",
        "authenticationFlows",
        "clientAppTypes",
        "clientApplications",
        "locations",
        "servicePrincipalRiskLevels",
        "users",
    }
)
_CLIENTS: Final = frozenset(
    {
        "agentIdServicePrincipalFilter",
        "excludeAgentIdServicePrincipals",
        "excludeServicePrincipals",
        "includeAgentIdServicePrincipals",
        "includeServicePrincipals",
        "servicePrincipalFilter",
    }
)
_APPLICATIONS: Final = frozenset(
    {
        "applicationFilter",
        "excludeApplications",
        "includeApplications",
        "includeAuthenticationContextClassReferences",
        "includeUserActions",
    }
)
_LOCATIONS: Final = frozenset({"includeLocations", "excludeLocations"})
# Exclusions of people are not read: who is no person is not among them.
_USERS: Final = frozenset(
    {
        "excludeGroups",
        "excludeGuestsOrExternalUsers",
        "excludeRoles",
        "excludeUsers",
        "includeGroups",
        "includeGuestsOrExternalUsers",
        "includeRoles",
        "includeUsers",
    }
)
_AGENTS: Final = frozenset({"excludeAgentUsers", "includeAgentUsers"})  # beta; users, who are no principals
# Beta. A policy that is rolled out in part, or was deleted, may block nobody.
_NOT_IN_FORCE: Final = ("partialEnablementStrategy", "deletedDateTime")
_AGENT_USERS: Final = "allagentidusers"  # reserved word in includeUsers (beta)


def policy_from_graph(found: Mapping[str, Any]) -> Policy:
    """
    Parse one policy of v1.0 or beta.

    What is present and not evaluated, and a field that is not of the documented form, is named in
    ``other_conditions``: a list that cannot be read may have held the exclusion that matters.
    """
    read = _Reader()
    conditions = read.part(found, "conditions")
    clients, applications = read.part(conditions, "clientApplications"), read.part(conditions, "applications")
    users, locations = read.part(conditions, "users"), read.part(conditions, "locations")
    agents, flows = read.part(conditions, "agents"), read.part(conditions, "authenticationFlows")
    grant, session = read.part(found, "grantControls"), read.part(found, "sessionControls")
    read.others(conditions, _CONDITIONS)
    read.others(clients, _CLIENTS)
    read.others(applications, _APPLICATIONS)
    read.others(locations, _LOCATIONS)
    read.others(users, _USERS)
    read.others(agents, _AGENTS)
    read.odd += [name for name in _NOT_IN_FORCE if not _is_empty(found.get(name))]
    if flows and not read.flags(flows, "transferMethods") <= {"none"}:  # a flags text, META
        read.odd.append("authenticationFlows")
    controls = read.words(grant, "builtInControls")
    return Policy(
        id=text(found, "id").lower(),
        display_name=text(found, "displayName"),
        state=text(found, "state"),
        include_service_principals=read.words(clients, "includeServicePrincipals"),
        exclude_service_principals=read.words(clients, "excludeServicePrincipals"),
        service_principal_filter=read.filter(clients, "servicePrincipalFilter"),
        include_agents=read.words(clients, "includeAgentIdServicePrincipals"),
        exclude_agents=read.words(clients, "excludeAgentIdServicePrincipals"),
        agent_filter=read.filter(clients, "agentIdServicePrincipalFilter"),
        risk_levels=read.words(conditions, "servicePrincipalRiskLevels"),
        agent_risk_levels=read.flags(conditions, "agentIdRiskLevels"),
        people=_people(read, users, agents),
        include_applications=read.words(applications, "includeApplications"),
        exclude_applications=read.words(applications, "excludeApplications"),
        application_filter=read.filter(applications, "applicationFilter"),
        user_actions=read.words(applications, "includeUserActions"),
        authentication_contexts=read.words(applications, "includeAuthenticationContextClassReferences"),
        include_locations=read.words(locations, "includeLocations"),
        exclude_locations=read.words(locations, "excludeLocations"),
        client_app_types=read.words(conditions, "clientAppTypes"),
        blocks="block" in controls,
        grant_operator=text(grant, "operator"),
        grant_controls=_demands(grant, controls),
        cae_mode=_cae_mode(read, session),
        other_conditions=tuple(dict.fromkeys(read.odd)),
    )


class _Reader:
    """Reads parts of foreign JSON; ``odd`` collects the names of what is not evaluated or has another form."""

    def __init__(self) -> None:
        self.odd: list[str] = []

    def part(self, found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """Give an object; an empty one where there is none."""
        value = found.get(name)
        if isinstance(value, dict):
            return value
        self._unless_none(value, name)
        return {}

    def words(self, found: Mapping[str, Any], name: str) -> frozenset[str]:
        """Give a list of texts, lower-cased."""
        value = found.get(name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return frozenset(item.lower() for item in value)
        self._unless_none(value, name)
        return frozenset()

    def flags(self, found: Mapping[str, Any], name: str) -> frozenset[str]:
        """Give the members of a flags text such as ``medium,high``, lower-cased."""
        value = found.get(name)
        if isinstance(value, str):
            return frozenset(word.strip().lower() for word in value.split(",") if word.strip())
        self._unless_none(value, name)
        return frozenset()

    def filter(self, found: Mapping[str, Any], name: str) -> AttributeFilter | None:
        """Give a filter; None where there is none, or one with neither mode nor rule (as some exports write it)."""
        value = self.part(found, name)
        if _is_empty(value):
            return None
        mode, rule = value.get("mode"), value.get("rule")
        return AttributeFilter(
            mode.lower() if isinstance(mode, str) else "", rule if isinstance(rule, str) else ""
        )

    def others(self, found: Mapping[str, Any], known: frozenset[str]) -> None:
        """Note what is present beside ``known``."""
        self.odd += [
            name
            for name, value in found.items()
            if name not in known and "@odata" not in name and not _is_empty(value)
        ]

    def _unless_none(self, value: object, name: str) -> None:
        if value is not None:
            self.odd.append(name)


def _is_empty(value: object) -> bool:
    """Whether nothing is said: null, an empty text or list, or an object of nothing but such."""
    if isinstance(value, dict):
        return all("@odata" in name or _is_empty(item) for name, item in value.items())
    return value is None or value in ("", [])


def _people(read: _Reader, users: Mapping[str, Any], agents: Mapping[str, Any]) -> frozenset[str]:
    included = read.words(users, "includeUsers") - {"none"}
    found = {
        "users": included - {_AGENT_USERS},
        "agent users": included & {_AGENT_USERS} or read.words(agents, "includeAgentUsers"),
        "groups": read.words(users, "includeGroups"),
        "roles": read.words(users, "includeRoles"),
        "guests": not _is_empty(users.get("includeGuestsOrExternalUsers")),
    }
    return frozenset(name for name, present in found.items() if present)


def _demands(grant: Mapping[str, Any], controls: frozenset[str]) -> frozenset[str]:
    further = ("authenticationStrength", "customAuthenticationFactors", "termsOfUse")
    return controls - {"block"} | {name for name in further if not _is_empty(grant.get(name))}


def _cae_mode(read: _Reader, session: Mapping[str, Any]) -> str | None:
    """Give the mode of ``continuousAccessEvaluation``; None where there are session controls without that field."""
    if session and "continuousAccessEvaluation" not in session:
        return None
    return text(read.part(session, "continuousAccessEvaluation"), "mode").lower()
