"""Tell the people who watch the incident: one comment per incident and containment, rewritten as the state changes."""

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
from response.containment import Containment, IncidentRef, State
from response.ledger import Draft, EntryKind, commit_with_entries
from response.levers import LEVERS
from response.opening import ACTOR, load

if TYPE_CHECKING:
    from response.world import World

log = logging.getLogger("agentbreaker.telling")
_TELLER_DIED_AFTER: Final = timedelta(seconds=45)  # longer than any write of ours takes
_LONGEST_PAUSE: Final = timedelta(hours=1)
_GIVEN_UP_AFTER: Final = timedelta(days=7)
_NAMESPACE: Final = UUID("6f1c1d0a-4b6e-5f6e-9d0c-3f1f6a3f7b51")

_HEADLINES: Final = {
    State.PROPOSED: "Observed only: the mode is observe, so nothing was touched",
    State.AWAITING_APPROVAL: "Waiting for a person: nothing was touched yet",
    State.CLAIMED: "About to be contained: the confirmation has not been accepted yet",
    State.PULLED: "Confirmed compromised was accepted by Graph; whether it blocks is being checked",
    State.CONFIRMED: "Risk reads high and an enabled policy covers it; no denied sign-in has been seen yet",
    State.PROVEN: "Blocked: the principal asked for a token and was refused",
    State.NOT_COVERED: "NOT blocked: risk reads high, and no enabled policy blocks this principal",
    State.FAILED: "Containment FAILED",
    State.VETOED: "Not contained: a guardrail refused",
    State.REJECTED: "Not contained: a person rejected it",
    State.EXPIRED: "Not contained: nobody decided in time",
    State.HALF_OPEN: "Released on probation",
    State.CLOSED: "Closed",
}
_TOUCHED: Final = frozenset({State.PULLED, State.CONFIRMED, State.PROVEN, State.NOT_COVERED, State.FAILED})


def comment_id(incident_name: str, containment_id: str) -> str:
    """Give the comment's id: the same incident and containment always have the same, so it is written once."""
    return str(uuid5(_NAMESPACE, f"{incident_name}:{containment_id}"))


def compose(c: Containment) -> str:
    """
    Write the comment: what was done, why, what was not checked, how to undo. At most 30,000 characters.

    Every value that came from a tenant is escaped; whole items are left out when space runs out.
    """
    name = f" ({_safe(c.principal_name)})" if c.principal_name else ""
    done = [f"State: {c.state}. Mode: {c.mode}.", f"Breaker: {_safe(c.armed)}."]
    if c.state is State.CONFIRMED and not c.armed_policies:
        done.append(
            "Whether an enabled policy covers the principal could not be read: treat it as not blocked."
        )
    if c.state in _TOUCHED and c.residual_until:
        done.append(
            "Graph tokens of clients that declare continuous access evaluation end within minutes; other tokens issued "
            f"before may work until {c.residual_until:%Y-%m-%d %H:%M} UTC."
        )
    if c.proof:
        policy = f" by policy {_safe(c.proof.policy_id)}" if c.proof.policy_id else ""
        done.append(
            f"Proof: sign-in {_safe(c.proof.event_id)} was refused with {_safe(c.proof.error_code)}{policy}."
        )
    if c.failure:
        done.append(f"Failure: {_safe(c.failure)}")
    sections = [
        ("What was done", done),
        (
            "Why",
            [
                *map(_safe, c.reasons),
                *(f"{_safe(f.rule_id or f.source)}: {_safe(f.reason)}" for f in c.findings),
            ],
        ),
        ("Refused by", list(map(_safe, c.vetoes))),
        ("Not checked", list(map(_safe, c.unchecked))),
        ("How to undo", _undo(c)),
    ]
    head = (
        f"<p><b>Agentbreaker: {_headline(c)}</b></p>"
        f"<p>Service principal {_safe(c.principal)}{name}, containment {_safe(c.id)}.</p>"
    )
    return _fitted(head, sections)


def _headline(c: Containment) -> str:
    if c.state is State.CONFIRMED and not c.armed_policies:
        return "Risk reads high; whether a policy blocks it could not be read"
    if c.state is State.AWAITING_APPROVAL and c.touched:
        return (
            "Waiting for a person: the principal is, or may be, confirmed compromised already; look in Entra"
        )
    return _HEADLINES[c.state]


def _undo(c: Containment) -> list[str]:
    if c.lever not in LEVERS or not c.touched:
        return ["Nothing to undo: nothing was touched."]
    lever = LEVERS[c.lever]
    return [
        f"In Entra: ID Protection, Risky workload identities, Dismiss risk ({_safe(lever.undone_by)}).",
        f"Beware: {_safe(lever.undo_warning)}.",
    ]


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
    Write or rewrite the comment on every incident of a containment, unless it already says the same.

    The commit that changed the containment left a note ``untold:<id>`` (``opening.telling_note``); it is taken away
    once every incident is told. A comment that cannot be written keeps it, for ``retold``. Raises: StoreError.
    """
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
        if world.now() - datetime.fromisoformat(note.body["at"]) >= _pause(int(note.body["tries"])):
            try:
                await _forget_claims(containment_id, world)
                await tell(containment_id, world)
            except (KeyError, TypeError, ValueError) as error:
                log.warning(
                    "a record to be told about is unreadable and left alone: %s", type(error).__name__
                )


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
