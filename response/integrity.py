"""
When the ledger's chain is checked, and what follows from a break: no enforcement, until a person accepts it.

    ledger-checkpoint   {"number", "hash", "at"}: what the last full check saw
    ledger-broken       {"at", "number", "why"}: a break was found; the guardrail ``ledger-intact`` reads it

``verify_tail`` trusts the checkpoint and reads what came since: cheap, and enough to notice a break among new
entries. ``check_all`` reads everything and trusts nothing; it takes the checkpoint only as one more witness. Who
can write the store can forge a checkpoint, and so hide a break from the tail check, never from the full one.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from clients.stores import Conflict, CorruptRecord, Delete, Insert, Put, StoreError, Write
from clients.terms import Unknown
from response import measures
from response.ledger import (
    Broken,
    Draft,
    Entry,
    EntryKind,
    Verified,
    Walk,
    Witness,
    append_behind,
    verify,
    verify_from,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clients.stores import Record, Store

log = logging.getLogger("agentbreaker.integrity")
CHECKPOINT: Final = "ledger-checkpoint"
BROKEN: Final = "ledger-broken"


@dataclass(slots=True)
class _Once:
    """Whether this process has found the chain whole; only that is remembered."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: Verified | None = None


_CHECKED: Final[weakref.WeakKeyDictionary[Store, _Once]] = weakref.WeakKeyDictionary()


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def ensure_intact(
    store: Store, *, now: Callable[[], datetime] = _utc_now
) -> Verified | Broken | Unknown:
    """
    Say whether levers may be pulled as far as the ledger is concerned: only on ``Verified``. Raises nothing.

    Each call reads ``ledger-broken``; the tail of the chain is checked once a process. What was found broken, or
    could not be read, is not remembered and is looked at again by the next call. A break is recorded for all.
    """
    once = _CHECKED.setdefault(store, _Once())
    async with once.lock:
        try:
            if (broken := await recorded_break(store)) is not None:
                once.found = None
                measures.ledger_checked("broken")
                return broken
            found = once.found or await _first_look(store, now)
        except StoreError as error:
            measures.ledger_checked("unreadable")
            return Unknown(f"the ledger could not be checked: {error}")
        once.found = found if isinstance(found, Verified) else None
        return found


async def _first_look(store: Store, now: Callable[[], datetime]) -> Verified | Broken:
    witness = await read_witness(store)
    if witness is None:
        return await check_all(store, now=now)
    found = await _seen_twice(lambda: verify_from(store, witness))
    measures.ledger_checked("broken" if isinstance(found, Broken) else "intact")
    if isinstance(found, Broken):
        await _record(store, found, now())
    return found


async def verify_tail(store: Store) -> Verified | Broken:
    """
    Check what was written since the last full check; without a readable checkpoint, everything. Reads only.

    Raises: StoreError.
    """
    witness = await read_witness(store)
    return await verify(store) if witness is None else await verify_from(store, witness)


async def check_all(store: Store, *, now: Callable[[], datetime] = _utc_now) -> Verified | Broken:
    """
    Check the whole chain and record what was found: a checkpoint, or the break that stops enforcement.

    A break that is already recorded stays recorded, also when the chain reads well now: a person clears it.
    Raises: StoreError when the store could not be read or written; what is not even JSON is a break.
    """
    witness = await read_witness(store)
    found = await _seen_twice(lambda: verify(store, witness=witness))
    measures.ledger_checked("broken" if isinstance(found, Broken) else "intact")
    if isinstance(found, Broken):
        await _record(store, found, now())
    elif found.entries:
        await store.commit([Put(CHECKPOINT, _checkpoint(found.entries, found.head, now()))])
    return found


async def recorded_break(store: Store) -> Broken | None:
    """Give the break that was recorded and not accepted yet. Raises: StoreError; CorruptRecord."""
    record = await store.get(BROKEN)
    if record is None:
        return None
    number, why = record.body.get("number"), record.body.get("why")
    return Broken(number if isinstance(number, int) else 0, why if isinstance(why, str) else "unreadable")


async def read_witness(store: Store) -> Witness | None:
    """Give what the last full check saw; None when there was none, or its record is not what we write."""
    try:
        record = await store.get(CHECKPOINT)
    except CorruptRecord:
        return None  # then everything is read, which is the safe side
    if record is None:
        return None
    number, digest = record.body.get("number"), record.body.get("hash")
    if type(number) is not int or not 1 <= number < 10**12 or not isinstance(digest, str):
        return None
    return Witness(number, digest)


async def accept_break(store: Store, *, actor: str, reason: str, now: datetime) -> Entry | None:
    """
    Go on behind a break, because a person says so; give the entry that records it, None when nothing is broken.

    The entry covers every break there is now, and only those; the head is set right, the checkpoint is the new
    entry, ``ledger-broken`` is taken away, all in one commit. What was lost or changed stays so.
    Raises: Conflict when somebody wrote meanwhile; CorruptRecord when an entry is not even JSON; StoreError.
    """
    witness = await read_witness(store)
    recorded = await store.get(BROKEN)
    found = await _as_broken(verify(store, witness=witness))
    if recorded is None and isinstance(found, Verified):
        return None
    walk = Walk()
    await walk.through(store)

    def draft() -> Draft:
        body = {
            "reason": reason,
            "digest": walk.digest,
            "breaks": walk.pending,
            "number": found.number if isinstance(found, Broken) else 0,
            "why": found.why if isinstance(found, Broken) else "recorded earlier, not found any more",
            "recorded": dict(recorded.body) if recorded is not None else None,
        }
        return Draft(EntryKind.BREAK_ACCEPTED, actor, "", "", body)

    return await append_behind(store, walk, witness, draft, lambda entry: _settled(entry, recorded, now), now)


def _settled(entry: Entry, recorded: Record | None, now: datetime) -> list[Write]:
    writes: list[Write] = [Put(CHECKPOINT, _checkpoint(entry.number, entry.hash, now))]
    if recorded is not None:
        writes.append(Delete(BROKEN, recorded.etag))
    return writes


def _checkpoint(number: int, digest: str, at: datetime) -> dict[str, object]:
    return {"number": number, "hash": digest, "at": at.isoformat()}


async def _seen_twice(check: Callable[[], Awaitable[Verified | Broken]]) -> Verified | Broken:
    """
    Check again what looks broken: a scan is no snapshot, and a person has to clear what is recorded.

    Both stores show each entry of a commit at once or not at all to a single read, but a page of a table is many.
    """
    found = await _as_broken(check())
    if isinstance(found, Broken):
        log.warning("the ledger looks broken at entry %d, looking again", found.number)
        found = await _as_broken(check())
    return found


async def _as_broken(checking: Awaitable[Verified | Broken]) -> Verified | Broken:
    try:
        return await checking
    except CorruptRecord as error:
        return Broken(0, str(error))


async def _record(store: Store, broken: Broken, at: datetime) -> None:
    """Keep the first break that was found: a later one adds nothing to "stop"."""
    log.error("the ledger is broken at entry %d: no lever is pulled until a person accepts it", broken.number)
    try:
        await store.commit(
            [Insert(BROKEN, {"at": at.isoformat(), "number": broken.number, "why": broken.why[:500]})]
        )
    except Conflict:
        log.info("the break was recorded before")
