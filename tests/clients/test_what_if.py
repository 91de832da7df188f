"""Microsoft's What If over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from graph_world import World, as_ours, running

from clients.errors import Malformed, NotFound, Refused
from clients.graph import access
from clients.terms import AppId, RiskLevel, WhatIf
from simtenant.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VAULT = AppId("cfa8b339-82a2-471a-a3c9-0fc0be7a4093")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        world.us.app_roles = {"Policy.Read.ConditionalAccess"}
        yield world


async def test_all_policies_come_back_with_what_they_would_do(world: World) -> None:
    add = world.tenant.add_risk_policy
    blocking, reporting = add(), add(state="enabledForReportingButNotEnforced")
    other, off = add(include=[world.us.object_id]), add(state="disabled")

    found = {one.policy_id: one for one in await world.graph().what_if(as_ours(world.agent))}

    assert found[blocking["id"]] == WhatIf(blocking["id"], "enabled", blocks=True, applies=True, reasons=())
    assert found[reporting["id"]].applies
    assert found[reporting["id"]].state == "enabledForReportingButNotEnforced"
    assert (found[other["id"]].applies, found[off["id"]].applies) == (False, False)
    assert found[other["id"]].reasons == ("workloadIdentities",)
    assert found[off["id"]].reasons
    assert world.asked() == ["POST /v1.0/identity/conditionalAccess/evaluate"]
    assert world.turns == 1


async def test_the_risk_and_the_resource_are_those_asked_about(world: World) -> None:
    world.tenant.add_risk_policy()
    graph, ours = world.graph(), as_ours(world.agent)
    policy = world.tenant.policies[0]
    policy["conditions"]["applications"]["includeApplications"] = [VAULT]

    at_high = [one.applies for one in await graph.what_if(ours, VAULT, RiskLevel.HIGH)]
    at_low = [one.applies for one in await graph.what_if(ours, VAULT, RiskLevel.LOW)]
    at_graph = [one.applies for one in await graph.what_if(ours)]

    assert (at_high, at_low, at_graph) == ([True], [False], [False])


async def test_a_policy_that_does_not_block_is_told_from_one_that_does(world: World) -> None:
    world.tenant.add_risk_policy()["grantControls"] = None

    [found] = await world.graph().what_if(as_ours(world.agent))

    assert not found.blocks


async def test_no_policies_are_no_answer_that_blocks(world: World) -> None:
    assert await world.graph().what_if(as_ours(world.agent)) == ()


async def test_each_try_takes_a_turn(world: World) -> None:
    world.tenant.faults.add("POST .*/evaluate", FaultKind.STATUS, times=1, status=429, retry_after=0)

    await world.graph().what_if(as_ours(world.agent))

    assert world.turns == 2


async def test_without_the_permission_or_the_principal_there_is_no_answer(world: World) -> None:
    ours = as_ours(world.agent)
    world.us.app_roles = {"Application.Read.All"}
    with pytest.raises(Refused):
        await world.graph().what_if(ours)

    world.us.app_roles = {"Policy.Read.All"}
    del world.tenant.principals[world.agent.object_id]
    with pytest.raises(NotFound):
        await world.graph().what_if(ours)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"value": {}},
        {"value": ["text"]},
        {"value": [{"policyApplies": True}]},
        {"value": [{"id": "p"}]},
        {"value": [{"id": "p", "policyApplies": "true"}]},
        {"value": [], "@odata.nextLink": "https://graph.microsoft.com/v1.0/next"},
    ],
    ids=str,
)
async def test_an_answer_of_another_shape_is_malformed(
    world: World, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = world.graph()

    async def ask(*_args: Any, **_options: Any) -> dict[str, Any]:
        return answer

    monkeypatch.setattr(graph, "_ask", ask)

    with pytest.raises(Malformed):
        await graph.what_if(as_ours(world.agent))


def test_reasons_are_the_members_of_a_flags_text() -> None:
    found = {"id": "P", "policyApplies": False, "analysisReasons": "application, workloadIdentities"}

    assert access._what_if(found).reasons == ("application", "workloadIdentities")
    assert access._what_if(found | {"analysisReasons": None}).reasons == ()
