"""
The ledger: an append-only, hash-chained record of every judgement and act, written with what it records.

A change of state and the entries about it are one atomic commit, together with the conditional update of
``ledger-head``. So there is no state without its entry, no entry without its state, and no two entries
with one number, whatever processes write at the same time.

    ledger-head           {"number", "hash"} of the last entry
    ledger:000000000001   {"number", "id", "at", "kind", "actor", "subject", "containment", "body", "previous", "hash"}

``hash`` is SHA-256 over the hash of the entry before (64 hex digits, empty for the first) and the canonical
JSON of everything else: keys sorted, no blanks, ASCII escapes (which are UTF-8, and exist for every text
JSON can carry, half surrogate pairs included).

What the chain cannot show by itself: that somebody with write access cut the end off *and* rewrote the head,
or recomputed everything. For that, compare ``Verified.head`` with a hash noted elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import weakref
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from clients.stores import (
    Conflict,
    CorruptRecord,
    Insert,
    Record,
    Replace,
    Store,
    StoreError,
    StoreOutcomeUnknown,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

HEAD: Final = "ledger-head"
_PREFIX: Final = "ledger:"
_PAGE: Final = 1000
_LONGEST_TEXT: Final = (
    2000  # characters of one string in a body; an outsider's long name must not stop an entry
)
_UNKNOWN_TRIES: Final = 5  # commits without a clear answer before we give up and say so
# Writers stamp entries with their own clocks, so the order of times may differ from that of numbers by this much.
_SKEW: Final = timedelta(hours=1)


class EntryKind(StrEnum):
    """What an entry says happened. Values are stored for ever: add, never rename."""

    FINDING_RECORDED = "finding_recorded"
    DECISION_MADE = "decision_made"
    PROPOSED = "proposed"
    PARKED = "parked"
    VETOED = "vetoed"
    JOINED = "joined"
    CLAIMED = "claimed"
    PULL_STARTED = "pull_started"
    PULLED = "pulled"
    PULL_DEFERRED = "pull_deferred"
    PULL_REFUSED = "pull_refused"
    PULL_UNKNOWN = "pull_unknown"
    CONFIRMED = "confirmed"
    PROVEN = "proven"
    NOT_COVERED = "not_covered"
    FAILED = "failed"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    LEVER_PROPOSED = "lever_proposed"
    SNAPSHOT = "snapshot"
    UNDO_REQUESTED = "undo_requested"
    UNDO_STARTED = "undo_started"
    UNDO_DEFERRED = "undo_deferred"
    UNDO_UNKNOWN = "undo_unknown"
    UNDO_FAILED = "undo_failed"
    UNDONE = "undone"
    PROBATION_ENDED = "probation_ended"
    RESIDUAL_ACCESS = "residual_access"
    BRAKE_TRIPPED = "brake_tripped"
    BRAKE_RELEASED = "brake_released"
    NOTIFIED = "notified"
    NOTIFICATION_DEAD = "notification_dead"
    NOTIFICATION_RETRIED = "notification_retried"
    SIGNAL_RECEIVED = "signal_received"
    CLOSED = "closed"
    COMMENTED = "commented"
    COMMENT_FAILED = "comment_failed"
    KILL_SWITCH = "kill_switch"


@dataclass(frozen=True, slots=True)
class Draft:
    """
    An entry before it has a number. ``subject`` is a principal's object id or "", ``body`` small JSON.

    Strings in ``body`` longer than 2,000 characters are cut, and say so.
    """

    kind: EntryKind
    actor: str
    subject: str
    containment_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as stored. ``at`` is the writer's clock (UTC); order is given by ``number`` alone."""

    number: int
    id: str
    at: datetime
    kind: str  # an EntryKind; or one of a newer version, while old and new code run side by side
    actor: str
    subject: str
    containment_id: str
    body: Mapping[str, Any]
    previous_hash: str
    hash: str

    @property
    def key(self) -> str:
        """Key in the store."""
        return _key(self.number)

    @classmethod
    def from_record(cls, record: Record) -> Entry:
        """Parse a stored entry, without checking its hash. Raises: CorruptRecord."""
        stored = record.body
        try:
            return cls(
                number=int(stored["number"]),
                id=stored["id"],
                at=datetime.fromisoformat(stored["at"]),
                kind=stored["kind"],
                actor=stored["actor"],
                subject=stored["subject"],
                containment_id=stored["containment"],
                body=stored["body"],
                previous_hash=stored["previous"],
                hash=stored["hash"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptRecord(f"{record.key} is no ledger entry") from error

    def to_body(self) -> dict[str, Any]:
        """Give the entry as JSON for the store."""
        return {
            "number": self.number,
            "id": self.id,
            "at": self.at.isoformat(),
            "kind": self.kind,
            "actor": self.actor,
            "subject": self.subject,
            "containment": self.containment_id,
            "body": self.body,
            "previous": self.previous_hash,
            "hash": self.hash,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """The chain is whole: so many entries, and the hash of the last ("" when there is none)."""

    entries: int
    head: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The chain does not hold from entry ``number`` on, and why."""

    number: int
    why: str


async def commit_with_entries(
    store: Store,
    build: Callable[[], Awaitable[tuple[list[Write], list[Draft]]]],
    *,
    attempts: int = 60,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Entry]:
    """
    Commit a change of state and its ledger entries, all or nothing.

    ``build`` is awaited once and gives the caller's conditional writes and at least one draft (neither is
    nothing to do). Writes, entries and the head together are at most 100. Losing the race for the end of
    the chain is not the caller's affair: the same writes are tried again behind the new end.

    Raises: Conflict with the caller's key that somebody else wrote first, or with ``ledger-head`` when
    others were faster ``attempts`` times: nothing was written. StoreOutcomeUnknown only when reading back
    does not tell either. ValueError as ``Store.commit``. CorruptRecord when head and chain disagree.
    """
    writes, drafts = await build()
    if not writes and not drafts:
        return []
    if not drafts:
        raise ValueError("a change of state is committed with the entry that records it")
    ids = [uuid4().hex for _ in drafts]
    pen = _pen(store)
    async with pen.lock:
        return await _append(
            store, pen, writes, list(zip(ids, drafts, strict=True)), attempts=attempts, now=now
        )


async def verify(store: Store) -> Verified | Broken:
    """
    Walk the whole chain and say whether it is whole: nothing changed, removed, reordered or cut off.

    Entries may be appended meanwhile. Raises: StoreError when the store could not be read.
    """
    number, previous = 0, ""
    while True:
        page = await store.scan(_PREFIX, after=_key(number) if number else "", limit=_PAGE)
        for record in page:
            why = _fault(record, number + 1, previous)
            if why:
                return Broken(number + 1, why)
            number, previous = number + 1, record.body["hash"]
        if len(page) == _PAGE:
            continue
        # The head is read after the entries and is written with them: it is never older than what we saw.
        head = await _read_head(store)
        if head.number == number:
            return (
                Verified(number, previous)
                if head.hash == previous
                else Broken(number, "the head has another hash")
            )
        if head.number < number:
            return Broken(head.number + 1, f"the head ends the chain at {head.number}, but entries go on")
        if not await store.get(_key(number + 1)):  # else it was appended while we looked
            return Broken(number + 1, f"the head counts {head.number} entries, this one is missing")


async def entries(
    store: Store, containment_id: str | None = None, since: datetime | None = None
) -> list[Entry]:
    """
    Read entries in order, of one containment if given, stamped at ``since`` or later if given.

    With ``since`` only the end of the chain is read, so ask about a containment with the time it was opened;
    without it everything is. Hashes are not checked, see ``verify``. Raises: StoreError.
    """
    wanted: list[Entry] = []
    end = (await _read_head(store)).number
    while end > 0:
        start = max(end - _PAGE, 0)
        page = await store.scan(_PREFIX, after=_key(start) if start else "", limit=end - start)
        block = [Entry.from_record(record) for record in page]
        wanted[:0] = [
            entry
            for entry in block
            if (since is None or entry.at >= since) and containment_id in (None, entry.containment_id)
        ]
        if since is not None and all(entry.at < since - _SKEW for entry in block):
            break
        end = start
    return wanted


# --- appending ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    number: int = 0
    hash: str = ""
    etag: str = ""  # "" when there is no head yet


@dataclass(slots=True)
class _Pen:
    """One appender at a time in this process; what it left as the head, so that the next need not read it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    head: _Head | None = None


# Keyed by store, not state of a run: a wrong or missing pen costs one failed conditional write, nothing more.
_PENS: Final[weakref.WeakKeyDictionary[Store, _Pen]] = weakref.WeakKeyDictionary()


def _pen(store: Store) -> _Pen:
    return _PENS.setdefault(store, _Pen())


async def _append(
    store: Store,
    pen: _Pen,
    writes: Sequence[Write],
    drafts: Sequence[tuple[str, Draft]],
    *,
    attempts: int,
    now: Callable[[], datetime],
) -> list[Entry]:
    unclear: list[list[Entry]] = []  # attempts whose commit got no clear answer; each may still land
    for attempt in range(attempts):
        head, pen.head = pen.head, None  # whatever happens below, it is read anew unless the commit succeeds
        try:
            head = head or await _read_head(store)
            batch = _chained(head, drafts, now())
            etags = await store.commit([*writes, _head_write(head, batch[-1]), *map(_insert, batch)])
        except Conflict as conflict:
            if landed := await _landed(store, unclear):
                return landed
            if conflict.key.startswith(
                _PREFIX
            ):  # entries come behind the head in the batch, and it was as expected
                raise CorruptRecord(
                    f"{conflict.key} exists, but the ledger's head does not know it"
                ) from conflict
            if conflict.key != HEAD:
                raise
            unclear.clear()  # the head moved on, so what was conditional on the old one cannot land any more
        except StoreOutcomeUnknown:
            unclear.append(batch)
            if landed := await _landed(store, unclear):
                return landed
            if len(unclear) == _UNKNOWN_TRIES:
                raise
        except StoreError as error:
            if not unclear:
                raise
            raise StoreOutcomeUnknown("a commit got no clear answer and could not be read back") from error
        else:
            pen.head = _Head(batch[-1].number, batch[-1].hash, etags[HEAD])
            return batch
        await asyncio.sleep(random.uniform(0, min(0.005 * 2**attempt, 0.25)))
    raise Conflict(HEAD)


async def _landed(store: Store, unclear: Sequence[list[Entry]]) -> list[Entry] | None:
    """
    Look whether one of the attempts was carried out after all.

    The first entry's hash tells: it covers a unique id, and differs between two attempts, too.

    Raises: StoreOutcomeUnknown when the store cannot be read.
    """
    for batch in unclear:
        try:
            record = await store.get(batch[0].key)
        except StoreError as error:
            raise StoreOutcomeUnknown("a commit got no clear answer and could not be read back") from error
        if record is not None and record.body.get("hash") == batch[0].hash:
            return batch
    return None


async def _read_head(store: Store) -> _Head:
    record = await store.get(HEAD)
    if record is None:
        return _Head()
    number, digest = record.body.get("number"), record.body.get("hash")
    if type(number) is not int or number < 1 or not isinstance(digest, str):
        raise CorruptRecord(f"{HEAD} does not name the last entry")
    return _Head(number, digest, record.etag)


def _head_write(head: _Head, last: Entry) -> Write:
    body = {"number": last.number, "hash": last.hash}
    return Replace(HEAD, body, head.etag) if head.etag else Insert(HEAD, body)


def _insert(entry: Entry) -> Write:
    return Insert(entry.key, entry.to_body())


def _chained(head: _Head, drafts: Sequence[tuple[str, Draft]], at: datetime) -> list[Entry]:
    batch: list[Entry] = []
    number, previous = head.number, head.hash
    for entry_id, draft in drafts:
        number += 1
        unsealed = Entry(
            number=number,
            id=entry_id,
            at=at,
            kind=str(draft.kind),
            actor=draft.actor,
            subject=draft.subject,
            containment_id=draft.containment_id,
            body=_plain(draft.body),
            previous_hash=previous,
            hash="",
        )
        previous = _hash(unsealed.to_body())
        batch.append(replace(unsealed, hash=previous))
    return batch


# --- form and check -----------------------------------------------------------------------------


def _key(number: int) -> str:
    return f"{_PREFIX}{number:012}"


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Make of a body what reading it back would give, with long strings cut.

    JSON turns tuples into lists and numbers used as keys into text. That must happen before the hash is taken.
    Raises: ValueError when it is no JSON.
    """
    try:
        text = json.dumps(dict(body), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the body of a ledger entry is JSON: {error}") from error
    plain: dict[str, Any] = _cut(json.loads(text))
    return plain


def _cut(value: Any) -> Any:
    match value:
        case str() if len(value) > _LONGEST_TEXT:
            return f"{value[:_LONGEST_TEXT]}… [{len(value) - _LONGEST_TEXT} characters more]"
        case list():
            return [_cut(item) for item in value]
        case dict():
            return {_cut(name): _cut(item) for name, item in value.items()}
    return value


def _hash(stored: Mapping[str, Any]) -> str:
    """Hash a stored entry: everything in it, known to us or not, except the hash itself."""
    content = {name: value for name, value in stored.items() if name not in ("previous", "hash")}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{stored['previous']}{canonical}".encode()).hexdigest()


def _fault(record: Record, number: int, previous: str) -> str:
    """Say what is wrong with the entry that should have this number and follow that hash; "" if nothing."""
    if record.key != _key(number):
        return f"missing: {record.key} follows"
    stored = record.body
    if stored.get("number") != number or type(stored.get("number")) is not int:
        return "it carries another number"
    if stored.get("previous") != previous:
        return "it does not follow the entry before it"
    if stored.get("hash") != _hash(stored):
        return "its content is not what was hashed"
    return ""
