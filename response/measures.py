"""What the flow counts and times for people who watch the app. Says nothing while telemetry is off; see docs/telemetry.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clients import telemetry
from clients.telemetry.words import (
    CONTAINMENTS,
    DECISIONS,
    ENTRIES,
    FINDINGS,
    LEDGER_CHECKS,
    TIME_TO_CONFIRM,
    TIME_TO_PROOF,
    VETOES,
    SpanName,
)
from response.containment import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from response.containment import Containment
    from response.decision import Decision
    from response.finding import Finding
    from response.ledger import Entry

# Entries that say a containment came into the state they name; the others name the state it was in anyway, as the first
# of two approvals does.
_COMES_INTO: Final = frozenset(
    {
        "proposed",
        "parked",
        "vetoed",
        "claimed",
        "pulled",
        "confirmed",
        "proven",
        "not_covered",
        "failed",
        "approved",
        "rejected",
        "expired",
        "undone",
        "probation_ended",
        "closed",
    }
)


def judged(finding: Finding, decision: Decision) -> None:
    """Count a finding and what was decided about it, and each guardrail that objected."""
    if not telemetry.is_on():
        return
    telemetry.measure(FINDINGS, rule=finding.rule_id, source=finding.source, tier=finding.tier)
    telemetry.measure(DECISIONS, verdict=decision.verdict, mode=decision.mode)
    for veto in decision.vetoes:
        telemetry.measure(VETOES, guardrail=veto.guardrail)


def committed(entries: Sequence[Entry]) -> None:
    """Count entries by kind, and containments by the state they came into."""
    if not telemetry.is_on():
        return
    for entry in entries:
        telemetry.measure(ENTRIES, kind=entry.kind)
        state = entry.body.get("state")
        still_waits = entry.kind == "approved" and state == State.AWAITING_APPROVAL
        if (
            entry.kind in _COMES_INTO
            and isinstance(state, str)
            and not entry.body.get("late")
            and not still_waits
        ):
            telemetry.measure(CONTAINMENTS, state=state)


def verified(before: Containment, after: Containment) -> None:
    """Tell of a state that the tenant was seen in, in the trace of the run that opened the containment."""
    if not telemetry.is_on():
        return
    here = telemetry.current()
    with telemetry.span(
        SpanName.VERIFICATION,
        parent=after.trace,
        links=(here,) if here else (),
        lever=after.lever,
        state=after.state,
    ):
        accepted = after.pull.accepted_at if after.pull else None
        if after.confirmed_at and not before.confirmed_at and after.claimed_at:
            telemetry.measure(TIME_TO_CONFIRM, (after.confirmed_at - after.claimed_at).total_seconds())
        if after.state is State.PROVEN and after.proof and accepted:
            telemetry.measure(TIME_TO_PROOF, max((after.proof.at - accepted).total_seconds(), 0.0))


def ledger_checked(outcome: str) -> None:
    """Count a check of the chain: intact, broken or unreadable."""
    telemetry.measure(LEDGER_CHECKS, outcome=outcome)
