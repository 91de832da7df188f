"""Request and answers of the Logs Ingestion API against the published contract."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import jsonschema
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AccessToken
from workspace_world import check, contract

from clients.audit import AuditClient
from simtenant.estate import Estate
from simtenant.logs_ingestion import AUDIENCE
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from pathlib import Path

RULE = "dcr-" + "0" * 32
STREAM = "Custom-AgentbreakerAudit_CL"
CONTRACT = "logs-ingestion.subset.yaml"
PATH = "/dataCollectionRules/{ruleId}/streams/{stream}"


class Fixed:
    """A credential that remembers what it was asked for."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes += scopes
        return AccessToken("token", 4_000_000_000)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""


async def test_what_we_send_fits_the_contract() -> None:
    operation = contract(CONTRACT)["paths"][PATH]["post"]
    seen: list[tuple[web.BaseRequest, bytes]] = []

    async def take(request: web.BaseRequest) -> web.Response:
        seen.append((request, await request.read()))
        return web.Response(status=204)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", take)
    credential = Fixed()
    async with TestServer(application) as server:
        client = AuditClient(str(server.make_url("")).rstrip("/"), credential, RULE, STREAM)
        await client.upload([{"EventId": "1", "Body": {"n": [1, None]}}, {"EventId": "2"}])
        await client.close()

    [(request, body)] = seen
    assert (request.method, request.path) == ("POST", f"/dataCollectionRules/{RULE}/streams/{STREAM}")
    named = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert set(request.query) == {name for name, each in named.items() if each["in"] == "query"}
    assert request.query["api-version"] == "2023-01-01"
    assert request.headers["Content-Encoding"] == "gzip"
    uuid.UUID(request.headers["x-ms-client-request-id"])
    assert request.content_type in operation["requestBody"]["content"]
    rows = json.loads(body)  # the server has unpacked it
    jsonschema.validate(rows, operation["requestBody"]["content"]["application/json"]["schema"])
    assert [row["EventId"] for row in rows] == ["1", "2"]
    assert credential.scopes == contract(CONTRACT)["security"][0]["OAuth2Auth"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 204),
        ({"token": ""}, 401),
        ({"publishers": set()}, 403),
        ({"rule": "dcr-1"}, 404),
        ({"stream": "Custom-Other_CL"}, 400),
        ({"version": ""}, 400),
        ({"body": b"["}, 400),
        ({"body": b'{"EventId": "1"}'}, 400),
        ({"body": b'[{"Number": "many"}]'}, 400),
        (
            {
                "body": gzip.compress(b'["' + b"x" * 1024 * 1024 + b'"]'),
                "encoding": {"Content-Encoding": "gzip"},
            },
            413,
        ),
        ({"calls": 0}, 429),
    ],
)
async def test_answers_fit_the_contract(tmp_path: Path, change: dict[str, Any], status: int) -> None:
    contracted = contract(CONTRACT)
    settings = TenantSettings(log_ingestion_delay=timedelta(0))
    async with Estate(tmp_path, settings=settings, history=False) as estate, ClientSession() as session:
        estate.audit.publishers = change.get("publishers", estate.audit.publishers)
        if "calls" in change:
            estate.audit._calls.append(estate.tenant.clock.now().timestamp())
            estate.audit._calls_per_minute = 1
        token = change.get("token", estate.tenant.tokens.issue(estate.app, AUDIENCE))
        rule, stream = change.get("rule", estate.audit.rule_id), change.get("stream", STREAM)
        answer = await session.post(
            f"{estate.server.base_url}/dataCollectionRules/{rule}/streams/{stream}",
            params={"api-version": change.get("version", "2023-01-01")},
            data=change.get("body", b'[{"EventId": "1", "Number": 1, "NotDeclared": 2}]'),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            | change.get("encoding", {}),
        )
        body = await answer.read()

    assert answer.status == status
    if status == 204:
        assert body == b""
        return
    check(contracted, "ErrorResponse", json.loads(body))
    assert answer.headers["x-ms-error-code"] == json.loads(body)["error"]["code"]
    assert ("Retry-After" in answer.headers) is (status == 429)
