import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.monitor.query import LogsQueryPartialResult, LogsQueryResult, LogsQueryStatus
from azure.monitor.query.aio import LogsQueryClient
from workspace_world import World, running

from simtenant.log_analytics import AUDIENCE, cell, parse_timespan
from simtenant.tenant import TenantSettings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Credential:
    """Hands out tokens of the simulated tenant; what is tested here is the query client, not azure-identity."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def get_token(self, *_scopes: str, **_kwargs: Any) -> AccessToken:
        token = self._world.tenant.tokens.issue(self._world.app, AUDIENCE)
        return AccessToken(token, int(self._world.tenant.clock.now().timestamp()) + 3600)

    async def close(self) -> None:
        return None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
async def client(world: World) -> AsyncIterator[LogsQueryClient]:
    client = LogsQueryClient(
        Credential(world),
        endpoint=world.server.base_url,
        credential_scopes=[f"{AUDIENCE}/.default"],
        retry_total=0,
    )
    async with client:
        yield client


async def ask(client: LogsQueryClient, world: World, query: str, timespan: Any = None) -> Any:
    return await client.query_workspace(
        world.tenant.settings.workspace_id, query, timespan=timespan, enforce_https=False
    )


async def test_the_real_client_reads_what_was_logged(world: World, client: LogsQueryClient) -> None:
    world.tenant.logs.write(
        "AuditLogs", {"OperationName": "Add owner", "InitiatedBy": {"app": {"appId": "a"}}, "DurationMs": 7}
    )

    result = await ask(
        client, world, "AuditLogs | project TimeGenerated, OperationName, InitiatedBy, DurationMs"
    )

    assert isinstance(result, LogsQueryResult)
    table = result.tables[0]
    assert table.name == "PrimaryResult"
    assert table.columns_types == ["datetime", "string", "dynamic", "long"]
    row = table.rows[0]
    assert isinstance(row["TimeGenerated"], datetime)
    assert row["TimeGenerated"].tzinfo is not None
    assert row["InitiatedBy"] == '{"app":{"appId":"a"}}'
    assert row["DurationMs"] == 7


async def test_a_partial_result_raises_nothing_and_says_partial(
    world: World, client: LogsQueryClient
) -> None:
    for number in range(4):
        world.tenant.logs.write("AuditLogs", {"OperationName": f"op {number}"})
    world.logs.partial_next()

    partial = await ask(client, world, "AuditLogs")
    whole = await ask(client, world, "AuditLogs")

    assert isinstance(partial, LogsQueryPartialResult)
    assert partial.status == LogsQueryStatus.PARTIAL
    assert partial.partial_error.code == "PartialError"
    assert len(partial.partial_data[0].rows) == 2
    assert len(whole.tables[0].rows) == 4


async def test_more_rows_than_allowed_come_as_a_partial_result(world: World, client: LogsQueryClient) -> None:
    world.logs.max_rows = 3

    result = await ask(client, world, "range n from 1 to 5 step 1")

    assert isinstance(result, LogsQueryPartialResult)
    assert len(result.partial_data[0].rows) == 3


@pytest.mark.parametrize(
    ("query", "inner"),
    [
        ("AuditLogs | wher x", "SyntaxError"),
        ("AuditLogs | where NoSuchColumn == 1", "SemanticError"),
        ("NoSuchTable | count", "SemanticError"),
    ],
)
async def test_a_wrong_query_is_a_bad_argument_with_inner_errors(
    world: World, client: LogsQueryClient, query: str, inner: str
) -> None:
    with pytest.raises(HttpResponseError) as refused:
        await ask(client, world, query)

    assert refused.value.status_code == 400
    assert refused.value.error is not None
    assert refused.value.error.code == "BadArgumentError"
    assert inner in refused.value.message


async def test_a_throttled_query_answers_429_with_or_without_retry_after(
    world: World, client: LogsQueryClient
) -> None:
    world.logs.throttle_next()
    world.logs.throttle_next(retry_after=9)

    with pytest.raises(HttpResponseError) as first:
        await ask(client, world, "print x = 1")
    with pytest.raises(HttpResponseError) as second:
        await ask(client, world, "print x = 1")

    assert first.value.status_code == second.value.status_code == 429
    assert first.value.response is not None
    assert second.value.response is not None
    assert "Retry-After" not in first.value.response.headers
    assert second.value.response.headers["Retry-After"] == "9"


async def test_a_timespan_limits_the_tables_besides_the_query(world: World, client: LogsQueryClient) -> None:
    now = world.tenant.clock.now()
    for hours in (1, 5, 50):
        world.engine.insert(
            "AuditLogs",
            [{"TimeGenerated": now - timedelta(hours=hours), "OperationName": f"{hours}"}],
            ingested_at=now - timedelta(hours=hours),
        )

    last_day = await ask(client, world, "AuditLogs | summarize n = count()", timedelta(days=1))
    a_window = await ask(
        client,
        world,
        "AuditLogs | project OperationName",
        (now - timedelta(hours=60), now - timedelta(hours=10)),
    )
    everything = await ask(client, world, "AuditLogs | summarize n = count()")

    assert last_day.tables[0].rows[0]["n"] == 2
    assert [row["OperationName"] for row in a_window.tables[0].rows] == ["50"]
    assert everything.tables[0].rows[0]["n"] == 3


async def test_five_queries_run_at_once_and_the_sixth_waits(world: World, client: LogsQueryClient) -> None:
    world.logs.query_takes = timedelta(milliseconds=50)

    answers = await asyncio.gather(*(ask(client, world, "print x = 1") for _ in range(12)))

    assert len(answers) == 12
    assert world.logs.most_running == 5


async def test_a_full_queue_answers_429(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simtenant.log_analytics.MAX_QUEUED", 2)
    world.logs.query_takes = timedelta(milliseconds=300)

    statuses = await asyncio.gather(*(raw(world, {"query": "print x = 1"}) for _ in range(9)))

    assert sorted(status for status, _ in statuses) == [200] * 7 + [429] * 2


async def raw(
    world: World, body: object, *, workspace: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    known = world.tenant.settings.workspace_id if workspace is None else workspace
    url = f"{world.server.base_url}/v1/workspaces/{known}/query"
    sent = world.bearer(AUDIENCE) if headers is None else headers
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=sent) as response:
        return response.status, await response.json()


async def test_without_a_token_for_log_analytics_nobody_is_answered(world: World) -> None:
    none, body = await raw(world, {"query": "print 1"}, headers={})
    other, _ = await raw(world, {"query": "print 1"}, headers=world.bearer("https://vault.azure.net"))

    assert none == other == 401
    assert body["error"]["code"] == "AuthorizationRequiredError"


async def test_a_foreign_workspace_and_a_stranger_get_the_same_403(world: World) -> None:
    foreign = await raw(world, {"query": "print 1"}, workspace="00000000-0000-4000-8000-000000000000")
    world.logs.allowed = set()
    stranger = await raw(world, {"query": "print 1"})

    assert foreign[0] == stranger[0] == 403
    assert foreign[1]["error"]["code"] == stranger[1]["error"]["code"] == "InsufficientAccessError"


@pytest.mark.parametrize(
    "body", [{}, {"query": ""}, {"query": 5}, [], {"query": "print 1", "timespan": "soon"}]
)
async def test_a_body_without_a_usable_query_is_a_bad_argument(world: World, body: object) -> None:
    status, answer = await raw(world, body)

    assert status == 400
    assert answer["error"]["code"] == "BadArgumentError"


async def test_a_row_is_not_seen_before_its_delay_is_over(tmp_path: Path) -> None:
    settings = TenantSettings(log_ingestion_delay=timedelta(minutes=5), duplicate_share=0.0)
    async with running(tmp_path, settings) as world:
        world.tenant.logs.write("AZKVAuditLogs", {"OperationName": "SecretGet"})
        count = {"query": "AZKVAuditLogs | summarize n = count()"}
        _, before = await raw(world, count)
        world.tenant.clock.advance(timedelta(minutes=7))
        _, after = await raw(world, count)

    assert before["tables"][0]["rows"] == [[0]]
    assert after["tables"][0]["rows"] == [[1]]


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("PT3600.0S", NOW - timedelta(hours=1), NOW),
        ("P1DT12H", NOW - timedelta(hours=36), NOW),
        ("2026-11-23T00:00:00Z/2026-11-24T00:00:00Z", NOW - timedelta(hours=36), NOW - timedelta(hours=12)),
        ("2026-11-24T11:00:00Z/PT30M", NOW - timedelta(hours=1), NOW - timedelta(minutes=30)),
        ("P1W/2026-11-24T12:00:00Z", NOW - timedelta(days=7), NOW),
    ],
)
def test_every_form_of_a_timespan_is_read(text: str, first: datetime, last: datetime) -> None:
    assert parse_timespan(text, NOW) == (first, last)


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (None, "string", ""),
        (None, "dynamic", None),
        ([1, "a"], "dynamic", '[1,"a"]'),
        ("plain", "dynamic", "plain"),
        (timedelta(days=1, hours=2, microseconds=5), "timespan", "1.02:00:00.0000050"),
        (-timedelta(minutes=1), "timespan", "-00:01:00"),
        (float("nan"), "real", "NaN"),
        (float("-inf"), "real", "-Infinity"),
        (NOW, "datetime", "2026-11-24T12:00:00Z"),
    ],
)
def test_cells_are_written_as_the_service_writes_them(value: object, kind: str, written: object) -> None:
    assert cell(value, kind) == written


async def test_a_query_may_also_be_asked_by_get(world: World) -> None:
    url = f"{world.server.base_url}/v1/workspaces/{world.tenant.settings.workspace_id}/query"
    asked = {"query": "print n = 1", "timespan": "P1D"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=asked, headers=world.bearer(AUDIENCE)) as response,
    ):
        body = await response.json()

    assert body["tables"][0]["rows"] == [[1]]


async def test_statistics_come_when_asked_for(world: World, client: LogsQueryClient) -> None:
    result = await client.query_workspace(
        world.tenant.settings.workspace_id,
        "print n = 1",
        timespan=None,
        include_statistics=True,
        enforce_https=False,
    )

    assert isinstance(result, LogsQueryResult)
    assert result.statistics is not None
    assert result.statistics["query"]["executionTime"] >= 0
