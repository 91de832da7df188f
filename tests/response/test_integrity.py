"""A break in the ledger stops enforcement until a person accepts it, and nothing else makes it go unseen."""

from __future__ import annotations

import asyncio
import copy
import random
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ledger import CHAIN, LINKS, Memory, MemoryStore, change, memory_store

from clients.stores import Conflict, CorruptRecord, Delete, Put, Record, StoreUnreachable
from clients.stores.sqlite import SqliteStore
from clients.terms import Unknown
from response import integrity, ledger
from response.integrity import (
    BROKEN,
    CHECKPOINT,
    accept_break,
    check_all,
    ensure_intact,
    recorded_break,
    verify_tail,
)
from response.ledger import Broken, Verified, commit_with_entries, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from clients.stores import Store

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "state.db", "tenant")
    yield opened
    await opened.close()


async def write(store: Store, entries: int) -> None:
    for n in range(entries):
        await commit_with_entries(store, change(notes=[n]))


async def tamper(store: Store, number: int, **changes: Any) -> None:
    """Change a stored entry, as somebody with write access to the store could."""
    record = await store.get(f"ledger:{number:012}")
    assert record is not None
    await store.commit([Put(record.key, {**record.body, **changes})])


async def remove(store: Store, key: str) -> None:
    record = await store.get(key)
    assert record is not None
    await store.commit([Delete(key, record.etag)])


def at_noon() -> datetime:
    return NOON


async def test_a_full_check_leaves_a_checkpoint_and_the_tail_is_what_came_since(store: Store) -> None:
    await write(store, 5)
    found = await check_all(store, now=at_noon)
    assert isinstance(found, Verified)

    record = await store.get(CHECKPOINT)
    assert record is not None
    assert record.body == {"number": 5, "hash": found.head, "at": NOON.isoformat()}
    await write(store, 3)
    assert await verify_tail(store) == await verify(store)


