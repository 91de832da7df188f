"""What our Graph client sends and is answered, against Microsoft's contract, where this machine has it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from graph_contract import SHARED, check, check_request, contract
from graph_world import World, as_ours, running

from clients.terms import Kind, object_id
from simtenant.tenant import HeldCredential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.skipif(
    SHARED is None, reason="no contracts on this machine: set AGENTDESK_SHARED to the shared folder"
)

SP, APP = "/servicePrincipals/{servicePrincipal-id}", "/applications/{application-id}"
FEDERATED = "/federatedIdentityCredentials"
# Path of ours to path of the contract, the first that matches.
TEMPLATES = [
    (
        rf"/(servicePrincipals|applications)/ID{FEDERATED}/.+",
        f"{FEDERATED}/{{federatedIdentityCredential-id}}",
    ),
    (rf"/(servicePrincipals|applications)/ID{FEDERATED}", FEDERATED),
    (r"/(servicePrincipals|applications)/ID/removePassword", "/removePassword"),
    (r"/(servicePrincipals|applications)/ID", ""),
    (r"/servicePrincipals/ID/owners", f"{SP}/owners"),
    (r"/servicePrincipals/ID/appRoleAssignments/.+", f"{SP}/appRoleAssignments/{{appRoleAssignment-id}}"),
    (r"/servicePrincipals/ID/appRoleAssignments", f"{SP}/appRoleAssignments"),
    (r"/servicePrincipals/ID/oauth2PermissionGrants", f"{SP}/oauth2PermissionGrants"),
    (
        r"/servicePrincipals/ID/transitiveMemberOf/microsoft\.graph\.directoryRole",
        f"{SP}/transitiveMemberOf/graph.directoryRole",
    ),
    (r"/applications\(appId='ID'\)", "/applications(appId='{appId}')"),
    (r"/oauth2PermissionGrants/.+", "/oauth2PermissionGrants/{oAuth2PermissionGrant-id}"),
    (r"/oauth2PermissionGrants", "/oauth2PermissionGrants"),
    (r"/roleManagement/directory/roleAssignments", "/roleManagement/directory/roleAssignments"),
    (r"/identity/conditionalAccess/evaluate", "/identity/conditionalAccess/evaluate"),
]
# In no contract: sponsors are a relationship of a subtype, $batch and users were not cut out.
NOT_DECLARED = re.compile(r"/servicePrincipals/ID/microsoft\.graph\.\w+/sponsors|/\$batch|/users/ID")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Of the derived types of a What If sign-in the contract has the names only.
OF_DERIVED_TYPES = {"servicePrincipalId", "includeApplications"}

Exchange = tuple[str, str, Any, int, Any]
"""Method, path, body, status, answer."""


def template(path: str) -> str | None:
    """Give the contract's name of a path; None where the contract has none. A path nobody knows fails."""
    general = re.sub("/+", "/", GUID.sub("ID", path.partition("?")[0]))
    if NOT_DECLARED.fullmatch(general):
        return None
    for pattern, name in TEMPLATES:
        if found := re.fullmatch(pattern, general):
            in_place = {"servicePrincipals": SP, "applications": APP}
            return in_place[found[1]] + name if found.groups() else name
    raise AssertionError(f"no template for {general}")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        world.us.app_roles |= {"Policy.Read.All", "User.Read.All", "Mail.Read"}
        now = world.tenant.clock.now()
        for certificate in (False, True):
            for on_application in (False, True):
                world.agent.credentials.append(
                    HeldCredential(
                        world.tenant.new_id(),
                        now,
                        now + timedelta(days=9),
                        is_certificate=certificate,
                        on_application=on_application,
                    )
                )
        for held in (world.agent.federated, world.agent.own_federated):
            held.append(
                {
                    "id": world.tenant.new_id(),
                    "name": "github",
                    "issuer": "https://token.actions.githubusercontent.com",
                    "subject": "repo:contoso/invoices:ref:refs/heads/main",
                    "audiences": ["api://AzureADTokenExchange"],
                }
            )
        world.agent.grants.append(
            {
                "id": world.tenant.new_id(),
                "clientId": world.agent.object_id,
                "resourceId": world.us.object_id,
                "consentType": "AllPrincipals",
                "principalId": None,
                "scope": "User.Read",
            }
        )
        world.agent.owners.append("0d1fd2a5-1111-4222-8333-444455556666")
        world.agent.directory_roles.append("88d8e3e3-8f55-4a1e-953a-9b9898b8876b")
        world.agent.security_attributes = {
            "Agentbreaker": {
                "@odata.type": "#microsoft.graph.customSecurityAttributeValue",
                "Containment": "auto",
            }
        }
        world.tenant.add_risk_policy()
        yield world


