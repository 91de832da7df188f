"""What every store promises, asked of each. See ``clients/stores/interface.py``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from clients.stores import (
    Conflict,
    Delete,
    Insert,
    Put,
    Replace,
    Store,
    StoreUnreachable,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ODD_KEYS = [
    "a/b", "a\\b", "a#b", "a?b", "a%b", "a%2Fb", "a'b", 'a"b', "a b", " a", "a ", "a.b", ".", "..", "a>b", "a[b",
    "a!b", "a~b", "a$b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "a\x9fb", "aéb", "a漢b", "a\U0001d51eb", "a\uffffb", "A", "a:", "a:b",
    "finding:9b2e:AG-04:2026-11-24T01:02:03.000000Z", "x" * 512,
]  # fmt: skip


async def test_a_key_never_written_is_none(store: Store) -> None:
    assert await store.get("containment:none") is None
    assert await store.scan("containment:") == []


async def test_many_keys_are_read_in_the_order_asked_and_a_missing_one_is_none(store: Store) -> None:
    await store.commit([Insert(f"k{n}", {"n": n}) for n in range(40)])
    keys = [f"k{n}" for n in range(39, -1, -1)]

    found = await store.get_many([*keys, "none", "k3"])

    assert [record and record.key for record in found] == [*keys, None, "k3"]
    assert [record.body["n"] for record in found if record] == [*range(39, -1, -1), 3]
    assert found[0] == await store.get("k39")
    assert await store.get_many([]) == []
    with pytest.raises(ValueError, match="key"):
        await store.get_many(["k1", ""])


async def test_what_was_inserted_is_read_back(store: Store) -> None:
    body = {"text": "é漢\U0001d51e\ud800\x00", "number": 1.5, "list": [1, None, True], "nested": {"": ""}}

    etags = await store.commit([Insert("a", body)])
    record = await store.get("a")

    assert record is not None
    assert (record.key, record.body, record.etag) == ("a", body, etags["a"])


async def test_each_write_changes_the_etag_even_with_the_same_body(store: Store) -> None:
    seen = set()
    for write in (Insert("a", {}), Put("a", {})):
        seen.add((await store.commit([write]))["a"])
    record = await store.get("a")
    assert record is not None
    seen.add((await store.commit([Replace("a", {}, record.etag)]))["a"])

    assert len(seen) == 3


async def test_a_replaced_body_leaves_nothing_of_the_old_one(store: Store) -> None:
    await store.commit([Insert("a", {"long": "x" * 200_000})])
    await store.commit([Put("a", {"short": 1})])

    record = await store.get("a")

    assert record is not None
    assert record.body == {"short": 1}


async def test_an_insert_of_an_existing_key_is_a_conflict(store: Store) -> None:
    await store.commit([Insert("a", {"by": 1})])

    with pytest.raises(Conflict) as raised:
        await store.commit([Insert("b", {}), Insert("a", {"by": 2})])

    assert raised.value.key == "a"
    assert [(r.key, r.body) for r in await store.scan("")] == [("a", {"by": 1})]


async def test_a_stale_or_missing_record_is_a_conflict_and_nothing_is_written(store: Store) -> None:
    stale = (await store.commit([Insert("a", {"version": 1})]))["a"]
    await store.commit([Put("a", {"version": 2})])

    for write in (
        Replace("a", {}, stale),
        Delete("a", stale),
        Replace("gone", {}, stale),
        Delete("gone", stale),
    ):
        with pytest.raises(Conflict) as raised:
            await store.commit([Put("other", {}), write, Insert("another", {})])
        assert raised.value.key == write.key

    assert [(r.key, r.body) for r in await store.scan("")] == [("a", {"version": 2})]


async def test_a_record_deleted_and_written_again_has_another_etag(store: Store) -> None:
    first = (await store.commit([Insert("a", {})]))["a"]
    await store.commit([Delete("a", first)])
    await store.commit([Insert("a", {})])

    with pytest.raises(Conflict):
        await store.commit([Delete("a", first)])


async def test_a_batch_of_every_kind_gives_the_etags_of_what_is_there_after(store: Store) -> None:
    etags = await store.commit([Insert("a", {}), Insert("b", {})])

    new = await store.commit(
        [Replace("a", {"x": 1}, etags["a"]), Delete("b", etags["b"]), Put("c", {}), Insert("d", {})]
    )

    assert new == {record.key: record.etag for record in await store.scan("")}
    assert list(new) == ["a", "c", "d"]


async def test_no_writes_is_nothing_done(store: Store) -> None:
    assert await store.commit([]) == {}


async def test_of_twenty_inserters_of_one_key_exactly_one_wins(opened: Callable[[str], Store]) -> None:
    stores = [opened("tenant") for _ in range(4)]

    results = await asyncio.gather(
        *(
            stores[n % 4].commit([Insert("open:x", {"by": n}), Insert(f"containment:{n}", {})])
            for n in range(20)
        ),
        return_exceptions=True,
    )

    assert [type(r) for r in results if isinstance(r, BaseException)] == [Conflict] * 19
    winner = next(n for n, result in enumerate(results) if not isinstance(result, BaseException))
    assert {r.key: r.body for r in await stores[0].scan("")} == {
        "open:x": {"by": winner},
        f"containment:{winner}": {},
    }


async def test_concurrent_replaces_lose_no_update(opened: Callable[[str], Store]) -> None:
    stores = [opened("tenant") for _ in range(3)]
    await stores[0].commit([Insert("count", {"n": 0})])

    async def add(store: Store) -> None:
        while True:
            record = await store.get("count")
            assert record is not None
            try:
                await store.commit([Replace("count", {"n": record.body["n"] + 1}, record.etag)])
            except Conflict:
                continue
            return

    await asyncio.gather(*(add(stores[n % 3]) for n in range(12)))

    record = await stores[0].get("count")
    assert record is not None
    assert record.body == {"n": 12}


async def test_a_scan_is_sorted_bounded_by_its_prefix_and_goes_on_after_a_key(store: Store) -> None:
    await store.commit([Insert(key, {}) for key in ("b:2", "a", "b:", "b:10", "b:1", "b;", "c", "b")])

    assert [r.key for r in await store.scan("b:")] == ["b:", "b:1", "b:10", "b:2"]
    assert [r.key for r in await store.scan("b:", after="b:1")] == ["b:10", "b:2"]
    assert [r.key for r in await store.scan("b:", after="b:0", limit=2)] == ["b:1", "b:10"]
    assert [r.key for r in await store.scan("b:", after="a", limit=1)] == ["b:"]
    assert await store.scan("b:", after="z") == []
    assert await store.scan("b:", limit=0) == []


async def test_a_scan_gives_all_pages(store: Store) -> None:
    keys = [f"ledger:{n:012}" for n in range(2150)]
    for start in range(0, len(keys), 100):
        await store.commit([Insert(key, {"n": key}) for key in keys[start : start + 100]])
    await store.commit([Insert("lfdger", {})])

    assert [r.key for r in await store.scan("ledger:")] == keys
    assert [r.key for r in await store.scan("ledger:", limit=1500)] == keys[:1500]
    assert [r.key for r in await store.scan("ledger:", after=keys[2099])] == keys[2100:]


async def test_odd_keys_are_kept_apart_and_in_order_of_code_points(store: Store) -> None:
    await store.commit([Insert(key, {"key": key}) for key in ODD_KEYS])

    records = await store.scan("")

    assert [r.key for r in records] == sorted(ODD_KEYS)
    assert all(r.body["key"] == r.key for r in records)
    for key in ODD_KEYS:
        record = await store.get(key)
        assert record is not None
        assert record.key == key
        assert [r.key for r in await store.scan(key)] == sorted(k for k in ODD_KEYS if k.startswith(key))
    assert await store.commit([Delete(r.key, r.etag) for r in records]) == {}
    assert await store.scan("") == []


@pytest.mark.parametrize("key", ["", "x" * 513, "/" * 257, "a\ud800"])
async def test_a_key_that_no_store_takes_is_refused_before_anything_is_sent(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await store.commit([Insert("fine", {}), Insert(key, {})])
    with pytest.raises(ValueError, match="key"):
        await store.get(key)
    assert await store.scan("") == []


@pytest.mark.parametrize(
    "body",
    [
        {"x": "a" * (256 * 1024)},
        {"x": "é" * 50_000},
        {"x": object()},
        {"x": float("nan")},
        {"x": {1, 2}},
        {1: {}, (2,): 3},
    ],
)
async def test_a_body_that_no_store_takes_is_refused_before_anything_is_sent(
    store: Store, body: Mapping[str, Any]
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is json's own for some of these
        await store.commit([Insert("fine", {}), Insert("a", body)])
    assert await store.scan("") == []


# aiohttp warns above 1 MiB; what fits is asked here, and real batches are far smaller.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_a_body_of_256_kib_and_a_batch_of_3_mib_fit(store: Store) -> None:
    bodies = {f"k{n}": {"x": '"' * (130_000 - n)} for n in range(5)} | {
        "whole": {"x": "a" * (256 * 1024 - 8)}
    }

    await store.commit([Insert(key, body) for key, body in bodies.items()])

    assert {r.key: r.body for r in await store.scan("")} == bodies


async def test_batches_too_large_or_ambiguous_are_refused(store: Store) -> None:
    for writes in (
        [Insert(f"k{n}", {}) for n in range(101)],
        [Insert("a", {}), Put("a", {})],
        [Insert(f"k{n}", {"x": "a" * 250_000}) for n in range(13)],
        [Replace("a", {}, "*")],
        [Delete("a", "")],
    ):
        with pytest.raises(ValueError, match=r"commit|etag"):
            await store.commit(writes)
    assert await store.scan("") == []


async def test_a_hundred_writes_are_one_batch(store: Store) -> None:
    await store.commit([Insert(f"k{n:03}", {}) for n in range(100)])

    assert len(await store.scan("k")) == 100


async def test_partitions_do_not_see_each_other(opened: Callable[[str], Store]) -> None:
    one, other = opened("tenant/one"), opened("tenant/two")
    await one.commit([Insert("a", {"in": 1})])
    await other.commit([Insert("a", {"in": 2})])

    assert [r.body for r in await one.scan("")] == [{"in": 1}]


async def test_what_was_written_is_there_for_the_next_process(opened: Callable[[str], Store]) -> None:
    first = opened("tenant")
    await first.commit([Insert("a", {"x": 1})])
    await first.close()

    record = await opened("tenant").get("a")

    assert record is not None
    assert record.body == {"x": 1}


async def test_a_closed_store_says_so_and_can_be_closed_again(store: Store) -> None:
    await store.commit([Insert("a", {})])
    await store.close()
    await store.close()

    with pytest.raises(RuntimeError, match="closed"):
        await store.get("a")


@pytest.mark.parametrize("kind", ["sqlite", "azure"])
async def test_an_unreachable_store_says_that_nothing_was_written(
    kind: str, tmp_path: Any, unused_tcp_port: int
) -> None:
    (tmp_path / "file").write_text("not a folder")
    url = (
        f"sqlite:///{tmp_path}/file/x.db"
        if kind == "sqlite"
        else f"http://127.0.0.1:{unused_tcp_port}/devstoreaccount1/state"
    )
    store = open_store(url, "tenant")
    try:
        with pytest.raises(StoreUnreachable):
            await store.get("a")
        with pytest.raises(StoreUnreachable):
            await store.get_many(["a", "b"])
        with pytest.raises(StoreUnreachable):
            await store.scan("a")
        with pytest.raises(StoreUnreachable):
            await store.commit([Insert("a", {})])
    finally:
        await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "", "sqlite:///", "sqlite:/x", "postgres://x/y", "http://account.table.core.windows.net/state",
        "https://evil.example/state", "https://table.core.windows.net.evil.example/state", "https://account.table.core.windows.net",
        "https://account.table.core.windows.net/no-dashes", "https://account.table.core.windows.net/1st",
        "https://u:p@account.table.core.windows.net/state", "https://account.table.core.windows.net/state?sv=1",
        "https://account.table.core.windows.net/state",
    ],
)  # fmt: skip
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"store|plain http|Azure"):
        open_store(url, "tenant")
