"""
Named vetoes between decision and containment. They can only take away.

Every guardrail is asked and every veto is kept, not only the first; one that raises counts as a veto,
and so does one whose question has no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clients.terms import MICROSOFT_TENANTS, Kind, Mark, ServicePrincipal, Unknown
from response import brake
from response.decision import Decision, Verdict, Veto, corroborates, newer
from response.evidence import ChangeWindow

if TYPE_CHECKING:
    from response.evidence import Evidence
    from response.finding import Finding
    from response.policy import ResponsePolicy


@dataclass(frozen=True, slots=True)
class Trips:
    """The storm brake's limit is reached: from now on automatic containments wait until a person releases it."""

    why: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """A guardrail's question has no answer now. That is a veto too, but one that a person may lift later."""

    why: str


Check = Callable[["Finding", "Evidence", "ResponsePolicy", Decision], str | Unsure | Trips]
"""Gives the reason of a veto, an empty text, or why it cannot tell."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One veto. ``forbids``: as long as it holds, not even a person may override it."""

    name: str
    forbids: bool
    check: Check


def guard(
    decision: Decision,
    finding: Finding,
    evidence: Evidence,
    policy: ResponsePolicy,
    guardrails: tuple[Guardrail, ...] | None = None,
) -> Decision:
    """Ask every guardrail and take away what they refuse. A decision to watch needs no guard."""
    if decision.verdict is Verdict.WATCH:
        return decision
    asked = GUARDRAILS if guardrails is None else guardrails
    vetoes = (_ask(guardrail, finding, evidence, policy, decision) for guardrail in asked)
    return decision.with_vetoes(tuple(veto for veto in vetoes if veto is not None))


def _ask(
    guardrail: Guardrail, finding: Finding, evidence: Evidence, policy: ResponsePolicy, decision: Decision
) -> Veto | None:
    try:
        said = guardrail.check(finding, evidence, policy, decision)
    except Exception as error:  # noqa: BLE001  # a broken guardrail must stop the action, whatever broke
        said = Unsure(f"this guardrail failed ({type(error).__name__}), which counts as a veto")
    if isinstance(said, Unsure):
        return Veto(guardrail.name, said.why, forbids=False)
    if isinstance(said, Trips):
        return Veto(guardrail.name, said.why, forbids=False, trips=True)
    return Veto(guardrail.name, said, guardrail.forbids) if said else None


