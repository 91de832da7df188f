"""
A whole tenant, assembled: principals with a past, services on localhost, and Agentbreaker's own identity in it.

``demo``, ``up``, the tests and the measurements all start here, so that they talk to the same thing.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from response.levers import LEVERS, OPTIONAL_READ_PERMISSIONS, READ_PERMISSIONS
from simtenant.arm_roles import ArmRoles
from simtenant.arm_workspace import ArmWorkspace
from simtenant.history import write_history
from simtenant.ingestion import Ingestion
from simtenant.log_analytics import LogAnalytics
from simtenant.logs_ingestion import LogsIngestion
from simtenant.population import Population, build_population
from simtenant.resources import Resources
from simtenant.sentinel import Sentinel
from simtenant.server import TenantServer
from simtenant.summary_rules import SummaryRules
from simtenant.tenant import Tenant, TenantSettings
from workbench.baselines import backfill
from workbench.engine import LogEngine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from aiohttp import web

    from simtenant.tenant import Principal

APP_ROLES: Final = frozenset(
    {
        *READ_PERMISSIONS,
        *OPTIONAL_READ_PERMISSIONS,
        *(right for lever in LEVERS.values() for right in lever.permissions),
    }
)
"""What Agentbreaker's identity is granted: the rights of all levers and what evidence asks for, nothing more."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen; 0 takes a free port."""

    http: int = 0
    tls: int = 0


class Estate:
    """
    The simulated tenant with everything in it; an async context manager that serves while it is open.

    ``app`` is Agentbreaker's service principal. With ``history`` the population has lived for 14 days,
    and the baseline tables say what was usual in them; while the estate is open the workspace's summary rules go on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: TenantSettings | None = None,
        history: bool = True,
        armed: bool = True,
        ports: Ports | None = None,
        extra_routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self.directory = directory
        self.tenant = Tenant(settings)
        self.engine = LogEngine()
        self.ingestion = Ingestion(self.tenant, self.engine)
        self.tenant.logs = self.ingestion
        self.logs = LogAnalytics(self.tenant, self.engine, ingestion=self.ingestion)
        self.audit = LogsIngestion(self.tenant, self.engine)
        self.sentinel = Sentinel(self.tenant)
        self.workspace = ArmWorkspace(self.tenant, self.engine)
        self.roles = ArmRoles(self.tenant)
        self.resources = Resources(self.tenant)
        self.app: Principal = self.tenant.add_application("agentbreaker", app_roles=APP_ROLES)
        self.audit.publishers = {self.app.object_id}
        self.policy_id = str(self.tenant.add_risk_policy()["id"]) if armed else ""
        self.population: Population = build_population(self.tenant)
        self._history, self._ports, self._extra_routes = history, ports or Ports(), extra_routes
        self._stack = AsyncExitStack()
        self._server: TenantServer | None = None

    @property
    def server(self) -> TenantServer:
        """The running server. Raises: RuntimeError before the start."""
        if self._server is None:
            raise RuntimeError("the estate is not open")
        return self._server

    async def __aenter__(self) -> Self:
        if self._history:
            await asyncio.to_thread(self._write_past)
        else:
            self.engine.set_watchlist("AgentInventory", self.population.watchlist)
        await self._stack.enter_async_context(SummaryRules(self.tenant, self.engine))
        await self._stack.enter_async_context(self.ingestion)
        services = (self.logs, self.audit, self.sentinel, self.workspace, self.roles, self.resources)
        routes = [*self._extra_routes, *(route for service in services for route in service.routes())]
        self._server = await self._stack.enter_async_context(
            TenantServer(
                self.tenant,
                directory=self.directory,
                port=self._ports.http,
                tls_port=self._ports.tls,
                extra_routes=routes,
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self.engine.close()

    def _write_past(self) -> None:
        """Write the history, and the baselines as if the summary rules had always run."""
        history = write_history(self.tenant, self.population, self.engine)
        backfill(self.engine, history.start, history.until)

    def app_environment(self, *, mode: str = "enforce", **changes: str) -> dict[str, str]:
        """Give the settings with which the app talks to this tenant; ``changes`` without their prefix."""
        base = self.server.base_url
        values = {
            "MODE": mode,
            "TENANT_ID": self.tenant.settings.tenant_id,
            "WORKSPACE_ID": self.tenant.settings.workspace_id,
            "WORKSPACE_RESOURCE_ID": self.tenant.settings.workspace_resource_id,
            "PROTECTED_PRINCIPALS": "none",
            "STORE": f"sqlite:///{self.directory / 'agentbreaker.db'}",
            "CLIENT_ID": self.app.app_id,
            "CLIENT_SECRET": self.app.secret or "",
            "AUTHORITY_URL": self.server.tls_url,
            "GRAPH_URL": base,
            "LOGS_URL": base,
            "ARM_URL": base,
            "CA_BUNDLE": str(self.server.ca_file),
        }
        prefixed = {f"AGENTBREAKER_{name}": value for name, value in (values | changes).items()}
        return {**prefixed, "WEBSITE_AUTH_ENABLED": "True"}

    def audit_settings(self) -> dict[str, str]:
        """Give what ``app_environment`` needs besides, so that the ledger is shipped to the workspace."""
        return {"AUDIT_ENDPOINT": self.server.base_url, "AUDIT_RULE_ID": self.audit.rule_id}
