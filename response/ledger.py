"""
The ledger: an append-only, hash-chained record of every judgement and act, written with what it records.

A change of state and the entries about it are one atomic commit, together with the conditional update of
``ledger-head``. So there is no state without its entry, no entry without its state, and no two entries
with one number, whatever processes write at the same time.

    ledger-head           {"number", "hash"} of the last entry
    ledger:000000000001   {"number", "id", "at", "kind", "actor", "subject", "containment", "body", "previous", "hash"}
    about:<subject>:999999999998   {"numbers": [1, ...]}: the entries of one commit about one subject, newest first

``hash`` is SHA-256 over the hash of the entry before (64 hex digits, empty for the first) and the canonical
JSON of everything else: keys sorted, no blanks, ASCII escapes (which are UTF-8, and exist for every text
JSON can carry, half surrogate pairs included).

What the chain cannot show by itself: that somebody with write access cut the end off *and* rewrote the head,
or recomputed everything. For that, compare ``Verified.head`` with a hash noted elsewhere, or the table in the
workspace (``auditing.py``). When it is checked, and what follows from a break, is ``integrity.py``; the whole is
``docs/ledger.md``.

The ``about:`` records are an index, no part of the chain: they can be made again from it (``reindex``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import weakref
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import uuid4

from clients import telemetry
from clients.stores import (
    Conflict,
    CorruptRecord,
    Insert,
    Put,
    Record,
    Replace,
    Store,
    StoreError,
    StoreOutcomeUnknown,
    Write,
)
from clients.telemetry.words import SpanName
from response import measures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

HEAD: Final = "ledger-head"
_PREFIX: Final = "ledger:"
_ABOUT: Final = "about:"
_ENTRY_KEY: Final = re.compile(r"ledger:(\d{12})")
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PAGE: Final = 1000
_LAST_NUMBER: Final = 10**12 - 1
_BELIEVABLE_GAP: Final = 1_000_000  # entries; a head beyond that was not written by us
_LONGEST_TEXT: Final = (
    2000  # characters of one string in a body; an outsider's long name must not stop an entry
)
_UNKNOWN_TRIES: Final = 5  # commits without a clear answer before we give up and say so
# Writers stamp entries with their own clocks, so the order of times may differ from that of numbers by this much.
_SKEW: Final = timedelta(hours=1)


ACTOR: Final = "agentbreaker"
"""Who acts where no person gave the order."""

ExtraWrites: TypeAlias = "Callable[[Entry], list[Write]]"


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
    BREAK_ACCEPTED = "break_accepted"


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
    """
    The chain is whole: the number of its last entry, and that one's hash (0 and "" when there is none).

    ``accepted`` counts breaks that a person has accepted, each acceptance being an entry of the chain itself.
    """

    entries: int
    head: str
    accepted: int = 0


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
    nothing to do). Together they are at most 100: writes, drafts, one for each subject the drafts name, and one
    for the head. Losing the race for the end of the chain is not the caller's affair: the same writes are tried
    again behind the new end.

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
    with telemetry.span(SpanName.LEDGER_COMMIT, writes=len(writes), entries=len(drafts)):
        async with pen.lock:
            entries = await _append(
                store, pen, writes, list(zip(ids, drafts, strict=True)), attempts=attempts, now=now
            )
    measures.committed(entries)
    return entries


@dataclass(frozen=True, slots=True)
class Witness:
    """What an earlier full check saw: entry ``number`` had this hash."""

    number: int
    hash: str


async def verify(store: Store, *, witness: Witness | None = None) -> Verified | Broken:
    """
    Walk the whole chain and say whether it is whole: nothing changed, removed, reordered or cut off.

    Reads only, a page at a time, so memory does not grow with the chain. A ``witness`` is believed in nothing; it
    is one more thing the chain must agree with, and shows a chain that was cut or recomputed as a whole.
    Entries may be appended meanwhile. Raises: StoreError when the store could not be read.
    """
    walk = Walk(witness)
    head_fault = await walk.to_the_end(store)
    return walk.result(head_fault)


async def verify_from(store: Store, witness: Witness) -> Verified | Broken:
    """
    Walk the chain from the entry a full check has seen to its end, trusting what lies before.

    Raises: StoreError.
    """
    record = await store.get(_key(witness.number))
    if record is None:
        return Broken(witness.number, "a full check saw this entry, and now it is missing")
    before = record.body.get("previous")
    walk = Walk(witness, number=witness.number - 1, previous=before if isinstance(before, str) else "")
    head_fault = await walk.to_the_end(store)
    return walk.result(head_fault)


async def recent(store: Store, limit: int = 100) -> list[Entry]:
    """
    Read the newest entries, the newest first. Hashes are not checked, see ``verify``.

    Raises: StoreError.
    """
    end = (await _read_head(store)).number
    start = max(end - limit, 0)
    if limit < 1 or end == start:
        return []
    page = await store.scan(_PREFIX, after=_key(start) if start else "", limit=end - start)
    return [Entry.from_record(record) for record in reversed(page)]


async def about(
    store: Store, principal: str, limit: int = 100, *, containment_id: str | None = None
) -> list[Entry]:
    """
    Read the newest entries about one principal, of one containment if given, the newest first.

    What it costs depends on ``limit``, not on the length of the chain. Hashes are not checked. Entries written
    by a version before the index are found after ``reindex``.
    Raises: StoreError; CorruptRecord when the index names an entry that is not there or is about somebody else.
    """
    found: list[Entry] = []
    prefix, after = _about_prefix(principal), ""
    while len(found) < limit:
        page = await store.scan(prefix, after=after, limit=limit)
        numbers = sorted({number for record in page for number in _indexed(record)}, reverse=True)
        for entry in await _numbered(store, numbers):
            if entry.subject != principal:
                raise CorruptRecord(f"the index takes {entry.key} for an entry about somebody else")
            if containment_id in (None, entry.containment_id):
                found.append(entry)
        if len(page) < limit:
            break
        after = page[-1].key
    return found[:limit]


async def records_after(store: Store, number: int, limit: int) -> list[Record]:
    """Read the stored entries that follow ``number``, in order, as they are. Raises: StoreError."""
    found = await store.scan(_PREFIX, after=_key(number) if number else "", limit=limit)
    return [record for record in found if _ENTRY_KEY.fullmatch(record.key)]


async def last_number(store: Store) -> int:
    """Read how many entries the ledger's head counts. Raises: StoreError."""
    return (await _read_head(store)).number