async def test_the_tail_check_reads_the_tail_only(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store()
    await write(store, 40)
    await check_all(store)
    await write(store, 3)
    read: list[str] = []
    whole = store.scan

    async def scan(prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        page = await whole(prefix, after=after, limit=limit)
        read.extend(record.key for record in page)
        return page

    monkeypatch.setattr(store, "scan", scan)

    assert isinstance(await verify_tail(store), Verified)
    assert len(read) == 4  # the entry of the checkpoint is read again


async def test_an_empty_ledger_is_intact_and_gets_no_checkpoint(store: Store) -> None:
    assert await check_all(store) == Verified(0, "")
    assert await ensure_intact(store) == Verified(0, "")
    assert await store.get(CHECKPOINT) is None


@pytest.mark.parametrize(
    "body",
    [{}, {"number": True, "hash": ""}, {"number": 0, "hash": ""}, {"number": 2, "hash": 1}, {"number": 10**12, "hash": ""}],
)  # fmt: skip
async def test_a_checkpoint_that_is_none_makes_the_tail_check_read_everything(
    store: Store, body: dict[str, Any]
) -> None:
    await write(store, 4)
    await store.commit([Put(CHECKPOINT, body)])
    await tamper(store, 1, actor="somebody else")

    assert isinstance(await verify_tail(store), Broken)


async def test_a_chain_cut_off_with_its_head_rewritten_is_seen_because_a_check_saw_more(store: Store) -> None:
    await write(store, 3)
    kept = (await store.scan("ledger:"))[-1]
    await write(store, 2)
    await check_all(store)
    for number in (4, 5):
        await remove(store, f"ledger:{number:012}")
    await store.commit([Put(ledger.HEAD, {"number": 3, "hash": kept.body["hash"]})])

    assert isinstance(await verify(store), Verified)  # by itself the chain looks whole
    assert await verify_tail(store) == Broken(5, "a full check saw this entry, and now it is missing")
    assert await check_all(store) == Broken(5, "a full check saw another entry here")


async def test_a_chain_recomputed_as_a_whole_is_seen_because_a_check_saw_another(store: Store) -> None:
    await write(store, 4)
    await check_all(store)
    forged = memory_store()
    await write(forged, 4)
    for record in [*await forged.scan("ledger:"), await forged.get(ledger.HEAD)]:
        assert record is not None
        await store.commit([Put(record.key, record.body)])

    assert isinstance(await verify(store), Verified)
    assert isinstance(await verify_tail(store), Broken)
    assert isinstance(await check_all(store), Broken)


@given(number=st.integers(1, 6), checkpoint=st.integers(1, 6))
@settings(max_examples=60)
def test_no_checkpoint_however_forged_hides_a_break_from_the_full_check(number: int, checkpoint: int) -> None:
    records = dict(CHAIN.records)
    record = records[f"ledger:{number:012}"]
    records[record.key] = Record(record.key, {**record.body, "actor": "somebody else"}, record.etag)
    told = records[f"ledger:{checkpoint:012}"].body["hash"]
    records[CHECKPOINT] = Record(CHECKPOINT, {"number": checkpoint, "hash": told, "at": ""}, "e")
    memory = Memory()
    memory.records = records
    store = MemoryStore(memory, random.Random(1))

    found, tail = asyncio.run(check_all(store)), asyncio.run(verify_tail(store))

    assert isinstance(found, Broken)
    assert found.number == number
    assert isinstance(tail, Broken if checkpoint <= number else Verified)


# --- enforcement ----------------------------------------------------------------------------------


async def test_intact_is_asked_of_the_chain_once_and_of_the_record_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = memory_store()
    await write(store, 3)
    walked: list[str] = []
    whole = store.scan

    async def scan(prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        walked.append(prefix)
        return await whole(prefix, after=after, limit=limit)

    monkeypatch.setattr(store, "scan", scan)

    results = await asyncio.gather(*(ensure_intact(store) for _ in range(5)))
    assert {type(result) for result in results} == {Verified}
    assert len(walked) == 1
    # Another process finds a break: it counts here at once.
    await store.commit([Put(BROKEN, {"at": NOON.isoformat(), "number": 2, "why": "changed"})])
    assert await ensure_intact(store) == Broken(2, "changed")


async def test_a_break_is_recorded_for_all_and_stays_though_the_chain_reads_well_again(store: Store) -> None:
    await write(store, 4)
    record = (await store.scan("ledger:"))[1]
    await tamper(store, 2, actor="somebody else")

    assert await ensure_intact(store, now=at_noon) == Broken(2, "its content is not what was hashed")
    await store.commit([Put(record.key, record.body)])

    assert isinstance(await check_all(store), Verified)
    assert await ensure_intact(store) == Broken(2, "its content is not what was hashed")
    stored = await store.get(BROKEN)
    assert stored is not None
    assert stored.body == {"at": NOON.isoformat(), "number": 2, "why": "its content is not what was hashed"}


async def test_the_first_break_is_kept(store: Store) -> None:
    await write(store, 4)
    await tamper(store, 3, actor="x")
    await check_all(store)
    await tamper(store, 1, actor="x")
    await check_all(store)

    assert await recorded_break(store) == Broken(3, "its content is not what was hashed")


async def test_a_break_that_a_second_look_does_not_find_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scan is no snapshot: it may pass the place of an entry before, and see the next one after, their commit."""
    store = memory_store()
    await write(store, 4)
    whole, misses = store.scan, ["ledger:000000000003"]

    async def scan(prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        page = await whole(prefix, after=after, limit=limit)
        missed = misses.pop() if misses else ""
        return [record for record in page if record.key != missed]

    monkeypatch.setattr(store, "scan", scan)

    assert isinstance(await ensure_intact(store), Verified)
    assert await recorded_break(store) is None


class Unreadable(MemoryStore):
    """Fails reads whose key begins with ``prefix`` until it is cleared."""

    prefix = ""

    async def get(self, key: str) -> Record | None:
        if self.prefix and key.startswith(self.prefix):
            raise StoreUnreachable("gone")
        return await super().get(key)


@pytest.mark.parametrize("prefix", [BROKEN, CHECKPOINT, ledger.HEAD])
async def test_unreadable_is_never_intact_and_is_asked_again(prefix: str) -> None:
    store = Unreadable(Memory(), random.Random(1))
    await write(store, 2)
    store.prefix = prefix
    assert isinstance(await ensure_intact(store), Unknown)

    store.prefix = ""
    assert isinstance(await ensure_intact(store), Verified)
    store.prefix = BROKEN
    assert isinstance(await ensure_intact(store), Unknown)


async def test_a_record_of_a_break_that_says_nothing_readable_stops_all_the_same(store: Store) -> None:
    await write(store, 2)
    await store.commit([Put(BROKEN, {"number": "x"})])

    assert isinstance(await ensure_intact(store), Broken)


async def test_an_entry_that_is_no_json_is_a_break(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db", "tenant")
    await write(store, 3)
    with sqlite3.connect(tmp_path / "state.db") as file:
        file.execute("UPDATE records SET body = '{' WHERE key = 'ledger:000000000002'")
    file.close()

    assert isinstance(await ensure_intact(store), Broken)
    assert await recorded_break(store) is not None
    with pytest.raises(CorruptRecord):  # nobody can say what would be accepted
        await accept_break(store, actor="desk:ada", reason="x", now=NOON)
    await store.close()


# --- acceptance -----------------------------------------------------------------------------------


async def changed(store: Store) -> None:
    await tamper(store, 3, actor="somebody else")


async def removed(store: Store) -> None:
    await remove(store, "ledger:000000000003")


async def cut_off(store: Store) -> None:
    await remove(store, "ledger:000000000006")
    await remove(store, "ledger:000000000005")


async def head_gone(store: Store) -> None:
    await remove(store, ledger.HEAD)


async def head_behind(store: Store) -> None:
    record = await store.get("ledger:000000000004")
    assert record is not None
    await store.commit([Put(ledger.HEAD, {"number": 4, "hash": record.body["hash"]})])


async def head_nonsense(store: Store) -> None:
    await store.commit([Put(ledger.HEAD, {"number": "six"})])


async def head_far_away(store: Store) -> None:
    await store.commit([Put(ledger.HEAD, {"number": 10**12 - 1, "hash": "00"})])


async def several(store: Store) -> None:
    await changed(store)
    await remove(store, "ledger:000000000005")
    await head_gone(store)


DAMAGE = [changed, removed, cut_off, head_gone, head_behind, head_nonsense, head_far_away, several]


@pytest.mark.parametrize("checked_before", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_person_accepts_a_break_and_the_ledger_goes_on(
    store: Store, damage: Any, checked_before: bool
) -> None:
    await write(store, 6)
    if checked_before:
        await check_all(store)
    await damage(store)
    assert isinstance(await check_all(store), Broken)  # the tail check begins behind some of these
    assert isinstance(await ensure_intact(store), Broken)

    entry = await accept_break(store, actor="desk:ada", reason="restored from backup", now=NOON)

    assert entry is not None
    assert (entry.kind, entry.actor, entry.body["reason"]) == (
        "break_accepted",
        "desk:ada",
        "restored from backup",
    )
    assert entry.number == 7
    found = await ensure_intact(store)
    assert isinstance(found, Verified)
    await write(store, 2)
    whole, tail = await verify(store), await verify_tail(store)
    assert isinstance(whole, Verified)
    assert isinstance(tail, Verified)
    assert (whole.entries, whole.head) == (9, tail.head)
    assert whole.accepted == {"several": 2, "head_gone": 0, "head_behind": 0, "head_nonsense": 0, "head_far_away": 0}.get(
        damage.__name__, 1
    )  # fmt: skip
    assert isinstance(await check_all(store), Verified)


async def test_one_more_change_behind_an_accepted_break_is_a_break_again(store: Store) -> None:
    await write(store, 5)
    await changed(store)
    await accept_break(store, actor="desk:ada", reason="known", now=NOON)
    assert isinstance(await check_all(store), Verified)

    for number, changes in ((3, {"actor": "a third"}), (4, {"actor": "x"}), (6, {"actor": "x"})):
        before = await store.get(f"ledger:{number:012}")
        assert before is not None
        await tamper(store, number, **changes)
        assert isinstance(await verify(store), Broken)
        await store.commit([Put(before.key, before.body)])
    assert isinstance(await verify(store), Verified)


async def test_a_second_break_is_accepted_by_a_second_acceptance(store: Store) -> None:
    await write(store, 3)
    await tamper(store, 1, actor="x")
    await accept_break(store, actor="desk:ada", reason="known", now=NOON)
    await tamper(store, 1, actor="y")
    assert isinstance(await check_all(store), Broken)

    await accept_break(store, actor="desk:ada", reason="known too", now=NOON + timedelta(days=1))

    found = await check_all(store)
    assert isinstance(found, Verified)
    assert found.entries == 5


async def test_nothing_broken_is_nothing_accepted(store: Store) -> None:
    await write(store, 3)

    assert await accept_break(store, actor="desk:ada", reason="why not", now=NOON) is None
    assert len(await ledger.entries(store)) == 3


async def test_an_entry_written_meanwhile_makes_the_acceptance_a_conflict(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(store, 3)
    await tamper(store, 1, actor="x")
    await check_all(store)
    commit = store.commit

    async def late(writes: Any) -> Any:
        monkeypatch.setattr(store, "commit", commit)
        await write(store, 1)
        return await commit(writes)

    monkeypatch.setattr(store, "commit", late)

    with pytest.raises(Conflict):
        await accept_break(store, actor="desk:ada", reason="known", now=NOON)
    assert await recorded_break(store) is not None


@given(
    damaged=st.sets(st.sampled_from(LINKS), min_size=1, max_size=4),
    gone=st.sets(st.sampled_from(LINKS), max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_any_damage_is_seen_can_be_accepted_once_and_is_then_whole(damaged: set[str], gone: set[str]) -> None:
    memory = Memory()
    memory.records = {key: copy.deepcopy(record) for key, record in CHAIN.records.items() if key not in gone}
    for key in damaged - gone:
        record = memory.records[key]
        memory.records[key] = Record(key, {**record.body, "hash": "0" * 64}, record.etag)
    store = MemoryStore(memory, random.Random(1))

    async def run() -> None:
        assert isinstance(await check_all(store), Broken)
        assert await accept_break(store, actor="desk:ada", reason="known", now=NOON) is not None
        assert isinstance(await verify(store), Verified)
        await write(store, 1)
        assert isinstance(await check_all(store), Verified)
        assert await integrity.recorded_break(store) is None

    if gone != set(LINKS):
        asyncio.run(run())
