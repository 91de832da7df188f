"""
Is the breaker armed? Whether an enabled policy would block a principal once its risk is high. Pure.

``Breaker(policies).answer(about)`` gives the whole answer, ``armed`` the short one that the flow judges by. A policy is
taken apart once; what then depends on the principal is only whether the policy includes it, so ten thousand principals
cost a look into an index each (`bench/armed.py`).

Sources, by their names in facts/entra.md: Entra "Conditional Access for workload identities" (kinds, object ids, block
the only grant, conditions location, risk and authentication context), "Conditional Access for agents" (agents' own
conditions, T1 not evaluated), Graph v1.0 and beta "conditionalAccessPolicy" and its parts (reserved words, flags texts).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from clients.terms import AppId, AttributeFilter, Kind, ObjectId, Policy, ServicePrincipal, Unknown, is_guid
from response import attributes
from response.evidence import Armed, NotArmed
from response.levers import CONFIRM_AGENT_COMPROMISED, CONFIRM_COMPROMISED, LEVERS, next_lever

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from response.attributes import Attributes


class Coverage(StrEnum):
    """What an answer says."""

    ARMED = "armed"
    PARTLY = "partly"  # blocks at high risk, but only towards some resources or from some places
    IN_PLACE = "in_place"  # blocks so too, but whatever the risk is: the lever changes nothing
    REPORT_ONLY = "report_only"  # a policy that only reports would block if it were enabled
    NOT_COVERED = "not_covered"
    UNKNOWN = "unknown"


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


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Whether an enabled policy blocks one principal at high risk, and why not.

    ``policies`` are the ids of those that block (ARMED), block in part (PARTLY, IN_PLACE) or would if they were enabled
    (REPORT_ONLY). ``why`` says so for a person; ``would_bite`` what would block it, ``lever`` the id in
    ``response/levers.py`` of the lever that stops it without a policy, empty where none does.
    """

    coverage: Coverage
    policies: tuple[str, ...]
    reasons: tuple[Why, ...]
    why: str
    would_bite: str = ""
    lever: str = ""


def armed(
    policies: Sequence[Policy],
    principal: ServicePrincipal,
    *,
    held: Attributes | None = None,
    application_object_id: str = "",
) -> Armed | NotArmed | Unknown:
    """
    Tell whether some enabled policy would block ``principal`` at high risk.

    Blocked in part is Unknown: whether what it does next is among that part, nobody can say beforehand.
    """
    return short(Breaker(policies).answer(About(principal, held, application_object_id)))


def short(answer: Answer) -> Armed | NotArmed | Unknown:
    """Give an answer as the flow judges it."""
    match answer.coverage:
        case Coverage.ARMED:
            return Armed(answer.policies)
        case Coverage.NOT_COVERED | Coverage.REPORT_ONLY | Coverage.IN_PLACE:
            report_only = answer.coverage is Coverage.REPORT_ONLY
            return NotArmed(answer.why, answer.would_bite, report_only=report_only, lever=answer.lever)
        case _:
            return Unknown(answer.why)


# --- kinds --------------------------------------------------------------------------------------

# Why Conditional Access does not reach a kind at all (Entra "Conditional Access for workload identities", limits;
# for blueprints "Conditional Access for agents": the blueprint's own token, T1, is not evaluated).
_OUT_OF_REACH: Final = {
    Kind.MULTITENANT_APPLICATION: (
        Reason.MULTITENANT,
        "Conditional Access does not reach a multi-tenant application, not even one registered here",
    ),
    Kind.FOREIGN_APPLICATION: (
        Reason.FOREIGN,
        "Conditional Access does not reach an application that is registered in another tenant",
    ),
    Kind.MANAGED_IDENTITY: (
        Reason.MANAGED_IDENTITY,
        "Conditional Access does not reach a managed identity",
    ),
    Kind.AGENT_BLUEPRINT: (
        Reason.AGENT_BLUEPRINT,
        "Conditional Access is evaluated for the tokens of a blueprint's agent identities, not for the blueprint's own",
    ),
    Kind.AGENT_USER: (
        Reason.AGENT_USER,
        "an agent user is a user: policies on service principals and agent identities do not cover it",
    ),
    Kind.MICROSOFT: (
        Reason.MICROSOFT,
        "Conditional Access for workload identities does not reach Microsoft's own applications",
    ),
    Kind.OTHER: (
        Reason.UNFAMILIAR_KIND,
        "Conditional Access is documented for single-tenant applications, and this is none",
    ),
}


