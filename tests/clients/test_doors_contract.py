"""What is sent to the doors of risk and disabling, and what they answer, against Microsoft's contract."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from graph_contract import SHARED, check, check_request
from graph_world import World, as_ours, running

from clients.terms import Kind, object_id

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.skipif(
    SHARED is None, reason="no contracts on this machine: set AGENTDESK_SHARED to the shared folder"
)

RISKY = "/identityProtection/riskyServicePrincipals"
AGENTS = "/identityProtection/riskyAgents"
DETECTIONS = "/identityProtection/servicePrincipalRiskDetections"
SP = "/servicePrincipals/{servicePrincipal-id}"
AGENT = "/servicePrincipals/microsoft.graph.agentIdentity/{servicePrincipal-id}"
BLUEPRINT = "/servicePrincipals/microsoft.graph.agentIdentityBlueprintPrincipal/{servicePrincipal-id}"
ROLES = {
    "Application.ReadWrite.All",
    "AgentIdentity.EnableDisable.All",
    "AgentIdentityBlueprintPrincipal.EnableDisable.All",
    "IdentityRiskEvent.Read.All",
    "IdentityRiskyAgent.Read.All",
    "IdentityRiskyAgent.ReadWrite.All",
    "IdentityRiskyServicePrincipal.ReadWrite.All",
}


async def test_bodies_and_answers_of_every_door_are_those_of_the_contract(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        exchanges = await everything(world)

    assert [(method, name) for method, _, name, *_ in exchanges] == [
        ("POST", f"{RISKY}/confirmCompromised"),
        ("POST", f"{RISKY}/dismiss"),
        ("POST", f"{AGENTS}/confirmCompromised"),
        ("GET", f"{AGENTS}/{{riskyAgent-id}}"),
        ("GET", AGENTS),
        ("POST", f"{AGENTS}/dismiss"),
        ("GET", DETECTIONS),
        ("PATCH", SP),
        ("PATCH", AGENT),
        ("PATCH", BLUEPRINT),
    ]
    for method, version, name, body, status, answer in exchanges:
        if body is not None:
            check_request(version, method, name, body)
        if method == "GET":
            check(version, method, name, status, answer)
        else:
            # Of the three updates the contract has any 2XX, as of an upsert (facts/entra.md §6).
            assert (status, answer) == (204, "")
            if method == "POST":
                check(version, method, name, status, answer)


async def everything(world: World) -> list[tuple[str, str, str, Any, int, Any]]:
    """Go through every door once; give method, version, the contract's path, body, status and answer."""
    seen: list[tuple[str, str, str, Any, int, Any]] = []

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        sent = response.request.content
        version, _, rest = response.request.url.path.strip("/").partition("/")
        answer = json.loads(response.content) if response.content else ""
        body = json.loads(sent) if sent else None
        seen.append((response.request.method, version, named(rest), body, response.status_code, answer))

    blueprint = world.tenant.add_agent_blueprint("blueprint")
    agent = world.tenant.add_agent_identity("agent", blueprint=blueprint)
    principals = {world.agent.object_id, blueprint.object_id, agent.object_id}

    def named(path: str) -> str:
        parent, _, last = f"/{path.replace('//', '/').strip('/')}".rpartition("/")
        if last not in principals:
            return f"{parent}/{last}"
        kind = "riskyAgent" if parent == AGENTS else "servicePrincipal"
        return f"{parent}/{{{kind}-id}}"

    world.us.app_roles = set(ROLES)
    world.http.event_hooks["response"].append(keep)
    graph = world.graph()
    ours, theirs = object_id(world.agent.object_id), object_id(agent.object_id)
    await graph.confirm_compromised([ours])
    await graph.dismiss([ours])
    await graph.confirm_agents_compromised([theirs])
    world.tenant.clock.advance(timedelta(minutes=5))
    assert await graph.agent_risk(theirs) is not None
    assert await graph.high_agent_risks()
    await graph.dismiss_agents([theirs])
    assert await graph.risk_detections(ours)
    await graph.set_enabled(as_ours(world.agent), enabled=False)
    await graph.set_enabled(as_ours(agent, Kind.AGENT_IDENTITY), enabled=False)
    await graph.set_enabled(as_ours(blueprint, Kind.AGENT_BLUEPRINT), enabled=False)
    return seen


@pytest.mark.parametrize(
    ("version", "method", "name", "body"),
    [
        ("beta", "POST", f"{AGENTS}/dismiss", {"servicePrincipalIds": []}),
        ("beta", "POST", f"{AGENTS}/confirmCompromised", {"agentIds": "x"}),
        ("v1.0", "POST", f"{RISKY}/dismiss", {"agentIds": []}),
        ("v1.0", "PATCH", SP, {"accountEnabled": "no"}),
        ("v1.0", "PATCH", AGENT, {"enabled": False}),
        ("v1.0", "PATCH", BLUEPRINT, {"accountEnabled": 0}),
    ],
)
def test_the_check_can_fail(version: str, method: str, name: str, body: Any) -> None:
    with pytest.raises(AssertionError):
        check_request(version, method, name, body)
