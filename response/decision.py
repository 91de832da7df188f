"""
Judgement: finding, evidence and policy in, verdict with reasons out. Pure.

Two sentences hold whatever the evidence is, and property tests try to break them:
an added ``Unknown`` never turns "ask" or "watch" into "contain"; a guardrail never adds a lever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from clients.terms import Kind, Mark, NotAsked, RiskLevel, ServicePrincipal, Unknown
from response.evidence import Evidence, NoSuchPrincipal
from response.finding import CORROBORATION_WINDOW, EXTERNAL, Finding, Source, Tier
from response.levers import DISABLE_PRINCIPAL, LEVERS, Lever, first_lever
from response.policy import Disabling, Mode
from response.privilege import Privilege

if TYPE_CHECKING:
    from collections.abc import Iterable

    from response.policy import ResponsePolicy


class Verdict(StrEnum):
    """What to do: pull the lever, ask a person, or only watch."""

    CONTAIN = "contain"
    ASK = "ask"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Veto:
    """A guardrail's refusal. ``forbids`` true: not even a person may; false: a person decides."""

    guardrail: str
    reason: str
    forbids: bool
    trips: bool = False
    """The storm brake's limit is reached by this; it stays tripped until a person releases it."""

    def __str__(self) -> str:
        return f"{self.guardrail}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reasons; ``lever`` is empty where nothing should be pulled."""

    verdict: Verdict
    reasons: tuple[str, ...]
    unchecked: tuple[str, ...]
    mode: Mode
    lever: str = ""
    automatic: bool = True
    vetoes: tuple[Veto, ...] = ()
    people: int = 0
    """How many different people must approve before the lever is pulled; 0: none."""
    wanted: Verdict | None = None
    """The verdict before the guardrails were asked."""

    @property
    def forbidden(self) -> bool:
        """Whether some guardrail refuses even a person."""
        return any(veto.forbids for veto in self.vetoes)

    def with_vetoes(self, vetoes: tuple[Veto, ...]) -> Decision:
        """Take away what the vetoes refuse; never adds anything."""
        if not vetoes:
            return self
        verdict = Verdict.ASK if self.verdict is Verdict.CONTAIN else self.verdict
        return replace(
            self,
            verdict=verdict,
            lever="" if any(v.forbids for v in vetoes) else self.lever,
            vetoes=vetoes,
            wanted=self.wanted or self.verdict,
        )


_NOT_REACHED: Final = {
    Kind.MULTITENANT_APPLICATION: "Conditional Access covers single-tenant applications only",
    Kind.FOREIGN_APPLICATION: "it is registered in another tenant, and Conditional Access covers single-tenant applications only",
    Kind.MANAGED_IDENTITY: "Conditional Access cannot block a managed identity",
    Kind.AGENT_IDENTITY: "an agent identity has a risk store of its own (riskyAgents, beta)",
    Kind.AGENT_BLUEPRINT: "a blueprint principal has a risk store of its own (riskyAgents, beta)",
    Kind.AGENT_USER: "it is a user that stands for an agent identity; the agent identity is what can be contained",
    Kind.MICROSOFT: "it is an application of Microsoft's own",
    Kind.APPLICATION: "no lever for single-tenant applications is switched on",
    Kind.OTHER: "its kind of identity is not known, so no lever is known to bite",
}  # fmt: skip


def decide(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, now: datetime, lever: str = ""
) -> Decision:
    """
    Judge one finding. ``now`` is the moment of judgement, aware UTC.

    ``lever`` is the one a person ordered by name; empty: the one that bites on this kind of identity.
    """
    chosen, why_not = _lever(evidence, policy, lever)
    verdict, reasons = _verdict(finding, evidence, policy, now, chosen, why_not)
    people = _people(chosen, policy) if chosen else 0
    if verdict is Verdict.CONTAIN and people and finding.source is not Source.ANALYST:
        verdict, reasons = Verdict.ASK, (*reasons, f"{_name(chosen)} wants {_persons(people)} to approve it")
    automatic = finding.source is not Source.ANALYST
    return Decision(
        verdict=verdict,
        reasons=(*reasons, *_remarks(evidence), *finding.doubts),
        unchecked=evidence.unchecked(),
        mode=_mode(finding, evidence, policy, automatic=automatic),
        lever=chosen.id if chosen and verdict is not Verdict.WATCH else "",
        automatic=automatic,
        people=people if verdict is not Verdict.WATCH else 0,
    )


def _mode(finding: Finding, evidence: Evidence, policy: ResponsePolicy, *, automatic: bool) -> Mode:
    """Give the mode that holds; a storm brake that has tripped moves what is automatic to approve."""
    mode = policy.mode_for(finding.rule_id)
    tripped = automatic and evidence.brake_tripped != ""
    return min(mode, Mode.APPROVE, key=lambda each: each.boldness) if tripped else mode


