"""The ledger: written with what it records, gapless whoever writes, and nothing in it can be changed unseen."""

from __future__ import annotations

import asyncio
import copy
import random
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.stores import (
    Conflict,
    CorruptRecord,
    Delete,
    Insert,
    Put,
    Record,
    Replace,
    StoreOutcomeUnknown,
    StoreUnreachable,
    Write,
)
from clients.stores.sqlite import SqliteStore
from response import ledger
from response.ledger import Broken, Draft, Entry, EntryKind, Verified, commit_with_entries, entries, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from clients.stores import Store

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Memory:
    """What is stored, shared by the stores below."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}


class MemoryStore:
    """
    A store in memory, as one process sees it, that gives up the event loop when and as often as chance says.

    ``faults`` are taken one a commit: "lost" drops it, "late" carries it out a little later, "done" carries
    it out at once, and after each the caller is told that the outcome is unknown; "unsent" is unreachable.
    """

    def __init__(self, memory: Memory, chance: random.Random, faults: Sequence[str] = ()) -> None:
        self._memory, self._chance, self.faults = memory, chance, list(faults)
        self.late: list[asyncio.Task[Any]] = []

    async def get(self, key: str) -> Record | None:
        await self._pause()
        return self._memory.records.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        return [await self.get(key) for key in keys]

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        await self._pause()
        keys = sorted(key for key in self._memory.records if key.startswith(prefix) and key > after)
        return [self._memory.records[key] for key in keys[:limit]]

    async def commit(self, writes: Sequence[Write]) -> Mapping[str, str]:
        await self._pause()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "unsent":
            raise StoreUnreachable("not sent")
        if fault == "late":
            self.late.append(asyncio.create_task(self._later(writes)))
        if fault == "done":
            self._apply(writes)
        if fault:
            raise StoreOutcomeUnknown("no answer")
        return self._apply(writes)

    async def close(self) -> None:
        await asyncio.gather(*self.late, return_exceptions=True)

    async def _later(self, writes: Sequence[Write]) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.02))
        self._apply(writes)

    def _apply(self, writes: Sequence[Write]) -> Mapping[str, str]:
        records, new = dict(self._memory.records), {}
        for write in writes:
            there = records.get(write.key)
            match write:
                case Insert() if there is not None:
                    raise Conflict(write.key)
                case Replace(etag=etag) | Delete(etag=etag) if there is None or there.etag != etag:
                    raise Conflict(write.key)
                case Delete():
                    del records[write.key]
                case _:
                    new[write.key] = secrets.token_hex(4)
                    records[write.key] = Record(write.key, copy.deepcopy(dict(write.body)), new[write.key])
        self._memory.records = records
        return new

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)


def draft(note: Any = "", *, containment: str = "c1", kind: EntryKind = EntryKind.CLAIMED) -> Draft:
    return Draft(
        kind=kind, actor="agentbreaker", subject="p1", containment_id=containment, body={"note": note}
    )


def change(
    *writes: Write, notes: Sequence[Any] = ("",)
) -> Callable[[], Awaitable[tuple[list[Write], list[Draft]]]]:
    async def build() -> tuple[list[Write], list[Draft]]:
        return list(writes), [draft(note) for note in notes]

    return build


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "state.db", "tenant")
    yield opened
    await opened.close()


def memory_store(*faults: str) -> MemoryStore:
    return MemoryStore(Memory(), random.Random(1), faults)


async def test_state_and_entries_are_written_together(store: Store) -> None:
    written = await commit_with_entries(
        store, change(Insert("containment:c1", {}), notes=["a", "b"]), now=lambda: NOON
    )

    assert [(e.number, e.at, e.kind, e.body) for e in written] == [
        (1, NOON, "claimed", {"note": "a"}),
        (2, NOON, "claimed", {"note": "b"}),
    ]
    assert await store.get("containment:c1")
    assert await entries(store) == written
    assert await verify(store) == Verified(2, written[-1].hash)


async def test_an_empty_ledger_is_whole(store: Store) -> None:
    assert await verify(store) == Verified(0, "")
    assert await entries(store) == []


async def test_a_callers_conflict_is_the_callers_and_writes_no_entry(store: Store) -> None:
    await commit_with_entries(store, change(Insert("open:p1", {})))

    with pytest.raises(Conflict) as raised:
        await commit_with_entries(store, change(Insert("containment:c2", {}), Insert("open:p1", {})))

    assert raised.value.key == "open:p1"
    assert await store.get("containment:c2") is None
    assert isinstance(verified := await verify(store), Verified)
    assert verified.entries == 1


async def test_a_lost_race_for_the_head_is_not_the_callers_affair(tmp_path: Path) -> None:
    """Two stores on one file stand for two processes: neither knows what head the other left."""
    one, other = (SqliteStore(tmp_path / "state.db", "tenant") for _ in range(2))
    for n in range(5):
        await commit_with_entries(one, change(Insert(f"a{n}", {})))
        await commit_with_entries(other, change(Insert(f"b{n}", {})))

    assert isinstance(verified := await verify(one), Verified)
    assert verified.entries == 10
    await one.close()
    await other.close()


async def test_losing_the_race_every_time_is_a_conflict_about_the_head() -> None:
    class Beaten(MemoryStore):
        async def commit(self, writes: Sequence[Write]) -> Mapping[str, str]:
            raise Conflict(ledger.HEAD)

    with pytest.raises(Conflict) as raised:
        await commit_with_entries(Beaten(Memory(), random.Random(1)), change(), attempts=3)

    assert raised.value.key == ledger.HEAD


async def test_a_full_commit_says_what_counts(store: Store) -> None:
    """100 = the head, an entry and an index record for each of 24 subjects, and 51 of the caller's own."""

    async def build(own: int) -> tuple[list[Write], list[Draft]]:
        return [Insert(f"a{n}", {}) for n in range(own)], [
            replace(draft(), subject=f"p{n}") for n in range(24)
        ]

    with pytest.raises(ValueError, match="100"):
        await commit_with_entries(store, lambda: build(52))

    assert len(await commit_with_entries(store, lambda: build(51))) == 24