async def reindex(store: Store) -> int:
    """
    Write index records for entries that ``about`` would not find; give how many. Raises: StoreError.

    For ledgers begun before the index, or after somebody removed records of it. May run beside writers.
    """
    written, after = 0, ""
    while page := await store.scan(_PREFIX, after=after, limit=_PAGE):
        after = page[-1].key
        missing = [
            entry
            for entry in map(Entry.from_record, page)
            if entry.subject and not await _found(store, entry)
        ]
        puts = [Put(_about_key(e.subject, e.number), {"numbers": [e.number]}) for e in missing]
        for begin in range(0, len(puts), 100):
            await store.commit(puts[begin : begin + 100])
        written += len(puts)
    return written


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
class Head:
    """The end of the chain."""

    number: int = 0
    hash: str = ""
    etag: str = ""  # "" when there is no head yet


@dataclass(slots=True)
class _Pen:
    """One appender at a time in this process; what it left as the head, so that the next need not read it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    head: Head | None = None


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
            batch = chained(head, drafts, now())
            etags = await store.commit([*writes, head_write(head, batch[-1]), *entry_writes(batch)])
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
            pen.head = Head(batch[-1].number, batch[-1].hash, etags[HEAD])
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


async def _read_head(store: Store) -> Head:
    record = await store.get(HEAD)
    if record is None:
        return Head()
    if (head := _head_of(record)) is None:
        raise CorruptRecord(f"{HEAD} does not name the last entry")
    return head


def _head_of(record: Record) -> Head | None:
    number, digest = record.body.get("number"), record.body.get("hash")
    if type(number) is not int or number < 1 or not isinstance(digest, str):
        return None
    return Head(number, digest, record.etag)


def head_write(head: Head, last: Entry | Head) -> Insert | Replace:
    """Give the write that moves the end of the chain from ``head``, and only from there, to ``last``."""
    body = {"number": last.number, "hash": last.hash}
    return Replace(HEAD, body, head.etag) if head.etag else Insert(HEAD, body)


def entry_writes(batch: Sequence[Entry]) -> list[Insert | Put]:
    """Give the writes of entries and of their index."""
    return [*(Insert(entry.key, entry.to_body()) for entry in batch), *_index(batch)]


def chained(head: Head, drafts: Sequence[tuple[str, Draft]], at: datetime) -> list[Entry]:
    """Make entries of drafts, each with its id, behind ``head``. Raises: ValueError for a body that is no JSON."""
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


async def append_behind(
    store: Store,
    walk: Walk,
    witness: Witness | None,
    draft: Callable[[], Draft],
    extra: ExtraWrites,
    at: datetime,
) -> Entry:
    """
    Append one entry behind a chain that ``walk`` went through, and set the head to it, whatever the head said.

    Numbers are not used twice: where head or ``witness`` count more entries than there are, the entry stands behind
    those, and the gap is noted in ``walk`` before ``draft`` is asked. One commit together with what ``extra`` makes
    of the entry. Raises: Conflict when somebody wrote meanwhile; StoreError.
    """
    stored = await store.get(HEAD)
    known = [(walk.number, walk.previous)]
    if stored is not None and (head := _head_of(stored)) is not None:
        known.append((head.number, head.hash))
    if witness is not None:
        known.append((witness.number, witness.hash))
    number, previous = max(
        (pair for pair in known if walk.number <= pair[0] <= walk.number + _BELIEVABLE_GAP),
        key=lambda pair: pair[0],
    )
    if number > walk.number:
        walk.note_gap(number + 1)
    end = Head(number, previous, stored.etag if stored is not None else "")
    [entry] = chained(end, [(uuid4().hex, draft())], at)
    await store.commit([head_write(end, entry), *entry_writes([entry]), *extra(entry)])
    return entry


# --- the index by subject -------------------------------------------------------------------------


def _index(batch: Sequence[Entry]) -> list[Put]:
    """One record a subject, not one an entry: a commit has room for 100 writes. Put, because it is no condition."""
    numbers: dict[str, list[int]] = {}
    for entry in batch:
        if entry.subject:
            numbers.setdefault(entry.subject, []).append(entry.number)
    return [Put(_about_key(subject, of[0]), {"numbers": of}) for subject, of in numbers.items()]


def _about_prefix(subject: str) -> str:
    # What is no object id may be long, or hold a colon and so reach into another's records.
    name = (
        subject
        if _GUID.fullmatch(subject)
        else hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
    )
    return f"{_ABOUT}{name}:"


def _about_key(subject: str, number: int) -> str:
    """Count down, because stores scan upwards and the newest is asked for."""
    return f"{_about_prefix(subject)}{_LAST_NUMBER - number:012}"


def _indexed(record: Record) -> list[int]:
    numbers = record.body.get("numbers")
    if not isinstance(numbers, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise CorruptRecord(f"{record.key} names no entries")
    return numbers


async def _found(store: Store, entry: Entry) -> bool:
    """Tell whether the index knows the entry: then it is in the last record that begins at it or before it."""
    beyond = _about_key(entry.subject, entry.number + 1)
    near = await store.scan(_about_prefix(entry.subject), after=beyond, limit=1)
    return any(entry.number in _indexed(record) for record in near)


async def _numbered(store: Store, numbers: Sequence[int]) -> list[Entry]:
    """Read entries by number. Raises: CorruptRecord when one is not there."""
    found: list[Entry] = []
    for number, record in zip(numbers, await store.get_many([_key(n) for n in numbers]), strict=True):
        if record is None:
            raise CorruptRecord(f"the index names {_key(number)}, which is not there")
        found.append(Entry.from_record(record))
    return found


# --- form and check -----------------------------------------------------------------------------


class Walk:
    """
    One walk along the chain, page by page, that goes on behind a break to see whether a person accepted it.

    An acceptance is an entry whose ``digest`` covers every break before it that none has accepted yet: what they
    are, where, and what was found there. So one more change behind a break that was accepted is a break again.
    """

    def __init__(self, witness: Witness | None = None, *, number: int = 0, previous: str = "") -> None:
        self.number, self.previous = number, previous
        self.pending, self.accepted = 0, 0
        self.digest = ""
        self.broken: Broken | None = None
        self._witness, self._seen = witness, ""
        self._after = _key(number) if number else ""

    async def to_the_end(self, store: Store) -> Broken | None:
        """
        Walk all entries and compare the end with the head; give what is wrong with the head.

        Raises: StoreError.
        """
        while True:
            await self.through(store)
            # The head is read after the entries and is written with them: it is never older than what we saw.
            head, number = await _read_head(store), self.number
            if head.number == number:
                return None if head.hash == self.previous else Broken(number, "the head has another hash")
            if head.number < number:
                why = f"the head ends the chain at {head.number}, but entries go on"
                return Broken(head.number + 1, why)
            if not await store.get(_key(number + 1)):  # else it was appended while we looked
                why = f"the head counts {head.number} entries, this one is missing"
                return Broken(number + 1, why)

    async def through(self, store: Store) -> None:
        """Walk all entries, without a look at the head. Raises: StoreError."""
        page = await store.scan(_PREFIX, after=self._after, limit=_PAGE)
        while page:
            self._after = page[-1].key
            if len(page) < _PAGE:
                self._steps(page)
                return
            # The store reads the next page while this one is checked.
            following = asyncio.ensure_future(store.scan(_PREFIX, after=self._after, limit=_PAGE))
            await asyncio.sleep(0)
            try:
                self._steps(page)
            finally:
                page = await following

    def _steps(self, page: Sequence[Record]) -> None:
        for record in page:
            self.step(record)

    def step(self, record: Record) -> None:
        """Check one entry and go on behind it, whatever is wrong with it."""
        stored, expected = record.body, self.number + 1
        if record.key != _key(expected):
            self.note(expected, f"missing: {record.key} follows", "")
            named = _ENTRY_KEY.fullmatch(record.key)
            if named is None:
                return  # nobody's entry
            expected = int(named[1])
            self.previous = _text(stored.get("previous"))
        if why := _fault(record, expected, self.previous):
            self.note(expected, why, _digest_of(stored))
        elif stored.get("kind") == EntryKind.BREAK_ACCEPTED:
            self._accept(stored.get("body"))
        self.number, self.previous = expected, _text(stored.get("hash"))
        if self._witness is not None and expected == self._witness.number:
            self._seen = self.previous

    def note(self, number: int, why: str, found: str) -> None:
        """Count a break; ``found`` is a hash of what is there instead."""
        self.broken = self.broken or Broken(number, why)
        self.pending += 1
        self.digest = hashlib.sha256(f"{self.digest}|{number}|{why}|{found}".encode()).hexdigest()

    def note_gap(self, following: int) -> None:
        """Count the entries as missing that a next one with this number leaves out."""
        self.note(self.number + 1, f"missing: {_key(following)} follows", "")

    def result(self, head_fault: Broken | None) -> Verified | Broken:
        """Say what the walk has shown."""
        if self.broken or head_fault:
            return self.broken or head_fault or Broken(0, "")
        if self._witness is not None and self._seen != self._witness.hash:
            return Broken(self._witness.number, "a full check saw another entry here")
        return Verified(self.number, self.previous, self.accepted)

    def _accept(self, body: object) -> None:
        if self.pending and isinstance(body, dict) and body.get("digest") == self.digest:
            self.accepted += self.pending
            self.pending, self.digest, self.broken = 0, "", None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


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


# Made once: json.dumps with options builds an encoder for each call, a third of the time of a full check.
_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
).encode


def _hash(stored: Mapping[str, Any]) -> str:
    """
    Hash a stored entry: everything in it, known to us or not, except the hash itself.

    Raises: ValueError for what no JSON can carry.
    """
    content = dict(stored)
    previous = content.pop("previous")
    content.pop("hash", None)
    return hashlib.sha256(f"{previous}{_CANONICAL(content)}".encode()).hexdigest()


def _digest_of(stored: Mapping[str, Any]) -> str:
    """Hash what was found where an entry should be; unlike ``json``'s own text this knows NaN."""
    text = json.dumps(stored, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fault(record: Record, number: int, previous: str) -> str:
    """Say what is wrong with the entry that should have this number and follow that hash; "" if nothing."""
    stored = record.body
    if stored.get("number") != number or type(stored.get("number")) is not int:
        return "it carries another number"
    if stored.get("previous") != previous:
        return "it does not follow the entry before it"
    try:
        hashed = _hash(stored)
    except ValueError:  # NaN, which our reader takes and our writer never writes
        hashed = None
    if hashed is None or stored.get("hash") != hashed:
        return "its content is not what was hashed"
    return ""
