"""
Open a containment for a decision, or join the one that is open. What happens first is the record.

``open:<principal>`` is inserted in the same atomic batch as the record, the ledger entries and the storm
brake's count: of two racing runs one inserts and the other finds it and joins. Nothing is pulled that is
not recorded here first.
"""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from clients import telemetry
from clients.errors import ClientError
from clients.stores import Conflict, Delete, Insert, Put, Record, Replace, Store, Write
from clients.terms import NotAsked, ServicePrincipal, Unknown
from response import brake, gathering, notices
from response.containment import (
    CONTAINED,
    Containment,
    FailureReason,
    IncidentRef,
    NoSuchContainment,
    State,
    UnreadableContainment,
    finding_ref,
    new_id,
)
from response.decision import Decision, Verdict, Veto
from response.evidence import Armed, Evidence, NotArmed
from response.finding import AFTER_CONTAINMENT, BOLDNESS, Source, Tier
from response.following import with_next_lever
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.levers import DISABLE_PRINCIPAL, RISK_LEVERS
from response.policy import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from response.finding import Finding
    from response.world import World

log = logging.getLogger("agentbreaker.opening")
# How long a block may take to bite before activity counts against it; the same 10 minutes as in rule AG-30c.
BITES_WITHIN: Final = timedelta(minutes=10)
_RACES: Final = 40  # a run that loses this often to others gives up and says so


@dataclass(frozen=True, slots=True)
class Opened:
    """What a finding led to. ``repeated``: this incident had been answered before, and nothing was written."""

    containment: Containment | None
    decision: Decision
    repeated: bool = False


async def open_or_join(
    finding: Finding,
    decision: Decision,
    evidence: Evidence,
    world: World,
    now: datetime,
    *,
    ends_at: datetime | None = None,
) -> Opened:
    """
    Record the finding and its decision; open or join a containment. ``ends_at`` is when one it opens ends by itself.

    Raises: StoreError. Nothing has been pulled then, and the same finding can be sent again.
    """
    for race in range(_RACES):
        try:
            async with _one_at_a_time(world.store, decision):
                return await _try(finding, decision, evidence, world, now, ends_at)
        except Conflict:  # somebody else wrote about this principal between our read and our write
            await asyncio.sleep(random.uniform(0, 0.01 * (race + 1)))
    raise Conflict(f"open:{finding.principal}")


# Keyed by store: of the automatic claims of one process only one reads and changes the storm brake's record at a time.
# Without it a hundred of them lose that race to each other more often than ``_RACES`` allows.
_AUTOMATIC: Final[weakref.WeakKeyDictionary[Store, asyncio.Lock]] = weakref.WeakKeyDictionary()


def _one_at_a_time(store: Store, decision: Decision) -> AbstractAsyncContextManager[object]:
    if not decision.automatic:
        return nullcontext()
    return _AUTOMATIC.setdefault(store, asyncio.Lock())


async def _try(
    finding: Finding,
    decision: Decision,
    evidence: Evidence,
    world: World,
    now: datetime,
    ends_at: datetime | None,
) -> Opened:
    before = await world.store.get(_incident_key(finding)) if finding.incident_name else None
    if before is not None and not _weighs_more(finding, decision, before):
        answered = before.body["containment"]  # redelivered: the answer of the first time stands
        return Opened((await load(world.store, answered))[0] if answered else None, decision, repeated=True)
    pointer = await world.store.get(f"open:{finding.principal}")
    if pointer is not None:
        containment, etag = await load(world.store, pointer.body["containment"])
        if not await _undone(containment, decision, world):
            return await _join(finding, decision, evidence, world, containment, etag, before, now, ends_at)
        await _close(containment, etag, world, now)
    if decision.verdict is Verdict.WATCH:
        return await _watch(finding, decision, world, before, now)
    return await _open(finding, decision, evidence, world, before, now, ends_at)