def _own_identity(
    finding: Finding, evidence: Evidence, _policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if isinstance(evidence.own_identities, Unknown):
        return Unsure(f"our own identities could not be read: {evidence.own_identities.why}")
    ours = finding.principal in evidence.own_identities or finding.raised_by == finding.principal
    return "it is one of this system's own identities, or the caller itself" if ours else ""


def _microsoft(
    _finding: Finding, evidence: Evidence, _policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    match evidence.principal:
        case ServicePrincipal(owner_tenant=owner) if owner in MICROSOFT_TENANTS:
            return "it is an application of Microsoft's own"
        case ServicePrincipal(owner_tenant=None, kind=kind) if kind is not Kind.MANAGED_IDENTITY:
            return Unsure("which tenant owns the application could not be read")
        case ServicePrincipal():
            return ""
        case _:
            return Unsure("the principal could not be read, so whose application it is remains unknown")


def _protected(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if policy.protected is None:
        return "AGENTBREAKER_PROTECTED_PRINCIPALS is empty: write object ids, or the word none"
    if finding.principal in policy.protected:
        return "it is on the protected list (AGENTBREAKER_PROTECTED_PRINCIPALS)"
    if evidence.mark is Mark.PROTECTED:
        return "its custom security attribute Agentbreaker/Containment says protected"
    if isinstance(evidence.mark, Unknown):
        return Unsure(f"whether it is marked as protected could not be read: {evidence.mark.why}")
    return ""


def _storm_brake(
    _finding: Finding, evidence: Evidence, policy: ResponsePolicy, decision: Decision
) -> str | Unsure | Trips:
    if not decision.automatic:
        return ""
    if isinstance(evidence.brake_tripped, Unknown):
        return Unsure(f"whether the storm brake has tripped could not be read: {evidence.brake_tripped.why}")
    if evidence.brake_tripped:
        return Unsure(f"storm brake: {evidence.brake_tripped}; {brake.STAYS}")
    if isinstance(evidence.brake, Unknown):
        return Unsure(f"automatic containments could not be counted: {evidence.brake.why}")
    if isinstance(evidence.owners, Unknown):
        return Unsure(f"containments of its owners could not be counted: {evidence.owners.why}")
    why = brake.reached(evidence.brake, evidence.active_principals, policy)
    if isinstance(why, Unknown):
        return Unsure(why.why)
    return Trips(f"storm brake: {why}; {brake.STAYS}") if why else ""


def _kill_switch(
    _finding: Finding, evidence: Evidence, _policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if isinstance(evidence.kill_switch_stopped, Unknown):
        return Unsure(f"the kill switch could not be read: {evidence.kill_switch_stopped.why}")
    return "the kill switch is on" if evidence.kill_switch_stopped else ""


def _ledger_intact(
    _finding: Finding, evidence: Evidence, _policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if isinstance(evidence.ledger_broken, Unknown):
        return Unsure(f"whether the ledger's chain is whole could not be read: {evidence.ledger_broken.why}")
    return Unsure(f"the ledger's chain is broken: {evidence.ledger_broken}") if evidence.ledger_broken else ""


def _stale_evidence(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, decision: Decision
) -> str | Unsure:
    if not decision.automatic:
        return ""
    if isinstance(evidence.at, Unknown):
        return Unsure(f"how old the finding is cannot be told: {evidence.at.why}")
    age = evidence.at - finding.last_seen
    if age <= policy.evidence_max_age:
        return ""
    minutes = int(age.total_seconds() // 60)
    return f"what it rests on is {minutes} minutes old (AGENTBREAKER_EVIDENCE_MAX_AGE_MINUTES)"


def _change_window(
    _finding: Finding, evidence: Evidence, _policy: ResponsePolicy, decision: Decision
) -> str | Unsure:
    if not decision.automatic:
        return ""
    match evidence.change_window:
        case Unknown(why=why):
            return Unsure(f"whether a change of it is announced could not be read: {why}")
        case ChangeWindow(ends=ends):
            return f"a change of it is announced until {ends:%Y-%m-%d %H:%M} UTC (AgentInventory)"
        case _:
            return ""


def _self_evidence(
    finding: Finding, evidence: Evidence, policy: ResponsePolicy, decision: Decision
) -> str | Unsure:
    """
    An attacker can make failing sign-ins with a victim's appId: failures alone never contain.

    Neither does a prompt attack before them, which an outsider can send as well, nor Microsoft's risk, which may rest on
    the same refusals: only a finding of another family that shows a success.
    """
    if not decision.automatic or not finding.only_failures:
        return ""
    if isinstance(evidence.earlier, Unknown):
        return Unsure(
            f"all it rests on are refused attempts, and what else was seen is unread: {evidence.earlier.why}"
        )
    if isinstance(evidence.at, Unknown):
        return Unsure(
            f"all it rests on are refused attempts, and how old the rest is cannot be told: {evidence.at.why}"
        )
    known = newer(evidence.earlier, evidence.undone_at)
    if any(corroborates(other, finding, policy, evidence.at) for other in known):
        return ""  # what rests on failures too does not corroborate it
    return "all it rests on are refused attempts, and anybody who knows its appId can make those"


GUARDRAILS: Final = (
    Guardrail("own-identity", forbids=True, check=_own_identity),
    Guardrail("microsoft-application", forbids=True, check=_microsoft),
    Guardrail("protected-principal", forbids=True, check=_protected),
    Guardrail("kill-switch", forbids=False, check=_kill_switch),
    Guardrail("ledger-intact", forbids=False, check=_ledger_intact),
    Guardrail("storm-brake", forbids=False, check=_storm_brake),
    Guardrail("stale-evidence", forbids=False, check=_stale_evidence),
    Guardrail("change-window", forbids=False, check=_change_window),
    Guardrail("self-evidence", forbids=False, check=_self_evidence),
)