async def test_writes_without_an_entry_are_refused_and_nothing_is_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="entry"):
        await commit_with_entries(store, change(Put("a", {}), notes=[]))

    assert await commit_with_entries(store, change(notes=[])) == []
    assert await store.scan("") == []


@pytest.mark.parametrize("fault", ["lost", "late", "done"])
async def test_an_unknown_outcome_is_read_back_and_the_change_happens_once(fault: str) -> None:
    store = memory_store(fault)

    written = await commit_with_entries(store, change(Insert("open:p1", {})))
    await store.close()

    assert await entries(store) == written
    assert len(written) == 1
    assert isinstance(await verify(store), Verified)


async def test_an_outcome_that_stays_unknown_is_said_so() -> None:
    with pytest.raises(StoreOutcomeUnknown):
        await commit_with_entries(memory_store(*["lost"] * 20), change(Insert("open:p1", {})))


async def test_a_store_lost_between_commit_and_reading_back_leaves_the_outcome_unknown() -> None:
    class Gone(MemoryStore):
        async def get(self, key: str) -> Record | None:
            if not self.faults:
                raise StoreUnreachable("gone")
            return await super().get(key)

    with pytest.raises(StoreOutcomeUnknown):
        await commit_with_entries(Gone(Memory(), random.Random(1), ["done"]), change(Insert("open:p1", {})))


async def test_an_unreachable_store_is_said_so_at_once() -> None:
    store = memory_store("unsent")

    with pytest.raises(StoreUnreachable):
        await commit_with_entries(store, change(Insert("open:p1", {})))

    assert await store.scan("") == []
    assert len(await commit_with_entries(store, change(Insert("open:p1", {})))) == 1