def _weighs_more(finding: Finding, decision: Decision, before: Record) -> bool:
    """Whether an incident that was answered has become more: an alert of a bolder rule was grouped into it."""
    if decision.verdict is Verdict.WATCH:
        return False
    watched = not before.body["containment"]
    return watched or BOLDNESS.index(finding.tier) > BOLDNESS.index(Tier(before.body["tier"]))


async def _undone(containment: Containment, decision: Decision, world: World) -> bool:
    """
    Whether somebody has taken everything back in Entra since: risk dismissed, principal enabled again.

    Asked only where a new finding would contain: it costs the tenant's ID Protection second. Unread means no. While
    an undo of ours is under way it is no: closed, that undo would go out and release what comes after it.
    """
    # PULLED: Entra may still show the dismissal of before. FAILED after a pull: the label is what was dismissed.
    settled = containment.state in CONTAINED - {State.PULLED} or (
        containment.state is State.FAILED and containment.failed_because is not FailureReason.REFUSED
    )
    if decision.verdict is not Verdict.CONTAIN or not settled or containment.undoing:
        return False
    standing = containment.standing or (containment.lever,)
    if set(standing) - {*RISK_LEVERS, DISABLE_PRINCIPAL.id}:
        return False  # what was removed is given back by our undo alone
    try:
        return all([await _taken_back(lever, containment, world) for lever in standing])
    except ClientError:
        return False


async def _taken_back(lever: str, c: Containment, world: World) -> bool:
    if lever == DISABLE_PRINCIPAL.id:
        return (await world.graph.service_principal(c.principal)).account_enabled is True
    risk = await gathering.risk_behind(lever, c.principal, world)
    return risk is not None and risk.dismissed


async def _close(containment: Containment, etag: str, world: World, now: datetime) -> None:
    closed = containment.changed(now, state=State.CLOSED, is_open=False, next_lever="")
    note = "it was taken back in Entra; a new finding opens a new containment"
    await commit_changed(closed, etag, EntryKind.CLOSED, ACTOR, {"note": note}, world)


async def _watch(
    finding: Finding, decision: Decision, world: World, before: Record | None, now: datetime
) -> Opened:
    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = [_known(finding, decision, now), *_incident_write(finding, "", before)]
        return writes, _judged(finding, decision, "")

    await commit_with_entries(world.store, build)
    return Opened(None, decision)


async def _open(
    finding: Finding,
    decision: Decision,
    evidence: Evidence,
    world: World,
    before: Record | None,
    now: datetime,
    ends_at: datetime | None,
) -> Opened:
    vetoes, brake_write = await _brake(decision, evidence, world, now)
    decision = decision.with_vetoes(vetoes)
    state, kind = _first_state(decision)
    containment = replace(_first_record(finding, decision, evidence, state, now), undo_at=ends_at)
    if state is State.AWAITING_APPROVAL:
        containment = containment.put_before_people(now, finding.raised_by, world.policy.decide_within)

    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = [
            Insert(containment.key, containment.to_body()),
            _known(finding, decision, now),
            *_incident_write(finding, containment.id, before),
            *telling_note(containment, now),
        ]
        if containment.is_open:
            writes.append(Insert(f"open:{finding.principal}", {"containment": containment.id}))
        if state is State.CLAIMED:
            writes.append(Insert(f"claimed:{containment.id}", {"principal": containment.principal}))
            writes += brake_write
        tripped, told = await _trip(decision, world, now)
        writes += tripped
        if state is State.AWAITING_APPROVAL:
            writes.append(Insert(f"deciding:{containment.id}", {"principal": containment.principal}))
        if ends_at is not None and containment.is_open:
            writes.append(Insert(f"ending:{containment.id}", {"principal": containment.principal}))
        opened = _draft(kind, finding, containment.id, {"state": state, "mode": decision.mode})
        return writes, [*_judged(finding, decision, containment.id), opened, *told]

    await commit_with_entries(world.store, build)
    return Opened(containment, decision)


