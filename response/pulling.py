"""
Pull the lever for everything that is claimed, many principals in one call.

A request that has claimed a containment waits here. Whoever gets the tenant's turn sends *all* that are
claimed, in one ``confirmCompromised``; the others watch their own record. The order is always: read the
kill switch, write "pull started", send, write the outcome. Where no clear outcome came back, the tenant is
looked at before anything is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from clients.errors import BadRequest, ClientError, NotFound, NotSent, OutcomeUnknown, Throttled
from clients.stores import Conflict, Delete, Insert, Replace, Write
from clients.terms import Unknown
from response import gathering
from response.containment import (
    TOKEN_LIFETIME,
    Containment,
    ContainmentId,
    FailureReason,
    Pull,
    PullOutcome,
    State,
)
from response.ledger import Draft, EntryKind, commit_with_entries
from response.opening import ACTOR, load, load_readable, telling_note
from response.policy import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clients.terms import ObjectId
    from response.world import World

log = logging.getLogger("agentbreaker.pulling")
# A pull that started this long ago and wrote no outcome belongs to a process that died.
ABANDONED_AFTER: Final = timedelta(seconds=15)
# Entra gave no sign of our confirmation this long after it was sent: it did not arrive. No figure is
# published for how soon ``isProcessing`` shows; the number is ours and errs on the long side.
SEND_AGAIN_AFTER: Final = timedelta(seconds=60)
# A claim this old was judged on evidence this old: a person looks at it first.
STALE_AFTER: Final = timedelta(minutes=30)
_SWITCHED_OFF: Final = "the kill switch was on when the lever was to be pulled"
_NOT_KNOWN: Final = "whether the confirmation arrived is not known; look at the principal's risk in Entra"
_AT_ONCE: Final = 15  # records changed in one commit; a store takes 100 writes, we make up to five a record
_WATCH: Final = 0.1  # seconds between looks at our own record; the store is ours, its reads cost no quota


async def pull_until_done(containment_id: str, world: World, within: timedelta) -> Containment:
    """
    See that a claimed containment is pulled, by us or by whoever holds the turn.

    Returns the record, still ``claimed`` when ``within`` has passed or the outcome is not known yet: the
    ``settle`` timer goes on with it. Raises: StoreError (then nothing was sent that is not recorded).
    """
    deadline = world.now() + within
    while True:
        containment, _ = await load(world.store, containment_id)
        undecided = containment.pull is not None and containment.pull.outcome is PullOutcome.UNKNOWN
        if containment.state is not State.CLAIMED or undecided or world.now() >= deadline:
            return containment
        wait = None if containment.pulling else await world.turns.try_take()
        if wait is None and not containment.pulling:
            await pull_claimed(world)
        else:
            await asyncio.sleep(min(wait.total_seconds(), _WATCH) if wait else _WATCH)


async def pull_claimed(world: World) -> None:
    """
    Send one batch of what is claimed. The caller has taken the turn.

    Raises: StoreError. An unreadable kill switch stops here, before anything is sent.
    """
    fresh = [(c, etag) for c, etag in await _all_claimed(world) if c.pull is None]
    if not fresh:
        return
    if await gathering.kill_switch_stopped(world.store):
        await _park([c for c, _ in fresh], _SWITCHED_OFF, world)
        return
    own = await gathering.own_identities(world)
    allowed = []
    for c, etag in fresh:
        if refusal := _no_longer_allowed(c, world, own):
            await _park([c], refusal, world)
        else:
            allowed.append((c, etag))
    started = await _start(allowed[: world.batch_size], world)
    if started:
        await _send(started, world)


async def _all_claimed(world: World) -> list[tuple[Containment, str]]:
    """Load every claimed record; one that moved on between index and read, or is unreadable, is left out."""
    index = await world.store.scan("claimed:")
    found = [await _claimed(record.key.removeprefix("claimed:"), world) for record in index]
    return [loaded for loaded in found if loaded is not None]


async def _claimed(containment_id: str, world: World) -> tuple[Containment, str] | None:
    loaded = await load_readable(world.store, containment_id)
    return loaded if loaded is not None and loaded[0].state is State.CLAIMED else None


def _no_longer_allowed(c: Containment, world: World, own: frozenset[ObjectId] | Unknown) -> str:
    """
    Say why a claim may not be pulled any more; empty when it may.

    Between claim and lever the app may have been restarted with other settings, and time has passed.
    """
    policy = world.policy
    # Of several rules that agree one may be allowed to act; ``mode_for`` never goes beyond the global mode.
    rules = [found.rule_id for found in c.findings if c.automatic and found.rule_id]
    mode = max(map(policy.mode_for, rules), key=lambda each: each.boldness, default=policy.mode)
    if mode is Mode.OBSERVE or (mode is Mode.APPROVE and c.automatic):
        return f"the mode is {mode} now"
    if policy.protected is None or c.principal in policy.protected:
        return "it is on the protected list now, or that list cannot be read"
    if isinstance(own, Unknown) or c.principal in own:
        return "it is one of our own identities, or these cannot be read"
    if world.now() - (c.claimed_at or c.opened_at) > STALE_AFTER:
        return "the claim waited so long that its evidence is stale"
    return ""


async def _start(fresh: Sequence[tuple[Containment, str]], world: World) -> list[Containment]:
    """Write "pull started" for each; a record that somebody else took in between is left to them."""
    attempt, now = uuid4().hex[:12], world.now()

    def change(c: Containment) -> Containment:
        return c.changed(now, pull=Pull(attempt, now, PullOutcome.STARTED))

    started: list[Containment] = []
    for chunk in _chunks(fresh):
        try:
            started += await _write(chunk, change, EntryKind.PULL_STARTED, world)
        except Conflict:
            continue
    return started


async def _send(batch: Sequence[Containment], world: World) -> None:
    """Send one confirmation for the batch and write what became of it. Raises: StoreError."""
    if await gathering.kill_switch_stopped(
        world.store
    ):  # read afresh: starting the batch may have taken long
        await _park(batch, _SWITCHED_OFF, world)
        return
    await world.turns.sending()
    try:
        accepted = await world.graph.confirm_compromised([c.principal for c in batch])
    except (BadRequest, NotFound) as error:
        await _halve(batch, error, world)
    except (Throttled, NotSent) as error:  # surely not done: claimed as before, the next turn tries again
        await _outcome(batch, _not_pulled, EntryKind.PULL_DEFERRED, world, str(error))
    except OutcomeUnknown as error:
        await _outcome(batch, _with_outcome(PullOutcome.UNKNOWN), EntryKind.PULL_UNKNOWN, world, str(error))
        await look(batch, world)
    except ClientError as error:
        await _fail(batch, str(error), world)
    else:
        await _accept(batch, accepted, world, "")


async def _halve(batch: Sequence[Containment], error: ClientError, world: World) -> None:
    """
    Split a refused batch until the id that Graph refuses stands alone. Each part takes a turn of its own.

    Turns take time. So each part is started anew, on the records as they are then: what another process has
    taken over, or a person has stopped meanwhile, is not sent.
    """
    if len(batch) == 1:
        await _fail(batch, f"Graph refuses this object id: {error}", world)
        return
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        await world.turns.take()
        started = await _start(
            [pair for c in half if (pair := await _still_ours(c, world)) is not None], world
        )
        if started:
            await _send(started, world)


async def _still_ours(before: Containment, world: World) -> tuple[Containment, str] | None:
    loaded = await _claimed(before.id, world)
    return loaded if loaded is not None and _same_pull(loaded[0], before) else None


async def look(batch: Sequence[Containment], world: World) -> None:
    """
    Read the tenant for pulls whose outcome is not known, before anything is sent again.

    Confirmed there: accepted. Still processing, or too soon to tell: left for the next look. No sign of it
    after ``SEND_AGAIN_AFTER``: claimed as before, so that the next turn sends it. Nothing to be learnt for
    ``STALE_AFTER``: a person looks.
    """
    for containment in batch:
        pull = containment.pull
        if pull is None:
            continue
        waited = world.now() - pull.started_at
        try:
            risk = await world.graph.risk(containment.principal)
        except ClientError as error:
            log.warning("could not look after an unknown outcome: %s", type(error).__name__)
            if waited > STALE_AFTER:
                await _park([containment], f"{_NOT_KNOWN}: {error}", world)
            continue
        if risk is not None and risk.state == "confirmedCompromised":
            note = "found confirmed when looking, after an unknown outcome"
            await _accept([containment], pull.started_at, world, note)
        elif risk is not None and risk.is_processing:
            if waited > STALE_AFTER:
                await _park([containment], f"{_NOT_KNOWN}: Entra is still processing", world)
        elif waited > SEND_AGAIN_AFTER:
            reason = "no sign of it in the tenant, so it did not arrive"
            await _outcome([containment], _not_pulled, EntryKind.PULL_DEFERRED, world, reason)


async def _accept(batch: Sequence[Containment], accepted: datetime, world: World, note: str) -> None:
    """
    Write that Graph accepted; also on a record that was parked or failed meanwhile.

    A confirmation that took effect is the truth about the principal, however late we hear of it.
    """
    pulls = {c.id: c.pull for c in batch}

    def change(c: Containment, now: datetime) -> Containment:
        sent = pulls[c.id]
        pull = sent and Pull(sent.attempt, sent.started_at, PullOutcome.ACCEPTED, accepted)
        return c.changed(
            now,
            state=State.PULLED,
            pull=pull,
            residual_until=accepted + TOKEN_LIFETIME,
            failure="",
            failed_because=FailureReason.NONE,
        )

    await _outcome(batch, change, EntryKind.PULLED, world, note, done=True, takes=_not_contained_yet)


def _not_contained_yet(now: Containment, _before: Containment) -> bool:
    refused = now.failed_because is FailureReason.REFUSED
    return now.state in (State.CLAIMED, State.AWAITING_APPROVAL) or (now.state is State.FAILED and refused)


async def _fail(batch: Sequence[Containment], why: str, world: World) -> None:
    """Nothing took effect. The record stays open, so that a person, or a new finding, may try again."""

    def change(c: Containment, now: datetime) -> Containment:
        pull = c.pull and Pull(c.pull.attempt, c.pull.started_at, PullOutcome.REFUSED)
        refused = FailureReason.REFUSED
        return c.changed(now, state=State.FAILED, failed_because=refused, pull=pull, failure=why[:500])

    await _outcome(batch, change, EntryKind.FAILED, world, why, done=True)


async def _park(batch: Sequence[Containment], why: str, world: World) -> None:
    """Hand claims to a person, with the reason. What may have been sent keeps saying so."""

    def change(c: Containment, now: datetime) -> Containment:
        may_be_sent = c.pull is not None and (
            why.startswith(_NOT_KNOWN) or c.pull.outcome is PullOutcome.UNKNOWN
        )
        reasons = (*c.reasons, why)[-20:]
        return c.changed(
            now, state=State.AWAITING_APPROVAL, reasons=reasons, pull=c.pull if may_be_sent else None
        )

    await _outcome(batch, change, EntryKind.PARKED, world, why, done=True)


def _not_pulled(c: Containment, now: datetime) -> Containment:
    return c.changed(now, pull=None)


def _with_outcome(outcome: PullOutcome) -> Callable[[Containment, datetime], Containment]:
    return lambda c, now: c.changed(now, pull=c.pull and Pull(c.pull.attempt, c.pull.started_at, outcome))


async def _outcome(
    batch: Sequence[Containment],
    change: Callable[[Containment, datetime], Containment],
    kind: EntryKind,
    world: World,
    note: str = "",
    *,
    done: bool = False,
    takes: Callable[[Containment, Containment], bool] | None = None,
) -> None:
    """
    Write what became of a pull, on the records as they are now.

    A finding may have joined meanwhile, so the record is read again; one that another process has taken
    further since (another attempt, another state; ``takes`` says otherwise) is left alone, and the ledger says
    what came late.
    """
    is_ours = takes or _same_pull
    for chunk in _chunks(batch):
        for _ in range(20):
            now = world.now()
            current = [await load(world.store, c.id) for c in chunk]
            pairs = list(zip(current, chunk, strict=True))
            ours = [(c, etag) for (c, etag), before in pairs if is_ours(c, before)]
            try:
                await _say_late([c for (c, _), before in pairs if not is_ours(c, before)], kind, note, world)
                if ours:
                    await _write(ours, _at(change, now), kind, world, note=note, done=done)
                break
            except Conflict:
                await asyncio.sleep(_WATCH)
        else:
            raise Conflict(chunk[0].key)


async def _say_late(moved_on: Sequence[Containment], kind: EntryKind, note: str, world: World) -> None:
    """Record an outcome that came after the record had moved on: the state stays, and people can see it."""
    if not moved_on:
        return
    said = f"came after the record had moved on, which stays as it is. {note}".strip()
    drafts = [
        Draft(kind, ACTOR, c.principal, c.id, {"state": c.state, "late": True, "note": said[:500]})
        for c in moved_on
    ]

    async def build() -> tuple[list[Write], list[Draft]]:
        return [], drafts

    await commit_with_entries(world.store, build)


def _at(
    change: Callable[[Containment, datetime], Containment], now: datetime
) -> Callable[[Containment], Containment]:
    return lambda containment: change(containment, now)


def _same_pull(now: Containment, before: Containment) -> bool:
    attempt = (now.pull and now.pull.attempt) == (before.pull and before.pull.attempt)
    return now.state is State.CLAIMED and attempt


async def _write(
    records: Sequence[tuple[Containment, str]],
    change: Callable[[Containment], Containment],
    kind: EntryKind,
    world: World,
    *,
    note: str = "",
    done: bool = False,
) -> list[Containment]:
    """Commit changed records with their ledger entries; ``done`` takes them off the list of what is to be pulled."""
    changed = [(change(c), etag) for c, etag in records]

    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = []
        for c, etag in changed:
            writes.append(Replace(c.key, c.to_body(), etag))
            if done:
                writes += [*await _left(c, world), *telling_note(c, world.now())]
        return writes, [_draft(kind, c, note) for c, _ in changed]

    await commit_with_entries(world.store, build)
    return [c for c, _ in changed]


async def _left(c: Containment, world: World) -> list[Write]:
    """Index changes of a record that is no longer to be pulled."""
    writes: list[Write] = []
    if (claimed := await world.store.get(f"claimed:{c.id}")) is not None:
        writes.append(Delete(claimed.key, claimed.etag))
    if (c.state is State.PULLED or c.touched) and await world.store.get(f"verify:{c.id}") is None:
        writes.append(Insert(f"verify:{c.id}", {"principal": c.principal}))
    return writes


def _draft(kind: EntryKind, c: Containment, note: str) -> Draft:
    body: dict[str, object] = {"state": c.state, "lever": c.lever}
    if c.pull is not None:
        body |= {"attempt": c.pull.attempt, "outcome": c.pull.outcome}
    if note:
        body["note"] = note[:500]
    return Draft(kind=kind, actor=ACTOR, subject=c.principal, containment_id=c.id, body=body)


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)]


async def recover(world: World) -> list[ContainmentId]:
    """
    Go on with claims whose request ended without them: pull what was never sent, look at what may have been.

    Called by the ``settle`` timer. Returns which were claimed when it began. Raises: StoreError.
    """
    claimed = await _all_claimed(world)
    now = world.now()
    for containment, _ in claimed:
        pull = containment.pull
        if pull and (pull.outcome is PullOutcome.UNKNOWN or now - pull.started_at > ABANDONED_AFTER):
            await look([containment], world)
    if any(c.pull is None for c, _ in claimed):
        await world.turns.take()
        await pull_claimed(world)
    return [c.id for c, _ in claimed]
