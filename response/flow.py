"""
The flow, whole. Read this first.

    respond   one finding: evidence, decision, guardrails, claim, lever, told
    settle    what is pending: pull what is claimed, look after unknown outcomes, prove, tell
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from clients import telemetry
from clients.errors import ClientError
from clients.telemetry.words import SpanName
from clients.terms import Unknown
from response import approving, gathering, measures, pulling, telling, undoing, verification
from response.containment import Containment, State
from response.decision import corroborates, decide, lifts
from response.evidence import NoSuchPrincipal
from response.finding import Source, Tier
from response.gathering import gather
from response.guardrails import guard
from response.opening import Opened, open_or_join

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from datetime import datetime

    from response.decision import Decision
    from response.evidence import Evidence
    from response.finding import Finding
    from response.world import World

log = logging.getLogger("agentbreaker.flow")
# A caller waits this long for its lever; a playbook's HTTP action waits about two minutes.
PULL_WITHIN: Final = timedelta(seconds=20)
_MINUTE: Final = timedelta(minutes=1)


async def judge(finding: Finding, world: World, lever: str = "") -> tuple[Evidence, Decision]:
    """
    Gather evidence and decide, guardrails included. Touches nothing and writes nothing but the policy reading.

    ``lever`` is the one a person named; empty: the one for this kind of identity.
    """
    with telemetry.span(SpanName.DECISION, rule=finding.rule_id, source=finding.source) as span:
        now = world.now()
        evidence = await gather(finding, world, now)
        decision = decide(finding, evidence, world.policy, now, lever)
        decision = guard(decision, finding, evidence, world.policy)
        span.set(verdict=decision.verdict, mode=decision.mode, vetoes=len(decision.vetoes))
    measures.judged(finding, decision)
    return evidence, decision


async def respond(finding: Finding, world: World) -> Opened:
    """
    Take one finding as far as it goes now; ``settle`` takes it further.

    Raises: StoreError. Then nothing was pulled that is not recorded, and the finding can be sent again.
    """
    while True:
        with world.crowd.arrives():
            evidence, decision = await judge(finding, world)
        if isinstance(evidence.principal, NoSuchPrincipal) and finding.source is not Source.RULE:
            # Perhaps it is not there yet: nothing is recorded, so that a redelivery is judged afresh.
            return Opened(None, decision)
        opened = await act(finding, evidence, decision, world)
        if opened.containment is not None or not await _more_signs(finding, evidence, world):
            return opened


async def _more_signs(finding: Finding, evidence: Evidence, world: World) -> bool:
    """
    Whether a finding of another family, or a sign that lifts this one, was recorded while this one was judged.

    Two runs may each find one sign and miss the other's. Each looks again after it has recorded its own, so
    whichever records last sees both.
    """
    known = evidence.earlier
    if finding.tier is not Tier.CORROBORATED or isinstance(known, Unknown):
        return False
    now = world.now()
    seen = {other.key for other in known}
    return any(
        other.key not in seen
        and (corroborates(other, finding, world.policy, now) or lifts(other, finding, world.policy))
        for other in await gathering.earlier_findings(finding, world.store, now)
    )


async def act(
    finding: Finding,
    evidence: Evidence,
    decision: Decision,
    world: World,
    *,
    ends_at: datetime | None = None,
) -> Opened:
    """
    Carry out a judgement: record it, pull the lever if it says so, tell. ``ends_at``: take it back then by itself.

    Raises: as ``respond``.
    """
    with world.crowd.arrives():
        opened = await open_or_join(finding, decision, evidence, world, world.now(), ends_at=ends_at)
    containment = opened.containment
    if containment is not None and containment.state is State.CLAIMED:
        containment = await pulling.pull_until_done(containment.id, world, PULL_WITHIN)
    if containment is not None:
        await telling.tell(containment.id, world)
    _log(opened.decision, containment)
    return Opened(containment, opened.decision, opened.repeated)


async def approve_or_reject(
    containment_id: str, by: str, decision: str, reason: str, world: World, *, lever: str = ""
) -> Containment:
    """
    Take one person's decision, pull what is approved by it, tell. ``lever`` is what the person saw proposed.

    Raises: CannotDecide; KeyError (no such containment); StoreError.
    """
    decided = await approving.decide_about(containment_id, by, decision, reason, world, lever=lever)
    if decided.state is State.CLAIMED:
        decided = await pulling.pull_until_done(containment_id, world, PULL_WITHIN)
    await telling.tell(containment_id, world)
    return decided


async def undo(
    containment_id: str, by: str, reason: str, before: tuple[str, ...], world: World
) -> Containment:
    """
    Take a containment back as far as it goes now, tell; ``settle`` goes on.

    Raises: CannotUndo; KeyError (no such containment); StoreError.
    """
    undone = await undoing.undo(containment_id, by, reason, before, world, PULL_WITHIN)
    await telling.tell(containment_id, world)
    return undone


async def settle(world: World) -> list[Containment]:
    """
    Go on with everything that is pending; give the containments whose state changed.

    Raises: StoreError.
    """
    expired = await approving.expire(world)
    recovered = [*await pulling.recover(world), *await undoing.recover(world)]
    changed = [*expired, *await verification.verify_pending(world), *await undoing.go_on(world)]
    changed += await approving.next_by_policy(changed, world)
    if any(c.state is State.CLAIMED for c in changed):  # the next lever, or what nobody decided in time
        recovered += await pulling.recover(world)
    for containment_id in dict.fromkeys((*recovered, *(c.id for c in changed))):
        await telling.tell(containment_id, world)
    await telling.retold(world)
    await _refresh_policies(world)
    return changed


async def _refresh_policies(world: World) -> None:
    """Read policies and announced changes before they are too old, so that no containment has to wait for them."""
    half = world.policies_max_age / 2
    await _refreshed("Conditional Access policies", gathering.current_policies(world, refresh_after=half))
    soon = timedelta(minutes=7)
    await _refreshed("announced changes", gathering.change_windows(world, refresh_after=soon, within=_MINUTE))


async def _refreshed(what: str, reading: Awaitable[object]) -> None:
    try:
        await reading
    except (ClientError, ValueError) as error:
        log.warning("%s could not be read: %s", what, error)


def _log(decision: Decision, containment: Containment | None) -> None:
    """One line a run; no ids of principals and no names at INFO."""
    log.info(
        "run containment=%s verdict=%s state=%s vetoes=%d unchecked=%d",
        containment.id if containment else "-",
        decision.verdict,
        containment.state if containment else "-",
        len(decision.vetoes),
        len(decision.unchecked),
    )
