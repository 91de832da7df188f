"""What the tests of the Entra and Graph half share: a running tenant and callers of it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from simtenant.server import TenantServer
from simtenant.tenant import Principal, RecordedLogs, Tenant, TenantSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

GRAPH_SCOPE = "https://graph.microsoft.com/.default"
RESPONDER_ROLES = (
    "Application.Read.All",
    "Application.ReadWrite.All",
    "AgentIdentity.Read.All",
    "AuditLog.Read.All",
    "IdentityRiskEvent.Read.All",
    "IdentityRiskyAgent.Read.All",
    "IdentityRiskyAgent.ReadWrite.All",
    "IdentityRiskyServicePrincipal.ReadWrite.All",
    "LicenseAssignment.Read.All",
    "Organization.Read.All",
    "Policy.Read.All",
)


def shared_folder() -> Path | None:
    """Where the contracts and schemas are, if this machine has them."""
    named = os.environ.get("AGENTDESK_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    return folder if (folder / "contracts").is_dir() else None


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class World:
    """A tenant with a responder and an agent, its server, and requests to it."""

    def __init__(self, tenant: Tenant, server: TenantServer, http: aiohttp.ClientSession) -> None:
        self.tenant = tenant
        self.server = server
        self.http = http
        self.responder = tenant.add_application("responder", app_roles=RESPONDER_ROLES)
        self.agent = tenant.add_application(
            "invoice-agent",
            app_roles={"Application.Read.All"},
            owners=["0d1fd2a5-1111-4222-8333-444455556666"],
        )

    @property
    def logs(self) -> RecordedLogs:
        assert isinstance(self.tenant.logs, RecordedLogs)
        return self.tenant.logs

    async def token_answer(
        self,
        principal: Principal,
        *,
        scope: str = GRAPH_SCOPE,
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
        **form: str,
    ) -> Answer:
        body = {
            "grant_type": "client_credentials",
            "client_id": principal.app_id,
            "client_secret": principal.secret or "",
            "scope": scope,
        } | form
        url = f"{self.server.base_url}/{tenant or self.tenant.settings.tenant_id}/oauth2/v2.0/token"
        data = {name: value for name, value in body.items() if value}
        async with self.http.post(url, data=data, headers=headers) as response:
            return Answer(response.status, await response.json(), response.headers)

    async def token(self, principal: Principal, **options: Any) -> str:
        answer = await self.token_answer(principal, **options)
        assert answer.status == 200, answer.body
        return str(answer.body["access_token"])

    async def graph(
        self,
        method: str,
        path: str,
        *,
        caller: Principal | None = None,
        token: str | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        bearer = token or self.tenant.tokens.issue(caller or self.responder, "https://graph.microsoft.com")
        url = path if path.startswith("http") else f"{self.server.base_url}{path}"
        sent = {"Authorization": f"Bearer {bearer}", **(headers or {})}
        async with self.http.request(method, url, json=json, headers=sent) as response:
            text = await response.text()
            is_json = response.content_type == "application/json" and text
            return Answer(response.status, await response.json() if is_json else text, response.headers)

    async def confirm(self, *object_ids: str) -> Answer:
        return await self.graph(
            "POST",
            "/v1.0/identityProtection/riskyServicePrincipals/confirmCompromised",
            json={"servicePrincipalIds": list(object_ids)},
        )


@asynccontextmanager
async def running(directory: Path, settings: TenantSettings | None = None) -> AsyncIterator[World]:
    """Run a tenant whose ID Protection is unlimited and whose risk takes a minute, unless told otherwise."""
    if settings is None:
        settings = TenantSettings(
            identity_protection_per_second=1e9, risk_takes_effect_after=timedelta(minutes=1)
        )
    tenant = Tenant(settings)
    async with (
        TenantServer(tenant, directory=directory) as server,
        aiohttp.ClientSession() as http,
    ):
        yield World(tenant, server, http)
