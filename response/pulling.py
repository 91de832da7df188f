"""
Pull the levers of everything that is claimed; those that carry many principals, many in one call.

``batches.py`` is how; here is what is particular to a pull: what may still stop it, and what it makes of a record.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from clients.stores import Insert, Write
from clients.terms import Kind, Unknown
from response import acting, batches, gathering, integrity
from response.batches import STALE_AFTER, Kinds, Seen, Waiting
from response.containment import (
    TOKEN_LIFETIME,
    Containment,
    ContainmentId,
    FailureReason,
    Pull,
    Pulled,
    PullOutcome,
    State,
)
from response.ledger import EntryKind, Verified
from response.opening import index_writes
from response.policy import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from clients.terms import ObjectId
    from response.world import World

log = logging.getLogger("agentbreaker.pulling")
# The platform keeps tokens of a managed identity for up to a day and cannot be told to forget them (entra-docs,
# managed-identity-best-practice-recommendations.md). What is seen later makes the end later (``verification``).
_LIFETIMES: Final = {str(Kind.MANAGED_IDENTITY): timedelta(hours=24)}
_SWITCHED_OFF: Final = "the kill switch was on when the lever was to be pulled"
_NOT_INTACT: Final = "the ledger's chain is broken or could not be checked, so nothing is pulled"
_NOT_KNOWN: Final = "whether the lever took effect is not known; look at the principal in Entra"


async def pull_until_done(containment_id: str, world: World, within: timedelta) -> Containment:
    """
    See that a claimed containment is pulled, by us or by whoever holds the turn.

    Returns the record, still ``claimed`` when ``within`` has passed or the outcome is not known yet: the
    ``settle`` timer goes on with it. Raises: StoreError (then nothing was sent that is not recorded).
    """
    return await batches.until_done(PULL, containment_id, world, within)


async def recover(world: World) -> list[ContainmentId]:
    """Go on with claims whose request ended without them. See ``batches.recover``. Raises: StoreError."""
    return await batches.recover(PULL, world)


class _PullIntent:
    """What is claimed and not pulled. Implements ``batches.Intent``."""

    index = "claimed:"
    kinds = Kinds(
        started=EntryKind.PULL_STARTED,
        deferred=EntryKind.PULL_DEFERRED,
        unknown=EntryKind.PULL_UNKNOWN,
        done=EntryKind.PULLED,
        refused=EntryKind.FAILED,
    )

    def waits(self, c: Containment) -> bool:
        return c.state is State.CLAIMED

    def step(self, c: Containment) -> Pull | None:
        return c.pull

    def lever(self, c: Containment) -> str:
        return c.lever

    def stepped(self, c: Containment, now: datetime, step: Pull | None) -> Containment:
        return c.changed(now, pull=step)

    def done(self, c: Containment, now: datetime, accepted: datetime, sent: Pull | None) -> Containment:
        pull = sent and Pull(sent.attempt, sent.started_at, PullOutcome.ACCEPTED, accepted)
        return c.changed(
            now,
            state=State.PULLED,
            pull=pull,
            pulled_levers=(*c.pulled_levers, Pulled(c.lever, accepted)),
            contained_at=c.contained_at or accepted,
            residual_until=accepted + _LIFETIMES.get(c.kind, TOKEN_LIFETIME),
            residual=(),
            decide_by=None,
            failure="",
            failed_because=FailureReason.NONE,
        )

    def refused(self, c: Containment, now: datetime, why: str) -> Containment:
        pull = c.pull and Pull(c.pull.attempt, c.pull.started_at, PullOutcome.REFUSED)
        refused = FailureReason.REFUSED
        return c.changed(now, state=State.FAILED, failed_because=refused, pull=pull, failure=why[:500])

    def takes_late(self, now: Containment, _before: Containment) -> bool:
        refused = now.failed_because is FailureReason.REFUSED
        waits = now.state in (State.CLAIMED, State.AWAITING_APPROVAL)
        return waits or (now.state is State.FAILED and refused)

    async def indexes(self, c: Containment, world: World) -> list[Write]:
        writes = await index_writes(c, world.store)
        if (c.state is State.PULLED or c.touched) and await world.store.get(f"verify:{c.id}") is None:
            writes.append(Insert(f"verify:{c.id}", {"principal": c.principal}))
        return writes

    async def allowed(self, waiting: list[Waiting], world: World) -> list[Waiting]:
        """
        Give those that may be pulled; park the others. An unreadable kill switch raises, before anything is sent.

        Between claim and lever the app may have been restarted with other settings, and time has passed.
        """
        if await gathering.kill_switch_stopped(world.store):
            await self._park([c for c, _ in waiting], _SWITCHED_OFF, world)
            return []
        intact = await integrity.ensure_intact(world.store, now=world.now)
        if not isinstance(intact, Verified):
            await self._park([c for c, _ in waiting], f"{_NOT_INTACT}: {intact.why}", world)
            return []
        own = await gathering.own_identities(world)
        allowed = []
        for c, etag in waiting:
            if refusal := _no_longer_allowed(c, world, own):
                await self._park([c], refusal, world)
            else:
                allowed.append((c, etag))
        return allowed

    async def stopped(self, batch: Sequence[Containment], world: World) -> bool:
        if not await gathering.kill_switch_stopped(world.store):
            return False
        await self._park(batch, _SWITCHED_OFF, world)
        return True

    async def prepare(self, lever: str, batch: Sequence[Containment], world: World) -> None:
        await acting.prepare(lever, batch, world)

    async def send(self, lever: str, batch: Sequence[Containment], world: World) -> datetime:
        return await acting.ACTIONS[lever].pull(batch, world)

    async def look(self, lever: str, batch: Sequence[Containment], world: World) -> list[Seen]:
        return await acting.pulled(lever, batch, world)

    async def give_up(self, c: Containment, why: str, world: World) -> None:
        await self._park([c], f"{_NOT_KNOWN}: {why}", world)

    async def _park(self, batch: Sequence[Containment], why: str, world: World) -> None:
        """Hand claims to a person, with the reason. What may have been sent keeps saying so."""

        def change(c: Containment, now: datetime) -> Containment:
            may_be_sent = c.pull is not None and (
                why.startswith(_NOT_KNOWN) or c.pull.outcome is PullOutcome.UNKNOWN
            )
            return c.put_before_people(
                now,
                c.requested_by,
                world.policy.decide_within,
                state=State.AWAITING_APPROVAL,
                reasons=(*c.reasons, why)[-20:],
                pull=c.pull if may_be_sent else None,
            )

        await batches.outcome(self, batch, change, EntryKind.PARKED, world, why, over=True)


PULL: Final = _PullIntent()


def _no_longer_allowed(c: Containment, world: World, own: frozenset[ObjectId] | Unknown) -> str:
    """Say why a claim may not be pulled any more; empty when it may."""
    policy = world.policy
    # Of several rules that agree one may be allowed to act; ``mode_for`` never goes beyond the global mode.
    rules = [found.rule_id for found in c.findings if c.automatic and found.rule_id]
    mode = max(map(policy.mode_for, rules), key=lambda each: each.boldness, default=policy.mode)
    if mode is Mode.OBSERVE or (mode is Mode.APPROVE and c.automatic):
        return f"the mode is {mode} now"
    if c.lever not in policy.levers:
        return f"the lever {c.lever} is switched off now"
    if policy.protected is None or c.principal in policy.protected:
        return "it is on the protected list now, or that list cannot be read"
    if isinstance(own, Unknown) or c.principal in own:
        return "it is one of our own identities, or these cannot be read"
    if world.now() - (c.claimed_at or c.opened_at) > STALE_AFTER:
        return "the claim waited so long that its evidence is stale"
    return ""
