"""
Group commit: what waits goes out together, sent by whoever holds the tenant's turn.

Two things wait like that, pulls (``pulling.py``) and undos (``undoing.py``); this is what they share. Whoever waits
watches its own record. The order is always: write "started", send, write the outcome. Where no clear outcome came
back, or the sender died, the tenant is looked at before anything is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from clients import telemetry
from clients.errors import BadRequest, ClientError, NotFound, NotSent, OutcomeUnknown, Throttled
from clients.stores import Conflict, Replace, Write
from clients.telemetry.words import QUOTA_WAITS, SpanName
from response.alive import SILENT_FOR, alive, sweep
from response.containment import Containment, ContainmentId, Pull, PullOutcome
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.levers import LEVERS
from response.opening import load, load_readable, telling_note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from response.turns import Turn
    from response.world import World

log = logging.getLogger("agentbreaker.batches")
# A request of ours that got no answer may still be at work in Graph this long. No figure is published for how soon
# ``isProcessing`` shows; the number is ours, errs on the long side, and is measured by the looker's own clock.
SEND_AGAIN_AFTER: Final = timedelta(seconds=60)
# Nothing has been learnt about a request for so long that a person looks.
STALE_AFTER: Final = timedelta(minutes=30)
_AS_A_LIST: Final = (
    3  # so many risks or more are read as one list; a page is a turn, and so is each single reading
)
_AT_ONCE: Final = 8  # records changed in one commit; a store takes 100 writes, we make up to eleven a record
_SINGLE_PAUSE: Final = 1.0  # seconds between tries of a request that takes no turn
_WATCH: Final = 0.1  # seconds between looks at our own record; the store is ours, its reads cost no quota
_WATCHERS: Final = 10  # so many of a process look every _WATCH; of more each looks less often
# How long whoever has the turn waits for others who are about to join; a call with one of them now would cost all
# the others another turn. Nobody else on the way, no wait.
_GATHER_WITHIN: Final = 2.0  # seconds
_GATHER_LOOK: Final = 0.15  # seconds between looks at whether more came

Waiting = tuple[Containment, str]
"""A record and its etag."""


class Seen(StrEnum):
    """What the tenant shows of a request whose outcome is not known."""

    DONE = "done"
    PROCESSING = "processing"
    NO_SIGN = "no sign"


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the ledger calls the steps of an intent."""

    started: EntryKind
    deferred: EntryKind
    unknown: EntryKind
    done: EntryKind
    refused: EntryKind


class Intent(Protocol):
    """What waits to be sent for containments. All but ``allowed``, ``stopped``, ``send`` and ``look`` are pure."""

    index: str
    kinds: Kinds

    def waits(self, c: Containment) -> bool:
        """Whether the record still wants this."""
        ...

    def step(self, c: Containment) -> Pull | None:
        """Give the request that is under way, None while there is none."""
        ...

    def lever(self, c: Containment) -> str:
        """Give the id of the lever that this is about."""
        ...

    def stepped(self, c: Containment, now: datetime, step: Pull | None) -> Containment:
        """Give the record with another request under way, or none."""
        ...

    def done(self, c: Containment, now: datetime, accepted: datetime, sent: Pull | None) -> Containment:
        """Give the record once Graph has accepted."""
        ...

    def refused(self, c: Containment, now: datetime, why: str) -> Containment:
        """Give the record once Graph has refused; nothing took effect."""
        ...

    def takes_late(self, now: Containment, before: Containment) -> bool:
        """Whether an acceptance is still to be written on a record that moved on meanwhile."""
        ...

    async def indexes(self, c: Containment, world: World) -> list[Write]:
        """Give the index changes of a record for which this is over, whatever came of it."""
        ...

    async def allowed(self, waiting: list[Waiting], world: World) -> list[Waiting]:
        """Give those that may be sent now; deal with the others."""
        ...

    async def stopped(self, batch: Sequence[Containment], world: World) -> bool:
        """Whether it must not be sent after all, read afresh right before; the records are dealt with then."""
        ...

    async def prepare(self, lever: str, batch: Sequence[Containment], world: World) -> None:
        """Write down what is needed to take it back, before it is sent. Raises: ClientError, StoreError."""
        ...

    async def send(self, lever: str, batch: Sequence[Containment], world: World) -> datetime:
        """Send it for all at once; give when it was accepted. Raises: ClientError."""
        ...

    async def look(self, lever: str, batch: Sequence[Containment], world: World) -> list[Seen]:
        """Read the tenant for each of them, in their order. Raises: ClientError."""
        ...

    async def give_up(self, c: Containment, why: str, world: World) -> None:
        """Hand a request of which nothing could be learnt to a person."""
        ...


