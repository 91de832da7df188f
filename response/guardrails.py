"""
Named vetoes between decision and containment. They can only take away.

Every guardrail is asked and every veto is kept, not only the first; one that raises counts as a veto,
and so does one whose question has no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clients.terms import MICROSOFT_TENANTS, Kind, ServicePrincipal, Unknown
from response.decision import Decision, Verdict, Veto

if TYPE_CHECKING:
    from response.evidence import Evidence
    from response.finding import Finding
    from response.policy import ResponsePolicy


@dataclass(frozen=True, slots=True)
class Unsure:
    """A guardrail's question has no answer now. That is a veto too, but one that a person may lift later."""

    why: str


Check = Callable[["Finding", "Evidence", "ResponsePolicy", Decision], str | Unsure]
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
    finding: Finding, _evidence: Evidence, policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if policy.protected is None:
        return "AGENTBREAKER_PROTECTED_PRINCIPALS is empty: write object ids, or the word none"
    return (
        "it is on the protected list (AGENTBREAKER_PROTECTED_PRINCIPALS)"
        if finding.principal in policy.protected
        else ""
    )


def _storm_brake(_finding: Finding, evidence: Evidence, policy: ResponsePolicy, decision: Decision) -> str:
    if not decision.automatic:
        return ""
    if isinstance(evidence.automatic_last_hour, Unknown):
        return f"automatic containments of the last hour could not be counted: {evidence.automatic_last_hour.why}"
    if evidence.automatic_last_hour >= policy.automatic_per_hour:
        return (
            f"storm brake: {evidence.automatic_last_hour} automatic containments in the last hour, "
            f"{policy.automatic_per_hour} are allowed (AGENTBREAKER_AUTOMATIC_PER_HOUR)"
        )
    return ""


def _kill_switch(
    _finding: Finding, evidence: Evidence, _policy: ResponsePolicy, _decision: Decision
) -> str | Unsure:
    if isinstance(evidence.kill_switch_stopped, Unknown):
        return Unsure(f"the kill switch could not be read: {evidence.kill_switch_stopped.why}")
    return "the kill switch is on" if evidence.kill_switch_stopped else ""


GUARDRAILS: Final = (
    Guardrail("own-identity", forbids=True, check=_own_identity),
    Guardrail("microsoft-application", forbids=True, check=_microsoft),
    Guardrail("protected-principal", forbids=True, check=_protected),
    Guardrail("kill-switch", forbids=False, check=_kill_switch),
    Guardrail("storm-brake", forbids=False, check=_storm_brake),
)