async def _join(
    finding: Finding,
    decision: Decision,
    evidence: Evidence,
    world: World,
    containment: Containment,
    etag: str,
    before: Record | None,
    now: datetime,
    ends_at: datetime | None,
) -> Opened:
    joined = containment.joined_by(finding, now)
    if finding.source is Source.ANALYST and finding.raised_by not in joined.askers:
        joined = replace(joined, askers=(*joined.askers, finding.raised_by))
    kind = EntryKind.JOINED
    extra: list[Write] = []
    # Also what a guardrail has stopped: then the brake may have to trip. What joins a standing containment trips nothing.
    may_claim = _may_go_on(
        containment, replace(decision, verdict=decision.wanted or decision.verdict)
    ) or _adds_a_lever(finding, decision, containment)
    if _shows_that_the_block_failed(finding, containment):
        reason = FailureReason.ACTIVITY_AFTER
        joined = joined.changed(
            now,
            state=State.FAILED,
            failed_because=reason,
            failure=finding.reason[:500],
            residual_until=None,
            residual=(),
        )
        joined = with_next_lever(joined, world.policy, now)
        kind = EntryKind.FAILED
    elif _asks_for_another_lever(finding, decision, containment):
        joined = _with_another_lever(joined, finding, decision, world, now)
        kind = EntryKind.LEVER_PROPOSED
    elif may_claim:
        vetoes, brake_write = await _brake(decision, evidence, world, now)
        decision = decision.with_vetoes(vetoes)
        state, first_kind = _first_state(decision)
        if state is State.CLAIMED:
            joined = claimed_anew(
                joined,
                decision.lever,
                decision,
                evidence,
                now,
                mode=str(decision.mode),
                reasons=(*joined.reasons, *decision.reasons)[-20:],
                vetoes=(),
                automatic=decision.automatic,
                residual_until=None,
                residual=(),
                undo=None,
                undo_at=ends_at or joined.undo_at,
                probation_until=None,
            )
            kind = first_kind
            extra = list(brake_write)
    if kind is EntryKind.JOINED and _goes_to_people(decision, joined):
        joined = _put_before_people(joined, finding, decision, world, now)
        kind = EntryKind.PARKED

    joined = _without_its_end(joined, finding, decision, now)

    async def build() -> tuple[list[Write], list[Draft]]:
        tripped, told = await _trip(decision, world, now) if may_claim else ([], [])
        writes: list[Write] = [
            Replace(joined.key, joined.to_body(), etag),
            _known(finding, decision, now),
            *_incident_write(finding, joined.id, before),
            *telling_note(joined, now),
            *await index_writes(joined, world.store),
            *extra,
            *tripped,
        ]
        drafts = _judged(finding, decision, joined.id)
        return writes, [*drafts, _draft(kind, finding, joined.id, {"state": joined.state}), *told]

    await commit_with_entries(world.store, build)
    return Opened(joined, decision)


def _without_its_end(c: Containment, finding: Finding, decision: Decision, now: datetime) -> Containment:
    """Take the end away from a containment that was to end by itself: whoever set it did not know of this finding."""
    weighs = (decision.wanted or decision.verdict) is not Verdict.WATCH
    if c.undo_at is None or c.undoing or finding.source is Source.ANALYST or not weighs:
        return c
    why = f"it no longer ends by itself at {c.undo_at:%Y-%m-%d %H:%M} UTC: {finding.reason[:200]}"
    return c.changed(now, undo_at=None, reasons=(*c.reasons, why)[-20:])


def _goes_to_people(decision: Decision, c: Containment) -> bool:
    """Whether a finding that asks for people has met a record that waits for nobody."""
    asks = (
        decision.verdict is not Verdict.WATCH and decision.mode is not Mode.OBSERVE and not decision.forbidden
    )
    idle = c.state in (State.PROPOSED, State.HALF_OPEN) or (c.state is State.FAILED and bool(decision.lever))
    return asks and idle and not c.undoing and not c.next_lever


