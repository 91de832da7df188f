"""Reading the ledger by end and by principal: the newest first, whatever stands between, on every store."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ledger import Memory, MemoryStore, memory_store

from clients.stores import CorruptRecord, Delete, Put, Record
from clients.stores.sqlite import SqliteStore
from response import ledger
from response.ledger import Draft, EntryKind, about, commit_with_entries, recent, reindex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from clients.stores import Store, Write

ONE, OTHER = "9b2e0000-0000-4000-8000-000000000001", "9b2e0000-0000-4000-8000-000000000002"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "state.db", "tenant")
    yield opened
    await opened.close()


async def say(store: Store, *subjects: str, containment: str = "c1") -> None:
    """Write one commit with an entry a subject."""

    async def build() -> tuple[list[Write], list[Draft]]:
        return [], [Draft(EntryKind.CLAIMED, "agentbreaker", each, containment, {}) for each in subjects]

    await commit_with_entries(store, build)


async def test_recent_entries_come_newest_first_and_no_more_than_asked(store: Store) -> None:
    assert await recent(store, 5) == []
    for _ in range(4):
        await say(store, ONE, OTHER)

    assert [entry.number for entry in await recent(store, 3)] == [8, 7, 6]
    assert [entry.number for entry in await recent(store, 50)] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert await recent(store, 0) == []


async def test_what_is_asked_about_one_principal_is_about_nobody_else(store: Store) -> None:
    await say(store, ONE, OTHER, ONE)
    await say(store, OTHER, "")
    await say(store, ONE, containment="c2")

    assert [entry.number for entry in await about(store, ONE)] == [6, 3, 1]
    assert [entry.number for entry in await about(store, OTHER)] == [4, 2]
    assert [entry.number for entry in await about(store, ONE, 2)] == [6, 3]
    assert [entry.number for entry in await about(store, ONE, containment_id="c1")] == [3, 1]
    assert await about(store, "nobody") == []


async def test_a_subject_that_is_no_object_id_reaches_into_nobody_elses_history(store: Store) -> None:
    odd = ["a", "a:b", f"{ONE}:999999999998", "x" * 5000, "half \ud800"]
    for subject in odd:
        await say(store, subject)

    for number, subject in enumerate(odd, 1):
        assert [entry.number for entry in await about(store, subject)] == [number]
    assert await about(store, ONE) == []


async def test_an_index_that_names_what_is_not_so_is_said_so_and_not_shown(store: Store) -> None:
    await say(store, ONE, OTHER)
    record = (await store.scan(f"about:{ONE}:"))[0]

    for numbers in ([2], [7], ["1"], None):
        await store.commit([Put(record.key, {"numbers": numbers})])
        with pytest.raises(CorruptRecord):
            await about(store, ONE)


async def test_reindex_finds_what_an_older_version_wrote_and_adds_nothing_twice(store: Store) -> None:
    await say(store, ONE, OTHER, ONE)
    await say(store, ONE, "")
    index = await store.scan("about:")
    await store.commit([Delete(record.key, record.etag) for record in index])
    assert await about(store, ONE) == []

    assert await reindex(store) == 4
    assert [entry.number for entry in await about(store, ONE)] == [4, 3, 1]
    assert [entry.number for entry in await about(store, OTHER)] == [2]
    assert await reindex(store) == 0


@given(
    commits=st.lists(
        st.lists(st.sampled_from([ONE, OTHER, "third", ""]), min_size=1, max_size=5), min_size=1, max_size=12
    ),
    lost=st.sets(st.integers(0, 30)),
    limit=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_index_gives_what_reading_everything_gives_also_after_repair(
    commits: list[list[str]], lost: set[int], limit: int
) -> None:
    store = memory_store()

    async def run() -> None:
        for subjects in commits:
            await say(store, *subjects)
        records = store._memory.records
        index = sorted(key for key in records if key.startswith("about:"))
        for place in lost & set(range(len(index))):
            del records[index[place]]
        await reindex(store)
        whole = await ledger.entries(store)
        for subject in (ONE, OTHER, "third"):
            theirs = [entry for entry in reversed(whole) if entry.subject == subject]
            assert await about(store, subject, limit) == theirs[:limit]
        assert await recent(store, limit) == whole[::-1][:limit]

    asyncio.run(run())


async def test_asking_costs_what_is_asked_for_and_not_the_length_of_the_chain() -> None:
    """Counted in records read: the time is measured by ``python -m bench --part ledger``."""
    store = Counting(Memory())
    for n in range(300):
        await say(store, ONE if n % 10 == 0 else OTHER)
    store.read = 0

    await about(store, ONE, 10)
    assert store.read <= 20
    store.read = 0
    await recent(store, 10)
    assert store.read <= 11


class Counting(MemoryStore):
    def __init__(self, memory: Memory) -> None:
        super().__init__(memory, random.Random(1))
        self.read = 0

    async def get(self, key: str) -> Record | None:
        self.read += 1
        return await super().get(key)

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        found = await super().scan(prefix, after=after, limit=limit)
        self.read += len(found)
        return found
