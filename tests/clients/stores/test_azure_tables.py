"""What is particular to the Azure store: which failure of the network or service means what."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from clients.stores import (
    Conflict,
    Insert,
    StoreError,
    StoreOutcomeUnknown,
    StoreRefused,
    StoreUnreachable,
    open_store,
)
from clients.stores import azure_tables as module
from clients.stores.azure_tables import AzureTablesStore, emulator_credential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from clients.stores import Store

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def table_service(answer: Answer) -> AsyncIterator[tuple[Store, list[str]]]:
    """A store whose service answers as told, and the requests that reached it."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path}")
        return await answer(request)

    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    store = AzureTablesStore(
        f"http://127.0.0.1:{port}/devstoreaccount1", "state", "tenant", emulator_credential()
    )
    try:
        yield store, seen
    finally:
        await store.close()
        await runner.cleanup()


def refusal(status: int, code: str) -> web.Response:
    body = {"odata.error": {"code": code, "message": {"lang": "en-US", "value": "no"}}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def says(status: int, code: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return refusal(status, code)

    return answer


@pytest.mark.parametrize(
    ("status", "code", "on_read", "on_commit"),
    [
        (401, "InvalidAuthenticationInfo", StoreRefused, StoreRefused),
        (403, "AuthorizationPermissionMismatch", StoreRefused, StoreRefused),
        (403, "AuthorizationFailure", StoreRefused, StoreRefused),
        (408, "RequestTimeout", StoreUnreachable, StoreOutcomeUnknown),
        (429, "TooManyRequests", StoreUnreachable, StoreOutcomeUnknown),
        (500, "InternalError", StoreUnreachable, StoreOutcomeUnknown),
        (500, "OperationTimedOut", StoreUnreachable, StoreOutcomeUnknown),
        (503, "ServerBusy", StoreUnreachable, StoreOutcomeUnknown),
        (412, "UpdateConditionNotSatisfied", StoreError, Conflict),
        (400, "InvalidInput", StoreError, StoreError),
        (404, "NotWhatYouThink", StoreError, StoreError),
        (409, "TableBeingDeleted", StoreError, StoreError),
        (302, "Moved", StoreUnreachable, StoreOutcomeUnknown),
    ],
)
async def test_every_status_has_its_meaning(
    status: int,
    code: str,
    on_read: type[StoreError],
    on_commit: type[StoreError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_READ_PAUSE", 0)
    async with table_service(says(status, code)) as (store, seen):
        with pytest.raises(StoreError) as on_get:
            await store.get("a")
        with pytest.raises(StoreError) as on_scan:
            await store.scan("a")
        reads = len(seen)
        with pytest.raises(StoreError) as on_write:
            await store.commit([Insert("a", {})])

    assert [type(e.value) for e in (on_get, on_scan, on_write)] == [on_read, on_read, on_commit]
    assert reads == (6 if on_read is StoreUnreachable else 2)  # only what may pass by itself is asked again
    assert len(seen) == reads + 1  # a commit is sent once


async def test_a_connection_broken_before_the_answer_leaves_a_commit_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_READ_PAUSE", 0)

    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with table_service(hang_up) as (store, _):
        with pytest.raises(StoreOutcomeUnknown):
            await store.commit([Insert("a", {})])
        with pytest.raises(StoreUnreachable):
            await store.get("a")


@pytest.mark.parametrize("status", [200, 202])
async def test_a_page_of_a_proxy_is_no_answer(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_PAUSE", 0)

    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<html>sign in</html>", content_type="text/html")

    async with table_service(page) as (store, _):
        with pytest.raises(StoreOutcomeUnknown):
            await store.commit([Insert("a", {})])
        with pytest.raises(StoreUnreachable):
            await store.get("a")
        with pytest.raises(StoreUnreachable):
            await store.scan("a")


@pytest.mark.parametrize("limit", ["_ANSWER_SECONDS", "_WHOLE_SECONDS"])
async def test_silence_after_a_commit_was_sent_leaves_it_unknown(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 0.2)

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async with table_service(never) as (store, _):
        with pytest.raises(StoreOutcomeUnknown):
            await store.commit([Insert("a", {})])


async def test_a_read_that_fails_once_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_PAUSE", 0)
    answers = iter([refusal(503, "ServerBusy"), refusal(404, "ResourceNotFound")])

    async def next_answer(_: web.Request) -> web.StreamResponse:
        return next(answers)

    async with table_service(next_answer) as (store, seen):
        assert await store.get("a") is None
    assert len(seen) == 2


async def test_without_table_and_without_the_right_to_create_it_we_are_refused() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/Tables"):
            return refusal(403, "AuthorizationPermissionMismatch")
        return refusal(404, "TableNotFound")

    async with table_service(answer) as (store, _):
        with pytest.raises(StoreRefused):
            await store.get("a")
        with pytest.raises(StoreRefused):
            await store.commit([Insert("a", {})])


async def test_stores_that_meet_no_table_at_once_all_go_on(azurite: str) -> None:
    stores = [open_store(f"{azurite}/race", "tenant") for _ in range(5)]
    try:
        await asyncio.gather(*(store.commit([Insert(f"k{n}", {})]) for n, store in enumerate(stores)))
        assert len(await stores[0].scan("k")) == 5
    finally:
        for store in stores:
            await store.close()


def test_importing_the_package_loads_no_sdk() -> None:
    code = "import sys, clients.stores; print([m for m in sys.modules if m.split('.')[0] in ('azure', 'aiohttp', 'sqlite3')])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"