# --- waiting ------------------------------------------------------------------------------------


async def until_done(intent: Intent, containment_id: str, world: World, within: timedelta) -> Containment:
    """
    See that what waits is sent, by us or by whoever holds the turn.

    Returns the record, still waiting when ``within`` has passed or the outcome is not known yet: the ``settle``
    timer goes on with it. Raises: StoreError (then nothing was sent that is not recorded).
    """
    with world.crowd.waits():
        return await _until_done(intent, containment_id, world, within)


async def _until_done(intent: Intent, containment_id: str, world: World, within: timedelta) -> Containment:
    deadline, tried, began = world.now() + within, False, 0.0
    while True:
        c, etag = await load(world.store, containment_id)
        step = intent.step(c)
        undecided = step is not None and step.outcome is PullOutcome.UNKNOWN
        if not intent.waits(c) or undecided or world.now() >= deadline:
            if began:
                telemetry.measure(QUOTA_WAITS, time.monotonic() - began)
            return c
        if step is not None:
            await _watch_over(intent, step, world)
        elif not LEVERS[intent.lever(c)].batched:
            if tried:  # throttled or not reached: no turn paces this one
                await asyncio.sleep(_SINGLE_PAUSE)
            tried = True
            await _send_alone(intent, (c, etag), world)
        elif (wait := await world.turns.try_take()) is None:
            await send_waiting(intent, world)
        else:
            began = began or time.monotonic()
            await asyncio.sleep(min(wait.total_seconds(), _until_next_look(world)))


def _until_next_look(world: World) -> float:
    """Seconds; so that a hundred who wait do not take the processor from those who send."""
    return _WATCH * max(1.0, random.uniform(0.5, 1.5) * world.crowd.waiting / _WATCHERS)


async def _watch_over(intent: Intent, step: Pull, world: World) -> None:
    """Wait for another's request; look at the tenant, for its whole batch, when whoever sent it has died."""
    looking, silent = world.crowd.looking, await world.heard.silent(step.attempt, world.store, world.now())
    if silent and step.attempt not in looking:
        looking.add(step.attempt)
        try:
            waiting = await all_waiting(intent, world)
            under_way = [(one, intent.step(one)) for one, _ in waiting]
            batch = [one for one, its in under_way if its is not None and its.attempt == step.attempt]
            await look_after(batch, intent, world)
        finally:
            looking.discard(step.attempt)
    await asyncio.sleep(_until_next_look(world))


async def send_waiting(intent: Intent, world: World) -> None:
    """Send one batch of what waits for the turn, which the caller has taken. Raises: StoreError."""
    async with world.turns.held() as turn:
        waiting = await _gathered(intent, world)
        fresh = [
            (c, etag) for c, etag in waiting if intent.step(c) is None and LEVERS[intent.lever(c)].batched
        ]
        if started := await _start_allowed(intent, fresh, world):
            await _send(intent, started, world, turn)


async def _send_alone(intent: Intent, fresh: Waiting, world: World) -> None:
    """Send what takes no turn because its lever carries one principal a request. Raises: StoreError."""
    if started := await _start_allowed(intent, [fresh], world):
        await _send(intent, started, world, None)


async def _start_allowed(intent: Intent, fresh: list[Waiting], world: World) -> list[Containment]:
    allowed = await intent.allowed(fresh, world) if fresh else []
    if not allowed:
        return []
    lever = intent.lever(allowed[0][0])  # of what has waited longest; other levers have the next turn
    chosen = [(c, etag) for c, etag in allowed if intent.lever(c) == lever]
    return await _start(intent, chosen[: world.batch_size], world)


async def _gathered(intent: Intent, world: World) -> list[Waiting]:
    """
    Load what waits, after giving those who are just arriving a moment to join.

    Who else arrives is known of this process; of others it shows by the list growing.
    """
    waiting = await all_waiting(intent, world)
    seen = len(waiting)
    room = seen + world.batch_size - sum(intent.step(c) is None for c, _ in waiting)
    until = time.monotonic() + _GATHER_WITHIN
    growing = seen > 1
    while (growing or world.crowd.arriving) and seen < room and time.monotonic() < until:
        await asyncio.sleep(_GATHER_LOOK)
        now = len(await world.store.scan(intent.index))
        growing, seen = now > seen, now
    return waiting if seen == len(waiting) else await all_waiting(intent, world)


