"""
A tenant with the app in it, watched: what its ledger and its telemetry leave in the workspace.

For alerts and the workbook, whose queries are tried on rows that the app really sent: containments that end in different
ways, swept rules, shipped audit rows (some of them twice), spans and measurements through Microsoft's exporter.
"""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from clients import telemetry
from clients.telemetry import azure
from clients.telemetry.words import SpanName
from clients.terms import object_id
from detections.catalog import SweepGroup
from handlers import edge
from handlers.http import Request
from handlers.process import Process, build
from response import flow
from response.finding import Finding, Source, Tier
from settings import Settings
from simtenant.app_insights import AppInsights
from simtenant.estate import Estate
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from clients.telemetry.otel import OtelBackend
    from handlers.http import Response
    from simtenant.tenant import Principal
    from workbench.engine import LogEngine

ROLES: Final = ("Containment.Execute", "Containment.Read", "Containment.Approve", "Incident.Submit")
RULES: Final = ("AG-01", "AG-04", "AG-07")
"""The rules that find something in the story."""
_ANALYST: Final = "bbbbbbbb-0000-4000-8000-000000000002"


class _Built:
    """A process that is already built, for the edge."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def get(self) -> Process:
        return self._process


@dataclass(slots=True)
class Observed:
    """The tenant, the app, and the backend that its telemetry goes through."""

    estate: Estate
    process: Process
    backend: OtelBackend

    @property
    def engine(self) -> LogEngine:
        """The workspace."""
        return self.estate.engine

    @property
    def now(self) -> datetime:
        """The tenant's time."""
        return self.estate.tenant.clock.now()

    async def call(
        self, name: str, *, roles: tuple[str, ...] = ROLES, principal: str = "", **body: Any
    ) -> Response:
        """Call the API as an analyst with these app roles."""
        claims = [{"typ": "roles", "val": role} for role in roles] + [{"typ": "oid", "val": _ANALYST}]
        header = base64.b64encode(json.dumps({"claims": claims}).encode()).decode()
        request = Request(
            method="POST",
            route={"principalId": principal},
            headers={"x-ms-client-principal": header},
            body=json.dumps(body).encode(),
        )
        return await edge.answer(name, request, _Built(self.process))  # type: ignore[arg-type]  # the edge asks for no more

    async def tick(self, name: str) -> None:
        """Let a timer fire."""
        await edge.tick(name, _Built(self.process))  # type: ignore[arg-type]  # as above

    async def find(self, principal: Principal, rule_id: str, tier: Tier) -> None:
        """Let a rule have found something about a principal, just now."""
        now = self.process.world.now()
        rule = next(rule for rule in self.process.rules if rule.id == rule_id)
        finding = Finding(
            source=Source.RULE,
            rule_id=rule_id,
            family=rule.family,
            tier=tier,
            principal=object_id(principal.object_id),
            first_seen=now,
            last_seen=now,
            reason=rule.name,
            raised_by="agentbreaker",
        )
        with telemetry.span(SpanName.TRIGGER, trigger="sweep"):
            await flow.respond(finding, self.process.world)

    def refuse(self, principal: Principal) -> None:
        """Write the row of a sign-in that the block refused."""
        self.engine.insert(
            "AADServicePrincipalSignInLogs",
            [
                {
                    "TimeGenerated": self.now,
                    "CreatedDateTime": self.now,
                    "Id": f"refused-{principal.object_id[:8]}",
                    "ServicePrincipalId": principal.object_id,
                    "ResultType": "53003",
                    "ConditionalAccessPolicies": json.dumps(
                        [{"id": self.estate.policy_id, "result": "failure"}]
                    ),
                }
            ],
        )

    async def ship(self, *, twice: bool = False) -> None:
        """Ship the ledger and flush telemetry; ``twice``: the answer is lost, so rows come again."""
        if twice:
            self.estate.audit.lose_answers = 1
        for _ in range(3):
            await self.tick("settle")
        await asyncio.to_thread(self.backend.flush, 20)


@asynccontextmanager
async def observed(directory: Path, *, mode: str = "enforce", armed: bool = True) -> AsyncIterator[Observed]:
    """Open the tenant and the app, telemetry on. One at a time in a process: telemetry is the process's."""
    insights = AppInsights()
    chosen = TenantSettings(
        log_ingestion_delay=timedelta(0),
        risk_takes_effect_after=timedelta(0),
        identity_protection_per_second=1000.0,
    )
    async with Estate(
        directory, settings=chosen, history=False, armed=armed, extra_routes=insights.routes()
    ) as estate:
        insights.engine = estate.engine
        settings = Settings.from_env(estate.app_environment(mode=mode, **estate.audit_settings()))
        process = await build(settings)
        # One rule of each group is enough of a sweep; all thirty take the better part of a minute.
        groups = (SweepGroup.FAST, SweepGroup.WINDOWED, SweepGroup.BASELINE)
        few = {rule.id for group in groups for rule in [r for r in process.rules if r.sweep is group][:1]}
        process = replace(process, rules=tuple(r for r in process.rules if r.id in few | set(RULES)))
        backend = azure.backend(insights.connection_string(estate.server.base_url), None)
        telemetry.switch_on(backend)
        try:
            yield Observed(estate, process, backend)
        finally:
            telemetry.switch_on(None)
            await asyncio.to_thread(backend.close)
            await process.close()


async def tell(seen: Observed) -> None:
    """Tell a day in short: one agent contained and proven, one by an analyst, one that waits for people, a veto, sweeps."""
    population = seen.estate.population
    rogue, others = population.rogue.principal, [agent.principal for agent in population.benign]
    for group in ("sweep_fast", "sweep", "sweep_baseline"):
        await seen.tick(group)
    await seen.find(rogue, "AG-04", Tier.AUTO)
    await seen.tick("settle")
    seen.refuse(rogue)
    await seen.call("compromise", principal=others[0].object_id, reason="seen exfiltrating")
    await seen.find(others[1], "AG-07", Tier.APPROVAL)
    await seen.find(others[2], "AG-01", Tier.CORROBORATED)
    await seen.find(seen.estate.app, "AG-04", Tier.AUTO)  # the app itself, which a guardrail forbids
    await seen.ship(twice=True)
    await seen.ship()
