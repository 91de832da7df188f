"""
Is the breaker armed? Whether an enabled policy would block a principal once its risk is high. Pure.

``Breaker(policies).answer(about)`` gives the whole answer, ``armed`` the short one that the flow judges by. A policy is
taken apart once; what then depends on the principal is only whether the policy includes it, so ten thousand principals
cost a look into an index each (`bench/armed.py`). What one policy does is judged in ``response/coverage.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from clients.terms import AppId, AttributeFilter, Kind, ObjectId, Policy, ServicePrincipal, Unknown, is_guid
from response.coverage import DOORS, About, Bite, Compiled, Door, Reason, Verdict, Why, compiled, verdict_on
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
    door = DOORS.get(kind)
    return otherwise if door is None else f"{door.wanted}; without one, {otherwise}"


# --- all policies ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Side:
    """All policies through one door, with an index of who is mentioned where."""

    compiled: list[Compiled]
    mentioning: dict[str, tuple[int, ...]] = field(default_factory=dict)
    filtering: tuple[int, ...] = ()
    strangers: list[Verdict] = field(default_factory=list)
    """What each policy does to a principal that it does not mention, by position."""


# No policy can mention it, so it stands for all that are not mentioned.
_NOBODY: Final = ObjectId("no such object id")


class Breaker:
    """The policies of one reading, prepared to be asked about many principals."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._sides = {kind: _side(policies, door, kind) for kind, door in DOORS.items()}
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
    def _verdicts(side: _Side, about: About) -> list[Verdict]:
        me = about.principal
        own = {me.object_id, me.app_id, about.application_object_id.lower()}
        apart = {position for name in own if name for position in side.mentioning.get(name, ())}
        if about.attributes is not None:
            apart.update(side.filtering)
        if not apart:
            return side.strangers
        verdicts = list(side.strangers)
        for position in apart:
            verdicts[position] = verdict_on(side.compiled[position], about)
        return verdicts

    def _added_up(self, verdicts: list[Verdict], kind: Kind) -> Answer:
        by_bite: dict[Bite, list[Verdict]] = {bite: [] for bite in Bite}
        for verdict in verdicts:
            by_bite[verdict.bite].append(verdict)
        if surely := by_bite[Bite.FULLY]:
            ids = tuple(verdict.policy_id for verdict in surely)
            return Answer(Coverage.ARMED, ids, (), f"blocked by policy {', '.join(ids)}")
        would_bite, lever = _would_bite(kind), _LEVERS[kind]
        if doubts := by_bite[Bite.UNKNOWN]:
            return Answer(Coverage.UNKNOWN, (), (), doubts[0].doubt, would_bite, lever)
        if parts := by_bite[Bite.PARTLY]:
            reasons = tuple(why for verdict in parts for why in verdict.reasons)
            ids = tuple(verdict.policy_id for verdict in parts)
            return Answer(Coverage.PARTLY, ids, reasons, _sentence(reasons), would_bite, lever)
        said = tuple(why for verdict in verdicts if verdict.concerns for why in verdict.reasons)
        if reporting := by_bite[Bite.REPORTED]:
            ids = tuple(verdict.policy_id for verdict in reporting)
            first = tuple(why for verdict in reporting for why in verdict.reasons)
            rest = tuple(why for why in said if why not in first)
            enabling = f"enabling policy {', '.join(ids)}"
            return Answer(
                Coverage.REPORT_ONLY, ids, (*first, *rest), _sentence((*first, *rest)), enabling, lever
            )
        if standing := by_bite[Bite.IN_PLACE]:
            ids = tuple(verdict.policy_id for verdict in standing)
            why = f"{_sentence(said)}, whatever the risk is"
            return Answer(Coverage.IN_PLACE, ids, said, why, would_bite, lever)
        if not said:
            said = (self._no_policy(verdicts),)
        return Answer(Coverage.NOT_COVERED, (), said, _sentence(said), would_bite, lever)

    def _no_policy(self, verdicts: list[Verdict]) -> Why:
        people = sum(
            any(why.reason is Reason.TARGETS_PEOPLE for why in verdict.reasons) for verdict in verdicts
        )
        words = "no policy blocks on high service principal risk"
        if people:
            words += f" ({people} of {self._total} are for users, groups, roles or guests)"
        return Why(Reason.NO_POLICY, "", words)


def _side(policies: Sequence[Policy], door: Door, kind: Kind) -> _Side:
    prepared = [compiled(policy, door) for policy in policies]
    found: dict[str, set[int]] = {}
    for position, one in enumerate(prepared):
        others: frozenset[str] = getattr(one.policy, door.other_included)
        for name in (*one.included, *one.excluded, *others):
            if is_guid(name):
                found.setdefault(name, set()).add(position)
    stranger = About(ServicePrincipal(_NOBODY, AppId(_NOBODY), "", kind, None, None))
    return _Side(
        compiled=prepared,
        mentioning={name: tuple(sorted(positions)) for name, positions in found.items()},
        filtering=tuple(position for position, one in enumerate(prepared) if one.filter is not None),
        strangers=[verdict_on(one, stranger) for one in prepared],
    )


def _sentence(reasons: Sequence[Why]) -> str:
    """Give reasons as text, each once; a tenant has dozens of policies, so not endlessly many."""
    words = list(dict.fromkeys(why.words for why in reasons))
    return "; ".join(words if len(words) <= _MOST_REASONS else [*words[:_MOST_REASONS], "and others"])


_MOST_REASONS: Final = 6


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
