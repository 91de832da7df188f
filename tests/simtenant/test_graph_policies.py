"""Policies written over the simulated Graph: who may, what is refused, what it answers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from desk import World, running
from graph_contract import SHARED, check

from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from simtenant.tenant import Principal

POLICIES = "/identity/conditionalAccess/policies"
ONE = f"{POLICIES}/{{conditionalAccessPolicy-id}}"
WRITER = ("Policy.Read.All", "Policy.ReadWrite.ConditionalAccess", "Application.Read.All")
BODY: dict[str, Any] = {
    "displayName": "block",
    "state": "enabledForReportingButNotEnforced",
    "conditions": {
        "clientAppTypes": ["all"],
        "applications": {"includeApplications": ["All"]},
        "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
        "servicePrincipalRiskLevels": ["high"],
    },
    "grantControls": {"operator": "OR", "builtInControls": ["block"]},
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def writer(world: World) -> Principal:
    return world.tenant.add_application("writer", app_roles=WRITER)


def changed(path: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(BODY)
    part = body
    *parents, last = path.split(".")
    for name in parents:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return body


@pytest.mark.parametrize("missing", WRITER)
async def test_nobody_writes_without_all_three_permissions(world: World, missing: str) -> None:
    caller = world.tenant.add_application("half", app_roles=set(WRITER) - {missing})

    answer = await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=BODY)

    assert (answer.status, world.tenant.policies) == (403, [])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("state", "on"),
        ("state", None),
        ("displayName", ""),
        ("id", "5d1f0000-0000-4000-8000-00000000000a"),
        ("conditions.agentIdRiskLevels", "high"),  # beta only
        ("conditions.clientApplications.includeAgentIdServicePrincipals", ["All"]),
        ("conditions.clientApplications", None),
        ("conditions.applications", None),
        ("conditions.clientAppTypes", ["everything"]),
        ("conditions.servicePrincipalRiskLevels", "high"),
        ("conditions.servicePrincipalRiskLevels", ["severe"]),
        ("conditions.locations", {"includeLocations": ["All"], "excludeLocations": ["<a template>"]}),
        ("conditions.authenticationFlows", {"transferMethods": "carrierPigeon"}),
        ("grantControls.builtInControls", ["blocks"]),
        ("grantControls.surprise", "x"),
    ],
)
async def test_a_body_that_the_contract_does_not_declare_is_refused(
    world: World, path: str, value: Any
) -> None:
    caller = writer(world)

    made = await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=changed(path, value))

    assert (made.status, world.tenant.policies) == (400, [])


async def test_agents_conditions_are_of_beta_and_v1_hides_them(world: World) -> None:
    caller = writer(world)
    body = changed("conditions.servicePrincipalRiskLevels", None)
    body["conditions"] |= {
        "agentIdRiskLevels": "medium,high",
        "clientApplications": {"includeAgentIdServicePrincipals": ["All"]},
    }

    made = await world.graph("POST", f"/beta{POLICIES}", caller=caller, json=body)
    seen = await world.graph("GET", f"/v1.0{POLICIES}/{made.body['id']}", caller=caller)

    assert (made.status, made.body["conditions"]["agentIdRiskLevels"]) == (201, "medium,high")
    assert "agentIdRiskLevels" not in seen.body["conditions"]
    if SHARED is not None:
        check("beta", "POST", POLICIES, made.status, made.body)


async def test_a_policy_is_created_changed_and_deleted_with_an_audit_row_each(world: World) -> None:
    caller = writer(world)

    made = await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=BODY)
    path = f"/v1.0{POLICIES}/{made.body['id']}"
    part = {"state": "enabled", "conditions": {"servicePrincipalRiskLevels": ["medium"]}}
    patched = await world.graph("PATCH", path, caller=caller, json=part)
    seen = (await world.graph("GET", path, caller=caller)).body
    gone = await world.graph("DELETE", path, caller=caller)
    again = await world.graph("PATCH", path, caller=caller, json=part)

    assert [one.status for one in (made, patched, gone, again)] == [201, 204, 204, 404]
    assert seen["state"] == "enabled"
    assert seen["conditions"] == BODY["conditions"] | {"servicePrincipalRiskLevels": ["medium"]}
    assert [row["OperationName"] for row in world.logs.of("AuditLogs")] == [
        f"{verb} conditional access policy" for verb in ("Add", "Update", "Delete")
    ]
    if SHARED is not None:
        check("v1.0", "POST", POLICIES, made.status, made.body)
        check("v1.0", "DELETE", ONE, gone.status, gone.body)
        check("v1.0", "PATCH", ONE, again.status, again.body)


async def test_writing_policies_shares_the_second_of_the_tenant(tmp_path: Path) -> None:
    async with running(tmp_path, TenantSettings(identity_protection_per_second=1)) as world:
        caller = writer(world)
        first = await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=BODY)
        second = await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=BODY)

    assert (first.status, second.status, len(world.tenant.policies)) == (201, 429, 1)
    assert "Retry-After" not in second.headers


async def test_without_the_licence_nothing_is_written(world: World) -> None:
    caller = writer(world)
    world.tenant.settings.licensed = False

    assert (await world.graph("POST", f"/v1.0{POLICIES}", caller=caller, json=BODY)).status == 403
    assert world.tenant.policies == []