@pytest.fixture
async def exchanges(world: World) -> list[Exchange]:
    """Do everything once, and give what went over the wire, what is inside batches by itself."""
    seen: list[Exchange] = []

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        sent, path = response.request.content, response.request.url.raw_path.decode()
        body = json.loads(sent) if sent else None
        answer = json.loads(response.content) if response.content else ""
        _, _, path = path.lstrip("/").partition("/")
        seen.append((response.request.method, f"/{path}", body, response.status_code, answer))
        if path.endswith("$batch"):
            asked = {one["id"]: one for one in body["requests"]}
            for one in answer["responses"]:
                inner = asked[one["id"]]
                seen.append((inner["method"], inner["url"], None, one["status"], one.get("body", "")))

    world.http.event_hooks["response"].append(keep)
    graph, ours = world.graph(), as_ours(world.agent)
    await graph.dossier(ours)
    agent = world.tenant.add_agent_identity("agent", blueprint=world.tenant.add_agent_blueprint("blueprint"))
    await graph.dossier(as_ours(agent, Kind.AGENT_IDENTITY))
    await graph.agent_user(object_id(world.tenant.add_agent_user("user", parent=agent)["id"]))
    await graph.service_principal(object_id(agent.object_id))
    await graph.what_if(ours)
    credentials, roles = await graph.credentials(ours), await graph.app_role_assignments(ours)
    grants = await graph.delegated_grants(ours)
    await graph.remove_credentials(credentials)
    await graph.remove_app_role_assignments(roles)
    await graph.remove_delegated_grants(grants)
    await graph.restore_credentials(credentials)
    await graph.restore_app_role_assignments(roles)
    await graph.restore_delegated_grants(grants)
    return seen


async def test_everything_was_done(exchanges: list[Exchange]) -> None:
    assert [one for one in exchanges if one[3] >= 400] == []
    writes = {(method, template(path)) for method, path, *_ in exchanges if method != "GET"}
    assert writes == {
        ("POST", None),  # $batch
        ("POST", "/identity/conditionalAccess/evaluate"),
        *(("POST", f"{place}/removePassword") for place in (SP, APP)),
        *(("PATCH", place) for place in (SP, APP)),
        *(("POST", f"{place}{FEDERATED}") for place in (SP, APP)),
        *(("DELETE", f"{place}{FEDERATED}/{{federatedIdentityCredential-id}}") for place in (SP, APP)),
        ("POST", f"{SP}/appRoleAssignments"),
        ("DELETE", f"{SP}/appRoleAssignments/{{appRoleAssignment-id}}"),
        ("POST", "/oauth2PermissionGrants"),
        ("DELETE", "/oauth2PermissionGrants/{oAuth2PermissionGrant-id}"),
    }


async def test_bodies_have_nothing_that_is_not_declared(exchanges: list[Exchange]) -> None:
    checked = 0
    for method, path, body, _, _ in exchanges:
        name = template(path)
        if body is None or name is None:
            continue
        if name.endswith("/evaluate"):
            identity, context = body["signInIdentity"], body["signInContext"]
            schemas = contract("v1.0")["components"]["schemas"]
            for part, base in ((identity, "signInIdentity"), (context, "signInContext")):
                assert part["@odata.type"] in schemas[f"microsoft.graph.{base}"]["x-derived-odata-types"]
            body = body | {
                part: {name: value for name, value in body[part].items() if name not in OF_DERIVED_TYPES}
                for part in ("signInIdentity", "signInContext")
            }
        check_request("v1.0", method, name, body)
        checked += 1
    assert checked >= 10


async def test_answers_are_those_of_the_contract(exchanges: list[Exchange]) -> None:
    for method, path, _, status, answer in exchanges:
        if (name := template(path)) is None:
            continue
        if (method, status) == ("PATCH", 204):
            # What the update pages say; the contract lists these paths as upserts (facts/entra.md §6).
            assert answer == ""
            continue
        check("v1.0", method, name, status, answer)


@pytest.mark.parametrize(
    ("method", "name", "body"),
    [
        ("POST", "/oauth2PermissionGrants", {"clientId": "x", "user": "y"}),
        ("POST", f"{APP}/removePassword", {"keyId": "no guid"}),
        ("POST", f"{APP}/removePassword", {"key": "x"}),
        ("PATCH", APP, {"keyCredentials": [{"thumbprint": "x"}]}),
        ("PATCH", SP, {"keyCredentials": "x"}),
        ("POST", f"{SP}/appRoleAssignments", {"roleId": "x"}),
        ("POST", "/identity/conditionalAccess/evaluate", {"signInConditions": {"risk": "high"}}),
        (
            "POST",
            "/identity/conditionalAccess/evaluate",
            {"signInConditions": {"servicePrincipalRiskLevel": 3}},
        ),
    ],
)
def test_the_check_of_bodies_can_fail(method: str, name: str, body: Any) -> None:
    with pytest.raises(AssertionError):
        check_request("v1.0", method, name, body)
