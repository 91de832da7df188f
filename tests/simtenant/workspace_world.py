"""What the tests of the tenant's data half share: a running tenant with a workspace, and the contracts."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from simtenant.ingestion import Ingestion
from simtenant.log_analytics import LogAnalytics
from simtenant.resources import Resources
from simtenant.sentinel import Sentinel
from simtenant.server import TenantServer
from simtenant.tenant import Principal, Tenant, TenantSettings
from workbench.engine import LogEngine


@dataclass
class World:
    tenant: Tenant
    engine: LogEngine
    ingestion: Ingestion
    logs: LogAnalytics
    sentinel: Sentinel
    resources: Resources
    server: TenantServer
    app: Principal

    def bearer(self, audience: str, principal: Principal | None = None) -> dict[str, str]:
        token = self.tenant.tokens.issue(principal or self.app, audience)
        return {"Authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def running(directory: Path, settings: TenantSettings | None = None) -> AsyncIterator[World]:
    """A tenant on localhost with everything this half serves, and one application to call it with."""
    tenant = Tenant(settings or TenantSettings(log_ingestion_delay=timedelta(0), duplicate_share=0.0))
    engine = LogEngine()
    ingestion = Ingestion(tenant, engine)
    tenant.logs = ingestion
    logs = LogAnalytics(tenant, engine, ingestion=ingestion)
    sentinel = Sentinel(tenant)
    resources = Resources(tenant)
    app = tenant.add_application("agentbreaker", secret="not-a-secret")
    routes = [*logs.routes(), *sentinel.routes(), *resources.routes()]
    async with (
        ingestion,
        TenantServer(tenant, directory=directory, extra_routes=routes) as server,
    ):
        yield World(tenant, engine, ingestion, logs, sentinel, resources, server, app)
    engine.close()


def contract(name: str) -> dict[str, Any]:
    """Load a contract; skips, saying so, where the shared folder is not there."""
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("AGENTDESK_SHARED", root.parent / "shared"))
    file = shared / "contracts" / name
    if not file.is_file():
        pytest.skip(f"NOT CHECKED against the contract: {file} is absent (set AGENTDESK_SHARED)")
    loaded: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return loaded


def check(contracted: dict[str, Any], schema: str, body: object) -> None:
    """Validate a body against a component schema (OpenAPI 3.0 ``nullable`` is honoured)."""
    components = _without_nullable(contracted["components"])
    validator = jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": components},
        format_checker=jsonschema.FormatChecker(),
    )
    validator.validate(body)


def _without_nullable(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_nullable(one) for one in node]
    if not isinstance(node, dict):
        return node
    rewritten = {key: _without_nullable(value) for key, value in node.items()}
    if rewritten.pop("nullable", False) is True and "type" in rewritten:
        rewritten["type"] = [rewritten["type"], "null"]
    return rewritten


async def until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    """Wait for something that other tasks bring about; raises TimeoutError when they do not."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"did not come true within {seconds} s")