def _lever(evidence: Evidence, policy: ResponsePolicy, ordered: str) -> tuple[Lever | None, str]:
    """Choose the lever for the kind of identity, or say why there is none."""
    principal = evidence.principal
    if not isinstance(principal, ServicePrincipal):
        return None, ""
    if ordered:
        lever = LEVERS.get(ordered)
        if lever is None:
            return None, f"there is no such lever; there are {', '.join(LEVERS)}"
        if ordered not in policy.levers:
            return None, f"{ordered} is switched off ({lever.setting})"
        if principal.kind not in lever.bites_on:
            return (
                None,
                f"{ordered} does not bite on this kind of identity, {principal.kind.replace('_', ' ')}",
            )
        return lever, ""
    lever_of_kind = first_lever(principal.kind, policy.levers)
    if lever_of_kind is not None:
        return lever_of_kind, ""
    why = _NOT_REACHED[principal.kind]
    would = [each for each in LEVERS.values() if principal.kind in each.bites_on and each.people < 2]
    names = " or ".join(f"{each.id} ({each.setting})" for each in would if each.setting)
    parent = f" (its agent identity is {principal.parent})" if principal.kind is Kind.AGENT_USER else ""
    return None, f"{why}{parent}" + (f"; {names} would reach it" if names else "")


def _name(lever: Lever | None) -> str:
    return lever.id if lever else "it"


def _persons(people: int) -> str:
    return "a person" if people == 1 else f"{people} different people"


def _people(lever: Lever, policy: ResponsePolicy) -> int:
    """How many people must approve: as the lever says, unless policy lets principals be disabled by itself."""
    free = lever.id == DISABLE_PRINCIPAL.id and policy.disabling is Disabling.AUTOMATIC
    return 0 if free else lever.people


def _remarks(evidence: Evidence) -> tuple[str, ...]:
    """Say what a reader should know and what decided nothing by itself."""
    said = []
    if isinstance(evidence.privilege, Privilege) and evidence.privilege.tier == 0:
        said.append(f"it could take over the tenant: {', '.join(evidence.privilege.because[:3])}")
    if evidence.mark is Mark.AUTO:
        said.append("its mark Agentbreaker/Containment says auto")
    return tuple(said)


def _verdict(
    finding: Finding,
    evidence: Evidence,
    policy: ResponsePolicy,
    now: datetime,
    lever: Lever | None,
    why_not: str,
) -> tuple[Verdict, tuple[str, ...]]:
    match evidence.principal:
        case NoSuchPrincipal(hint=hint):
            return Verdict.WATCH, (f"there is no service principal with this object id. {hint}".strip(),)
        case Unknown(why=why):
            return Verdict.ASK, (f"the principal could not be read: {why}",)
        case ServicePrincipal() if lever is None:
            if finding.tier is Tier.CONTEXT:
                return Verdict.WATCH, ("context only", why_not)
            return Verdict.ASK, (why_not,)
        case ServicePrincipal():
            return _weight(finding, evidence, policy, now, lever)


def _weight(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, now: datetime, lever: Lever | None
) -> tuple[Verdict, tuple[str, ...]]:
    """Weigh a finding about a principal that a lever can reach."""
    if finding.source is Source.ANALYST:
        return Verdict.CONTAIN, ("a person asked for it",)
    if finding.tier is Tier.CONTEXT:
        return Verdict.WATCH, ("context only: adds to the dossier",)
    if finding.expires_at is not None and now >= finding.expires_at:
        return Verdict.WATCH, ("whoever sent it said until when it holds, and that is over",)
    if isinstance(evidence.undone_at, Unknown):
        return Verdict.ASK, (f"whether a person took it back could not be read: {evidence.undone_at.why}",)
    if evidence.undone_at is not None and finding.last_seen <= evidence.undone_at:
        when = f"{evidence.undone_at:%Y-%m-%d %H:%M} UTC"
        return Verdict.WATCH, (f"it is older than the undo of {when}; only what is newer counts",)
    if finding.tier is Tier.APPROVAL or finding.doubts:
        return Verdict.ASK, ("a person decides about findings of this sort",)
    if evidence.mark is Mark.APPROVAL:
        return Verdict.ASK, ("its mark Agentbreaker/Containment says that a person decides",)
    if isinstance(evidence.armed, Unknown) and lever is not DISABLE_PRINCIPAL:
        return Verdict.ASK, (f"whether an enabled policy would bite could not be read: {evidence.armed.why}",)
    if finding.tier is Tier.AUTO:
        return Verdict.CONTAIN, ("one finding of this sort is enough",)
    if sign := _lifting(finding, evidence, policy):
        return Verdict.CONTAIN, (
            _lifted_in_words(sign, finding),
            "after it one finding of this sort is enough",
        )
    if evidence.on_probation is True and evidence.undone_at is not None:  # and newer, as asked above
        return Verdict.CONTAIN, ("it was taken back and is on probation: one finding of this sort is enough",)
    verdict, reasons = _corroborated(finding, evidence, policy, now)
    doubt = _doubt(evidence) if verdict is Verdict.WATCH else ""
    return (Verdict.ASK, (*reasons, doubt)) if doubt else (verdict, reasons)