async def all_waiting(intent: Intent, world: World) -> list[Waiting]:
    """Load every record that waits, the oldest first; one that moved on or is unreadable is left out."""
    index = await world.store.scan(intent.index)
    found = [await _waiting(intent, record.key.removeprefix(intent.index), world) for record in index]
    return [loaded for loaded in found if loaded is not None]


async def _waiting(intent: Intent, containment_id: str, world: World) -> Waiting | None:
    loaded = await load_readable(world.store, containment_id)
    return loaded if loaded is not None and intent.waits(loaded[0]) else None


async def recover(intent: Intent, world: World) -> list[ContainmentId]:
    """
    Go on with what waits and whose request ended without it: send what was never sent, look at what may have been.

    Called by the ``settle`` timer. Returns which waited when it began. Raises: StoreError.
    """
    waiting = await all_waiting(intent, world)
    under_way = [(c, step) for c, _ in waiting if (step := intent.step(c)) is not None]
    await sweep(world.store, world.now())
    await look_after(await _abandoned(under_way, world), intent, world)
    fresh = [(c, etag) for c, etag in await all_waiting(intent, world) if intent.step(c) is None]
    for c, etag in fresh:
        if not LEVERS[intent.lever(c)].batched:
            await _send_alone(intent, (c, etag), world)
    if any(LEVERS[intent.lever(c)].batched for c, _ in fresh):
        await world.turns.take()
        await send_waiting(intent, world)
    return [c.id for c, _ in waiting]


async def _abandoned(under_way: list[tuple[Containment, Pull]], world: World) -> list[Containment]:
    """Give those whose outcome is unknown, or whose sender shows no sign of life; wait for one if need be."""
    unknown = [c for c, step in under_way if step.outcome is PullOutcome.UNKNOWN]
    started = [(c, step) for c, step in under_way if step.outcome is not PullOutcome.UNKNOWN]
    silent: list[Containment] = []
    waited = 0.0
    while started:
        heard = [
            (c, step, await world.heard.silent(step.attempt, world.store, world.now())) for c, step in started
        ]
        silent += [c for c, _, is_silent in heard if is_silent]
        started = [(c, step) for c, step, is_silent in heard if not is_silent]
        if waited > SILENT_FOR.total_seconds():
            break  # it lives: whoever sends will write what became of it
        await asyncio.sleep(_WATCH)
        waited += _WATCH
    return [*unknown, *silent]


# --- sending ------------------------------------------------------------------------------------


async def _start(intent: Intent, fresh: Sequence[Waiting], world: World) -> list[Containment]:
    """Write "started" for each; a record that somebody else took in between is left to them."""
    attempt, now = uuid4().hex[:12], world.now()

    def change(c: Containment) -> Containment:
        return intent.stepped(c, now, Pull(attempt, now, PullOutcome.STARTED))

    started: list[Containment] = []
    for chunk in _chunks(fresh):
        try:
            started += await _write(intent, chunk, change, intent.kinds.started, world)
        except Conflict:
            continue
    return started


async def _send(intent: Intent, batch: Sequence[Containment], world: World, turn: Turn | None) -> None:
    """Send one request for the batch, in the turn, and write what became of it. Raises: StoreError."""
    step = intent.step(batch[0])
    async with alive(step.attempt if step else "", world.store, world.now):
        await _send_alive(intent, batch, world, turn)


async def _send_alive(intent: Intent, batch: Sequence[Containment], world: World, turn: Turn | None) -> None:
    lever = intent.lever(batch[0])
    traces = [c.trace for c in batch if c.trace]
    with telemetry.span(
        SpanName.PULL,
        parent=traces[0] if len(batch) == len(traces) == 1 else "",  # of many, none is the one it belongs to
        links=traces if len(batch) > 1 else (),
        lever=lever,
        step=str(intent.kinds.done),
        principals=len(batch),
    ):
        await _send_and_write(intent, lever, batch, world, turn)


