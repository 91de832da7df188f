"""
Take levers back, exactly: a person's order, sent in batches like the pull, compared afterwards, then probation.

``batches.py`` is how it is sent. The kill switch does not stop an undo: it gives access back, and what was stopped by
mistake must not stay stopped because somebody stopped everything.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from clients.errors import ClientError
from clients.stores import Conflict, Put, Write
from clients.terms import Risk, RiskDetection, Unknown
from response import acting, batches, gathering
from response.batches import Kinds, Seen, Waiting
from response.containment import (
    Containment,
    ContainmentId,
    FailureReason,
    Pull,
    Pulled,
    PullOutcome,
    State,
    Undo,
)
from response.ledger import ACTOR, EntryKind
from response.levers import CONFIRM_AGENT_COMPROMISED, CONFIRM_COMPROMISED, DISABLE_PRINCIPAL, RISK_LEVERS
from response.opening import commit_changed, index_writes, load, load_readable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from response.world import World

log = logging.getLogger("agentbreaker.undoing")
_READS_DETECTIONS: Final = frozenset({"IdentityRiskEvent.Read.All", "IdentityRiskEvent.ReadWrite.All"})
_COMPARED_AT_ONCE: Final = 5  # each reading of a risk costs the tenant's ID Protection second


class CannotUndo(Exception):
    """The containment has nothing to take back now; the message says why and what to do."""


async def undo(
    containment_id: str, by: str, reason: str, before: tuple[str, ...], world: World, within: timedelta
) -> Containment:
    """
    Take back every lever of a containment; give the record as far as it has come.

    ``before`` is what was read and shown to whoever ordered it (``seen_before``). A second order joins the first.
    Raises: CannotUndo; KeyError (no such containment); StoreError.
    """
    with world.crowd.arrives():
        await _order(containment_id, by, reason, before, world)
    return await batches.until_done(UNDO, containment_id, world, within)


async def _order(containment_id: str, by: str, reason: str, before: tuple[str, ...], world: World) -> None:
    for _ in range(40):
        c, etag = await load(world.store, containment_id)
        if c.undoing or c.state is State.HALF_OPEN:
            return
        if why := _nothing_to_undo(c):
            raise CannotUndo(why)
        ordered = ordered_undo(c, by, reason, before, world)
        body: dict[str, object] = {"reason": reason, "before": list(before)}
        try:
            await commit_changed(
                ordered, etag, EntryKind.UNDO_REQUESTED, by, body, world, [_counts_from(ordered)]
            )
        except Conflict:
            continue
        return
    raise Conflict(f"containment:{containment_id}")


def _counts_from(ordered: Containment) -> Write:
    """From the order on, only evidence newer than it counts: whoever gave it has judged what came before."""
    at = ordered.undo.requested_at if ordered.undo else ordered.updated_at
    return Put(f"undone:{ordered.principal}", {"at": at.isoformat()})


def _nothing_to_undo(c: Containment) -> str:
    unknown = c.pull is not None and c.pull.outcome is PullOutcome.UNKNOWN
    if c.state is State.CLAIMED and not unknown:
        return "the lever is being pulled at this moment; try again in a minute"
    if not c.touched and not c.pulled_levers:
        return f"nothing was touched (state {c.state}); reject it if it waits for a person"
    if not c.is_open:
        return f"it is {c.state} already"
    return ""


def ordered_undo(c: Containment, by: str, reason: str, before: tuple[str, ...], world: World) -> Containment:
    """
    Give the record with the order to take everything back.

    Where it is not known whether the lever took effect, it is taken back all the same: dismissing what was never
    confirmed changes nothing of ours, and what Microsoft had found was shown and agreed to.
    """
    levers, now = c.pulled_levers, world.now()
    standing = c.standing
    undecided = c.pull is not None and c.pull.outcome in (PullOutcome.UNKNOWN, PullOutcome.STARTED)
    if not standing or (undecided and c.lever not in standing):
        began = c.pull.started_at if c.pull else c.opened_at
        levers = (*levers, Pulled(c.lever, began))
    order = Undo(by, reason[:2000], now, world.policy.probation, before)
    changes: dict[str, object] = {"undo": order, "pulled_levers": levers, "next_lever": ""}
    if c.state is State.CLAIMED:  # nobody knows whether it took effect, and it is not to be sent again
        why = "it was taken back before anybody knew whether it took effect"
        changes |= {"state": State.FAILED, "failed_because": FailureReason.NOT_HIGH, "failure": why}
    return c.changed(now, **changes)


async def seen_before(c: Containment, world: World) -> tuple[str, ...]:
    """
    Read what an undo would take away, in words: the risk, and what Microsoft itself had detected.

    Costs two ID Protection calls for a risk lever and none otherwise. What cannot be read says so, and what our token
    surely may not read is not asked: each 403 would call people (alert ``service-refuses``).
    """
    standing = c.standing or (c.lever,)
    if not any(lever in RISK_LEVERS for lever in standing):
        return ()
    agent = CONFIRM_AGENT_COMPROMISED.id in standing
    door = CONFIRM_AGENT_COMPROMISED.id if agent else CONFIRM_COMPROMISED.id
    risk = await gathering.answered(gathering.risk_behind(door, c.principal, world))
    said = [_risk_in_words(risk)]
    if agent:
        said.append("what Microsoft itself had detected about an agent is not read by this version")
        return tuple(said)
    claims = await gathering.answered(world.graph.own_claims())
    if not isinstance(claims, Unknown) and not claims[1] & _READS_DETECTIONS:
        said.append(
            "what Microsoft itself had detected is not read: IdentityRiskEvent.Read.All is not granted"
        )
        return tuple(said)
    found = await gathering.answered(world.graph.risk_detections(c.principal))
    return (*said, *_detections_in_words(found))


def _risk_in_words(risk: Risk | Unknown | None) -> str:
    match risk:
        case Unknown(why=why):
            return f"risk could not be read: {why}"
        case None:
            return "risk: none on record"
        case Risk():
            return f"risk: level {risk.level or 'unknown'}, state {risk.state or 'unknown'}"


def _detections_in_words(found: Sequence[RiskDetection] | Unknown) -> list[str]:
    if isinstance(found, Unknown):
        return [f"what Microsoft itself had detected could not be read: {found.why}"]
    own = [detection for detection in found if not detection.is_ours]
    if not own:
        return ["Microsoft itself had detected nothing"]
    return [
        f"Microsoft had detected {detection.event_type[:80]} (level {detection.level or 'unknown'}"
        + (f", {detection.detected_at:%Y-%m-%d %H:%M} UTC)" if detection.detected_at else ")")
        for detection in own[:20]
    ]


async def recover(world: World) -> list[ContainmentId]:
    """Go on with undos whose request ended without them. See ``batches.recover``. Raises: StoreError."""
    return await batches.recover(UNDO, world)


class _UndoIntent:
    """What is to be taken back. Implements ``batches.Intent``; one lever a step, the last one pulled first."""

    index = "undoing:"
    kinds = Kinds(
        started=EntryKind.UNDO_STARTED,
        deferred=EntryKind.UNDO_DEFERRED,
        unknown=EntryKind.UNDO_UNKNOWN,
        done=EntryKind.UNDONE,
        refused=EntryKind.UNDO_FAILED,
    )

    def waits(self, c: Containment) -> bool:
        return c.undoing and c.is_open

    def step(self, c: Containment) -> Pull | None:
        return c.undo.step if c.undo else None

    def lever(self, c: Containment) -> str:
        return c.to_undo.lever if c.to_undo else ""

    def stepped(self, c: Containment, now: datetime, step: Pull | None) -> Containment:
        return c.changed(now, undo=c.undo and replace(c.undo, step=step))

    def done(self, c: Containment, now: datetime, accepted: datetime, _sent: Pull | None) -> Containment:
        current = c.to_undo
        levers = tuple(
            replace(pulled, undone_at=accepted) if pulled is current else pulled for pulled in c.pulled_levers
        )
        more = any(pulled.undone_at is None for pulled in levers)
        undo = c.undo and replace(c.undo, step=None, done_at=None if more else accepted)
        if more:
            return c.changed(now, pulled_levers=levers, undo=undo)
        return c.changed(
            now,
            state=State.HALF_OPEN,
            pulled_levers=levers,
            undo=undo,
            residual_until=None,
            probation_until=accepted + c.undo.probation if c.undo else accepted,
            next_lever="",
            undo_at=None,
            residual=(),
            failure="",
            failed_because=FailureReason.NONE,
        )

    def refused(self, c: Containment, now: datetime, why: str) -> Containment:
        return c.changed(now, undo=c.undo and replace(c.undo, step=None, failure=why[:500]))

    def takes_late(self, now: Containment, before: Containment) -> bool:
        """Of two undos of one lever the first acceptance counts."""
        same = now.undo is not None and before.undo is not None
        return same and now.undoing and now.to_undo == before.to_undo

    async def indexes(self, c: Containment, world: World) -> list[Write]:
        writes = await index_writes(c, world.store)
        if c.state is State.HALF_OPEN and c.undo:
            # Since the order, and not since Graph took it: what was seen in between nobody has judged.
            writes.append(_counts_from(c))
        return writes

    async def allowed(self, waiting: list[Waiting], _world: World) -> list[Waiting]:
        return [(c, etag) for c, etag in waiting if c.to_undo is not None]

    async def stopped(self, _batch: Sequence[Containment], _world: World) -> bool:
        return False

    async def prepare(self, _lever: str, _batch: Sequence[Containment], _world: World) -> None:
        return

    async def send(self, lever: str, batch: Sequence[Containment], world: World) -> datetime:
        return await acting.ACTIONS[lever].undo(batch, world)

    async def look(self, lever: str, batch: Sequence[Containment], world: World) -> list[Seen]:
        return await acting.undone(lever, batch, world)

    async def give_up(self, c: Containment, why: str, world: World) -> None:
        said = f"whether it took effect is not known; look at the principal in Entra: {why}"

        def change(now_c: Containment, now: datetime) -> Containment:
            return self.refused(now_c, now, said)

        await batches.outcome(self, [c], change, EntryKind.UNDO_FAILED, world, said, over=True)


UNDO: Final = _UndoIntent()


# --- afterwards ---------------------------------------------------------------------------------


async def go_on(world: World) -> list[Containment]:
    """
    Begin the undo of containments with an end, compare what was undone, and close what has passed its probation.

    Gives the containments that changed. Raises: StoreError.
    """
    return [*await _ends(world), *await _probations(world)]


async def _ends(world: World) -> list[Containment]:
    """Order the undo of what was to be contained only until now. Whoever set the end agreed to it then."""
    changed = []
    for c, etag in await _listed("ending:", world):
        if c.undo_at is None or world.now() < c.undo_at or _nothing_to_undo(c):
            continue
        before = await seen_before(c, world)
        reason = f"the containment was ordered to end at {c.undo_at:%Y-%m-%d %H:%M} UTC"
        ordered = ordered_undo(c, c.requested_by, reason, before, world)
        body: dict[str, object] = {"reason": reason, "before": list(before)}
        if await _tried(ordered, etag, EntryKind.UNDO_REQUESTED, body, world):
            changed.append(ordered)
    return changed


async def _probations(world: World) -> list[Containment]:
    changed, compared = [], 0
    for c, etag in await _listed("probation:", world):
        undo = c.undo
        if undo is None or undo.done_at is None:
            continue
        if not undo.after and compared < _COMPARED_AT_ONCE:
            compared += 1
            if after := await _compared(c, world):
                c, etag = await _with_comparison(c, etag, after, world)
                changed.append(c)
        if c.probation_until is not None and world.now() >= c.probation_until:
            closed = c.changed(world.now(), state=State.CLOSED, is_open=False)
            if await _close(closed, etag, world):
                changed.append(closed)
    return changed


async def _compared(c: Containment, world: World) -> str:
    """Say what is read after an undo, beside what was read before; empty when it cannot be read yet."""
    said = []
    for pulled in c.pulled_levers:
        try:
            if pulled.lever in RISK_LEVERS:
                risk = await gathering.risk_behind(pulled.lever, c.principal, world)
                seen = acting.dismissed(risk)
                if seen is Seen.PROCESSING:
                    return ""
                said.append(_risk_in_words(risk))
                if seen is Seen.NO_SIGN:
                    said.append("the risk was not taken back: look at the principal in Entra")
            elif pulled.lever == DISABLE_PRINCIPAL.id:
                seen = await acting.ACTIONS[pulled.lever].undone(c, world)
                said.append(
                    "accountEnabled reads true" if seen is Seen.DONE else "accountEnabled does not read true"
                )
        except ClientError as error:
            log.warning("what an undo left behind could not be read: %s", type(error).__name__)
            return ""
    return "; ".join(dict.fromkeys([*said, *await acting.not_restored(c, world)])) or "nothing to compare"


async def _with_comparison(c: Containment, etag: str, after: str, world: World) -> tuple[Containment, str]:
    undo = c.undo and replace(c.undo, after=after[:1000])
    compared = c.changed(world.now(), undo=undo)
    before = list(undo.before) if undo else []
    await _tried(compared, etag, EntryKind.UNDONE, {"before": before, "after": after[:1000]}, world)
    return await load(world.store, c.id)


async def _close(closed: Containment, etag: str, world: World) -> bool:
    return await _tried(closed, etag, EntryKind.PROBATION_ENDED, {}, world)


async def _listed(index: str, world: World) -> list[tuple[Containment, str]]:
    records = await world.store.scan(index)
    found = [await load_readable(world.store, record.key.removeprefix(index)) for record in records]
    return [loaded for loaded in found if loaded is not None]


async def _tried(
    c: Containment,
    etag: str,
    kind: EntryKind,
    body: dict[str, object],
    world: World,
) -> bool:
    try:
        await commit_changed(c, etag, kind, ACTOR, body, world)
    except Conflict:
        log.debug("a containment changed meanwhile; the next settle sees the newer record")
        return False
    return True
