"""``make up``: the simulated tenant, its agents and the app, left running; what to try is printed."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from simtenant.agents import AgentCrew
from simtenant.app_host import AppHost
from simtenant.estate import Estate, Ports
from simtenant.population import Api
from simtenant.stories import STORIES, Pace
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from datetime import datetime

    from simtenant.tenant import Principal

ROOT: Final = Path(__file__).resolve().parent.parent
_SCHEDULES: Final = {
    "SWEEP_FAST_SCHEDULE": "5/10 * * * * *",
    "SWEEP_SCHEDULE": "*/10 * * * * *",
    "SWEEP_BASELINE_SCHEDULE": "0 */5 * * * *",
    "SWEEP_DORMANT_SCHEDULE": "30 */5 * * * *",
    "SETTLE_SCHEDULE": "*/3 * * * * *",
}

_POLICY_ROLES: Final = frozenset(
    {"Policy.Read.All", "Policy.ReadWrite.ConditionalAccess", "Application.Read.All"}
)
_INTRODUCTION: Final = """
The app:      {app}          keys in {keys}
The tenant:   {tenant}
The rogue-to-be: {name}, object id {rogue}

Try, in another terminal:

  KEY=$(python3 -c "import json; print(json.load(open('{keys}'))['analyst']['key'])")
  curl -s {app}/api/health
  curl -s -H "x-functions-key: $KEY" {app}/api/readiness
  curl -s -H "x-functions-key: $KEY" {app}/api/principals/{rogue}
  curl -s -X POST {tenant}/_sim/stories/vault          # the agent goes rogue
  curl -s -H "x-functions-key: $KEY" {app}/api/containments

Policies (docs/conditional-access.md), as somebody who may change them:

  . {policies}; .venv/bin/python -m workbench policies plan CA-Agents-BlockHighRiskServicePrincipals

Stories: {stories}. What the app logs: {log}. Ctrl+C ends everything.
"""


class Stories:
    """Starts stories on request: ``POST /_sim/stories/{name}``."""

    def __init__(self) -> None:
        self.crew: AgentCrew | None = None
        self._playing: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        """Give the route."""
        return [web.post("/_sim/stories/{name}", self._play)]

    async def _play(self, request: web.Request) -> web.Response:
        story = STORIES.get(request.match_info["name"])
        if story is None or self.crew is None:
            return web.json_response(
                {"error": f"no such story; there are {', '.join(sorted(STORIES))}"}, status=404
            )
        agent = self.crew.agents[story.rogue]
        agent.member.principal.app_roles.update(story.extra_roles)
        for api in Api:  # what it holds already does not carry the new permissions
            agent.forget_token(api)
        task = asyncio.create_task(story.play(agent, pace=Pace(patience=300)), name=f"story {story.name}")
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)
        return web.json_response({"story": story.name, "does": story.description}, status=202)

    async def stop(self) -> None:
        """End what is playing."""
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)


def main(mode: str, port: int, tenant_port: int) -> int:
    """Run until interrupted. 1 with one line when something cannot start."""
    for option, wanted in (("--port", port), ("--tenant-port", tenant_port)):
        if _taken(wanted):
            print(f"cannot start: port {wanted} is in use; choose another with {option}", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory(prefix="agentbreaker-up-") as directory:
        try:
            asyncio.run(_run(Path(directory), mode, port, tenant_port))
        except (OSError, RuntimeError) as error:
            print(f"cannot start: {error}", file=sys.stderr)
            return 1
    return 0


def _taken(port: int) -> bool:
    """Whether somebody listens there; asked before a tenant is built for nothing."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


async def _run(directory: Path, mode: str, port: int, tenant_port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    settings = TenantSettings(
        log_ingestion_delay=timedelta(seconds=2), risk_takes_effect_after=timedelta(seconds=2)
    )
    stories = Stories()
    print("Building a tenant with 14 days of history ...", flush=True)
    async with AsyncExitStack() as stack:
        estate = await stack.enter_async_context(
            Estate(directory, settings=settings, ports=Ports(http=tenant_port), extra_routes=stories.routes())
        )
        desk = estate.tenant.add_application("policy-desk", app_roles=_POLICY_ROLES)
        # It stands for a person. As a service principal that changes policies the app would contain it (AG-19).
        environment = estate.app_environment(mode=mode, PROTECTED_PRINCIPALS=desk.object_id, **_SCHEDULES)
        app = await stack.enter_async_context(AppHost(ROOT, directory, environment, port=port))
        stories.crew = await stack.enter_async_context(
            AgentCrew(
                estate.population,
                tenant=estate.tenant,
                base_url=estate.server.base_url,
                on_event=_unheard,
                compression=60,
            )
        )
        stack.push_async_callback(stories.stop)
        rogue = estate.population.rogue
        print(
            _INTRODUCTION.format(
                app=app.base_url,
                keys=app.keys_file,
                tenant=estate.server.base_url,
                name=rogue.name,
                rogue=rogue.principal.object_id,
                policies=_policy_desk(estate, desk, directory),
                stories=", ".join(sorted(STORIES)),
                log=app.log_file,
            ),
            flush=True,
        )
        await stopped.wait()
        print("\nStopping ...", flush=True)


def _policy_desk(estate: Estate, desk: Principal, directory: Path) -> Path:
    """Write the settings with which ``desk`` runs the policies command; gives a file that only its owner can read."""
    values = estate.app_environment() | {
        "AGENTBREAKER_APP_OBJECT_ID": estate.app.object_id,
        "AGENTBREAKER_DESK_CLIENT_ID": desk.app_id,
        "AGENTBREAKER_DESK_CLIENT_SECRET": desk.secret or "",
    }
    wanted = (
        "TENANT_ID",
        "WORKSPACE_ID",
        "AUTHORITY_URL",
        "GRAPH_URL",
        "LOGS_URL",
        "CA_BUNDLE",
        "APP_OBJECT_ID",
    )
    names = [f"AGENTBREAKER_{name}" for name in (*wanted, "DESK_CLIENT_ID", "DESK_CLIENT_SECRET")]
    file = directory / "policies.env"
    file.touch(mode=0o600)
    file.write_text(
        "".join(f"export {name}={shlex.quote(values[name])}\n" for name in names), encoding="utf-8"
    )
    return file


def _unheard(_at: datetime, _principal: str, _what: str, _detail: str) -> None:
    """Agents' events are not printed here: what counts is what the app sees."""