async def test_a_cancelled_commit_leaves_the_pen_usable(store: SqliteStore) -> None:
    await commit_with_entries(store, change())
    running = asyncio.create_task(commit_with_entries(store, change()))
    await asyncio.sleep(0.0005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    await commit_with_entries(store, change())

    assert isinstance(await verify(store), Verified)


async def test_a_head_that_does_not_know_its_entries_stops_appending(store: Store) -> None:
    await commit_with_entries(store, change())
    head = await store.get(ledger.HEAD)
    assert head is not None
    await store.commit([Delete(ledger.HEAD, head.etag)])

    with pytest.raises(CorruptRecord):
        await commit_with_entries(store, change())


async def test_bodies_are_stored_as_they_are_read_back_and_long_texts_are_cut(store: Store) -> None:
    odd = {"t": (1, 2), 10: {9: "half \ud800"}, "kind": EntryKind.PULLED, "f": 0.1, "name": "x" * 3000}

    [written] = await commit_with_entries(store, change(notes=[odd]))

    assert await entries(store) == [written]
    assert written.body["note"]["10"] == {"9": "half \ud800"}
    assert written.body["note"]["name"] == "x" * 2000 + "… [1000 characters more]"
    assert isinstance(await verify(store), Verified)


@pytest.mark.parametrize("note", [object(), float("inf"), {1, 2}])
async def test_a_body_that_is_no_json_is_refused(store: Store, note: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await commit_with_entries(store, change(notes=[note]))


async def test_entries_are_found_by_containment_and_time() -> None:
    store = memory_store()
    for n in range(30):

        async def build(n: int = n) -> tuple[list[Write], list[Draft]]:
            return [], [draft(n, containment=f"c{n % 3}")]

        await commit_with_entries(store, build, now=lambda n=n: NOON + timedelta(hours=n))  # type: ignore[misc]

    found = await entries(store, containment_id="c1", since=NOON + timedelta(hours=20))

    assert [e.number for e in found] == [23, 26, 29]
    assert [e.number for e in await entries(store, containment_id="c0")] == list(range(1, 31, 3))
    assert [e.number for e in await entries(store, since=NOON + timedelta(hours=28))] == [29, 30]


async def test_long_ledgers_are_read_whole_and_recent_entries_without_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "_PAGE", 7)
    store = memory_store()
    for n in range(50):
        await commit_with_entries(store, change(notes=[n]), now=lambda n=n: NOON + timedelta(hours=n))  # type: ignore[misc]
    scans: list[str] = []
    whole = store.scan

    async def scan(prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        scans.append(after)
        return await whole(prefix, after=after, limit=limit)

    monkeypatch.setattr(store, "scan", scan)

    assert [e.number for e in await entries(store)] == list(range(1, 51))
    del scans[:]
    assert [e.number for e in await entries(store, since=NOON + timedelta(hours=45))] == [46, 47, 48, 49, 50]
    assert len(scans) == 2
    assert isinstance(verified := await verify(store), Verified)
    assert verified.entries == 50


async def test_entries_appended_while_the_chain_is_verified_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = memory_store()
    await commit_with_entries(store, change())
    read_head = ledger._read_head
    late = iter([change(), change()])

    async def appended_first(of: Store) -> Any:
        for build in late:
            monkeypatch.setattr(ledger, "_read_head", read_head)
            await commit_with_entries(of, build)
            monkeypatch.setattr(ledger, "_read_head", appended_first)
            break
        return await read_head(of)

    monkeypatch.setattr(ledger, "_read_head", appended_first)

    assert isinstance(verified := await verify(store), Verified)
    assert verified.entries == 3


# --- never -----------------------------------------------------------------------------------------


def chain(length: int) -> Memory:
    store = memory_store()

    async def write() -> None:
        for n in range(length):
            await commit_with_entries(store, change(notes=[{"n": n, "list": [1, "1", True], "none": None}]))

    asyncio.run(write())
    return store._memory


CHAIN = chain(6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON, where 1, 1.0 and true are three values."""
    return repr(one) == repr(other)


def checked(memory: Memory) -> Verified | Broken:
    return asyncio.run(verify(MemoryStore(memory, random.Random(1))))


@given(number=st.integers(1, 6), data=st.data())
@settings(max_examples=300)
def test_a_changed_entry_is_never_overlooked(number: int, data: st.DataObject) -> None:
    records = dict(CHAIN.records)
    record = records[f"ledger:{number:012}"]
    body = copy.deepcopy(dict(record.body))
    where = data.draw(st.sampled_from([body, body["body"], body["body"]["note"]]))
    name = data.draw(st.sampled_from([*where, "added"]))
    if name in where and data.draw(st.booleans()):
        del where[name]
    else:
        where[name] = data.draw(JSON.filter(lambda value: name not in where or not same(value, where[name])))
    records[record.key] = Record(record.key, body, record.etag)
    memory = Memory()
    memory.records = records

    found = checked(memory)

    assert isinstance(found, Broken)
    assert found.number in (number, number + 1)


LINKS = [key for key in CHAIN.records if key.startswith("ledger")]  # the chain without its index


@given(keys=st.sets(st.sampled_from(LINKS), min_size=1))
def test_removed_entries_and_a_removed_head_are_never_overlooked(keys: set[str]) -> None:
    memory = Memory()
    memory.records = {key: record for key, record in CHAIN.records.items() if key not in keys}

    found = checked(memory)

    if keys != set(LINKS):
        assert isinstance(found, Broken)
    else:  # all of it, head included: only a hash noted elsewhere shows that
        assert found == Verified(0, "")


@given(order=st.permutations(range(1, 7)))
def test_reordered_entries_are_never_overlooked(order: list[int]) -> None:
    memory = Memory()
    memory.records = dict(CHAIN.records)
    for place, number in enumerate(order, 1):
        moved = CHAIN.records[f"ledger:{number:012}"]
        memory.records[f"ledger:{place:012}"] = Record(f"ledger:{place:012}", moved.body, moved.etag)

    assert isinstance(checked(memory), Verified if list(order) == [1, 2, 3, 4, 5, 6] else Broken)


@given(body=JSON)
def test_a_changed_head_is_never_overlooked(body: Any) -> None:
    memory = Memory()
    head = CHAIN.records[ledger.HEAD]
    for changed in ({**head.body, "number": body}, {**head.body, "hash": body}):
        memory.records = {**CHAIN.records, ledger.HEAD: Record(ledger.HEAD, changed, head.etag)}
        try:
            found = checked(memory)
        except CorruptRecord:
            continue
        assert isinstance(found, Verified if same(changed, dict(head.body)) else Broken)


@given(
    seed=st.integers(0, 10_000),
    processes=st.integers(1, 4),
    writers=st.integers(1, 8),
    faults=st.lists(st.sampled_from(["", "lost", "late", "done"]), max_size=4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whoever_appends_when_the_chain_is_gapless_and_nothing_happens_twice(
    seed: int, processes: int, writers: int, faults: list[str]
) -> None:
    """Each writer inserts its own key and wants the shared one; an entry exists for each change and no other."""
    memory, chance = Memory(), random.Random(seed)
    stores = [MemoryStore(memory, chance, faults) for _ in range(processes)]

    async def write(n: int) -> list[Entry]:
        key = "shared" if n % 3 == 0 else f"own:{n}"
        return await commit_with_entries(
            stores[n % processes], change(Insert(key, {"by": n}), notes=[[n, 0], [n, 1]][: 1 + n % 2])
        )

    async def run() -> list[list[Entry] | BaseException]:
        results = await asyncio.gather(*map(write, range(writers)), return_exceptions=True)
        for store in stores:
            await store.close()
        return results

    results = asyncio.run(run())
    written = [entry for result in results if isinstance(result, list) for entry in result]

    stored = [memory.records[key].body for key in sorted(memory.records) if key.startswith("ledger:")]
    assert sorted((e.to_body() for e in written), key=lambda body: body["number"]) == stored
    assert checked(memory) == Verified(len(written), stored[-1]["hash"])
    for n, result in enumerate(results):
        key = "shared" if n % 3 == 0 else f"own:{n}"
        if isinstance(result, list):
            assert memory.records[key].body == {"by": n}
        else:
            assert isinstance(result, Conflict)
            assert result.key == "shared"
