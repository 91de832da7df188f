"""The simulated Graph against Microsoft's published contract, where this machine has it."""

from __future__ import annotations

import base64
import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from desk import World, running, shared_folder
from graph_contract import check, contract, declared

from simtenant.graph import GraphService
from simtenant.tenant import LastSignIn, Tenant
from simtenant.tokens import GRAPH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SHARED = shared_folder()
pytestmark = pytest.mark.skipif(
    SHARED is None, reason="no contracts on this machine: set AGENTDESK_SHARED to the shared folder"
)

RISKY = "/identityProtection/riskyServicePrincipals"
AGENTS = "/identityProtection/riskyAgents"
DETECTIONS = "/identityProtection/servicePrincipalRiskDetections"
REPORT = "/reports/servicePrincipalSignInActivities"
ACCESS = "/identity/conditionalAccess"
# Sent by the service although its own schema does not declare them (facts/entra.md §7).
UNDECLARED = {"createdDateTime"}
# Operations for which permissions.json's extract has nothing: outside what it was cut to.
NOT_IN_PERMISSIONS_FILE = re.compile(
    r"^/(\$batch|users|groups|devices|directoryRoles|roleManagement|organization|reports|servicePrincipals/\{id\}/federatedIdentityCredentials|applications/\{id\}/addPassword)"
)
# The file lists these as needed together with a writing permission; alone
# they must not grant roles or change policies.
ONLY_TOGETHER = {
    ("POST", "/identity/conditionalaccess/policies"): {"Application.Read.All", "Policy.Read.All"},
    ("PATCH", "/identity/conditionalaccess/policies/{id}"): {"Application.Read.All", "Policy.Read.All"},
    ("DELETE", "/identity/conditionalaccess/policies/{id}"): {"Policy.Read.All"},
    ("POST", "/serviceprincipals/{id}/approleassignments"): {"Application.Read.All", "Directory.Read.All"},
    ("POST", "/serviceprincipals/{id}/approleassignedto"): {"Application.Read.All", "Directory.Read.All"},
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        tenant = world.tenant
        tenant.add_risk_policy()
        tenant.add_policy(
            {
                "displayName": "Block agents at risk",
                "conditions": {
                    "clientAppTypes": ["all"],
                    "applications": {"includeApplications": ["All"]},
                    "users": {"includeUsers": ["None"]},
                    "clientApplications": {"includeAgentIdServicePrincipals": ["All"]},
                    "agentIdRiskLevels": "medium,high",
                },
                "grantControls": {"operator": "OR", "builtInControls": ["block"]},
            }
        )
        tenant.add_named_location(
            {
                "@odata.type": "#microsoft.graph.ipNamedLocation",
                "displayName": "HQ",
                "isTrusted": True,
                "createdDateTime": "2026-01-01T00:00:00Z",
                "modifiedDateTime": "2026-01-01T00:00:00Z",
                "ipRanges": [
                    {"@odata.type": "#microsoft.graph.iPv4CidrRange", "cidrAddress": "198.51.100.0/24"}
                ],
            }
        )
        tenant.add_managed_identity("vm")
        now = tenant.clock.now()
        tenant.client_sign_ins[world.agent.app_id] = LastSignIn(now - timedelta(days=3), "0" * 8)
        tenant.resource_sign_ins[GRAPH.app_id] = LastSignIn(now, None)
        tenant.add_application("certified", certificate=True)
        agent = tenant.add_agent_identity("agent", blueprint=tenant.add_agent_blueprint("blueprint"))
        tenant.raise_risk(world.agent.object_id, "medium", "suspiciousSignins")
        tenant.risk.confirm([world.agent.object_id, agent.object_id])
        tenant.clock.advance(timedelta(minutes=5))
        yield world


READS = [
    ("v1.0", RISKY, RISKY),
    ("beta", RISKY, RISKY),
    ("v1.0", f"{RISKY}?$count=true&$top=1", RISKY),
    ("v1.0", f"{RISKY}/{{sp}}", f"{RISKY}/{{riskyServicePrincipal-id}}"),
    ("beta", f"{RISKY}/{{sp}}", f"{RISKY}/{{riskyServicePrincipal-id}}"),
    ("v1.0", f"{RISKY}/{{sp}}/history", f"{RISKY}/{{riskyServicePrincipal-id}}/history"),
    ("v1.0", DETECTIONS, DETECTIONS),
    ("beta", AGENTS, AGENTS),
    ("beta", f"{AGENTS}/{{agent}}", f"{AGENTS}/{{riskyAgent-id}}"),
    ("v1.0", "/servicePrincipals", "/servicePrincipals"),
    ("beta", "/servicePrincipals", "/servicePrincipals"),
    ("v1.0", "/servicePrincipals?$top=2", "/servicePrincipals"),
    ("v1.0", "/servicePrincipals/{sp}", "/servicePrincipals/{servicePrincipal-id}"),
    ("v1.0", "/servicePrincipals/{agent}", "/servicePrincipals/{servicePrincipal-id}"),
    ("v1.0", "/servicePrincipals(appId='{app}')", "/servicePrincipals(appId='{appId}')"),
    ("v1.0", "/servicePrincipals/{sp}/owners", "/servicePrincipals/{servicePrincipal-id}/owners"),
    (
        "v1.0",
        "/servicePrincipals/{responder}/appRoleAssignments",
        "/servicePrincipals/{servicePrincipal-id}/appRoleAssignments",
    ),
    (
        "v1.0",
        "/servicePrincipals/microsoft.graph.agentIdentity",
        "/servicePrincipals/microsoft.graph.agentIdentity",
    ),
    ("v1.0", "/applications", "/applications"),
    ("v1.0", "/applications/{registration}", "/applications/{application-id}"),
    ("v1.0", f"{ACCESS}/policies", f"{ACCESS}/policies"),
    ("beta", f"{ACCESS}/policies", f"{ACCESS}/policies"),
    ("v1.0", f"{ACCESS}/namedLocations", f"{ACCESS}/namedLocations"),
    ("v1.0", "/subscribedSkus", "/subscribedSkus"),
    ("beta", REPORT, REPORT),
    ("beta", f"{REPORT}?$top=1&$count=true", REPORT),
    ("beta", f"{REPORT}/{{report}}", f"{REPORT}/{{servicePrincipalSignInActivity-id}}"),
    ("v1.0", "/servicePrincipals/{nobody}", "/servicePrincipals/{servicePrincipal-id}"),
    ("v1.0", f"{RISKY}/{{nobody}}", f"{RISKY}/{{riskyServicePrincipal-id}}"),
    ("v1.0", "/servicePrincipals?$filter=broken", "/servicePrincipals"),
]


def fill(world: World, path: str) -> str:
    agent = next(one for one in world.tenant.principals.values() if one.display_name == "agent")
    for name, value in {
        "{sp}": world.agent.object_id,
        "{app}": world.agent.app_id,
        "{registration}": world.agent.application_object_id,
        "{responder}": world.responder.object_id,
        "{agent}": agent.object_id,
        "{report}": base64.urlsafe_b64encode(world.agent.app_id.encode()).decode().rstrip("="),
        "{nobody}": "11111111-2222-4333-8444-555555555555",
    }.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize(("version", "path", "template"), READS)
async def test_reads_answer_as_the_contract_says(
    world: World, version: str, path: str, template: str
) -> None:
    answer = await world.graph(
        "GET", f"/{version}{fill(world, path)}", headers={"Prefer": "include-unknown-enum-members"}
    )

    assert answer.status in ({404} if "{nobody}" in path else {400} if "broken" in path else {200})
    check(version, "GET", template, answer.status, answer.body)


@pytest.mark.parametrize(
    ("version", "action", "key", "target"),
    [
        ("v1.0", f"{RISKY}/confirmCompromised", "servicePrincipalIds", "{sp}"),
        ("v1.0", f"{RISKY}/dismiss", "servicePrincipalIds", "{sp}"),
        ("beta", f"{RISKY}/confirmCompromised", "servicePrincipalIds", "{sp}"),
        ("beta", f"{AGENTS}/confirmCompromised", "agentIds", "{agent}"),
        ("beta", f"{AGENTS}/confirmSafe", "agentIds", "{agent}"),
        ("beta", f"{AGENTS}/dismiss", "agentIds", "{agent}"),
    ],
)
async def test_actions_take_and_answer_what_the_contract_says(
    world: World, version: str, action: str, key: str, target: str
) -> None:
    body_schema = contract(version)["paths"][action]["post"]["requestBody"]["content"]["application/json"]
    name = body_schema["schema"]["$ref"].rpartition("/")[2]
    assert key in contract(version)["components"]["schemas"][name]["properties"]

    good = await world.graph("POST", f"/{version}{action}", json={key: [fill(world, target)]})
    bad = await world.graph("POST", f"/{version}{action}", json={key: ["abc"]})

    assert (good.status, bad.status) == (204, 400)
    check(version, "POST", action, good.status, good.body)
    check(version, "POST", action, bad.status, bad.body)


@pytest.mark.parametrize("version", ["v1.0", "beta"])
async def test_what_if_answers_as_the_contract_says(world: World, version: str) -> None:
    answer = await world.graph(
        "POST",
        f"/{version}{ACCESS}/evaluate",
        json={
            "signInIdentity": {
                "@odata.type": "#microsoft.graph.servicePrincipalSignIn",
                "servicePrincipalId": world.agent.object_id,
            },
            "signInContext": {
                "@odata.type": "#microsoft.graph.applicationContext",
                "includeApplications": ["00000003-0000-0000-c000-000000000000"],
            },
            "signInConditions": {"servicePrincipalRiskLevel": "high"},
        },
    )

    assert [one["policyApplies"] for one in answer.body["value"]] == [True, False]
    check(version, "POST", f"{ACCESS}/evaluate", answer.status, answer.body)


async def test_disabling_and_refusals_answer_as_the_contract_says(world: World) -> None:
    template = "/servicePrincipals/{servicePrincipal-id}"
    path = f"/v1.0/servicePrincipals/{world.agent.object_id}"
    world.tenant.settings.licensed = False

    refused = await world.graph("PATCH", path, caller=world.agent, json={"accountEnabled": False})
    unlicensed = await world.graph("GET", f"/v1.0{RISKY}")
    unauthorised = await world.graph("GET", path, token="x")
    done = await world.graph("PATCH", path, json={"accountEnabled": False})

    assert (refused.status, unlicensed.status, unauthorised.status) == (403, 403, 401)
    check("v1.0", "PATCH", template, refused.status, refused.body)
    check("v1.0", "GET", RISKY, unlicensed.status, unlicensed.body)
    check("v1.0", "GET", template, unauthorised.status, unauthorised.body)
    # 204 is what the update documentation says; the contract lists this path as
    # an upsert, whose success is any 2XX (facts/entra.md §6).
    assert (done.status, done.body) == (204, "")


@pytest.mark.parametrize(
    ("version", "path", "name"),
    [
        ("v1.0", f"{RISKY}/{{sp}}", "riskyServicePrincipal"),
        ("beta", f"{RISKY}/{{sp}}", "riskyServicePrincipal"),
        ("beta", f"{AGENTS}/{{agent}}", "riskyAgent"),
        ("v1.0", "/servicePrincipals/{sp}", "servicePrincipal"),
        ("v1.0", "/servicePrincipals/{agent}", "agentIdentity"),
        ("v1.0", "/applications/{registration}", "application"),
        ("beta", f"{REPORT}/{{report}}", "servicePrincipalSignInActivity"),
    ],
)
async def test_no_property_is_made_up(world: World, version: str, path: str, name: str) -> None:
    body = (await world.graph("GET", f"/{version}{fill(world, path)}")).body

    shown = {one for one in body if not one.startswith("@odata.")}
    assert shown - declared(version, f"microsoft.graph.{name}") <= UNDECLARED


async def test_the_validation_can_fail(world: World) -> None:
    body = (await world.graph("GET", f"/v1.0{RISKY}/{world.agent.object_id}")).body

    with pytest.raises(AssertionError, match="riskLevel"):
        check("v1.0", "GET", f"{RISKY}/{{riskyServicePrincipal-id}}", 200, body | {"riskLevel": "severe"})


def test_permissions_are_those_of_microsofts_file() -> None:
    assert SHARED is not None
    paths = json.loads((SHARED / "contracts" / "graph-permissions.subset.json").read_text())["paths"]
    published: dict[tuple[str, str], set[str]] = {}
    for path, verbs in paths.items():
        for verb, entries in verbs.items():
            roles = published.setdefault((verb, path.lower()), set())
            roles |= {one["permission"] for one in entries if "Application" in one["schemes"]}
    differing = {}
    for operation in GraphService(Tenant()).operations:
        path = re.sub(r"='\{\w+\}'", "={value}", operation.template).lower()
        path = re.sub(r"/\{\w+\}", "/{id}", path)
        # The file names relationships without the cast to the type that has them.
        uncast = re.sub(r"(?<=\{id\})(/\w+)?/microsoft\.graph\.\w+", r"\1", path)
        roles = published.get((operation.method, path)) or published.get((operation.method, uncast))
        if roles is None:
            assert NOT_IN_PERMISSIONS_FILE.match(operation.template), operation.template
        elif roles != operation.roles:
            differing[operation.method, path] = roles ^ operation.roles
    assert differing == ONLY_TOGETHER


async def test_log_rows_have_only_documented_columns(world: World) -> None:
    assert SHARED is not None
    await world.token_answer(world.agent)
    await world.graph(
        "PATCH", f"/v1.0/servicePrincipals/{world.agent.object_id}", json={"accountEnabled": False}
    )
    tables = {table for table, _ in world.logs.rows}

    assert tables == {
        "AADAgentRiskEvents",
        "AADRiskyAgents",
        "AADRiskyServicePrincipals",
        "AADServicePrincipalRiskEvents",
        "AADServicePrincipalSignInLogs",
        "AuditLogs",
        "MicrosoftGraphActivityLogs",
    }
    for table, row in world.logs.rows:
        schema = json.loads((SHARED / "schemas" / f"{table}.json").read_text())
        assert set(row) <= {column["name"] for column in schema["columns"]}, table
