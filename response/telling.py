"""Tell the people who watch: one comment per incident and containment, rewritten as the state changes; the webhook."""

from __future__ import annotations

import hashlib
import html
import logging
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from clients.errors import ClientError, NotFound
from clients.sentinel import COMMENT_LIMIT, IncidentArmId
from clients.stores import Conflict, Delete, Insert, Put, Record, Replace, Write
from response import notifying
from response.containment import Approval, Containment, IncidentRef, PullOutcome, State
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.levers import LEVERS
from response.notices import cover_unread, headline, moment, next_steps, span
from response.opening import load

if TYPE_CHECKING:
    from response.world import World

log = logging.getLogger("agentbreaker.telling")
_TELLER_DIED_AFTER: Final = timedelta(seconds=45)  # longer than any write of ours takes
_LONGEST_PAUSE: Final = timedelta(hours=1)
_GIVEN_UP_AFTER: Final = timedelta(days=7)
_NAMESPACE: Final = UUID("6f1c1d0a-4b6e-5f6e-9d0c-3f1f6a3f7b51")

_TOUCHED: Final = frozenset({State.PULLED, State.CONFIRMED, State.PROVEN, State.NOT_COVERED, State.FAILED})
_MOST_OWNERS: Final = 20


def comment_id(incident_name: str, containment_id: str) -> str:
    """Give the comment's id: the same incident and containment always have the same, so it is written once."""
    return str(uuid5(_NAMESPACE, f"{incident_name}:{containment_id}"))


def compose(c: Containment) -> str:
    """
    Write the comment: what was done and by whom, why, what was not checked, what to do next, how to undo.

    Every value that came from a tenant is escaped; whole items are left out when space runs out, so what a person
    has to do comes first. At most 30,000 characters.
    """
    name = f" ({_safe(c.principal_name)})" if c.principal_name else ""
    why = [
        *map(_safe, c.reasons),
        *(f"{_safe(f.rule_id or f.source)}: {_safe(f.reason)}" for f in c.findings),
    ]
    sections = [
        ("What was done", _done(c)),
        ("What to do next", list(map(_safe, next_steps(c)))),
        ("Owners and sponsors", _owners(c)),
        ("Decided by", list(map(_approval, c.approvals))),
        ("Why", why),
        ("Refused by", list(map(_safe, c.vetoes))),
        ("Not checked", list(map(_safe, c.unchecked))),
        ("Undo", _undo_so_far(c)),
        ("How to undo", _how_to_undo(c)),
    ]
    head = (
        f"<p><b>Agentbreaker: {headline(c)}</b></p>"
        f"<p>Service principal {_safe(c.principal)}{name}, containment {_safe(c.id)}.</p>"
    )
    return _fitted(head, sections)


def _done(c: Containment) -> list[str]:
    done = [f"State: {c.state}. Mode: {_safe(c.mode)}. Lever: {_safe(c.lever or 'none')}."]
    done.append(f"Breaker: {_safe(c.armed)}.")
    if cover_unread(c):
        done.append(
            "Whether an enabled policy covers the principal could not be read: treat it as not blocked."
        )
    done += [
        f"Lever {_safe(pulled.lever)} took effect {moment(pulled.accepted_at)}"
        + (f", taken back {moment(pulled.undone_at)}." if pulled.undone_at else ".")
        for pulled in c.pulled_levers
    ]
    if c.state in _TOUCHED and c.residual_until:
        done.append(
            "Graph tokens of clients that declare continuous access evaluation end within minutes; other tokens issued "
            f"before may work until {c.residual_until:%Y-%m-%d %H:%M} UTC."
        )
    done += _times(c)
    if c.proof:
        policy = f" by policy {_safe(c.proof.policy_id)}" if c.proof.policy_id else ""
        done.append(
            f"Proof: sign-in {_safe(c.proof.event_id)} was refused with {_safe(c.proof.error_code)}{policy}."
        )
    if c.failure:
        done.append(f"Failure: {_safe(c.failure)}")
    if c.undo_at:
        done.append(f"This containment has an end: it takes itself back at {moment(c.undo_at)}.")
    if c.state is State.HALF_OPEN and c.probation_until:
        done.append(f"On probation until {moment(c.probation_until)}.")
    return done


def _times(c: Containment) -> list[str]:
    """Say how long it took, in what is known. Acceptance is no block, and is not called one."""
    said = []
    if c.began_at and c.contained_at:
        said.append(
            f"Time to contain: {span(c.contained_at - c.began_at)} from the first event to Graph's acceptance."
        )
    if c.contained_at and c.proven_at:
        said.append(f"Time to proof: {span(c.proven_at - c.contained_at)} more until a refusal was seen.")
    return said