def _put_before_people(
    joined: Containment, finding: Finding, decision: Decision, world: World, now: datetime
) -> Containment:
    asked: dict[str, object] = {
        "people_needed": max(1, decision.people),
        "reasons": (*joined.reasons, *decision.reasons)[-20:],
        "vetoes": tuple(str(veto) for veto in decision.vetoes),
        "would_contain": _would_contain(decision),
    }
    within = world.policy.decide_within
    if joined.state is State.FAILED and joined.touched:
        return joined.put_before_people(
            now,
            finding.raised_by,
            within,
            next_lever=decision.lever,
            next_requested_by=finding.raised_by,
            **asked,
        )
    return joined.put_before_people(
        now,
        finding.raised_by,
        within,
        state=State.AWAITING_APPROVAL,
        mode=str(decision.mode),
        lever=decision.lever,
        requested_by=finding.raised_by,
        automatic=decision.automatic,
        pull=None,
        proof=None,
        confirmed_at=None,
        residual_until=None,
        residual=(),
        undo=None,
        probation_until=None,
        failure="",
        failed_because=FailureReason.NONE,
        **asked,
    )


def _shows_that_the_block_failed(finding: Finding, containment: Containment) -> bool:
    """Whether activity was seen later after the pull than a block may take to bite."""
    accepted = containment.pull.accepted_at if containment.pull else None
    return (
        finding.family == AFTER_CONTAINMENT
        and containment.state in CONTAINED
        and accepted is not None
        and finding.last_seen > accepted + BITES_WITHIN
    )


def _asks_for_another_lever(finding: Finding, decision: Decision, containment: Containment) -> bool:
    """Whether a person orders, about what is open, a lever that does not stand yet and that people must approve."""
    return (
        finding.source is Source.ANALYST
        and decision.mode is not Mode.OBSERVE
        and decision.people > 0
        and decision.lever not in {"", *containment.standing}
        and not decision.vetoes
        and not containment.undoing
        and containment.state not in (State.CLAIMED, State.HALF_OPEN)
    )


def _adds_a_lever(finding: Finding, decision: Decision, containment: Containment) -> bool:
    """Whether a person orders, beside what stands, a lever that nobody else has to approve."""
    return (
        finding.source is Source.ANALYST
        and decision.mode is not Mode.OBSERVE
        and decision.verdict is Verdict.CONTAIN
        and decision.people == 0
        and decision.lever not in {"", *containment.standing}
        and not containment.undoing
        and containment.state in CONTAINED - {State.PULLED}  # whose own effect is not read back yet
    )


def _with_another_lever(
    joined: Containment, finding: Finding, decision: Decision, world: World, now: datetime
) -> Containment:
    asked: dict[str, object] = {
        "people_needed": decision.people,
        "reasons": (*joined.reasons, *decision.reasons)[-20:],
    }
    by, within = finding.raised_by, world.policy.decide_within
    if joined.state in CONTAINED or joined.state is State.FAILED:
        return joined.put_before_people(
            now, by, within, next_lever=decision.lever, next_requested_by=by, **asked
        )
    return joined.put_before_people(
        now,
        by,
        within,
        state=State.AWAITING_APPROVAL,
        lever=decision.lever,
        requested_by=by,
        automatic=False,
        **asked,
    )


async def commit_changed(
    c: Containment,
    etag: str,
    kind: EntryKind,
    by: str,
    body: dict[str, object],
    world: World,
    more: Sequence[Write] = (),
) -> None:
    """
    Commit a changed record with its lists, its entry and the note that people have to be told.

    A record that is no longer open gives its principal free. Raises: Conflict when somebody else was first; StoreError.
    """

    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = [
            Replace(c.key, c.to_body(), etag),
            *await index_writes(c, world.store),
            *telling_note(c, world.now()),
            *more,
        ]
        pointer = None if c.is_open else await world.store.get(f"open:{c.principal}")
        if pointer is not None and pointer.body.get("containment") == c.id:
            writes.append(Delete(pointer.key, pointer.etag))
        return writes, [Draft(kind, by, c.principal, c.id, {"state": c.state, **body})]

    await commit_with_entries(world.store, build)