async def _send_and_write(
    intent: Intent, lever: str, batch: Sequence[Containment], world: World, turn: Turn | None
) -> None:
    try:
        await intent.prepare(lever, batch, world)
        if turn is not None:
            await turn.sending()
        if await intent.stopped(batch, world):  # last of all: everything before may have taken long
            return
        accepted = await intent.send(lever, batch, world)
    except (BadRequest, NotFound) as error:
        await _halve(intent, batch, error, world)
    except (Throttled, NotSent) as error:  # surely not done: waits as before, the next turn tries again
        await _withdraw(intent, batch, world, str(error))
    except OutcomeUnknown as error:
        await _unknown(intent, batch, world, str(error))
    except ClientError as error:
        await _refuse(intent, batch, str(error), world)
    else:
        await accept(intent, batch, accepted, world, "")


async def _halve(intent: Intent, batch: Sequence[Containment], error: ClientError, world: World) -> None:
    """
    Split a refused batch until the id that Graph refuses stands alone. Each part takes a turn of its own.

    Turns take time. So each part is started anew, on the records as they are then: what another process has
    taken over, or a person has stopped meanwhile, is not sent.
    """
    if len(batch) == 1:
        await _refuse(intent, batch, f"Graph refuses this object id: {error}", world)
        return
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        await world.turns.take()
        async with world.turns.held() as turn:
            current = [pair for c in half if (pair := await _still_ours(intent, c, world)) is not None]
            started = await _start(intent, await intent.allowed(current, world), world)
            if started:
                await _send(intent, started, world, turn)


async def _still_ours(intent: Intent, before: Containment, world: World) -> Waiting | None:
    loaded = await _waiting(intent, before.id, world)
    return loaded if loaded is not None and _same_step(intent, loaded[0], before) else None


async def look_after(batch: Sequence[Containment], intent: Intent, world: World) -> None:
    """
    Read the tenant for requests whose outcome is not known, before anything is sent again.

    Done there: accepted. Still processing, or too soon to tell: left for the next look. No sign of it, and the sender
    is dead or ``SEND_AGAIN_AFTER`` has passed since we noticed: waits as before, so that the next turn sends it.
    Nothing to be learnt for ``STALE_AFTER``: a person looks.
    """
    for lever, looked_at in _looks(intent, batch):
        noticed = [_noticed(intent, c, world) for c in looked_at]
        try:
            seen = await intent.look(lever, looked_at, world)
        except ClientError as error:
            log.warning("could not look after an unknown outcome: %s", type(error).__name__)
            for c, for_so_long in zip(looked_at, noticed, strict=True):
                if for_so_long > STALE_AFTER:
                    await intent.give_up(c, str(error), world)
        else:
            await _as_seen(intent, list(zip(looked_at, seen, noticed, strict=True)), world)


def _looks(intent: Intent, batch: Sequence[Containment]) -> list[tuple[str, list[Containment]]]:
    """Group what is looked at with one reading: a few cost a turn each, many are read as one list."""
    by_lever: dict[str, list[Containment]] = {}
    for c in batch:
        if intent.step(c) is not None:
            by_lever.setdefault(intent.lever(c), []).append(c)
    looks: list[tuple[str, list[Containment]]] = []
    for lever, group in by_lever.items():
        if LEVERS[lever].batched and len(group) >= _AS_A_LIST:
            looks.append((lever, group))
        else:
            looks += [(lever, [c]) for c in group]
    return looks


def _noticed(intent: Intent, c: Containment, world: World) -> timedelta:
    step = intent.step(c)
    return world.heard.noticed_for(step.attempt if step else "", world.now())


async def _as_seen(
    intent: Intent, looked_at: Sequence[tuple[Containment, Seen, timedelta]], world: World
) -> None:
    done: dict[datetime, list[Containment]] = {}
    never_arrived: list[Containment] = []
    for c, seen, noticed in looked_at:
        step = intent.step(c)
        if step is None:
            continue
        if seen is Seen.DONE:
            done.setdefault(step.started_at, []).append(c)
        elif seen is Seen.PROCESSING:
            if noticed > STALE_AFTER:
                await intent.give_up(c, "Entra is still processing", world)
        elif step.outcome is PullOutcome.STARTED or noticed > SEND_AGAIN_AFTER:
            never_arrived.append(c)
    for started_at, batch in done.items():
        await accept(intent, batch, started_at, world, "found done when looking, after an unknown outcome")
    if never_arrived:
        await _withdraw(intent, never_arrived, world, "no sign of it in the tenant, so it did not arrive")