def _owners(c: Containment) -> list[str]:
    shown = list(map(_safe, c.owners[:_MOST_OWNERS]))
    more = len(c.owners) - len(shown)
    return [*shown, f"and {more} more"] if more > 0 else shown


def _approval(one: Approval) -> str:
    word = {"approve": "approved", "reject": "rejected"}.get(one.decision, "decided about")
    return f"{_safe(one.by)} {word} {_safe(one.lever or 'the containment')} at {moment(one.at)}: {_safe(one.reason)}"


def _undo_so_far(c: Containment) -> list[str]:
    """Say how far a person's order to take the levers back has come, and what Microsoft itself had raised."""
    undo = c.undo
    if undo is None:
        return []
    said = [f"Ordered by {_safe(undo.requested_by)} at {moment(undo.requested_at)}: {_safe(undo.reason)}"]
    said += [f"Before it: {_safe(line)}" for line in undo.before]
    if undo.failure:
        said.append(f"It failed: {_safe(undo.failure)}")
    elif undo.done_at:
        said.append(f"Done at {moment(undo.done_at)}.")
    elif undo.step is not None and undo.step.outcome is PullOutcome.UNKNOWN:
        said.append("Whether it took effect is not known yet; the tenant is read before it is sent again.")
    else:
        said.append("Under way." if undo.step is not None else "Waits for its turn.")
    if undo.after:
        said.append(f"After it: {_safe(undo.after)}")
    return said


def _how_to_undo(c: Containment) -> list[str]:
    levers = list(c.standing)
    taken_back = c.undo is not None and c.undo.done_at is not None
    if (c.pulled_levers and not levers) or taken_back:
        return ["Nothing is left to undo: every lever was taken back."]
    if not levers and c.touched:
        levers = [c.lever]
    known = [LEVERS[lever] for lever in levers if lever in LEVERS]
    if not known:
        return ["Nothing to undo: nothing was touched."]
    said = [
        f"POST /api/containments/{_safe(c.id)}/undo with dismissAllRisk true takes back all of it, the last lever first."
    ]
    for lever in known:
        where = (
            "or in Entra: ID Protection, Risky workload identities, Dismiss risk"
            if lever.id == "confirm-compromised"
            else _safe(lever.id)
        )
        said.append(f"{where} ({_safe(lever.undone_by)}). Beware: {_safe(lever.undo_warning)}.")
    return said


def _fitted(head: str, sections: list[tuple[str, list[str]]]) -> str:
    """Join sections while they fit; what does not is counted, so that nothing is dropped silently."""
    text, left_out = head, 0
    closing = len("<p>99999 items left out; the ledger has all.</p>")
    for title, items in sections:
        opened = f"<p><b>{title}</b></p><ul>"
        body = ""
        for item in items:
            piece = f"<li>{item}</li>"
            if len(text) + len(opened) + len(body) + len(piece) + len("</ul>") + closing <= COMMENT_LIMIT:
                body += piece
            else:
                left_out += 1
        if body:
            text += f"{opened}{body}</ul>"
    return f"{text}<p>{left_out} items left out; the ledger has all.</p>" if left_out else text


def _safe(value: str) -> str:
    """Escape text for HTML and drop control characters, which could reorder or hide it."""
    return html.escape("".join(ch for ch in str(value) if ch.isprintable()), quote=True)


async def tell(containment_id: str, world: World) -> None:
    """
    Write or rewrite the comment on every incident of a containment, unless it already says the same; then the webhook.

    The commit that changed the containment left a note ``untold:<id>`` (``opening.telling_note``); it is taken away
    once every incident is told. A comment that cannot be written keeps it, for ``retold``. Raises: StoreError.
    """
    await _comment(containment_id, world)
    await notifying.notify(containment_id, world)


async def _comment(containment_id: str, world: World) -> None:
    note = await world.store.get(f"untold:{containment_id}")
    if note is None:
        return
    containment, _ = await load(world.store, containment_id)
    text = compose(containment)
    told = [await _tell_one(containment, incident, text, world) for incident in containment.incidents]
    if _Told.FAILED in told:
        await _try_later(containment, note, world)
    elif _Told.BY_ANOTHER not in told:
        await _settle_note([Delete(note.key, note.etag)], world)


async def retold(world: World) -> None:
    """Tell what could not be told, or whose teller died before it was. Raises: StoreError."""
    for note in await world.store.scan("untold:"):
        containment_id = note.key.removeprefix("untold:")
        try:
            if world.now() - datetime.fromisoformat(note.body["at"]) < _pause(int(note.body["tries"])):
                continue
            await _forget_claims(containment_id, world)
            await _comment(containment_id, world)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a record to be told about is unreadable and left alone: %s", type(error).__name__)
    await notifying.notify_due(world)


