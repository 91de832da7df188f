from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from workspace_world import World, running

from simtenant.resources import SHAREPOINT_AUDIENCE, VAULT_AUDIENCE
from simtenant.tenant import Principal, RecordedLogs

GRAPH = "https://graph.microsoft.com"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def rows(world: World) -> RecordedLogs:
    world.tenant.logs = RecordedLogs()
    return world.tenant.logs


@pytest.fixture
def agent(world: World) -> Principal:
    return world.tenant.add_application(
        "invoice-reader", ip_address="203.0.113.9", app_roles=["Sites.Read.All"]
    )


async def get(
    world: World, path: str, headers: dict[str, str]
) -> tuple[int, Any, aiohttp.typedefs.LooseHeaders]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(world.server.base_url + path, headers=headers) as response,
    ):
        body = await response.json() if response.content_type == "application/json" else await response.read()
        return response.status, body, response.headers


async def test_reading_a_secret_leaves_an_audit_row_that_names_the_caller(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    headers = world.bearer(VAULT_AUDIENCE, agent)

    status, body, _ = await get(world, "/vaults/kv-payments/secrets/ledger-db?api-version=7.4", headers)

    assert status == 200
    assert body["id"].startswith("https://kv-payments.vault.azure.net/secrets/ledger-db/")
    (row,) = rows.of("AZKVAuditLogs")
    assert row["OperationName"] == "SecretGet"
    assert row["Identity"]["claim"]["oid"] == agent.object_id
    assert row["Identity"]["claim"]["appid"] == agent.app_id
    assert row["CallerIpAddress"] == "203.0.113.9"
    assert row["RequestUri"].startswith("https://kv-payments.vault.azure.net/secrets/ledger-db")
    assert row["_ResourceId"].endswith("/microsoft.keyvault/vaults/kv-payments")
    assert row["HttpStatusCode"] == 200


@pytest.mark.parametrize(
    ("path", "operation", "status"),
    [
        ("secrets", "SecretList", 200),
        ("keys", "KeyList", 200),
        ("certificates/tls", "CertificateGet", 200),
        ("secrets/nothing", "SecretGet", 404),
    ],
)
async def test_operations_are_named_object_and_verb(
    world: World, rows: RecordedLogs, path: str, operation: str, status: int
) -> None:
    answered, _, _ = await get(world, f"/vaults/kv-platform/{path}", world.bearer(VAULT_AUDIENCE))

    assert answered == status
    assert [(row["OperationName"], row["HttpStatusCode"]) for row in rows.of("AZKVAuditLogs")] == [
        (operation, status)
    ]


async def test_a_call_without_a_token_is_challenged_and_logged_as_authentication(
    world: World, rows: RecordedLogs
) -> None:
    status, _, headers = await get(world, "/vaults/kv-payments/secrets", {})

    assert status == 401
    assert 'resource="https://vault.azure.net"' in dict(headers)["WWW-Authenticate"]
    (row,) = rows.of("AZKVAuditLogs")
    assert (row["OperationName"], row["HttpStatusCode"], row["Identity"]) == ("Authentication", 401, {})


async def test_a_token_for_another_api_does_not_open_a_vault(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    status, _, _ = await get(world, "/vaults/kv-payments/secrets", world.bearer(GRAPH, agent))

    assert status == 401
    assert rows.of("AZKVAuditLogs")[0]["OperationName"] == "Authentication"


async def test_a_closed_vault_refuses_and_logs_who_tried(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    world.resources.vaults["kv-payments"].readers = set()

    status, body, _ = await get(world, "/vaults/kv-payments/secrets", world.bearer(VAULT_AUDIENCE, agent))

    assert (status, body["error"]["code"]) == (403, "Forbidden")
    (row,) = rows.of("AZKVAuditLogs")
    assert row["HttpStatusCode"] == 403
    assert row["Identity"]["claim"]["oid"] == agent.object_id


async def test_reading_a_file_leaves_an_office_row_with_the_token(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    headers = world.bearer(SHAREPOINT_AUDIENCE, agent)

    status, _, _ = await get(world, "/sharepoint/sites/finance/files/invoice-001.pdf", headers)

    assert status == 200
    (row,) = rows.of("OfficeActivity")
    assert row["Operation"] == "FileAccessed"
    assert row["ClientAppId"] == agent.app_id
    assert row["AppAccessContext"]["UniqueTokenId"]
    assert row["SourceFileExtension"] == "pdf"


async def test_an_expired_token_is_refused_by_sharepoint(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    headers = world.bearer(SHAREPOINT_AUDIENCE, agent)
    world.tenant.clock.advance(world.tenant.settings.token_lifetime[1])

    status, _, _ = await get(world, "/sharepoint/sites/finance/files", headers)

    assert status == 401
    assert not rows.of("OfficeActivity")


async def test_graph_content_is_read_and_logged_like_all_of_graph(
    world: World, rows: RecordedLogs, agent: Principal
) -> None:
    headers = world.bearer(GRAPH, agent)

    allowed, _, _ = await get(world, "/v1.0/sites/finance/lists", headers)
    forbidden, _, _ = await get(world, "/v1.0/users/someone/messages", headers)
    elsewhere, _, _ = await get(world, "/v1.0/users", headers)

    assert (allowed, forbidden, elsewhere) == (200, 403, 403)
    logged = [(row["RequestUri"], row["ResponseStatusCode"]) for row in rows.of("MicrosoftGraphActivityLogs")]
    assert logged[0] == ("https://graph.microsoft.com/v1.0/sites/finance/lists", 200)
    assert len(logged) == 3


async def test_rows_have_only_documented_columns(world: World, agent: Principal) -> None:
    for path, audience in (
        ("/vaults/kv-payments/secrets", VAULT_AUDIENCE),
        ("/sharepoint/sites/finance/files", SHAREPOINT_AUDIENCE),
        ("/v1.0/sites/finance/lists", GRAPH),
    ):
        await get(world, path, world.bearer(audience, agent))
    await world.ingestion.flush()

    counts = [
        world.engine.count(table)
        for table in ("AZKVAuditLogs", "OfficeActivity", "MicrosoftGraphActivityLogs")
    ]
    assert counts == [1, 1, 1]
