"""The ledger on both stores: what ``tests/response`` asks of one, asked of each where the stores differ."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clients.stores import Delete, Put
from response import integrity, ledger
from response.ledger import Broken, Draft, EntryKind, Verified, about, commit_with_entries, recent, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.stores import Store, Write

ONE, OTHER = "9b2e0000-0000-4000-8000-000000000001", "9b2e0000-0000-4000-8000-000000000002"


async def say(store: Store, *subjects: str) -> None:
    async def build() -> tuple[list[Write], list[Draft]]:
        return [], [Draft(EntryKind.CLAIMED, "agentbreaker", each, "c1", {"n": each}) for each in subjects]

    await commit_with_entries(store, build)


async def test_the_newest_entries_and_a_history_are_read(store: Store) -> None:
    for _ in range(12):
        await say(store, ONE, OTHER, ONE)
    await say(store, "x / odd # subject?")

    assert [entry.number for entry in await recent(store, 3)] == [37, 36, 35]
    assert [entry.number for entry in await about(store, ONE, 3)] == [36, 34, 33]
    assert [entry.number for entry in await about(store, OTHER)] == list(range(35, 0, -3))
    assert [entry.number for entry in await about(store, "x / odd # subject?")] == [37]
    assert await ledger.reindex(store) == 0


async def test_writers_of_two_processes_leave_one_chain_and_one_index(opened: Callable[[str], Store]) -> None:
    stores = [opened("tenant") for _ in range(2)]

    await asyncio.gather(*(say(stores[n % 2], (ONE, OTHER)[n % 2], "") for n in range(12)))

    assert isinstance(await verify(stores[0]), Verified)
    whole = await ledger.entries(stores[1])
    for subject in (ONE, OTHER):
        assert await about(stores[0], subject) == [e for e in reversed(whole) if e.subject == subject]


async def test_a_break_stops_every_process_until_it_is_accepted(opened: Callable[[str], Store]) -> None:
    one, other = opened("tenant"), opened("tenant")
    await say(one, *[ONE] * 5)
    assert isinstance(await integrity.ensure_intact(other), Verified)
    for key in ("ledger:000000000002", "ledger:000000000005"):
        record = await one.get(key)
        assert record is not None
        await one.commit([Delete(key, record.etag)])
    head = await one.get(ledger.HEAD)
    assert head is not None
    await one.commit([Put(ledger.HEAD, {"number": "none"})])

    assert isinstance(await integrity.check_all(one), Broken)
    assert isinstance(await integrity.ensure_intact(other), Broken)
    entry = await integrity.accept_break(one, actor="desk:ada", reason="known", now=datetime.now(UTC))
    assert entry is not None
    assert isinstance(await integrity.ensure_intact(other), Verified)
    await say(other, ONE)
    assert isinstance(await integrity.check_all(one), Verified)
