"""
What one Conditional Access policy does to one principal at high risk, and every reason why not. Pure.

A policy is taken apart once for each sort of workload identity (``compiled``); what is left to ask for a principal is
whether the policy includes it (``verdict_on``). ``response/breaker.py`` adds the verdicts up.

Sources, by their names in facts/entra.md: Entra "Conditional Access for workload identities" (object ids, block the only
grant, conditions location, risk and authentication context), "Conditional Access for agents", Graph v1.0 and beta
"conditionalAccessPolicy" and its parts (reserved words, flags texts).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from clients.terms import AttributeFilter, Kind, Policy, ServicePrincipal, Unknown, is_guid
from response import attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from response.attributes import Attributes


class Reason(StrEnum):
    """Why a policy does not block a principal, or not altogether."""

    ONLY_REPORTS = "only_reports"
    DISABLED = "disabled"
    EXCLUDES_IT = "excludes_it"
    DOES_NOT_INCLUDE_IT = "does_not_include_it"
    LISTS_THE_APP_ID = "lists_the_app_id"
    LISTS_THE_APPLICATION_OBJECT_ID = "lists_the_application_object_id"
    TARGETS_PEOPLE = "targets_people"
    FOR_AGENT_IDENTITIES = "for_agent_identities"
    FOR_SERVICE_PRINCIPALS = "for_service_principals"
    RISK_NOT_HIGH = "risk_not_high"
    GRANTS = "grants"
    NO_RESOURCES = "no_resources"
    SOME_RESOURCES = "some_resources"
    SOME_LOCATIONS = "some_locations"
    MULTITENANT = "multitenant"
    FOREIGN = "foreign"
    MANAGED_IDENTITY = "managed_identity"
    AGENT_BLUEPRINT = "agent_blueprint"
    AGENT_USER = "agent_user"
    MICROSOFT = "microsoft"
    UNFAMILIAR_KIND = "unfamiliar_kind"
    NO_POLICY = "no_policy"


@dataclass(frozen=True, slots=True)
class Why:
    """One reason in words. ``policy_id`` is empty where it holds whatever the policies say."""

    reason: Reason
    policy_id: str
    words: str


@dataclass(frozen=True, slots=True)
class About:
    """
    Who is asked about. ``attributes`` are its custom security attributes, None when they were not read.

    ``application_object_id`` is the object id of its app registration, where known: listed in a policy by mistake it
    covers nobody, and is named.
    """

    principal: ServicePrincipal
    attributes: Attributes | None = None
    application_object_id: str = ""


# --- what of a policy does not depend on the principal -------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """
    The fields of a policy that speak of one sort of workload identity.

    The two have separate risk, separate lists and separate filters (facts §2 and §9, "wrong door").
    """

    included: str
    excluded: str
    filter: str
    risk: str
    other_included: str
    other_filter: str
    other_risk: str
    everyone: str
    others_everyone: str
    wrong: Reason
    wrong_words: str
    wanted: str


SERVICE_PRINCIPALS: Final = Door(
    included="include_service_principals",
    excluded="exclude_service_principals",
    filter="service_principal_filter",
    risk="risk_levels",
    other_included="include_agents",
    other_filter="agent_filter",
    other_risk="agent_risk_levels",
    everyone="serviceprincipalsinmytenant",
    others_everyone="all",
    wrong=Reason.FOR_AGENT_IDENTITIES,
    wrong_words="is for agent identities, and this is an ordinary service principal",
    wanted="an enabled Conditional Access policy that includes this service principal, has service principal risk high "
    "as a condition, covers all resources and blocks",
)
AGENTS: Final = Door(
    included="include_agents",
    excluded="exclude_agents",
    filter="agent_filter",
    risk="agent_risk_levels",
    other_included="include_service_principals",
    other_filter="service_principal_filter",
    other_risk="risk_levels",
    everyone="all",
    others_everyone="serviceprincipalsinmytenant",
    wrong=Reason.FOR_SERVICE_PRINCIPALS,
    wrong_words="is for service principals, and this is an agent identity",
    wanted="an enabled Conditional Access policy that includes this agent identity, has agent risk high as a condition, "
    "covers all resources and blocks",
)
DOORS: Final = {Kind.APPLICATION: SERVICE_PRINCIPALS, Kind.AGENT_IDENTITY: AGENTS}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was found of one policy: reasons that it never blocks, that it blocks in part, and doubts."""

    never: tuple[Why, ...] = ()
    partly: tuple[Why, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy seen through one door. ``given`` holds for every principal of that door."""

    policy: Policy
    door: Door
    included: frozenset[str]
    excluded: frozenset[str]
    filter: AttributeFilter | None
    on_risk: bool
    given: _Finding

    @property
    def name(self) -> str:
        """How reasons call it."""
        return f"policy {self.policy.id}"


def compiled(policy: Policy, door: Door) -> Compiled:
    """Take a policy apart, as far as that holds for every principal of a door."""
    risk: frozenset[str] = getattr(policy, door.risk)
    parts = (
        _controls(policy),
        _risk(policy, risk, door),
        _resources(policy),
        _locations(policy),
        _others(policy, door),
    )
    given = _Finding(
        tuple(why for part in parts for why in part.never),
        tuple(why for part in parts for why in part.partly),
        tuple(doubt for part in parts for doubt in part.doubts),
    )
    return Compiled(
        policy,
        door,
        getattr(policy, door.included),
        getattr(policy, door.excluded),
        getattr(policy, door.filter),
        bool(risk),
        given,
    )


def _never(policy: Policy, reason: Reason, words: str) -> _Finding:
    return _Finding(never=(Why(reason, policy.id, f"policy {policy.id} {words}"),))


def _partly(policy: Policy, reason: Reason, words: str) -> _Finding:
    return _Finding(partly=(Why(reason, policy.id, f"policy {policy.id} {words}"),))


def _doubt(policy: Policy, words: str) -> _Finding:
    return _Finding(doubts=(f"policy {policy.id} {words}",))


def _controls(policy: Policy) -> _Finding:
    """Block is the only grant control there is for workload identities."""
    demands = ", ".join(sorted(policy.grant_controls))
    if not policy.blocks:
        words = f"grants access on conditions ({demands}) and does not block" if demands else "does not block"
        return _never(policy, Reason.GRANTS, words)
    if demands and policy.grant_operator != "AND":
        return _doubt(
            policy, f"blocks or, instead, demands {demands}: how Entra takes that is not documented"
        )
    return _Finding()


def _risk(policy: Policy, levels: frozenset[str], door: Door) -> _Finding:
    if levels and not levels & {"high", "unknownfuturevalue"}:
        return _never(policy, Reason.RISK_NOT_HIGH, f"asks for risk {', '.join(sorted(levels))}, not high")
    if getattr(policy, door.other_risk):
        # Conditions add up, and this one speaks of a risk that the principal does not have.
        return _doubt(policy, "has a condition on the risk of the other sort of workload identity")
    if levels and "high" not in levels:
        return _doubt(policy, "has a risk level that Graph does not name in this reading")
    return _Finding()


def _resources(policy: Policy) -> _Finding:
    included, excluded = policy.include_applications, policy.exclude_applications
    if policy.application_filter is not None:
        # The attributes are those of each resource, which nobody reads here.
        return _doubt(policy, "filters resources by their attributes, which this version does not evaluate")
    if not included or included == {"none"}:
        if policy.authentication_contexts:
            return _partly(
                policy,
                Reason.SOME_RESOURCES,
                "blocks only where a resource demands one of its authentication contexts",
            )
        what = "is about user actions only" if policy.user_actions else "covers no resource"
        return _never(policy, Reason.NO_RESOURCES, what)
    if policy.user_actions or policy.authentication_contexts:
        return _doubt(policy, "names resources beside user actions or authentication contexts")
    if "all" not in included:
        what = ", ".join(_shown(included))
        if included == {"allagentidresources"}:
            what = "agent resources (a token for Microsoft Graph is none)"  # facts §2
        return _partly(policy, Reason.SOME_RESOURCES, f"blocks only some resources: {what}")
    if excluded & {"all"}:
        return _doubt(policy, "includes and excludes all resources")
    if excluded:
        words = f"blocks only some resources: all but {', '.join(_shown(excluded))}"
        return _partly(policy, Reason.SOME_RESOURCES, words)
    return _Finding()


def _locations(policy: Policy) -> _Finding:
    included, excluded = policy.include_locations, policy.exclude_locations
    if not included and excluded:
        return _doubt(policy, "excludes locations and includes none")
    if "all" in excluded:
        return _doubt(policy, "excludes all locations")
    where = "everywhere" if "all" in included else ", ".join(_shown(included))
    if excluded:
        words = f"blocks only from some locations: {where} but {', '.join(_shown(excluded))}"
        return _partly(policy, Reason.SOME_LOCATIONS, words)
    if included and "all" not in included:
        return _partly(policy, Reason.SOME_LOCATIONS, f"blocks only from some locations: {where}")
    return _Finding()


def _others(policy: Policy, door: Door) -> _Finding:
    """Whatever else it demands. These are conditions of users, or ones that nothing here evaluates."""
    found = list(policy.other_conditions)
    if policy.client_app_types - {"all"}:
        found.append("clientAppTypes")
    if policy.people:
        # A policy is for people or for workload identities; one that names both is not documented.
        found.append("users")
    if getattr(policy, door.other_filter) is not None:
        found.append("a filter on the other sort of workload identity")
    doubts = []
    if found:
        doubts.append(
            f"policy {policy.id} has conditions this version does not evaluate: {', '.join(_shown(found))}"
        )
    if not policy.complete:
        doubts.append(f"policy {policy.id} was read by an earlier version, which left conditions out")
    return _Finding(doubts=tuple(doubts))


def _shown(names: Iterable[str]) -> list[str]:
    """Give names in order, a few of them and not endlessly long: they are the tenant's text."""
    ordered = sorted(name[:60] for name in names)
    return ordered if len(ordered) <= 5 else [*ordered[:5], f"{len(ordered) - 5} more"]


# --- whether it includes the principal -----------------------------------------------------------


def _inclusion(one: Compiled, about: About) -> _Finding:
    me = about.principal.object_id
    door = one.door
    if me in one.excluded or door.everyone in one.excluded:
        return _never(one.policy, Reason.EXCLUDES_IT, "excludes this principal")
    doubts = []
    if _strange(one.excluded, door):
        doubts.append(f"{one.name} excludes by a word that is no object id")
    named = me in one.included or door.everyone in one.included
    if one.filter is not None:
        found = _filtered(one, named, about)
        return _Finding(found.never, (), (*doubts, *found.doubts))
    if named:
        return _Finding(doubts=tuple(doubts))
    if _strange(one.included, door):
        return _Finding(doubts=(*doubts, f"{one.name} includes by a word that is no object id"))
    return _not_named(one, about)


def _strange(words: frozenset[str], door: Door) -> bool:
    return any(not is_guid(word) for word in words - {door.everyone, "none"})


def _filtered(one: Compiled, named: bool, about: About) -> _Finding:
    rule = one.filter
    if rule is None or rule.mode not in ("include", "exclude") or not rule.rule:
        return _doubt(one.policy, "has a filter that cannot be read")
    matched = attributes.matches(rule.rule, about.attributes)
    if matched is None and (named or rule.mode == "include"):
        return _doubt(one.policy, "has a filter on attributes that could not be evaluated for it")
    if rule.mode == "exclude":
        if not named:
            return _not_named(one, about)
        return _never(one.policy, Reason.EXCLUDES_IT, "excludes it by its filter") if matched else _Finding()
    # How an include filter and a list add up is not documented; where both say the same it does not matter.
    by_list = one.included - {"none"}
    if matched:
        return _Finding() if named or not by_list else _doubt(one.policy, "has an include filter and a list")
    if named:
        return _doubt(one.policy, "lists it, and its include filter does not match it")
    return _never(one.policy, Reason.DOES_NOT_INCLUDE_IT, "does not include it: its filter does not match")


def _not_named(one: Compiled, about: About) -> _Finding:
    policy, door, me = one.policy, one.door, about.principal
    others: frozenset[str] = getattr(policy, door.other_included)
    if not policy.complete and (door is AGENTS or "servicePrincipalFilter" in policy.other_conditions):
        return _Finding()  # what that version did not read may have been the field that includes it
    if me.app_id in one.included:
        return _never(policy, Reason.LISTS_THE_APP_ID, "lists the appId, which is no object id")
    if about.application_object_id and about.application_object_id.lower() in one.included:
        words = "lists the object id of the app registration, which is not the service principal's"
        return _never(policy, Reason.LISTS_THE_APPLICATION_OBJECT_ID, words)
    if me.object_id in others or (door.others_everyone in others and not one.included):
        return _never(policy, door.wrong, door.wrong_words)
    if policy.people:
        words = f"targets {', '.join(sorted(policy.people))}, which cannot reach a service principal"
        return _never(policy, Reason.TARGETS_PEOPLE, words)
    if door is AGENTS and not one.included and not others and one.policy.service_principal_filter is None:
        # A policy is for somebody. v1.0 knows no agents' fields, so one that names nobody may be theirs.
        return _doubt(policy, "names nobody in this reading: it may be for agent identities")
    return _never(policy, Reason.DOES_NOT_INCLUDE_IT, "does not include this principal")


# --- one policy, one principal --------------------------------------------------------------------


class Bite(StrEnum):
    """How much one policy blocks of what one principal asks for at high risk."""

    FULLY = "fully"
    PARTLY = "partly"
    IN_PLACE = "in_place"  # at most in part, and whatever the risk is: confirming changes nothing about it
    REPORTED = "reported"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy does to one principal: ``reasons`` why not, or why in part; ``doubt`` where that is unknown."""

    policy_id: str
    bite: Bite
    reasons: tuple[Why, ...] = ()
    doubt: str = ""
    concerns: bool = True
    """Whether the policy is about workload identities and blocking at all: worth naming to a person."""


def verdict_on(one: Compiled, about: About) -> Verdict:
    """
    Add up what was found.

    One reason that it never blocks outweighs every doubt, a doubt outweighs "in part", and the state comes last: a
    policy that is not enabled blocks nobody, whatever else is unknown of it.
    """
    policy, included = one.policy, _inclusion(one, about)
    never = (*one.given.never, *included.never)
    doubts = (*one.given.doubts, *included.doubts)
    partly = one.given.partly
    concerns = _concerns(one, included)
    match policy.state:
        case "enabled":
            pass
        case "enabledForReportingButNotEnforced":
            if never:
                return Verdict(policy.id, Bite.NEVER, never, concerns=concerns)
            why = Why(Reason.ONLY_REPORTS, policy.id, f"{one.name} only reports")
            whole = not doubts and not partly
            return Verdict(policy.id, Bite.REPORTED if whole else Bite.NEVER, (why, *partly))
        case "disabled":
            why = Why(Reason.DISABLED, policy.id, f"{one.name} is disabled")
            return Verdict(policy.id, Bite.NEVER, (*never, why), concerns=concerns)
        case _:
            doubts = (f"{one.name} is in a state that is not known here", *doubts)
    if never:
        return Verdict(policy.id, Bite.NEVER, never, concerns=concerns)
    if partly and not one.on_risk:
        return Verdict(policy.id, Bite.IN_PLACE, partly)
    if doubts:
        return Verdict(policy.id, Bite.UNKNOWN, partly, doubt=doubts[0])
    return Verdict(policy.id, Bite.PARTLY if partly else Bite.FULLY, partly)


def _concerns(one: Compiled, included: _Finding) -> bool:
    reasons = {why.reason for why in (*one.given.never, *included.never)}
    speaks = one.included or one.filter is not None or one.on_risk
    return bool(speaks) or bool(reasons & {Reason.FOR_AGENT_IDENTITIES, Reason.FOR_SERVICE_PRINCIPALS})


# --- continuous access evaluation -----------------------------------------------------------------


def cae_turned_off(policies: Iterable[Policy], about: About) -> tuple[str, ...] | Unknown:
    """
    Give the ids of enabled policies whose session control turns continuous access evaluation off for a principal.

    Unknown where one may. Source: Entra "Continuous access evaluation for workload identities" (Disable), Graph beta
    "continuousAccessEvaluationSessionControl".
    """
    door = DOORS.get(about.principal.kind)
    if door is None:
        return ()
    found, doubts = [], []
    for policy in policies:
        if policy.state in ("disabled", "enabledForReportingButNotEnforced") or policy.cae_mode == "":
            continue
        one = compiled(policy, door)
        included = _inclusion(one, about)
        if included.never or any(why.reason is Reason.NO_RESOURCES for why in one.given.never):
            continue
        elsewhere = [why for why in one.given.never if why.reason is Reason.RISK_NOT_HIGH]
        doubtful = included.doubts or one.given.doubts or one.given.partly or elsewhere
        if policy.cae_mode is None or (policy.cae_mode == "disabled" and doubtful):
            doubts.append(f"{one.name} may turn continuous access evaluation off for it")
        elif policy.cae_mode == "disabled":
            found.append(policy.id)
    if found:
        return tuple(found)
    return Unknown(doubts[0]) if doubts else ()
