"""What is particular to the SQLite store: several processes, files, damage."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from clients.stores import Conflict, CorruptRecord, Insert, Put, Replace, StoreRefused, StoreUnreachable
from clients.stores import sqlite as module
from clients.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path


async def _count_up(path: str, times: int) -> int:
    store, won = SqliteStore(path, "tenant"), 0
    try:
        for _ in range(times):
            won += await _add_one(store)
    finally:
        await store.close()
    return won


async def _add_one(store: SqliteStore) -> int:
    while True:
        record = await store.get("count")
        body = {"n": record.body["n"] + 1 if record else 1}
        try:
            await store.commit([Replace("count", body, record.etag) if record else Insert("count", body)])
        except Conflict:
            continue
        return 1


def _in_process(path: str, times: int) -> int:
    return asyncio.run(_count_up(path, times))


async def test_several_processes_on_a_file_that_none_has_created_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "state.db")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.starmap(_in_process, [(path, 25)] * 4)
        pool.close()
        pool.join()

    store = SqliteStore(path, "tenant")
    record = await store.get("count")
    await store.close()

    assert won == [25] * 4
    assert record is not None
    assert record.body == {"n": 100}


async def test_the_event_loop_goes_on_while_the_file_is_locked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db", "tenant")
    await store.commit([Insert("a", {})])
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.commit([Insert("b", {})]))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        other.execute("ROLLBACK")
        await waiting
    await store.close()


async def test_a_file_locked_for_too_long_is_unreachable_and_unwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.1)
    store = SqliteStore(tmp_path / "state.db", "tenant")
    await store.commit([Insert("a", {})])
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnreachable):
            await store.commit([Insert("b", {})])
    await store.commit([Insert("c", {})])

    assert [r.key for r in await store.scan("")] == ["a", "c"]
    await store.close()


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state" / "a.db", "tenant")
    await store.commit([Insert("a", {})])
    await store.close()

    assert stat.S_IMODE((tmp_path / "state" / "a.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    store = SqliteStore(tmp_path / "state.db", "tenant")

    with pytest.raises(CorruptRecord):
        await store.get("a")
    await store.close()


@pytest.mark.parametrize("body", ["", "[]", "{", "null"])
async def test_a_body_that_somebody_spoilt_is_corrupt(tmp_path: Path, body: str) -> None:
    store = SqliteStore(tmp_path / "state.db", "tenant")
    await store.commit([Put("a", {})])
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("UPDATE records SET body = ?", (body,))

    with pytest.raises(CorruptRecord):
        await store.get("a")
    with pytest.raises(CorruptRecord):
        await store.scan("")
    await store.close()


def test_sqlite_errors_become_ours_by_code() -> None:
    expected = {
        sqlite3.SQLITE_READONLY: StoreRefused,
        sqlite3.SQLITE_NOTADB: CorruptRecord,
        sqlite3.SQLITE_BUSY: StoreUnreachable,
    }
    for code, kind in expected.items():
        error = sqlite3.OperationalError("said SQLite")
        error.sqlite_errorcode = code
        assert type(module._translated(error)) is kind


def test_a_conflict_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Conflict("open:x")))  # noqa: S301 - our own bytes

    assert copy.key == "open:x"
    assert str(copy) == str(Conflict("open:x"))