def _doubt(evidence: Evidence) -> str:
    """Say why a person looks at one sign alone; empty when nobody has to."""
    if isinstance(evidence.privilege, Unknown):
        return f"what it may do could not be read: {evidence.privilege.why}"
    if isinstance(evidence.on_probation, Unknown):
        return f"whether it is on probation could not be read: {evidence.on_probation.why}"
    if isinstance(evidence.privilege, Privilege) and evidence.privilege.tier == 0:
        return "it could take over the tenant, so a person looks at a lone sign"
    return ""


def _corroborated(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, now: datetime
) -> tuple[Verdict, tuple[str, ...]]:
    if isinstance(evidence.earlier, tuple):
        others = sorted(
            {
                f.rule_id or f.family
                for f in newer(evidence.earlier, evidence.undone_at)
                if corroborates(f, finding, policy, now)
            }
        )
        if others:
            agree = ", ".join((finding.rule_id or finding.family, *others))
            return Verdict.CONTAIN, (f"independent signs agree: {agree}",)
    if evidence.microsoft_risk in (RiskLevel.MEDIUM, RiskLevel.HIGH):
        return Verdict.CONTAIN, (f"Microsoft's own detections give it risk {evidence.microsoft_risk}",)
    for answer in (evidence.earlier, evidence.microsoft_risk):
        if isinstance(answer, Unknown | NotAsked):
            return Verdict.ASK, (f"one sign, and whether another agrees could not be checked: {answer.why}",)
    if isinstance(evidence.ongoing, tuple):
        # New at some time and going on since: too old to act on, and waiting an hour must not be all it takes to pass.
        others = sorted(
            {
                f.rule_id or f.family
                for f in newer(evidence.ongoing, evidence.undone_at)
                if corroborates(f, finding, policy, now)
            }
        )
        if others:
            return Verdict.ASK, (f"one sign, and what began earlier still goes on: {', '.join(others)}",)
    return Verdict.WATCH, ("one sign alone; a second of another family within 60 minutes would contain it",)


def corroborates(other: Finding, finding: Finding, policy: ResponsePolicy, now: datetime) -> bool:
    """
    Tell whether another finding is an independent sign.

    It is of another family, fresh, and would itself carry weight: findings of tier context, of rules that may
    only be observed, signals that have expired, and incidents of analytics rules nobody vouched for (no rule of ours)
    do not count. Two findings that both rest on refused attempts alone do not agree: one outsider can make both.
    """
    return (
        other.family != finding.family
        and (other.expires_at is None or now < other.expires_at)
        and not (other.only_failures and finding.only_failures)
        and now - other.last_seen <= CORROBORATION_WINDOW
        and other.tier is not Tier.CONTEXT
        and (other.rule_id != "" or other.tier is Tier.AUTO or other.family == EXTERNAL)
        and other.source is not Source.ANALYST
        and policy.lets_count(other.rule_id)
    )


def newer(found: Iterable[Finding], undone_at: datetime | Unknown | None) -> tuple[Finding, ...]:
    """Leave out what a person has judged already by taking the containment back."""
    return tuple(f for f in found if not isinstance(undone_at, datetime) or f.last_seen > undone_at)


def lifts(sign: Finding, finding: Finding, policy: ResponsePolicy) -> bool:
    """
    Tell whether a sign makes a later finding enough by itself: a reported prompt attack, then a deviation.

    The deviation began after the sign and within the corroboration window of it, by the times of what happened,
    not of when it was seen. Only what a second sign would contain anyway (tier ``corroborated``) is lifted: context
    stays context, and what a person has to decide stays theirs. A rule that may only be observed lifts nothing.
    """
    return (
        finding.rule_id in sign.lifts
        and sign.source is Source.RULE
        and sign.principal == finding.principal
        and finding.tier is Tier.CORROBORATED
        and sign.first_seen <= finding.first_seen <= sign.last_seen + CORROBORATION_WINDOW
        and policy.lets_count(sign.rule_id)
    )


def _lifting(finding: Finding, evidence: Evidence, policy: ResponsePolicy) -> Finding | None:
    """Give the latest sign that lifts the finding; None also where earlier findings could not be read."""
    if not isinstance(evidence.earlier, tuple):
        return None
    known = newer(evidence.earlier, evidence.undone_at)
    signs = [other for other in known if lifts(other, finding, policy)]
    return max(signs, key=lambda sign: sign.last_seen, default=None)


_REPORTED: Final = {"prompt": "a prompt attack"}


def _lifted_in_words(sign: Finding, finding: Finding) -> str:
    """Say it without text of the tenant: family and rule are our words."""
    what = _REPORTED.get(sign.family, f"a sign of {sign.family}")
    minutes = int((finding.first_seen - min(sign.last_seen, finding.first_seen)).total_seconds()) // 60
    when = "moments" if minutes == 0 else "1 minute" if minutes == 1 else f"{minutes} minutes"
    return f"{what} on it was reported {when} before ({sign.rule_id})"