# --- writing what became of it ------------------------------------------------------------------


async def accept(
    intent: Intent, batch: Sequence[Containment], accepted: datetime, world: World, note: str
) -> None:
    """
    Write that Graph accepted; also on a record that was parked or failed meanwhile.

    What took effect is the truth about the principal, however late we hear of it.
    """
    sent = {c.id: intent.step(c) for c in batch}

    def change(c: Containment, now: datetime) -> Containment:
        return intent.done(c, now, accepted, sent[c.id])

    await outcome(intent, batch, change, intent.kinds.done, world, note, over=True, takes=intent.takes_late)


async def _withdraw(intent: Intent, batch: Sequence[Containment], world: World, note: str) -> None:
    def change(c: Containment, now: datetime) -> Containment:
        return intent.stepped(c, now, None)

    await outcome(intent, batch, change, intent.kinds.deferred, world, note)


async def _unknown(intent: Intent, batch: Sequence[Containment], world: World, note: str) -> None:
    def change(c: Containment, now: datetime) -> Containment:
        step = intent.step(c)
        return intent.stepped(c, now, step and Pull(step.attempt, step.started_at, PullOutcome.UNKNOWN))

    await outcome(intent, batch, change, intent.kinds.unknown, world, note)
    loaded = [await _waiting(intent, c.id, world) for c in batch]
    await look_after([pair[0] for pair in loaded if pair is not None], intent, world)


async def _refuse(intent: Intent, batch: Sequence[Containment], why: str, world: World) -> None:
    """Nothing took effect. The record stays open, so that a person, or a new finding, may try again."""

    def change(c: Containment, now: datetime) -> Containment:
        return intent.refused(c, now, why)

    await outcome(intent, batch, change, intent.kinds.refused, world, why, over=True)


async def outcome(
    intent: Intent,
    batch: Sequence[Containment],
    change: Callable[[Containment, datetime], Containment],
    kind: EntryKind,
    world: World,
    note: str = "",
    *,
    over: bool = False,
    takes: Callable[[Containment, Containment], bool] | None = None,
) -> None:
    """
    Write what became of a request, on the records as they are now.

    A finding may have joined meanwhile, so the record is read again; one that another process has taken
    further since (another attempt, another state; ``takes`` says otherwise) is left alone, and the ledger says
    what came late. ``over`` takes it off the list of what waits.
    """

    def is_ours(now: Containment, before: Containment) -> bool:
        return takes(now, before) if takes else _same_step(intent, now, before)

    for chunk in _chunks(batch):
        for _ in range(20):
            now = world.now()
            current = [await load(world.store, c.id) for c in chunk]
            pairs = list(zip(current, chunk, strict=True))
            ours = [(c, etag) for (c, etag), before in pairs if is_ours(c, before)]
            try:
                await _say_late([c for (c, _), before in pairs if not is_ours(c, before)], kind, note, world)
                if ours:
                    await _write(intent, ours, _at(change, now), kind, world, note=note, over=over)
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


def _same_step(intent: Intent, now: Containment, before: Containment) -> bool:
    mine, theirs = intent.step(now), intent.step(before)
    return intent.waits(now) and (mine and mine.attempt) == (theirs and theirs.attempt)


async def _write(
    intent: Intent,
    records: Sequence[Waiting],
    change: Callable[[Containment], Containment],
    kind: EntryKind,
    world: World,
    *,
    note: str = "",
    over: bool = False,
) -> list[Containment]:
    """Commit changed records with their ledger entries."""
    changed = [(change(c), etag) for c, etag in records]

    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = []
        for c, etag in changed:
            writes.append(Replace(c.key, c.to_body(), etag))
            if over:
                writes += [*await intent.indexes(c, world), *telling_note(c, world.now())]
        return writes, [_draft(intent, kind, c, note) for c, _ in changed]

    await commit_with_entries(world.store, build)
    return [c for c, _ in changed]


def _draft(intent: Intent, kind: EntryKind, c: Containment, note: str) -> Draft:
    body: dict[str, object] = {"state": c.state, "lever": intent.lever(c) or c.lever}
    if (step := intent.step(c)) is not None:
        body |= {"attempt": step.attempt, "outcome": step.outcome}
    if note:
        body["note"] = note[:500]
    return Draft(kind=kind, actor=ACTOR, subject=c.principal, containment_id=c.id, body=body)


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)]
