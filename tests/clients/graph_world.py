"""A simulated tenant behind real sockets, and our Graph client as somebody in it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
from aiohttp import web
from azure.core.credentials import AccessToken

from clients.graph import GraphClient
from clients.terms import AppId, Kind, ServicePrincipal, TenantId, object_id
from simtenant.server import TenantServer
from simtenant.tenant import Principal, Tenant, TenantSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

READS = ("Application.Read.All", "RoleManagement.Read.Directory", "CustomSecAttributeAssignment.Read.All")
WRITES = (
    "Application.ReadWrite.All",
    "AppRoleAssignment.ReadWrite.All",
    "DelegatedPermissionGrant.ReadWrite.All",
)
GRAPH = "00000003-0000-0000-c000-000000000000"


class World:
    """The tenant, an agent in it, and what was asked of Graph. ``turns`` counts how often the tenant's turn was taken."""

    def __init__(self, tenant: Tenant, server: TenantServer, http: httpx.AsyncClient) -> None:
        self.tenant, self.server, self.http = tenant, server, http
        self.us = tenant.add_application("agentbreaker", app_roles={*READS, *WRITES})
        self.agent = tenant.add_application("invoice-agent", app_roles={"Mail.Read", "User.Read.All"})
        self.turns = 0

    def graph(self, base_url: str | None = None) -> GraphClient:
        """Give our client; with another base URL it speaks to somebody else."""
        world = self

        class Credential:
            async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
                return AccessToken(world.tenant.tokens.issue(world.us, "https://graph.microsoft.com"), 2**31)

        async def turn() -> None:
            world.turns += 1

        url = base_url or self.server.base_url
        return GraphClient(url, Credential(), self.http, self.tenant.settings.tenant_id, turn)  # type: ignore[arg-type]

    def asked(self, method: str | None = None) -> list[str]:
        """Give what Graph was asked for, method and path, in order."""
        seen = [f"{one.method} {one.path.replace('//', '/')}" for one in self.tenant.requests]
        return [one for one in seen if method is None or one.startswith(method)]

    async def token_status(self, principal: Principal) -> int:
        """Ask for a token as a principal does; give the status."""
        url = f"{self.server.base_url}/{self.tenant.settings.tenant_id}/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials",
            "client_id": principal.app_id,
            "client_secret": principal.secret or "gone",
            "scope": "https://graph.microsoft.com/.default",
        }
        async with aiohttp.ClientSession() as http, http.post(url, data=form) as answer:
            return answer.status


def as_ours(principal: Principal, kind: Kind = Kind.APPLICATION) -> ServicePrincipal:
    """Give a principal of the tenant as our own code knows it."""
    owner = TenantId(principal.app_owner_organization_id or "")
    return ServicePrincipal(
        object_id(principal.object_id), AppId(principal.app_id), principal.display_name, kind, owner, True
    )


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[World]:
    """Run a tenant whose ID Protection is unlimited."""
    settings = TenantSettings(
        identity_protection_per_second=1e9, risk_takes_effect_after=timedelta(minutes=1)
    )
    tenant = Tenant(settings)
    async with (
        TenantServer(tenant, directory=directory) as server,
        httpx.AsyncClient(follow_redirects=False) as http,
    ):
        yield World(tenant, server, http)


@asynccontextmanager
async def between(world: World, change: Callable[[Any], Any]) -> AsyncIterator[str]:
    """
    Stand between our client and Graph and change the answers of ``$batch``: Graph as it might also be.

    Gives the base URL. ``change`` gets the parsed answer and gives what is sent on.
    """

    async def forward(request: web.Request) -> web.Response:
        async with aiohttp.ClientSession() as http:
            url = f"{world.server.base_url}{request.path_qs}"
            body = await request.read()
            headers = {
                name: value
                for name, value in request.headers.items()
                if name in ("Authorization", "Content-Type")
            }
            async with http.request(request.method, url, data=body, headers=headers) as answer:
                found = await answer.json()
        sent = change(found) if request.path.endswith("$batch") else found
        return web.Response(
            status=answer.status, body=json.dumps(sent).encode(), content_type="application/json"
        )

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
