"""A long ledger on the embedded store: the newest entries, one principal's history, and a check of all of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from bench.figures import Json, against
from clients.stores import encoding, open_store
from response import ledger
from response.ledger import Draft, EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clients.stores import Store

ENTRIES: Final = 1_000_000
TARGET_MS: Final = 20.0
TARGET_SECONDS: Final = 30.0
_LIMIT: Final = 100  # entries a page asks for
_ASKED: Final = 20  # times a run
_A_COMMIT: Final = 10
_PRINCIPALS: Final = 10_000
_BUSY: Final = 20  # principals that a fifth of all entries are about: the longest histories
_PARTITION: Final = "tenant"
# A containment from claim to proof, as response/ writes it.
_LIFE: Final = (
    (EntryKind.FINDING_RECORDED, {"rule": "AG-04", "tier": "corroborated", "reason": "first use of a vault"}),
    (EntryKind.DECISION_MADE, {"verdict": "contain", "reasons": ["two independent signs agree"]}),
    (EntryKind.CLAIMED, {"state": "claimed", "lever": "confirm-compromised"}),
    (EntryKind.PULL_STARTED, {"state": "claimed", "lever": "confirm-compromised", "attempt": "3f2a", "outcome": "started"}),
    (EntryKind.PULLED, {"state": "pulled", "lever": "confirm-compromised", "attempt": "3f2a", "outcome": "accepted"}),
    (EntryKind.CONFIRMED, {"state": "confirmed", "risk": "high"}),
    (EntryKind.PROVEN, {"state": "proven", "code": "53003"}),
)  # fmt: skip


async def measure(entries: int, runs: int, directory: Path) -> Json:
    """Build a ledger of so many entries in ``directory`` and ask it, ``20 * runs`` times each."""
    path = directory / "ledger.db"
    store = open_store(f"sqlite:///{path}", _PARTITION)
    try:
        await store.get(ledger.HEAD)  # makes the file and its table
        began = time.perf_counter()
        await asyncio.to_thread(build, path, entries)
        built = time.perf_counter() - began
        recent = [await _milliseconds(store) for _ in range(_ASKED * runs)]
        history = [await _milliseconds(store, _principal(n)) for n in range(_ASKED * runs)]
        began, used = time.perf_counter(), time.process_time()
        found = await ledger.verify(store)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
    finally:
        await store.close()
    if found != ledger.Verified(entries, found.head if isinstance(found, ledger.Verified) else ""):
        raise RuntimeError(f"the ledger that was built is not whole: {found}")
    asked = {
        "recentMs": against(recent, p50=TARGET_MS, p95=TARGET_MS),
        "historyMs": against(history, p50=TARGET_MS, p95=TARGET_MS),
    }
    return {
        "unit": "ms; s",
        "runs": runs,
        "entries": entries,
        "limit": _LIMIT,
        "target": {
            "recentMs": {"p95": TARGET_MS},
            "historyMs": {"p95": TARGET_MS},
            "verifySeconds": TARGET_SECONDS,
        },
        **asked,
        "verifySeconds": round(seconds, 2),
        "verifyProcessorSeconds": round(processor, 2),
        "buildSeconds": round(built, 1),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "ok": seconds <= TARGET_SECONDS and all(each["ok"] for each in asked.values()),
    }


def build(path: Path, entries: int) -> None:
    """
    Write a ledger into the file of an opened store: the app's own chain, index and encoding, one transaction.

    Only the commits are left out, of which a million would take the disk an hour.
    """
    file = sqlite3.connect(path, isolation_level=None)
    try:
        file.execute("BEGIN")
        file.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", _rows(entries))
        file.execute("COMMIT")
    finally:
        file.close()


def _rows(entries: int) -> Iterator[tuple[str, str, str, str]]:
    partition = encoding.encode_key(_PARTITION)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    head = ledger.Head()
    for begin in range(0, entries, _A_COMMIT):
        drafts = [_draft(n) for n in range(begin, min(begin + _A_COMMIT, entries))]
        batch = ledger.chained(head, drafts, at + timedelta(seconds=begin))
        head = ledger.Head(batch[-1].number, batch[-1].hash)
        for write in ledger.entry_writes(batch):
            yield partition, encoding.encode_key(write.key), encoding.dump(write.body), f"{begin:x}"
    end = ledger.head_write(ledger.Head(), head)
    yield partition, encoding.encode_key(end.key), encoding.dump(end.body), "head"


def _draft(n: int) -> tuple[str, Draft]:
    life, step = divmod(n, len(_LIFE))
    kind, body = _LIFE[step]
    return f"{n:032x}", Draft(
        kind, "agentbreaker", _principal(life), f"20261101T000000-{life:08x}", dict(body)
    )


def _principal(life: int) -> str:
    """Give whose containment it is: every fifth one of the busy ones', so that histories differ in length."""
    number = life // 5 % _BUSY if life % 5 == 0 else life * 7919 % _PRINCIPALS
    return f"9b2e0000-0000-4000-8000-{number:012x}"


async def _milliseconds(store: Store, principal: str = "") -> float:
    began = time.perf_counter()
    found = await (ledger.about(store, principal, _LIMIT) if principal else ledger.recent(store, _LIMIT))
    took = (time.perf_counter() - began) * 1000
    if not found:
        raise RuntimeError("the ledger that was built knows nothing about a principal it was built with")
    return took
