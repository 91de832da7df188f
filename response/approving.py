"""
People decide about what waits: approve, reject, or let it expire.

The requester never approves; the removal levers want two different people. Each decision is one conditional write, so
that of an approval and a rejection at the same moment one wins and the other is told. What is approved is judged again
on evidence of now: a guardrail stands whoever approves.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from clients.stores import Conflict
from response import gathering
from response.containment import Approval, Containment, FailureReason, State
from response.decision import Decision, Verdict, decide
from response.finding import Finding, Source, Tier
from response.guardrails import guard
from response.ledger import ACTOR, EntryKind
from response.levers import DISABLE_PRINCIPAL
from response.opening import claimed_anew, commit_changed, counted, load, load_readable
from response.policy import Disabling, Mode, OnExpiry

if TYPE_CHECKING:
    from datetime import datetime

    from response.evidence import Evidence
    from response.world import World

log = logging.getLogger("agentbreaker.approving")
APPROVE: Final = "approve"
REJECT: Final = "reject"
_RACES: Final = 40


class CannotDecide(Exception):
    """The decision does not count; ``code`` names why, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def decide_about(
    containment_id: str, by: str, decision: str, reason: str, world: World, *, lever: str = ""
) -> Containment:
    """
    Write one person's decision; give the record as it is then, ``claimed`` once enough people have approved.

    ``lever`` is the one the person saw proposed: where another is by now, the decision is about something else and does
    not count. Empty: whatever is proposed (a rejection without one rejects it).
    The same person saying the same again changes nothing. Raises: CannotDecide; KeyError (no such containment);
    StoreError. ``flow`` pulls what is claimed.
    """
    for _ in range(_RACES):
        c, etag = await load(world.store, containment_id)
        if (said := _already(c, by)) is not None:
            if said == decision:
                return c
            raise CannotDecide(
                "already_decided", f"You have said {said!r} about this already; the first word stands."
            )
        _may_decide(c, by, world)
        if lever and c.proposed_lever and lever != c.proposed_lever:
            raise CannotDecide(
                "changed",
                f"It proposes {c.proposed_lever} by now, and your decision is about {lever[:60]!r}. Look at it and decide again.",
            )
        try:
            if decision == REJECT:
                return await _reject(c, etag, by, reason, world)
            return await _approve(c, etag, by, reason, world)
        except Conflict:  # somebody else decided, or a finding joined: judged again on the record of now
            continue
    raise Conflict(f"containment:{containment_id}")


def _already(c: Containment, by: str) -> str | None:
    """What this person has said since people were asked."""
    return next((one.decision for one in reversed(c.fresh_approvals) if one.by == by), None)


def _may_decide(c: Containment, by: str, world: World) -> None:
    if not c.waits_for_people:
        raise CannotDecide("not_waiting", f"It waits for nobody: its state is {c.state}.")
    if c.undoing:
        raise CannotDecide("not_waiting", "It is being undone.")
    if by == c.asked_by or by in c.askers:
        raise CannotDecide(
            "own_request", "Whoever asked for it cannot decide about it; another person has to."
        )
    if c.decide_by is not None and world.now() >= c.decide_by:
        raise CannotDecide("too_late", f"It could be decided until {c.decide_by:%Y-%m-%d %H:%M} UTC.")


async def _reject(c: Containment, etag: str, by: str, reason: str, world: World) -> Containment:
    now = world.now()
    said = Approval(by, REJECT, reason[:2000], now, c.proposed_lever)
    rejected = c.changed(now, approvals=(*c.approvals, said)[-20:], decide_by=None)
    if c.next_lever:  # what stands goes on to stand
        rejected = rejected.changed(now, next_lever="", next_requested_by="")
    elif c.touched:
        why = "a person decided not to pull again; whether the first pull took effect is not known"
        rejected = rejected.changed(
            now, state=State.FAILED, failed_because=FailureReason.NOT_HIGH, failure=why
        )
    else:
        rejected = rejected.changed(now, state=State.REJECTED, is_open=False)
    await commit_changed(
        rejected, etag, EntryKind.REJECTED, by, {"reason": reason[:2000], "lever": said.lever}, world
    )
    return rejected


async def _approve(c: Containment, etag: str, by: str, reason: str, world: World) -> Containment:
    lever = c.proposed_lever
    if not lever:
        raise CannotDecide(
            "no_lever",
            "No lever that is switched on reaches this kind of identity; reject it, or order another lever.",
        )
    if world.policy.mode is Mode.OBSERVE:
        raise CannotDecide("observing", "The mode is observe: nothing is touched, whoever approves.")
    now = world.now()
    evidence, decision = await _judged_again(c, by, reason, lever, world, now, by_person=True)
    if decision.vetoes:
        refused = "; ".join(str(veto) for veto in decision.vetoes)
        raise CannotDecide("vetoed", f"A guardrail refuses: {refused}")
    if decision.lever != lever:
        raise CannotDecide("no_lever", "; ".join(decision.reasons))
    approvals = (*c.approvals, Approval(by, APPROVE, reason[:2000], now, lever))[-20:]
    told = c.changed(now, approvals=approvals).fresh_approvals
    people = {one.by for one in told if one.decision == APPROVE}
    body: dict[str, object] = {
        "reason": reason[:2000],
        "lever": lever,
        "people": len(people),
        "of": c.people_needed,
    }
    if len(people) < c.people_needed:
        waiting = c.changed(now, approvals=approvals)
        await commit_changed(waiting, etag, EntryKind.APPROVED, by, body, world)
        return waiting
    claimed = claimed_anew(c, lever, decision, evidence, now, approvals=approvals)
    await commit_changed(claimed, etag, EntryKind.APPROVED, by, body, world)
    return claimed