async def index_writes(c: Containment, store: Store) -> list[Write]:
    """
    Give the writes that put a record on the lists it belongs to, and take it off those it does not.

    The lists are indexes of keys: what is to be pulled, what waits for people, what is to be taken back, what is on
    probation. ``verify:`` is not among them: it keeps its own time. Raises: StoreError.
    """
    wanted = {
        "claimed:": c.state is State.CLAIMED,
        "deciding:": c.waits_for_people,
        "undoing:": c.undoing,
        "probation:": c.state is State.HALF_OPEN,
        "ending:": c.undo_at is not None and c.is_open and c.undo is None,
    }
    writes: list[Write] = []
    for index, belongs in wanted.items():
        record = await store.get(f"{index}{c.id}")
        if belongs and record is None:
            writes.append(Insert(f"{index}{c.id}", {"principal": c.principal}))
        elif record is not None and not belongs:
            writes.append(Delete(record.key, record.etag))
    return writes


def _may_go_on(containment: Containment, decision: Decision) -> bool:
    """
    Whether a new decision may claim what is open.

    What waits may; what Graph refused may, since nothing took effect; what failed otherwise only for a person.
    """
    waits = containment.state in (State.PROPOSED, State.AWAITING_APPROVAL)
    if decision.automatic and containment.state is State.AWAITING_APPROVAL and containment.pull is not None:
        return False  # the lever may have been pulled: a person looks before it is pulled again
    if containment.undoing or decision.people:
        return False
    waits = waits or containment.state is State.HALF_OPEN
    refused = containment.failed_because is FailureReason.REFUSED
    failed = containment.state is State.FAILED and (refused or not decision.automatic)
    return decision.verdict is Verdict.CONTAIN and (waits or failed)


def claimed_anew(
    c: Containment, lever: str, decision: Decision, evidence: Evidence, now: datetime, **more: object
) -> Containment:
    """Give the record as it is claimed for a lever: on what is known now, without the pull of before. Pure."""
    principal = evidence.principal if isinstance(evidence.principal, ServicePrincipal) else None
    claimed: dict[str, object] = {
        "state": State.CLAIMED,
        "lever": lever,
        "next_lever": "",
        "next_requested_by": "",
        "decide_by": None,
        "automatic": False,
        "claimed_at": now,
        "pull": None,
        "proof": None,
        "confirmed_at": None,
        "failure": "",
        "failed_because": FailureReason.NONE,
        "unchecked": decision.unchecked,
        "armed": armed_in_words(evidence.armed),
        "armed_policies": evidence.armed.policies if isinstance(evidence.armed, Armed) else (),
    }
    if principal is not None:
        claimed |= {"kind": str(principal.kind), "app_id": principal.app_id}
    return c.changed(now, **(claimed | more))


def _known(finding: Finding, decision: Decision, now: datetime) -> Put:
    """Remember the finding, when it was judged, and how."""
    judged = {"judged_at": now.isoformat(), "verdict": str(decision.verdict)}
    return Put(finding.key, finding.to_body() | judged)


def _incident_write(finding: Finding, containment_id: str, before: Record | None) -> list[Write]:
    """Remember how an incident was answered, so that its redelivery is recognised."""
    if not finding.incident_name:
        return []
    body = {"containment": containment_id, "tier": finding.tier}
    key = _incident_key(finding)
    return [Insert(key, body) if before is None else Replace(key, body, before.etag)]


def telling_note(containment: Containment, now: datetime) -> list[Write]:
    """
    Note, in the commit that changes a containment, that its incidents have to be told, and the webhook too.

    Whoever tells takes the notes away afterwards (``telling.py``, ``notifying.py``), so that nobody is left untold by
    a crash. At most two writes.
    """
    untold: list[Write] = [Put(f"untold:{containment.id}", {"at": now.isoformat(), "tries": 0})]
    return [*(untold if containment.incidents else []), *notices.outbox(containment, now)]