def _lever_without_policies(kind: Kind) -> str:
    confirming = (CONFIRM_COMPROMISED.id, CONFIRM_AGENT_COMPROMISED.id)
    lever = next_lever(kind, confirming, frozenset(LEVERS))
    return lever.id if lever else ""


_LEVERS: Final = {kind: _lever_without_policies(kind) for kind in Kind}


def _would_bite(kind: Kind) -> str:
    lever = _LEVERS[kind]
    otherwise = f"the lever {lever}" if lever else "no lever of this version"
    door = _DOORS.get(kind)
    return otherwise if door is None else f"{door.wanted}; without one, {otherwise}"


# --- what of a policy does not depend on the principal -------------------------------------------


@dataclass(frozen=True, slots=True)
class _Door:
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


_SERVICE_PRINCIPALS: Final = _Door(
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
_AGENTS: Final = _Door(
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
_DOORS: Final = {Kind.APPLICATION: _SERVICE_PRINCIPALS, Kind.AGENT_IDENTITY: _AGENTS}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was found of one policy: reasons that it never blocks, that it blocks in part, and doubts."""

    never: tuple[Why, ...] = ()
    partly: tuple[Why, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A policy seen through one door. ``given`` holds for every principal of that door."""

    policy: Policy
    door: _Door
    included: frozenset[str]
    excluded: frozenset[str]
    filter: AttributeFilter | None
    on_risk: bool
    given: _Finding

    @property
    def name(self) -> str:
        return f"policy {self.policy.id}"


def _compiled(policy: Policy, door: _Door) -> _Compiled:
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
    return _Compiled(
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


def _risk(policy: Policy, levels: frozenset[str], door: _Door) -> _Finding:
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


def _others(policy: Policy, door: _Door) -> _Finding:
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


def _inclusion(one: _Compiled, about: About) -> _Finding:
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


def _strange(words: frozenset[str], door: _Door) -> bool:
    return any(not is_guid(word) for word in words - {door.everyone, "none"})


def _filtered(one: _Compiled, named: bool, about: About) -> _Finding:
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


def _not_named(one: _Compiled, about: About) -> _Finding:
    policy, door, me = one.policy, one.door, about.principal
    others: frozenset[str] = getattr(policy, door.other_included)
    if not policy.complete and (door is _AGENTS or "servicePrincipalFilter" in policy.other_conditions):
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
    if door is _AGENTS and not one.included and not others and one.policy.service_principal_filter is None:
        # A policy is for somebody. v1.0 knows no agents' fields, so one that names nobody may be theirs.
        return _doubt(policy, "names nobody in this reading: it may be for agent identities")
    return _never(policy, Reason.DOES_NOT_INCLUDE_IT, "does not include this principal")


# --- one policy, one principal --------------------------------------------------------------------


class _Bite(StrEnum):
    FULLY = "fully"
    PARTLY = "partly"
    IN_PLACE = "in_place"  # at most in part, and whatever the risk is: confirming changes nothing about it
    REPORTED = "reported"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Verdict:
    policy_id: str
    bite: _Bite
    reasons: tuple[Why, ...] = ()
    doubt: str = ""
    concerns: bool = True
    """Whether the policy is about workload identities and blocking at all: worth naming to a person."""


def _verdict(one: _Compiled, about: About) -> _Verdict:
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
                return _Verdict(policy.id, _Bite.NEVER, never, concerns=concerns)
            why = Why(Reason.ONLY_REPORTS, policy.id, f"{one.name} only reports")
            whole = not doubts and not partly
            return _Verdict(policy.id, _Bite.REPORTED if whole else _Bite.NEVER, (why, *partly))
        case "disabled":
            why = Why(Reason.DISABLED, policy.id, f"{one.name} is disabled")
            return _Verdict(policy.id, _Bite.NEVER, (*never, why), concerns=concerns)
        case _:
            doubts = (f"{one.name} is in a state that is not known here", *doubts)
    if never:
        return _Verdict(policy.id, _Bite.NEVER, never, concerns=concerns)
    if partly and not one.on_risk:
        return _Verdict(policy.id, _Bite.IN_PLACE, partly)
    if doubts:
        return _Verdict(policy.id, _Bite.UNKNOWN, partly, doubt=doubts[0])
    return _Verdict(policy.id, _Bite.PARTLY if partly else _Bite.FULLY, partly)


def _concerns(one: _Compiled, included: _Finding) -> bool:
    reasons = {why.reason for why in (*one.given.never, *included.never)}
    speaks = one.included or one.filter is not None or one.on_risk
    return bool(speaks) or bool(reasons & {Reason.FOR_AGENT_IDENTITIES, Reason.FOR_SERVICE_PRINCIPALS})


# --- all policies ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Side:
    """All policies through one door, with an index of who is mentioned where."""

    compiled: list[_Compiled]
    mentioning: dict[str, tuple[int, ...]] = field(default_factory=dict)
    filtering: tuple[int, ...] = ()
    strangers: list[_Verdict] = field(default_factory=list)
    """What each policy does to a principal that it does not mention, by position."""


# No policy can mention it, so it stands for all that are not mentioned.
_NOBODY: Final = ObjectId("no such object id")


class Breaker:
    """The policies of one reading, prepared to be asked about many principals."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._sides = {kind: _side(policies, door, kind) for kind, door in _DOORS.items()}
        self._total = len(policies)

    def answer(self, about: About) -> Answer:
        """Tell whether an enabled policy would block this principal at high risk."""
        kind = about.principal.kind
        side = self._sides.get(kind)
        if side is None:
            reason, words = _OUT_OF_REACH[kind]
            why = Why(reason, "", words)
            return Answer(Coverage.NOT_COVERED, (), (why,), words, _would_bite(kind), _LEVERS[kind])
        return self._added_up(self._verdicts(side, about), kind)

    def answers(self, abouts: Iterable[About]) -> Iterator[Answer]:
        """Answer for many, in order."""
        return map(self.answer, abouts)

    def reasons(self, about: About) -> tuple[Why, ...]:
        """Give every reason of every policy, also of those that are about people: for who wants to see it all."""
        side = self._sides.get(about.principal.kind)
        if side is None:
            return self.answer(about).reasons
        return tuple(why for verdict in self._verdicts(side, about) for why in verdict.reasons)

    @staticmethod
    def _verdicts(side: _Side, about: About) -> list[_Verdict]:
        me = about.principal
        own = {me.object_id, me.app_id, about.application_object_id.lower()}
        apart = {position for name in own if name for position in side.mentioning.get(name, ())}
        if about.attributes is not None:
            apart.update(side.filtering)
        if not apart:
            return side.strangers
        verdicts = list(side.strangers)
        for position in apart:
            verdicts[position] = _verdict(side.compiled[position], about)
        return verdicts

    def _added_up(self, verdicts: list[_Verdict], kind: Kind) -> Answer:
        by_bite: dict[_Bite, list[_Verdict]] = {bite: [] for bite in _Bite}
        for verdict in verdicts:
            by_bite[verdict.bite].append(verdict)
        if surely := by_bite[_Bite.FULLY]:
            ids = tuple(verdict.policy_id for verdict in surely)
            return Answer(Coverage.ARMED, ids, (), f"blocked by policy {', '.join(ids)}")
        would_bite, lever = _would_bite(kind), _LEVERS[kind]
        if doubts := by_bite[_Bite.UNKNOWN]:
            return Answer(Coverage.UNKNOWN, (), (), doubts[0].doubt, would_bite, lever)
        if parts := by_bite[_Bite.PARTLY]:
            reasons = tuple(why for verdict in parts for why in verdict.reasons)
            ids = tuple(verdict.policy_id for verdict in parts)
            return Answer(Coverage.PARTLY, ids, reasons, _sentence(reasons), would_bite, lever)
        said = tuple(why for verdict in verdicts if verdict.concerns for why in verdict.reasons)
        if reporting := by_bite[_Bite.REPORTED]:
            ids = tuple(verdict.policy_id for verdict in reporting)
            first = tuple(why for verdict in reporting for why in verdict.reasons)
            rest = tuple(why for why in said if why not in first)
            enabling = f"enabling policy {', '.join(ids)}"
            return Answer(
                Coverage.REPORT_ONLY, ids, (*first, *rest), _sentence((*first, *rest)), enabling, lever
            )
        if standing := by_bite[_Bite.IN_PLACE]:
            ids = tuple(verdict.policy_id for verdict in standing)
            why = f"{_sentence(said)}, whatever the risk is"
            return Answer(Coverage.IN_PLACE, ids, said, why, would_bite, lever)
        if not said:
            said = (self._no_policy(verdicts),)
        return Answer(Coverage.NOT_COVERED, (), said, _sentence(said), would_bite, lever)

    def _no_policy(self, verdicts: list[_Verdict]) -> Why:
        people = sum(
            any(why.reason is Reason.TARGETS_PEOPLE for why in verdict.reasons) for verdict in verdicts
        )
        words = "no policy blocks on high service principal risk"
        if people:
            words += f" ({people} of {self._total} are for users, groups, roles or guests)"
        return Why(Reason.NO_POLICY, "", words)


def _side(policies: Sequence[Policy], door: _Door, kind: Kind) -> _Side:
    compiled = [_compiled(policy, door) for policy in policies]
    found: dict[str, set[int]] = {}
    for position, one in enumerate(compiled):
        others: frozenset[str] = getattr(one.policy, door.other_included)
        for name in (*one.included, *one.excluded, *others):
            if is_guid(name):
                found.setdefault(name, set()).add(position)
    stranger = About(ServicePrincipal(_NOBODY, AppId(_NOBODY), "", kind, None, None))
    return _Side(
        compiled=compiled,
        mentioning={name: tuple(sorted(positions)) for name, positions in found.items()},
        filtering=tuple(position for position, one in enumerate(compiled) if one.filter is not None),
        strangers=[_verdict(one, stranger) for one in compiled],
    )


def _sentence(reasons: Sequence[Why]) -> str:
    """Give reasons as text, each once; a tenant has dozens of policies, so not endlessly many."""
    words = list(dict.fromkeys(why.words for why in reasons))
    return "; ".join(words if len(words) <= _MOST_REASONS else [*words[:_MOST_REASONS], "and others"])


_MOST_REASONS: Final = 6


# --- continuous access evaluation -----------------------------------------------------------------


def cae_turned_off(policies: Iterable[Policy], about: About) -> tuple[str, ...] | Unknown:
    """
    Give the ids of enabled policies whose session control turns continuous access evaluation off for a principal.

    Unknown where one may. Source: Entra "Continuous access evaluation for workload identities" (Disable), Graph beta
    "continuousAccessEvaluationSessionControl".
    """
    door = _DOORS.get(about.principal.kind)
    if door is None:
        return ()
    found, doubts = [], []
    for policy in policies:
        if policy.state in ("disabled", "enabledForReportingButNotEnforced") or policy.cae_mode == "":
            continue
        one = _compiled(policy, door)
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


# --- kept in the store ----------------------------------------------------------------------------

_SETS: Final = (
    "include_service_principals",
    "exclude_service_principals",
    "risk_levels",
    "include_applications",
    "exclude_applications",
)
_NEWER_SETS: Final = (
    "include_agents",
    "exclude_agents",
    "agent_risk_levels",
    "people",
    "user_actions",
    "authentication_contexts",
    "include_locations",
    "exclude_locations",
    "client_app_types",
    "grant_controls",
)
_FILTERS: Final = ("service_principal_filter", "agent_filter", "application_filter")
_TEXTS: Final = ("grant_operator", "cae_mode")


def policy_to_body(policy: Policy) -> dict[str, Any]:
    """Give a policy as JSON for the store."""
    body: dict[str, Any] = {
        "id": policy.id,
        "display_name": policy.display_name[:200],
        "state": policy.state,
        "blocks": policy.blocks,
        "other_conditions": list(policy.other_conditions),
        "complete": policy.complete,
    }
    body |= {name: sorted(getattr(policy, name)) for name in (*_SETS, *_NEWER_SETS)}
    body |= {name: getattr(policy, name) for name in _TEXTS}
    return body | {
        name: None if (rule := getattr(policy, name)) is None else asdict(rule) for name in _FILTERS
    }


def policy_from_body(body: Mapping[str, Any]) -> Policy:
    """
    Read back what ``policy_to_body`` wrote. Raises: KeyError when it is something else.

    A body of an earlier version lacks conditions. It is read as incomplete, for which no answer says "armed" and
    none says "not included": a field that is not there is not an empty one.
    """
    base: dict[str, Any] = {
        "id": body["id"],
        "display_name": body["display_name"],
        "state": body["state"],
        "blocks": body["blocks"],
        "other_conditions": tuple(body["other_conditions"]),
        **{name: frozenset(body[name]) for name in _SETS},
    }
    if any(name not in body for name in (*_NEWER_SETS, *_FILTERS, *_TEXTS, "complete")):
        return Policy(**base, complete=False)
    newer: dict[str, Any] = {name: frozenset(body[name]) for name in _NEWER_SETS}
    newer |= {name: body[name] for name in _TEXTS}
    newer |= {
        name: None if body[name] is None else AttributeFilter(body[name]["mode"], body[name]["rule"])
        for name in _FILTERS
    }
    return Policy(**base, **newer, complete=body["complete"] is True)
