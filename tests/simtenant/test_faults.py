"""Faults on demand, the request log, and the server around the services."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from desk import World, running

from simtenant.faults import FaultKind, Faults
from simtenant.server import RunsInAzure, TenantServer, refuse_in_azure
from simtenant.tenant import Tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONFIRM = "POST /v1.0/+identityProtection/riskyServicePrincipals/confirmCompromised"
PRINCIPALS = "/v1.0/servicePrincipals?$top=2"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


# -- faults -------------------------------------------------------------------


async def test_latency_delays_and_answers(world: World) -> None:
    world.tenant.faults.add("GET /v1.0/", FaultKind.LATENCY, seconds=0.2)
    began = time.monotonic()

    assert (await world.graph("GET", PRINCIPALS)).status == 200
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("status", [403, 404, 429, 500, 502, 503])
async def test_an_error_status_is_answered_without_effect(world: World, status: int) -> None:
    world.tenant.faults.add(CONFIRM, "status", status=status)

    answer = await world.confirm(world.agent.object_id)

    assert answer.status == status
    assert answer.code
    assert world.tenant.risk.get(world.agent.object_id) is None


async def test_retry_after_is_sent_only_when_asked_for(world: World) -> None:
    world.tenant.faults.add("servicePrincipals", "status", status=429, retry_after=7)
    world.tenant.faults.add("servicePrincipals", "status", status=429)

    assert (await world.graph("GET", PRINCIPALS)).headers["Retry-After"] == "7"
    assert "Retry-After" not in (await world.graph("GET", PRINCIPALS)).headers


async def test_a_gateway_answers_in_html(world: World) -> None:
    world.tenant.faults.add("servicePrincipals", "status", status=502, html=True)

    answer = await world.graph("GET", PRINCIPALS)

    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")


async def test_a_connection_dropped_before_leaves_no_effect(world: World) -> None:
    world.tenant.faults.add(CONFIRM, "drop_before")

    with pytest.raises(aiohttp.ClientError):
        await world.confirm(world.agent.object_id)
    assert world.tenant.risk.get(world.agent.object_id) is None


async def test_a_connection_dropped_after_has_taken_effect(world: World) -> None:
    """What a caller cannot tell apart from the case before."""
    world.tenant.faults.add(CONFIRM, "drop_after")

    with pytest.raises(aiohttp.ClientError):
        await world.confirm(world.agent.object_id)
    assert world.tenant.risk.get(world.agent.object_id) is not None
    assert world.tenant.requests.count("confirmCompromised") == 1
    assert [seen.status for seen in world.tenant.requests] == [0]


async def test_a_slow_body_arrives_whole_in_the_end(world: World) -> None:
    expected = (await world.graph("GET", PRINCIPALS)).body["value"]
    world.tenant.faults.add("servicePrincipals", "slow_body", seconds=0.2)
    began = time.monotonic()

    assert (await world.graph("GET", PRINCIPALS)).body["value"] == expected
    assert time.monotonic() - began >= 0.2


async def test_a_slow_body_runs_into_the_callers_timeout(world: World) -> None:
    world.tenant.faults.add("servicePrincipals", "slow_body", seconds=5)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await world.graph("GET", PRINCIPALS)


async def test_leaving_does_not_wait_for_a_request_that_a_fault_holds(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.tenant.faults.add("servicePrincipals", "latency", seconds=600)  # longer than a test may take
        held = asyncio.create_task(world.graph("GET", PRINCIPALS))
        await asyncio.sleep(0.1)

    with pytest.raises(aiohttp.ClientError):
        await held


async def test_an_answer_without_a_body_is_late_instead(world: World) -> None:
    world.tenant.faults.add(CONFIRM, "slow_body", seconds=0.1)

    assert (await world.confirm(world.agent.object_id)).status == 204


async def test_a_fault_is_spent_after_its_times_and_counts_its_hits(world: World) -> None:
    fault = world.tenant.faults.add("servicePrincipals", "status", times=2)

    statuses = [(await world.graph("GET", PRINCIPALS)).status for _ in range(3)]

    assert statuses == [503, 503, 200]
    assert fault.hits == 2


async def test_a_fault_without_times_stays_until_cleared(world: World) -> None:
    world.tenant.faults.add("servicePrincipals", "status", times=None)
    statuses = [(await world.graph("GET", PRINCIPALS)).status for _ in range(3)]
    world.tenant.faults.clear()

    assert statuses == [503, 503, 503]
    assert (await world.graph("GET", PRINCIPALS)).status == 200


async def test_faults_hit_the_token_endpoint_too(world: World) -> None:
    world.tenant.faults.add("POST .*/token$", "status", status=503)

    assert (await world.token_answer(world.agent)).status == 503


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid FaultKind"):
        Faults().add("x", "explosion")


# -- over HTTP ----------------------------------------------------------------


async def test_faults_are_armed_listed_and_cleared_over_http(world: World) -> None:
    url = f"{world.server.base_url}/_sim/faults"
    armed = {"path_pattern": "servicePrincipals", "kind": "status", "status": 500, "times": None}

    async with world.http.post(url, json=armed) as response:
        assert response.status == 201
    assert (await world.graph("GET", PRINCIPALS)).status == 500
    async with world.http.get(url) as response:
        [listed] = (await response.json())["value"]
    assert (listed["path_pattern"], listed["hits"]) == ("servicePrincipals", 1)
    async with world.http.delete(url) as response:
        assert response.status == 204
    assert (await world.graph("GET", PRINCIPALS)).status == 200


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "path_pattern is missing; kind must be"),
        ({"path_pattern": "(", "kind": "status"}, "no regular expression"),
        ({"path_pattern": "x", "kind": "boom"}, "kind must be"),
        ({"path_pattern": "x", "kind": "status", "times": True}, "times cannot be True"),
        ({"path_pattern": "x", "kind": "status", "until": 1}, "unknown field 'until'"),
        ({"path_pattern": "x", "kind": "status", "status": 200}, "status must be from 400 to 599"),
        ({"path_pattern": "x", "kind": "latency", "times": 0}, "times must be from 1"),
        ({"path_pattern": "x", "kind": "latency", "seconds": -1}, "seconds must be from 0"),
        ([], "path_pattern is missing"),
    ],
)
async def test_a_malformed_fault_is_refused_with_every_reason(
    world: World, body: object, complaint: str
) -> None:
    async with world.http.post(f"{world.server.base_url}/_sim/faults", json=body) as response:
        assert response.status == 400
        assert complaint in (await response.json())["error"]["message"]
    assert list(world.tenant.faults) == []


async def test_requests_are_counted_by_what_they_do(world: World) -> None:
    await world.confirm(world.agent.object_id)
    await world.graph("GET", f"/v1.0//servicePrincipals/{world.agent.object_id}")
    await world.graph("GET", f"/v1.0/servicePrincipals/{world.responder.object_id}", caller=world.agent)
    await world.token(world.agent)

    requests = world.tenant.requests
    assert requests.count("confirmCompromised", method="POST") == 1
    assert requests.count("/v1.0/servicePrincipals/{id}") == 2
    assert requests.count("/v1.0/", app_id=world.responder.app_id) == 2
    async with world.http.get(f"{world.server.base_url}/_sim/requests") as response:
        body = await response.json()
    assert body["total"] == 4
    assert body["counts"]["POST /{tenant}/oauth2/v2.0/token"] == 1
    assert {seen["appId"] for seen in body["requests"]} == {world.responder.app_id, world.agent.app_id}
    async with world.http.delete(f"{world.server.base_url}/_sim/requests") as response:
        assert response.status == 204
    assert (requests.total, len(requests)) == (0, 0)


# -- the server -----------------------------------------------------------------


async def test_the_same_services_answer_over_tls(world: World) -> None:
    trusted = ssl.create_default_context(cafile=str(world.server.ca_file))
    url = f"{world.server.tls_url}/{world.tenant.settings.tenant_id}/v2.0/.well-known/openid-configuration"

    async with world.http.get(url, ssl=trusted) as response:
        body = await response.json()

    assert body["token_endpoint"].startswith(f"{world.server.tls_url}/")
    with pytest.raises(aiohttp.ClientSSLError):
        await world.http.get(url)


async def test_the_private_key_is_not_for_everybody(world: World) -> None:
    key = world.server.ca_file.with_name("simtenant-key.pem")

    assert key.stat().st_mode & 0o077 == 0


async def test_it_says_loudly_that_it_is_a_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with TenantServer(Tenant(), directory=tmp_path):
        assert "SIMULATED TENANT" in capsys.readouterr().err


async def test_other_modules_bring_their_routes_and_a_failure_is_a_500_without_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(_: web.Request) -> web.Response:
        raise RuntimeError("secret detail")

    server = TenantServer(Tenant(), directory=tmp_path, extra_routes=[web.get("/other/{name}", breaks)])
    async with server, aiohttp.ClientSession() as http:
        async with http.get(f"{server.base_url}/other/thing") as response:
            assert response.status == 500
            text = await response.text()
        async with http.get(f"{server.base_url}/nothing/here/at/all") as response:
            assert response.status == 404

    assert "InternalServerError" in text
    assert "secret detail" not in text
    assert "secret detail" in caplog.text
    assert server.tenant.requests.count("/other/{name}") == 1


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(world: World, tmp_path: Path) -> None:
    port = int(world.server.base_url.rpartition(":")[2])

    with pytest.raises(OSError, match="address already in use"):
        async with TenantServer(Tenant(), directory=tmp_path, port=port):
            pytest.fail("it started")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBSITE_SITE_NAME", "agentbreaker"),
        ("WEBSITE_INSTANCE_ID", "abc"),
        ("IDENTITY_ENDPOINT", "http://169.254.1.1/msi/token"),
        ("MSI_ENDPOINT", "http://169.254.1.1/msi/token"),
        ("CONTAINER_APP_NAME", "agentbreaker"),
        ("WEBSITE_HOSTNAME", "agentbreaker.azurewebsites.net"),
        ("WEBSITE_HOSTNAME", "localhost.example.com"),
        ("AZURE_FUNCTIONS_ENVIRONMENT", "Production"),
    ],
)
def test_it_does_not_start_in_azure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(RunsInAzure, match=name):
        TenantServer(Tenant(), directory=tmp_path)


def test_it_starts_at_a_desk() -> None:
    refuse_in_azure({})
    refuse_in_azure({"WEBSITE_HOSTNAME": "localhost:7071", "AZURE_FUNCTIONS_ENVIRONMENT": "Development"})