async def load(store: Store, containment_id: str) -> tuple[Containment, str]:
    """Read a containment and its etag. Raises: StoreError; NoSuchContainment; UnreadableContainment."""
    try:
        record = await store.get(f"containment:{containment_id}")
    except ValueError as error:  # no key of a record at all
        raise NoSuchContainment(containment_id) from error
    if record is None:
        raise NoSuchContainment(containment_id)
    return read(record), record.etag


def read(record: Record) -> Containment:
    """Read a containment from its record. Raises: UnreadableContainment, as for one of a newer version."""
    try:
        return Containment.from_body(record.body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableContainment(record.key.removeprefix("containment:")) from error


async def load_readable(store: Store, containment_id: str) -> tuple[Containment, str] | None:
    """Read a containment and its etag; None, and a warning, for one that is gone or unreadable. Raises: StoreError."""
    try:
        return await load(store, containment_id)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("a containment is unreadable and left alone: %s", type(error).__name__)
        return None


async def _brake(
    decision: Decision, evidence: Evidence, world: World, now: datetime
) -> tuple[tuple[Veto, ...], list[Write]]:
    """
    Count an automatic containment in the same batch that claims it.

    The guardrail has asked before, but many runs may have asked at once: only a conditional write
    makes the cap hold. Gives the veto when the cap is reached, else the write that counts this one.
    """
    state, _ = _first_state(decision)
    if not decision.automatic or state is not State.CLAIMED:
        return (), []
    return await counted(decision, evidence, world, now)


async def counted(
    decision: Decision, evidence: Evidence, world: World, now: datetime
) -> tuple[tuple[Veto, ...], list[Write]]:
    """Give the write that counts one more automatic containment, or the veto when the cap is reached."""
    tripped = await gathering.answered(gathering.reason_in(gathering.BRAKE_TRIPPED, world.store))
    if tripped != "":
        why = tripped.why if isinstance(tripped, Unknown) else tripped
        return _refused(decision, f"{why}; {brake.STAYS}", trips=False), []
    record = await world.store.get(gathering.BRAKE)
    try:
        known = brake.read(record.body) if record else ()
    except (KeyError, TypeError, ValueError):
        return _refused(decision, "its record is unreadable, so nothing can be counted", trips=False), []
    owners = gathering.owner_ids(evidence.owners)
    active = evidence.active_principals
    counts = brake.count(known, owners, now)
    if brake.asks_for_share(counts, world.policy) and isinstance(active, NotAsked):
        active = await gathering.answered(gathering.active_principals(world, now))
    reached = brake.reached(counts, active, world.policy)
    if isinstance(reached, Unknown):
        return _refused(decision, reached.why, trips=False), []
    if reached:
        return _refused(decision, f"{reached}; {brake.STAYS}", trips=True), []
    body = brake.written(known, now, owners)
    return (), [Replace(gathering.BRAKE, body, record.etag) if record else Insert(gathering.BRAKE, body)]


def _refused(decision: Decision, why: str, *, trips: bool) -> tuple[Veto, ...]:
    return (*decision.vetoes, Veto("storm-brake", f"storm brake: {why}", forbids=False, trips=trips))


async def _trip(decision: Decision, world: World, now: datetime) -> tuple[list[Write], list[Draft]]:
    """
    Let the storm brake stay tripped once it has stopped something: until a person releases it everything asks.

    Only what would have been contained by itself but for the brake trips it: a question for a person, or a run that only
    observes, is no storm. Of several runs that reach it at once one inserts; the others lose that race, look again and
    find it tripped. The record says when and why. Raises: StoreError.
    """
    tripping = next((veto for veto in decision.vetoes if veto.trips), None)
    stopped = tripping is not None and decision.mode is Mode.ENFORCE and _would_contain(decision)
    if tripping is None or not stopped or await world.store.get(gathering.BRAKE_TRIPPED) is not None:
        return [], []
    why = tripping.reason.removeprefix("storm brake: ").removesuffix(f"; {brake.STAYS}")
    body: dict[str, object] = {"at": now.isoformat(), "why": why}
    return [Insert(gathering.BRAKE_TRIPPED, body)], [Draft(EntryKind.BRAKE_TRIPPED, ACTOR, "", "", body)]


def _first_state(decision: Decision) -> tuple[State, EntryKind]:
    if decision.forbidden:
        return State.VETOED, EntryKind.VETOED
    if decision.mode is Mode.OBSERVE:
        return State.PROPOSED, EntryKind.PROPOSED
    waits = decision.verdict is Verdict.ASK or (decision.mode is Mode.APPROVE and decision.automatic)
    if waits or not decision.lever or decision.people:
        return State.AWAITING_APPROVAL, EntryKind.PARKED
    return State.CLAIMED, EntryKind.CLAIMED


def _first_record(
    finding: Finding, decision: Decision, evidence: Evidence, state: State, now: datetime
) -> Containment:
    principal = evidence.principal if isinstance(evidence.principal, ServicePrincipal) else None
    return Containment(
        id=new_id(now),
        principal=finding.principal,
        principal_name=principal.display_name[:200] if principal else "",
        app_id=principal.app_id if principal else "",
        kind=str(principal.kind) if principal else "",
        state=state,
        mode=str(decision.mode),
        lever=decision.lever,
        automatic=decision.automatic,
        requested_by=finding.raised_by,
        opened_at=now,
        updated_at=now,
        reasons=decision.reasons,
        unchecked=decision.unchecked,
        vetoes=tuple(str(veto) for veto in decision.vetoes),
        armed=armed_in_words(evidence.armed),
        claimed_at=now if state is State.CLAIMED else None,
        findings=(finding_ref(finding),),
        incidents=(IncidentRef(finding.incident_name, finding.incident_arm_id),)
        if finding.incident_name
        else (),
        is_open=state is not State.VETOED,
        armed_policies=evidence.armed.policies if isinstance(evidence.armed, Armed) else (),
        people_needed=max(1, decision.people),
        asked_at=now,
        askers=(finding.raised_by,),
        began_at=finding.first_seen,
        owners=tuple(one.name[:200] for one in evidence.owners[:10])
        if isinstance(evidence.owners, tuple)
        else (),
        would_contain=_would_contain(decision),
        trace=telemetry.current(),
    )


def _would_contain(decision: Decision) -> bool:
    """Whether nothing but the mode or the storm brake keeps this from being contained by itself."""
    only_the_brake = all(veto.guardrail == "storm-brake" for veto in decision.vetoes)
    wanted = decision.wanted or decision.verdict
    return decision.automatic and wanted is Verdict.CONTAIN and only_the_brake and not decision.people


def armed_in_words(armed: Armed | NotArmed | Unknown) -> str:
    """Say in a sentence whether the breaker is armed."""
    match armed:
        case Armed(policies=policies):
            return f"armed: blocked by policy {', '.join(policies)}"
        case NotArmed(why=why, would_bite=would_bite):
            return f"not armed: {why}. What would bite: {would_bite}"
        case Unknown(why=why):
            return f"unknown: {why}"


def _judged(finding: Finding, decision: Decision, containment_id: str) -> list[Draft]:
    """Ledger entries that say what was claimed and how it was judged."""
    claim = finding.to_body() | {"event_ids": list(finding.event_ids[:20])}
    judgement: dict[str, object] = {
        "verdict": decision.verdict,
        "mode": decision.mode,
        "reasons": list(decision.reasons),
        "unchecked": list(decision.unchecked),
        "vetoes": [str(veto) for veto in decision.vetoes],
    }
    return [
        _draft(EntryKind.FINDING_RECORDED, finding, containment_id, claim),
        _draft(EntryKind.DECISION_MADE, finding, containment_id, judgement),
    ]


def _draft(kind: EntryKind, finding: Finding, containment_id: str, body: dict[str, object]) -> Draft:
    return Draft(
        kind=kind,
        actor=finding.raised_by,
        subject=finding.principal,
        containment_id=containment_id,
        body=body,
    )


def _incident_key(finding: Finding) -> str:
    return f"incident:{finding.incident_name}:{finding.principal}"
