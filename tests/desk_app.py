"""A whole tenant and the app, for tests of what users meet: production handlers and clients over real sockets."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from handlers import edge
from handlers.http import Request, Response
from handlers.process import Process, build
from settings import Settings
from simtenant.estate import Estate
from simtenant.tenant import TenantSettings

ANALYST = "bbbbbbbb-0000-4000-8000-000000000002"
PLAYBOOK = "bbbbbbbb-0000-4000-8000-000000000003"
ALL_ROLES = (
    "Incident.Submit",
    "Signal.Submit",
    "Containment.Execute",
    "Containment.Approve",
    "Containment.Read",
)


def identity(*roles: str, oid: str = ANALYST) -> dict[str, str]:
    """The header that Easy Auth presents."""
    claims = [{"typ": "roles", "val": role} for role in roles]
    claims.append({"typ": "http://schemas.microsoft.com/identity/claims/objectidentifier", "val": oid})
    principal = {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"}
    return {"x-ms-client-principal": base64.b64encode(json.dumps(principal).encode()).decode()}


class Fixed:
    """A process that is already built."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def get(self) -> Process:
        return self.process


@dataclass
class Desk:
    estate: Estate
    process: Process

    @property
    def rogue(self) -> Any:
        return self.estate.population.rogue.principal

    async def call(
        self,
        name: str,
        *,
        body: Any = None,
        raw: bytes | None = None,
        route: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        request = Request(
            method="POST",
            route=route or {},
            query=query or {},
            headers=identity(*ALL_ROLES) if headers is None else headers,
            body=raw if raw is not None else json.dumps(body).encode(),
        )
        response = await edge.answer(name, request, Fixed(self.process))
        assert "Traceback" not in response.text()
        return response

    async def incident(self, incident: Any, **options: Any) -> Response:
        return await self.call(
            "incidents",
            body=incident.playbook_body(),
            headers=identity("Incident.Submit", oid=PLAYBOOK),
            **options,
        )

    async def compromise(self, principal: str, **body: Any) -> Response:
        return await self.call(
            "compromise", route={"principalId": principal}, body={"reason": "seen exfiltrating", **body}
        )

    async def proposed(self, containment_id: str) -> str:
        """Give the lever that a containment shows to whoever decides about it; any where it is not there."""
        shown = {c["id"]: c["nextLever"] or c["lever"] for c in await self.containments()}
        return shown.get(containment_id) or "confirm-compromised"

    def confirms(self, status: int | None = 204) -> int:
        return sum(
            1
            for seen in self.estate.tenant.requests
            if seen.path.endswith("/confirmCompromised") and (status is None or seen.status == status)
        )

    def comments(self) -> list[Any]:
        return [
            comment
            for incident in self.estate.sentinel.incidents.values()
            for comment in incident.comments.values()
        ]

    async def containments(self) -> list[dict[str, Any]]:
        answer = await self.call("containments")
        assert answer.status == 200, answer.body
        return list(answer.body["value"])

    async def ledger_kinds(self) -> list[str]:
        return [record.body["kind"] for record in await self.process.world.store.scan("ledger:")]


@contextlib.asynccontextmanager
async def desk(
    directory: Path,
    *,
    mode: str = "enforce",
    armed: bool = True,
    history: bool = False,
    tenant: TenantSettings | None = None,
    **settings: str,
) -> AsyncIterator[Desk]:
    """Open a tenant whose ID Protection quota is wide, so that tests do not wait for its second."""
    chosen = tenant or TenantSettings(
        log_ingestion_delay=timedelta(0),
        risk_takes_effect_after=timedelta(0),
        identity_protection_per_second=1000.0,
    )
    async with Estate(directory, settings=chosen, history=history, armed=armed) as estate:
        process = await build(Settings.from_env(estate.app_environment(mode=mode, **settings)))
        try:
            yield Desk(estate, process)
        finally:
            await process.close()
