"""A simulated tenant with a workspace, a person's stand-in who may change policies, an agent, and the command itself."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
from workspace_world import running

from simtenant.faults import Fault, FaultKind
from simtenant.tenant import TenantSettings
from workbench.__main__ import _parser
from workbench.policies import command
from workbench.policies.book import Book

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from simtenant.tenant import Principal

SP_POLICY = "CA-Agents-BlockHighRiskServicePrincipals"
AGENT_POLICY = "CA-Agents-BlockHighRiskAgentIdentities"
LOCATION_POLICY = "CA-Agents-BlockOutsideLocations"
CODE_POLICY = "CA-Agents-BlockDeviceCodeFlow"
LEGACY_POLICY = "CA-Agents-BlockLegacyAuthentication"
POLICIES = "/identity/conditionalAccess/policies"
WRITER = ("Policy.Read.All", "Policy.ReadWrite.ConditionalAccess", "Application.Read.All")
SOMEBODY = "5d1f0000-0000-4000-8000-00000000000a"


class Desk:
    """What a test does: run the command, let principals sign in, look at the tenant."""

    def __init__(self, world: Any, directory: Path, monkeypatch: Any, capsys: Any) -> None:
        self.world, self.tenant, self._capsys = world, world.tenant, capsys
        self.state = directory / "book" / "policies.json"
        self.person = self.tenant.add_application("a person's stand-in", app_roles=WRITER)
        self.agent = self.tenant.add_application("invoice-agent")
        self._monkeypatch = monkeypatch
        self.sign_in_as(self.person)

    def sign_in_as(self, principal: Principal) -> None:
        self._monkeypatch.setenv("AGENTBREAKER_DESK_CLIENT_ID", principal.app_id)
        self._monkeypatch.setenv("AGENTBREAKER_DESK_CLIENT_SECRET", principal.secret or "")

    async def run(self, *arguments: str, pace: str = "0") -> tuple[int, str]:
        """Run ``policies …``; gives the exit code and everything that was printed."""
        server = self.world.server
        common = [
            *("--tenant", self.tenant.settings.tenant_id, "--state", str(self.state), "--pace", pace),
            *("--graph-url", server.base_url, "--authority-url", server.tls_url),
            *("--ca-bundle", str(server.ca_file)),
        ]
        if arguments[0] == "promote":
            common += ["--workspace", self.tenant.settings.workspace_id, "--logs-url", server.base_url]
        parsed = _parser().parse_args(["policies", *arguments, *common])
        self._capsys.readouterr()
        code = await command.run(parsed, now=self.tenant.clock.now)
        out, err = self._capsys.readouterr()
        return code, out + err

    async def sign_in(self, principal: Principal) -> tuple[int, str]:
        """Ask for a token as the principal does, an agent identity with its blueprint's; gives status and description."""
        form = {
            "grant_type": "client_credentials",
            "client_id": principal.app_id,
            "scope": "https://graph.microsoft.com/.default",
        }
        if principal.agent_identity_blueprint_id:
            blueprint = self.tenant.principal_by_app_id(principal.agent_identity_blueprint_id)
            form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            form["client_assertion"] = self.tenant.tokens.issue(blueprint, "api://AzureADTokenExchange")
        else:
            form["client_secret"] = principal.secret or ""
        url = f"{self.world.server.base_url}/{self.tenant.settings.tenant_id}/oauth2/v2.0/token"
        async with aiohttp.ClientSession() as http, http.post(url, data=form) as answer:
            body = await answer.json()
        await self.world.ingestion.flush()
        return answer.status, str(body.get("error_description", ""))

    def at_risk(self, *principals: Principal) -> None:
        self.tenant.risk.confirm([one.object_id for one in principals])

    def later(self, days: float) -> None:
        self.tenant.clock.advance(timedelta(days=days))

    async def fortnight(self, *principals: Principal) -> None:
        """Let principals sign in now, and again after fifteen days, so that the log spans the window."""
        for one in principals:
            await self.sign_in(one)
        self.later(15)
        for one in principals:
            await self.sign_in(one)

    def policy(self, name: str = SP_POLICY) -> dict[str, Any]:
        [found] = [one for one in self.tenant.policies if one["displayName"] == name]
        return dict(found)

    def edit(self, name: str = SP_POLICY, **changes: Any) -> None:
        """Somebody edits a policy in the portal."""
        for one in self.tenant.policies:
            if one["displayName"] == name:
                one.update(changes, modifiedDateTime=self.tenant.clock.now().isoformat())

    def edit_before_next_write(self, monkeypatch: Any, **changes: Any) -> None:
        """Somebody edits the policy after the command has read it and before it writes."""
        save = Book.save

        def saving(book: Book, *arguments: Any) -> str:
            self.edit(**changes)
            return save(book, *arguments)

        monkeypatch.setattr(Book, "save", saving)

    def writes(self) -> list[str]:
        return [
            f"{one.method} {one.status}"
            for one in self.tenant.requests
            if POLICIES in one.path and one.method != "GET"
        ]

    def fault(self, pattern: str, kind: FaultKind, **options: Any) -> None:
        self.tenant.faults.arm(Fault(re.compile(pattern), kind, **options))


@asynccontextmanager
async def desk(directory: Path, monkeypatch: Any, capsys: Any, **settings: Any) -> AsyncIterator[Desk]:
    values = {
        "identity_protection_per_second": 1e9,
        "risk_takes_effect_after": timedelta(0),
        "log_ingestion_delay": timedelta(0),
        "duplicate_share": 1.0,  # every row comes twice
    }
    async with running(directory, TenantSettings(**values | settings)) as world:
        yield Desk(world, directory, monkeypatch, capsys)