def _pause(failures: int) -> timedelta:
    """How long to wait before telling: for a teller that may be at it, then not at all, then longer and longer."""
    if failures == 0:
        return _TELLER_DIED_AFTER
    doubled: int = 2 ** min(failures - 1, 10)
    return min(timedelta(seconds=30) * (doubled - 1), _LONGEST_PAUSE)


class _Told(Enum):
    """What became of telling one incident."""

    WRITTEN = auto()
    ALREADY = auto()
    BY_ANOTHER = auto()
    FAILED = auto()
    IMPOSSIBLE = auto()


async def _tell_one(c: Containment, incident: IncidentRef, text: str, world: World) -> _Told:
    """Write one comment. Of ten runs with the same news, one claims the text and writes it."""
    key, digest = f"told:{incident.name}:{c.id}", hashlib.sha256(text.encode()).hexdigest()
    body = {"digest": digest, "version": c.updated_at.isoformat(), "written": False}
    record = await world.store.get(key)
    if record is not None:
        newer = record.body["version"] > body["version"]
        if newer or record.body["digest"] == digest:
            return _Told.ALREADY if record.body["written"] and not newer else _Told.BY_ANOTHER
    try:
        etag = (
            await world.store.commit(
                [Insert(key, body) if record is None else Replace(key, body, record.etag)]
            )
        )[key]
    except Conflict:
        return _Told.BY_ANOTHER
    try:
        await world.sentinel.put_comment(
            IncidentArmId(incident.arm_id), comment_id(incident.name, c.id), text
        )
    except NotFound:
        return await _written(c, incident, etag, body, EntryKind.COMMENT_FAILED, world)
    except ClientError as error:
        log.warning("an incident comment could not be written: %s", error)
        return _Told.FAILED
    return await _written(c, incident, etag, body, EntryKind.COMMENTED, world)


async def _written(
    c: Containment, incident: IncidentRef, etag: str, body: dict[str, Any], kind: EntryKind, world: World
) -> _Told:
    """
    Record that the comment is written, or never can be because the incident is gone.

    Where somebody has claimed a newer text meanwhile, ours may have landed over theirs, so the newest is
    written once more.
    """

    async def build() -> tuple[list[Write], list[Draft]]:
        key = f"told:{incident.name}:{c.id}"
        said: dict[str, object] = {"incident": incident.name, "state": c.state}
        return [Replace(key, body | {"written": True}, etag)], [Draft(kind, ACTOR, c.principal, c.id, said)]

    try:
        await commit_with_entries(world.store, build)
    except Conflict:
        await _tell_again(c, incident, world)
        return _Told.BY_ANOTHER
    return _Told.WRITTEN if kind is EntryKind.COMMENTED else _Told.IMPOSSIBLE


async def _tell_again(c: Containment, incident: IncidentRef, world: World) -> None:
    record = await world.store.get(f"told:{incident.name}:{c.id}")
    writes: list[Write] = [Put(f"untold:{c.id}", {"at": world.now().isoformat(), "tries": 1})]
    await _settle_note([*writes, *([Delete(record.key, record.etag)] if record else [])], world)


async def _try_later(c: Containment, note: Record, world: World) -> None:
    """Keep the note for a later try, with growing pauses. The ledger hears of the first failure only."""
    tries = int(note.body["tries"]) + 1
    if world.now() - c.updated_at > _GIVEN_UP_AFTER:
        await _settle_note([Delete(note.key, note.etag)], world)
        return
    write = Replace(note.key, {"at": world.now().isoformat(), "tries": tries}, note.etag)
    if tries > 1:
        await _settle_note([write], world)
        return

    async def build() -> tuple[list[Write], list[Draft]]:
        said: dict[str, object] = {"state": c.state, "note": "tried again later"}
        return [write], [Draft(EntryKind.COMMENT_FAILED, ACTOR, c.principal, c.id, said)]

    try:
        await commit_with_entries(world.store, build)
    except Conflict:  # the containment changed meanwhile and its note is fresh
        log.debug("there is newer news to tell")


async def _settle_note(writes: list[Write], world: World) -> None:
    try:
        await world.store.commit(writes)
    except Conflict:  # the containment changed meanwhile: its note is fresh, and stays
        log.debug("there is newer news to tell")


async def _forget_claims(containment_id: str, world: World) -> None:
    """Take back claims on texts that were never written, so that they can be written now."""
    containment, _ = await load(world.store, containment_id)
    for incident in containment.incidents:
        await _forget_claim(f"told:{incident.name}:{containment_id}", world)


async def _forget_claim(key: str, world: World) -> None:
    record = await world.store.get(key)
    if record is not None and not record.body["written"]:
        await _settle_note([Delete(record.key, record.etag)], world)