async def _judged_again(
    c: Containment, by: str, reason: str, lever: str, world: World, now: datetime, *, by_person: bool
) -> tuple[Evidence, Decision]:
    """
    Gather evidence of now and ask the guardrails: as for a person's order, or as for what happens by itself.

    By itself everything is asked that is asked of an automatic finding; only how long people took is not held against
    it, so it counts as seen now.
    """
    rules = [found.rule_id for found in c.findings if found.rule_id]
    finding = Finding(
        source=Source.ANALYST if by_person else Source.RULE,
        rule_id="" if by_person else (rules[0] if rules else ""),
        family="analyst" if by_person else "policy",
        tier=Tier.AUTO,
        principal=c.principal,
        first_seen=now,
        last_seen=now,
        reason=reason,
        raised_by=by,
    )
    evidence = await gathering.gather(finding, world, now)
    decision = decide(finding, evidence, world.policy, now, lever=lever)
    return evidence, guard(decision, finding, evidence, world.policy)


async def expire(world: World) -> list[Containment]:
    """
    End what nobody decided in time: ``expired``, or claimed where policy says so and nothing but the mode made it wait.

    Gives the containments that changed; what is claimed is pulled by ``settle``. Raises: StoreError.
    """
    changed = []
    for record in await world.store.scan("deciding:"):
        loaded = await load_readable(world.store, record.key.removeprefix("deciding:"))
        if loaded is None:
            continue
        c, etag = loaded
        if not c.waits_for_people or c.decide_by is None or world.now() < c.decide_by:
            continue
        try:
            changed.append(await _expired(c, etag, world))
        except Conflict:
            log.debug("somebody decided at the last moment")
    return changed


async def _expired(c: Containment, etag: str, world: World) -> Containment:
    now, policy = world.now(), world.policy
    hours = int(policy.decide_within.total_seconds() // 3600)
    body: dict[str, object] = {"lever": c.proposed_lever}
    may_act = policy.on_expiry is OnExpiry.CONTAIN and policy.mode is not Mode.OBSERVE and not c.touched
    if may_act and c.would_contain and c.lever:
        reason = f"nobody decided in {hours} hours, and AGENTBREAKER_ON_EXPIRY says contain"
        claimed = await _by_policy(c, etag, c.lever, reason, world)
        if claimed is not None:
            return claimed
    ended = c.changed(now, decide_by=None)
    if c.next_lever:
        ended = ended.changed(now, next_lever="", next_requested_by="")
    elif c.touched:
        why = "nobody decided in time, and whether the lever took effect is not known; look at the principal in Entra"
        ended = ended.changed(now, state=State.FAILED, failed_because=FailureReason.NOT_HIGH, failure=why)
    else:
        ended = ended.changed(now, state=State.EXPIRED, is_open=False)
    await commit_changed(ended, etag, EntryKind.EXPIRED, ACTOR, body, world)
    return ended


async def next_by_policy(changed: list[Containment], world: World) -> list[Containment]:
    """
    Claim the next lever of what did not stop its principal, where policy lets principals be disabled by itself.

    Only in mode enforce, only for what was automatic, and only when no guardrail objects now. Gives what was claimed;
    everything else stays proposed. Raises: StoreError.
    """
    policy = world.policy
    if policy.disabling is not Disabling.AUTOMATIC or policy.mode is not Mode.ENFORCE:
        return []
    claimed = []
    for before in changed:
        if (
            before.next_lever != DISABLE_PRINCIPAL.id
            or before.next_requested_by != ACTOR
            or not before.automatic
        ):
            continue
        c, etag = await load(world.store, before.id)
        if c.next_lever != DISABLE_PRINCIPAL.id or c.undoing:
            continue
        reason = f"{c.failure or c.armed}; AGENTBREAKER_DISABLE_PRINCIPAL says automatic"
        try:
            done = await _by_policy(c, etag, c.next_lever, reason, world)
        except Conflict:
            log.debug("somebody decided at the same moment")
            continue
        if done is not None:
            claimed.append(done)
    return claimed


async def _by_policy(c: Containment, etag: str, lever: str, reason: str, world: World) -> Containment | None:
    """
    Claim what policy allows without a person; None when a guardrail objects, something is unread, or it is too much.

    It counts as automatic for the storm brake. Raises: Conflict; StoreError.
    """
    now = world.now()
    if any(world.policy.mode_for(known.rule_id) is Mode.OBSERVE for known in c.findings if known.rule_id):
        return None  # a rule it rests on may only be observed by now
    evidence, decision = await _judged_again(c, ACTOR, reason, lever, world, now, by_person=False)
    if (
        decision.verdict is not Verdict.CONTAIN
        or decision.vetoes
        or decision.people
        or decision.lever != lever
    ):
        return None
    vetoes, brake_write = await counted(decision, evidence, world, now)
    if vetoes:
        return None
    said = Approval(ACTOR, APPROVE, reason[:2000], now, lever)
    claimed = claimed_anew(c, lever, decision, evidence, now, approvals=(*c.approvals, said)[-20:])
    body: dict[str, object] = {"lever": lever, "reason": reason[:2000]}
    await commit_changed(claimed, etag, EntryKind.APPROVED, ACTOR, body, world, brake_write)
    return claimed
