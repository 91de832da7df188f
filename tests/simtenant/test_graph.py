"""Microsoft Graph over real sockets: permissions, lists, risk, CAE, and the real SDK."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import azure.identity.aio
import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError
from desk import RESPONDER_ROLES, World, running
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.identity_protection.risky_service_principals.confirm_compromised.confirm_compromised_post_request_body import (
    ConfirmCompromisedPostRequestBody,
)
from msgraph.generated.models.o_data_errors.o_data_error import ODataError
from msgraph.generated.models.risk_level import RiskLevel as SdkRiskLevel

from simtenant.clock import iso
from simtenant.tenant import LastSignIn, Principal, TenantSettings, UnknownIdBehaviour

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RISKY = "/v1.0/identityProtection/riskyServicePrincipals"
AGENTS = "/beta/identityProtection/riskyAgents"
DETECTIONS = "/v1.0/identityProtection/servicePrincipalRiskDetections"
ACCESS = "/v1.0/identity/conditionalAccess"
ALL_MEMBERS = {"Prefer": "include-unknown-enum-members"}
NOBODY = "11111111-2222-4333-8444-555555555555"
CP1 = json.dumps({"access_token": {"xms_cc": {"values": ["cp1"]}}})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def an_agent(world: World) -> Principal:
    return world.tenant.add_agent_identity("agent", blueprint=world.tenant.add_agent_blueprint("blueprint"))


# -- tokens and permissions ---------------------------------------------------


async def test_without_a_valid_token_graph_answers_401(world: World) -> None:
    for token in ("nonsense", world.tenant.tokens.issue(world.responder, "https://vault.azure.net")):
        answer = await world.graph("GET", "/v1.0/servicePrincipals", token=token)
        assert (answer.status, answer.code) == (401, "InvalidAuthenticationToken")
    assert world.logs.rows == []


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", RISKY, "IdentityRiskyServicePrincipal.Read.All"),
        ("GET", DETECTIONS, "IdentityRiskEvent.Read.All"),
        ("GET", AGENTS, "IdentityRiskyAgent.Read.All"),
        ("GET", "/v1.0/servicePrincipals", "Application.Read.All"),
        ("GET", "/v1.0/servicePrincipals/microsoft.graph.agentIdentity", "AgentIdentity.Read.All"),
        ("GET", f"{ACCESS}/policies", "Policy.Read.All"),
        ("GET", "/v1.0/subscribedSkus", "LicenseAssignment.Read.All"),
        ("GET", "/v1.0/users", "User.Read.All"),
    ],
)
async def test_each_path_wants_its_own_permission(world: World, method: str, path: str, role: str) -> None:
    holder = world.tenant.add_application("holder", app_roles={role})
    others = set(RESPONDER_ROLES) - {role, "Application.ReadWrite.All", "Organization.Read.All"}
    stranger = world.tenant.add_application(
        "stranger", app_roles={one for one in others if not one.startswith(role.rsplit(".", 2)[0])}
    )

    assert (await world.graph(method, path, caller=holder)).status == 200
    refused = await world.graph(method, path, caller=stranger)
    assert (refused.status, refused.code) == (403, "Authorization_RequestDenied")


async def test_reading_risk_does_not_allow_confirming(world: World) -> None:
    reader = world.tenant.add_application("reader", app_roles={"IdentityRiskyServicePrincipal.Read.All"})

    answer = await world.graph(
        "POST", f"{RISKY}/confirmCompromised", caller=reader, json={"servicePrincipalIds": [NOBODY]}
    )

    assert answer.status == 403


async def test_an_unlicensed_tenant_has_no_id_protection(world: World) -> None:
    world.tenant.settings.licensed = False

    answer = await world.graph("GET", RISKY)

    assert (answer.status, answer.code) == (403, "Forbidden")
    assert "not licensed" in answer.body["error"]["message"]
    assert (await world.graph("GET", "/v1.0/servicePrincipals")).status == 200
    plans = (await world.graph("GET", "/v1.0/subscribedSkus")).body["value"][0]["servicePlans"]
    assert plans == []


async def test_an_unknown_path_is_a_bad_request(world: World) -> None:
    answer = await world.graph("GET", "/v1.0/inventions")

    assert (answer.status, answer.code) == (400, "BadRequest")
    assert answer.body["error"]["innerError"]["request-id"]


async def test_risky_agents_do_not_exist_in_v1(world: World) -> None:
    assert (await world.graph("GET", AGENTS.replace("/beta", "/v1.0"))).status == 400


async def test_a_double_slash_after_the_version_is_the_same_path(world: World) -> None:
    answer = await world.graph("GET", f"/v1.0//servicePrincipals/{world.agent.object_id}")

    assert answer.body["displayName"] == "invoice-agent"


# -- service principals and applications -------------------------------------


async def test_a_principal_is_found_by_object_id_and_by_app_id(world: World) -> None:
    agent = world.agent
    for path in (
        f"/v1.0/servicePrincipals/{agent.object_id}",
        f"/v1.0/servicePrincipals/{agent.object_id.upper()}",
        f"/v1.0/servicePrincipals(appId='{agent.app_id}')",
        f"/beta/servicePrincipals(appId='{agent.app_id}')",
    ):
        body = (await world.graph("GET", path)).body
        assert (body["id"], body["appId"]) == (agent.object_id, agent.app_id)
        assert body["appOwnerOrganizationId"] == world.tenant.settings.tenant_id
        assert body["servicePrincipalType"] == "Application"


async def test_the_object_id_of_the_registration_is_no_service_principal(world: World) -> None:
    wrong = world.agent.application_object_id

    as_principal = await world.graph("GET", f"/v1.0/servicePrincipals/{wrong}")
    as_application = await world.graph("GET", f"/v1.0/applications/{wrong}")

    assert (as_principal.status, as_principal.code) == (404, "Request_ResourceNotFound")
    assert as_application.body["appId"] == world.agent.app_id


async def test_applications_are_found_by_app_id(world: World) -> None:
    answer = await world.graph("GET", f"/v1.0/applications?$filter=appId eq '{world.agent.app_id}'")

    assert [row["id"] for row in answer.body["value"]] == [world.agent.application_object_id]


async def test_a_malformed_id_is_a_bad_request(world: World) -> None:
    for path in ("/v1.0/servicePrincipals/abc", "/v1.0/applications/abc", f"{RISKY}/abc"):
        assert (await world.graph("GET", path)).status == 400


async def test_kinds_of_principals_are_told_apart_as_in_graph(world: World) -> None:
    agent = an_agent(world)
    managed = world.tenant.add_managed_identity("vm")
    agent_row = (await world.graph("GET", f"/v1.0/servicePrincipals/{agent.object_id}")).body
    blueprint_row = (
        await world.graph("GET", f"/v1.0/servicePrincipals(appId='{agent.agent_identity_blueprint_id}')")
    ).body
    managed_row = (await world.graph("GET", f"/v1.0/servicePrincipals/{managed.object_id}")).body
    graph_row = (
        await world.graph("GET", "/v1.0/servicePrincipals(appId='00000003-0000-0000-c000-000000000000')")
    ).body

    assert agent_row["@odata.type"] == "#microsoft.graph.agentIdentity"
    assert agent_row["servicePrincipalType"] == "ServiceIdentity"
    assert agent_row["agentIdentityBlueprintId"] == blueprint_row["appId"]
    assert blueprint_row["@odata.type"] == "#microsoft.graph.agentIdentityBlueprintPrincipal"
    assert (managed_row["servicePrincipalType"], managed_row["appOwnerOrganizationId"]) == (
        "ManagedIdentity",
        None,
    )
    assert graph_row["appOwnerOrganizationId"] == "f8cdef31-a31e-4b4a-93e4-5f571e91255a"
    assert "cb8d6980-6bcb-4507-afec-ed6de3a2d798" in {role["id"] for role in graph_row["appRoles"]}


async def test_agent_identities_have_a_list_of_their_own(world: World) -> None:
    agent = an_agent(world)

    answer = await world.graph("GET", "/v1.0/servicePrincipals/microsoft.graph.agentIdentity")

    assert [row["id"] for row in answer.body["value"]] == [agent.object_id]


async def test_lists_are_paged_until_there_is_no_next_link(world: World) -> None:
    for number in range(25):
        world.tenant.add_application(f"app-{number:02}")
    path = "/v1.0/servicePrincipals?$filter=startswith(displayName,'app-')&$select=displayName&$top=10"
    sizes, names = [], []

    while path:
        answer = await world.graph("GET", path)
        sizes.append(len(answer.body["value"]))
        names += [row["displayName"] for row in answer.body["value"]]
        path = answer.body.get("@odata.nextLink", "")

    assert sizes == [10, 10, 5]
    assert names == [f"app-{number:02}" for number in range(25)]


async def test_the_page_size_is_a_setting(world: World) -> None:
    world.tenant.settings.page_size = 3

    answer = await world.graph("GET", "/v1.0/servicePrincipals")

    assert len(answer.body["value"]) == 3
    assert answer.body["@odata.nextLink"].startswith(f"{world.server.base_url}/v1.0/servicePrincipals?")


async def test_select_keeps_only_what_was_asked_for(world: World) -> None:
    body = (
        await world.graph("GET", f"/v1.0/servicePrincipals/{world.agent.object_id}?$select=id,appId")
    ).body

    assert {name for name in body if not name.startswith("@")} == {"id", "appId"}


async def test_count_wants_eventual_consistency(world: World) -> None:
    path = "/v1.0/servicePrincipals?$count=true&$top=1"

    refused = await world.graph("GET", path)
    answered = await world.graph("GET", path, headers={"ConsistencyLevel": "eventual"})

    assert (refused.status, refused.code) == (400, "Request_UnsupportedQuery")
    assert answered.body["@odata.count"] == len(world.tenant.principals)


async def test_owners_and_roles_can_be_read(world: World) -> None:
    owners = await world.graph("GET", f"/v1.0/servicePrincipals/{world.agent.object_id}/owners")
    roles = await world.graph(
        "GET", f"/v1.0/servicePrincipals/{world.responder.object_id}/appRoleAssignments"
    )

    assert [row["@odata.type"] for row in owners.body["value"]] == ["#microsoft.graph.user"]
    assert "cb8d6980-6bcb-4507-afec-ed6de3a2d798" in {row["appRoleId"] for row in roles.body["value"]}


async def test_disabling_answers_204_refuses_tokens_and_is_audited(world: World) -> None:
    answer = await world.graph(
        "PATCH", f"/v1.0/servicePrincipals/{world.agent.object_id}", json={"accountEnabled": False}
    )

    assert (answer.status, answer.body) == (204, "")
    assert (await world.token_answer(world.agent)).body["error_codes"] == [7000112]
    [row] = world.logs.of("AuditLogs")
    assert row["OperationName"] == "Update service principal"
    assert row["InitiatedBy"]["app"]["servicePrincipalId"] == world.responder.object_id
    assert row["TargetResources"][0]["id"] == world.agent.object_id
    assert row["TargetResources"][0]["modifiedProperties"] == [
        {"displayName": "AccountEnabled", "oldValue": "[true]", "newValue": "[false]"}
    ]


async def test_owned_by_allows_changing_only_what_one_owns(world: World) -> None:
    owner = world.tenant.add_application("owner", app_roles={"Application.ReadWrite.OwnedBy"})
    path = f"/v1.0/servicePrincipals/{world.agent.object_id}"

    refused = await world.graph("PATCH", path, caller=owner, json={"accountEnabled": False})
    world.agent.owners.append(owner.object_id)
    allowed = await world.graph("PATCH", path, caller=owner, json={"accountEnabled": False})

    assert (refused.status, allowed.status) == (403, 204)


@pytest.mark.parametrize("body", [{}, {"accountEnabled": "no"}, {"displayName": "x"}, [], None])
async def test_other_patches_are_refused_loudly(world: World, body: object) -> None:
    answer = await world.graph("PATCH", f"/v1.0/servicePrincipals/{world.agent.object_id}", json=body)

    assert answer.status == 400
    assert world.agent.account_enabled


async def test_an_agent_identity_is_disabled_with_the_narrow_permission(world: World) -> None:
    agent = an_agent(world)
    switch = world.tenant.add_application("switch", app_roles={"AgentIdentity.EnableDisable.All"})
    path = "/v1.0/servicePrincipals/microsoft.graph.agentIdentity"

    own = await world.graph(
        "PATCH", f"{path}/{agent.object_id}", caller=switch, json={"accountEnabled": False}
    )
    other = await world.graph(
        "PATCH", f"{path}/{world.agent.object_id}", caller=switch, json={"accountEnabled": False}
    )

    assert (own.status, other.status) == (204, 404)
    assert not agent.account_enabled


async def test_a_principal_that_grants_itself_a_role_leaves_an_audit_row(world: World) -> None:
    rogue = world.tenant.add_application("rogue", app_roles={"AppRoleAssignment.ReadWrite.All"})
    resource = world.tenant.principal_by_app_id("00000003-0000-0000-c000-000000000000")
    assert resource is not None
    grant = {
        "principalId": rogue.object_id,
        "resourceId": resource.object_id,
        "appRoleId": "246dd0d5-5bd0-4def-940b-0421030a5b68",
    }
    path = f"/v1.0/servicePrincipals/{rogue.object_id}/appRoleAssignments"

    first = await world.graph("POST", path, caller=rogue, json=grant)
    again = await world.graph("POST", path, caller=rogue, json=grant)

    assert (first.status, again.status) == (201, 400)
    assert "Policy.Read.All" in rogue.app_roles
    [row] = world.logs.of("AuditLogs")
    values = {one["displayName"]: one["newValue"] for one in row["TargetResources"][0]["modifiedProperties"]}
    assert values["ServicePrincipal.ObjectID"] == json.dumps(rogue.object_id)


async def test_adding_a_secret_is_audited_and_shows_the_secret_once(world: World) -> None:
    body = {"passwordCredential": {"displayName": "later"}}

    on_app = await world.graph(
        "POST", f"/v1.0/applications/{world.agent.application_object_id}/addPassword", json=body
    )
    on_principal = await world.graph(
        "POST", f"/v1.0/servicePrincipals/{world.agent.object_id}/addPassword", json=body
    )
    on_agent = await world.graph(
        "POST", f"/v1.0/servicePrincipals/{an_agent(world).object_id}/addPassword", json=body
    )

    assert on_app.body["secretText"]
    assert on_principal.status == 200
    assert on_agent.code == "AgentIdentity_CredentialsNotSupported"
    assert [row["OperationName"] for row in world.logs.of("AuditLogs")] == [
        "Update application \N{EN DASH} Certificates and secrets management ",
        "Add service principal credentials",
    ]


async def test_an_added_secret_is_listed_where_it_was_added_and_without_its_text(world: World) -> None:
    application = f"/v1.0/applications/{world.agent.application_object_id}"
    principal = f"/v1.0/servicePrincipals/{world.agent.object_id}"

    added = [
        (await world.graph("POST", f"{path}/addPassword", json={})).body["keyId"]
        for path in (application, principal)
    ]

    listed = [
        (await world.graph("GET", path)).body["passwordCredentials"] for path in (application, principal)
    ]
    assert [one["keyId"] for one in listed[0]] == [world.agent.credential_key_id, added[0]]
    assert [one["keyId"] for one in listed[1]] == [added[1]]
    assert {one["secretText"] for own in listed for one in own} == {None}


async def test_a_certificate_and_the_end_of_a_credential_are_listed(world: World) -> None:
    ends = world.tenant.clock.now() - timedelta(days=3)
    certified = world.tenant.add_application("certified", certificate=True, credential_ends=ends)

    body = (await world.graph("GET", f"/v1.0/applications/{certified.application_object_id}")).body

    assert body["passwordCredentials"] == []
    [key] = body["keyCredentials"]
    assert (key["keyId"], key["type"], key["endDateTime"]) == (
        certified.credential_key_id,
        "AsymmetricX509Cert",
        iso(ends),
    )


REPORT = "/beta/reports/servicePrincipalSignInActivities"


async def test_the_report_of_last_sign_ins_knows_the_past_and_what_happened_since(world: World) -> None:
    long_ago = world.tenant.clock.now() - timedelta(days=120)
    sleeper = world.tenant.add_application("sleeper")
    world.tenant.client_sign_ins[sleeper.app_id] = LastSignIn(long_ago, "request")
    before = await world.graph("GET", f"{REPORT}?$filter=appId eq '{world.agent.app_id}'")

    await world.token(world.agent)

    rows = {row["appId"]: row for row in (await world.graph("GET", REPORT)).body["value"]}
    assert before.body["value"] == []
    assert rows[world.agent.app_id]["lastSignInActivity"]["lastSignInDateTime"] > iso(long_ago)
    assert rows[sleeper.app_id]["lastSignInActivity"] == {
        "lastSignInDateTime": iso(long_ago),
        "lastSignInRequestId": "request",
        "lastNonInteractiveSignInDateTime": None,
        "lastNonInteractiveSignInRequestId": None,
    }
    assert rows[sleeper.app_id]["applicationAuthenticationResourceSignInActivity"] is None


async def test_the_report_of_last_sign_ins_comes_in_pages_and_in_beta_only(world: World) -> None:
    for number in range(5):
        app_id = f"11111111-2222-4333-8444-00000000000{number}"
        world.tenant.client_sign_ins[app_id] = LastSignIn(world.tenant.clock.now(), None)

    first = await world.graph("GET", f"{REPORT}?$top=2")
    second = await world.graph("GET", first.body["@odata.nextLink"])
    ids = [row["id"] for page in (first, second) for row in page.body["value"]]
    one = await world.graph("GET", f"{REPORT}/{ids[0]}")

    assert len(set(ids)) == 4
    assert one.body["appId"].endswith("0")
    assert (await world.graph("GET", REPORT.replace("beta", "v1.0"))).status == 400


async def test_the_report_of_last_sign_ins_is_refused_without_permission_or_licence(world: World) -> None:
    not_permitted = await world.graph("GET", REPORT, caller=world.agent)
    world.tenant.settings.sign_in_activity_reported = False
    not_licensed = await world.graph("GET", REPORT)

    assert (not_permitted.status, not_permitted.code) == (403, "Authorization_RequestDenied")
    assert (not_licensed.status, not_licensed.code) == (
        403,
        "Authentication_RequestFromNonPremiumTenantOrB2CTenant",
    )


async def test_the_directory_can_be_enumerated(world: World) -> None:
    spy = world.tenant.add_application("spy", app_roles={"Directory.Read.All"})
    for path in ("users", "groups", "devices", "directoryRoles", "roleManagement/directory/roleAssignments"):
        assert (await world.graph("GET", f"/v1.0/{path}", caller=spy)).status == 200
    user = (await world.graph("GET", "/v1.0/users?$top=1", caller=spy)).body["value"][0]
    assert (await world.graph("GET", f"/v1.0/users/{user['id']}", caller=spy)).body["displayName"]
    assert (await world.graph("GET", f"/v1.0/users/{NOBODY}", caller=spy)).status == 404


# -- risk ---------------------------------------------------------------------


async def test_a_principal_without_risk_is_not_among_the_risky_ones(world: World) -> None:
    answer = await world.graph("GET", f"{RISKY}/{world.agent.object_id}")

    assert (answer.status, answer.code) == (404, "Request_ResourceNotFound")
    assert (await world.graph("GET", RISKY)).body["value"] == []


async def test_a_confirmation_is_processing_before_it_takes_effect(world: World) -> None:
    """A 204 from Graph is not containment."""
    path = f"{RISKY}/{world.agent.object_id}"
    accepted = await world.confirm(world.agent.object_id)
    before = (await world.graph("GET", path, headers=ALL_MEMBERS)).body
    world.tenant.clock.advance(timedelta(minutes=1))
    after = (await world.graph("GET", path, headers=ALL_MEMBERS)).body

    assert (accepted.status, accepted.body) == (204, "")
    assert (before["isProcessing"], before["riskLevel"], before["riskState"]) == (True, "none", "none")
    assert (after["isProcessing"], after["riskLevel"], after["riskState"]) == (
        False,
        "high",
        "confirmedCompromised",
    )
    assert after["riskDetail"] == "adminConfirmedServicePrincipalCompromised"
    assert after["isEnabled"] is True


async def test_newer_enum_members_are_hidden_from_callers_that_do_not_ask(world: World) -> None:
    await world.confirm(world.agent.object_id)
    world.tenant.clock.advance(timedelta(minutes=1))

    assert (await world.graph("GET", RISKY)).body["value"][0]["riskDetail"] == "unknownFutureValue"


async def test_a_confirmation_is_detected_logged_and_in_the_history(world: World) -> None:
    await world.confirm(world.agent.object_id)
    assert world.logs.of("AADServicePrincipalRiskEvents") == []
    world.tenant.clock.advance(timedelta(minutes=1))

    history = (await world.graph("GET", f"{RISKY}/{world.agent.object_id}/history")).body["value"]
    detections = (
        await world.graph("GET", f"{DETECTIONS}?$filter=servicePrincipalId eq '{world.agent.object_id}'")
    ).body["value"]

    assert [item["initiatedBy"] for item in history] == [world.responder.object_id]
    assert history[0]["activity"]["riskEventTypes"] == ["adminConfirmedServicePrincipalCompromised"]
    assert [one["riskEventType"] for one in detections] == ["adminConfirmedServicePrincipalCompromised"]
    one = (await world.graph("GET", f"{DETECTIONS}/{detections[0]['id']}")).body
    assert one["servicePrincipalId"] == world.agent.object_id
    [event] = world.logs.of("AADServicePrincipalRiskEvents")
    [state] = world.logs.of("AADRiskyServicePrincipals")
    assert event["RiskEventType"] == "adminConfirmedServicePrincipalCompromised"
    assert (state["Id"], state["RiskLevel"], state["IsProcessing"]) == (world.agent.object_id, "high", False)


async def test_many_principals_are_confirmed_in_one_call(world: World) -> None:
    agents = [world.tenant.add_application(f"agent-{number}") for number in range(5)]

    answer = await world.confirm(*(agent.object_id for agent in agents))

    assert answer.status == 204
    world.tenant.clock.advance(timedelta(minutes=1))
    high = await world.graph("GET", f"{RISKY}?$filter=riskLevel eq 'high'&$select=id")
    assert {row["id"] for row in high.body["value"]} == {agent.object_id for agent in agents}


async def test_an_unknown_id_refuses_the_whole_batch(world: World) -> None:
    answer = await world.confirm(world.agent.object_id, NOBODY)

    assert (answer.status, answer.code) == (404, "Request_ResourceNotFound")
    assert world.tenant.risk.get(world.agent.object_id) is None


async def test_unknown_ids_can_be_ignored_instead(world: World) -> None:
    world.tenant.settings.unknown_id_behaviour = UnknownIdBehaviour.IGNORE

    assert (await world.confirm(world.agent.object_id, NOBODY)).status == 204
    assert world.tenant.risk.get(world.agent.object_id) is not None


@pytest.mark.parametrize(
    "body",
    [{}, {"servicePrincipalIds": []}, {"servicePrincipalIds": ["abc"]}, {"servicePrincipalIds": [1]}, []],
)
async def test_a_malformed_confirmation_is_a_bad_request(world: World, body: object) -> None:
    assert (await world.graph("POST", f"{RISKY}/confirmCompromised", json=body)).status == 400


async def test_a_batch_beyond_the_limit_is_refused(world: World) -> None:
    world.tenant.settings.max_ids_per_call = 1

    assert (await world.confirm(world.agent.object_id, world.responder.object_id)).status == 400


async def test_the_wrong_kinds_of_id_are_unknown_to_id_protection(world: World) -> None:
    """The app id, the registration's object id, and an agent identity at the wrong door."""
    agent = an_agent(world)

    for wrong in (world.agent.app_id, world.agent.application_object_id, agent.object_id):
        assert (await world.confirm(wrong)).status == 404


async def test_dismissing_also_dismisses_what_microsoft_found(world: World) -> None:
    world.tenant.raise_risk(world.agent.object_id, "medium", "suspiciousSignins")
    await world.confirm(world.agent.object_id)
    world.tenant.clock.advance(timedelta(minutes=1))

    answer = await world.graph(
        "POST", f"{RISKY}/dismiss", json={"servicePrincipalIds": [world.agent.object_id]}
    )
    world.tenant.clock.advance(timedelta(minutes=1))

    assert answer.status == 204
    row = (await world.graph("GET", f"{RISKY}/{world.agent.object_id}", headers=ALL_MEMBERS)).body
    assert (row["riskLevel"], row["riskState"]) == ("none", "dismissed")
    assert row["riskDetail"] == "adminDismissedAllRiskForServicePrincipal"
    detections = (await world.graph("GET", DETECTIONS)).body["value"]
    assert {one["riskState"] for one in detections} == {"dismissed"}


async def test_microsofts_own_finding_takes_effect_at_once_and_never_lowers(world: World) -> None:
    world.tenant.raise_risk(world.agent.object_id, "high", "leakedCredentials")
    world.tenant.raise_risk(world.agent.object_id, "low", "suspiciousSignins")

    row = (await world.graph("GET", f"{RISKY}/{world.agent.object_id}")).body
    assert (row["riskLevel"], row["riskState"]) == ("high", "atRisk")


async def test_confirming_twice_is_harmless(world: World) -> None:
    await world.confirm(world.agent.object_id)
    world.tenant.clock.advance(timedelta(minutes=1))
    assert (await world.confirm(world.agent.object_id)).status == 204

    row = (await world.graph("GET", f"{RISKY}/{world.agent.object_id}")).body
    assert (row["riskLevel"], row["riskState"], row["isProcessing"]) == ("high", "confirmedCompromised", True)


async def test_agents_are_confirmed_at_their_own_door(world: World) -> None:
    agent = an_agent(world)
    body = {"agentIds": [agent.object_id]}

    assert (await world.graph("GET", f"{AGENTS}/{agent.object_id}")).status == 404
    assert (await world.graph("POST", f"{AGENTS}/confirmCompromised", json=body)).status == 204
    world.tenant.clock.advance(timedelta(minutes=1))
    row = (await world.graph("GET", f"{AGENTS}/{agent.object_id}", headers=ALL_MEMBERS)).body
    assert (row["riskLevel"], row["riskDetail"]) == ("high", "adminConfirmedAgentCompromised")
    assert row["identityType"] == "agentIdentity"
    assert "riskLastModifiedDateTime" in row
    assert (await world.graph("GET", f"{RISKY}/{agent.object_id}")).status == 404
    assert world.logs.of("AADRiskyAgents")[0]["Id"] == agent.object_id
    assert world.logs.of("AADAgentRiskEvents")[0]["AgentId"] == agent.object_id

    assert (await world.graph("POST", f"{AGENTS}/confirmSafe", json=body)).status == 204
    world.tenant.clock.advance(timedelta(minutes=1))
    assert (await world.graph("GET", f"{AGENTS}/{agent.object_id}")).body["riskState"] == "confirmedSafe"
    assert (await world.graph("POST", f"{AGENTS}/dismiss", json=body)).status == 204
    world.tenant.clock.advance(timedelta(minutes=1))
    assert (await world.graph("GET", AGENTS)).body["value"][0]["riskState"] == "dismissed"


async def test_risk_takes_effect_by_itself_and_is_logged_without_being_asked(tmp_path: Path) -> None:
    settings = TenantSettings(risk_takes_effect_after=timedelta(milliseconds=50))
    async with running(tmp_path, settings) as world:
        await world.confirm(world.agent.object_id)
        for _ in range(100):
            if world.logs.of("AADRiskyServicePrincipals"):
                break
            await asyncio.sleep(0.05)
        [row] = world.logs.of("AADRiskyServicePrincipals")
        assert row["RiskLevel"] == "high"


# -- Conditional Access over Graph -------------------------------------------


async def test_policies_and_named_locations_can_be_read(world: World) -> None:
    policy = world.tenant.add_risk_policy()
    place = world.tenant.add_named_location(
        {
            "@odata.type": "#microsoft.graph.ipNamedLocation",
            "displayName": "HQ",
            "isTrusted": True,
            "ipRanges": [{"@odata.type": "#microsoft.graph.iPv4CidrRange", "cidrAddress": "198.51.100.0/24"}],
        }
    )

    policies = await world.graph("GET", f"{ACCESS}/policies")
    assert [one["id"] for one in policies.body["value"]] == [policy["id"]]
    assert (await world.graph("GET", f"{ACCESS}/policies/{policy['id']}")).body["state"] == "enabled"
    assert (await world.graph("GET", f"{ACCESS}/policies/{NOBODY}")).status == 404
    assert (await world.graph("GET", f"{ACCESS}/namedLocations")).body["value"][0]["displayName"] == "HQ"
    assert (await world.graph("GET", f"{ACCESS}/namedLocations/{place['id']}")).body["isTrusted"] is True


async def test_agent_conditions_are_visible_in_beta_only(world: World) -> None:
    world.tenant.add_policy(
        {
            "conditions": {
                "applications": {"includeApplications": ["All"]},
                "clientApplications": {"includeAgentIdServicePrincipals": ["All"]},
                "agentIdRiskLevels": "high",
            },
            "grantControls": {"operator": "OR", "builtInControls": ["block"]},
        }
    )

    v1 = (await world.graph("GET", f"{ACCESS}/policies")).body["value"][0]["conditions"]
    beta = (await world.graph("GET", f"{ACCESS.replace('v1.0', 'beta')}/policies")).body["value"][0][
        "conditions"
    ]

    assert "agentIdRiskLevels" not in v1
    assert "includeAgentIdServicePrincipals" not in v1["clientApplications"]
    assert beta["agentIdRiskLevels"] == "high"


def what_if(object_id: str, *, risk: str | None = "high", only_applied: bool = False) -> dict[str, Any]:
    return {
        "signInIdentity": {
            "@odata.type": "#microsoft.graph.servicePrincipalSignIn",
            "servicePrincipalId": object_id,
        },
        "signInContext": {
            "@odata.type": "#microsoft.graph.applicationContext",
            "includeApplications": ["00000003-0000-0000-c000-000000000000"],
        },
        "signInConditions": {"servicePrincipalRiskLevel": risk, "country": "CA", "ipAddress": "40.77.182.32"},
        "appliedPoliciesOnly": only_applied,
    }


async def test_what_if_takes_the_risk_from_the_question(world: World) -> None:
    world.tenant.add_risk_policy()
    world.tenant.add_risk_policy(display_name="trial", state="enabledForReportingButNotEnforced")
    world.tenant.add_risk_policy(display_name="off", state="disabled")

    high = (await world.graph("POST", f"{ACCESS}/evaluate", json=what_if(world.agent.object_id))).body[
        "value"
    ]
    low = (
        await world.graph("POST", f"{ACCESS}/evaluate", json=what_if(world.agent.object_id, risk="low"))
    ).body["value"]

    assert [one["policyApplies"] for one in high] == [True, True, False]
    assert [one["analysisReasons"] for one in high] == ["notSet", "notSet", "policyNotEnabled"]
    assert not any(one["policyApplies"] for one in low)


async def test_what_if_lists_only_applied_policies_when_asked(world: World) -> None:
    world.tenant.add_risk_policy()
    world.tenant.add_risk_policy(display_name="off", state="disabled")

    answer = await world.graph(
        "POST", f"{ACCESS}/evaluate", json=what_if(world.agent.object_id, only_applied=True)
    )

    assert [one["state"] for one in answer.body["value"]] == ["enabled"]


async def test_what_if_about_agents_exists_in_beta_only(world: World) -> None:
    agent = an_agent(world)
    world.tenant.add_policy(
        {
            "conditions": {
                "applications": {"includeApplications": ["All"]},
                "clientApplications": {"includeAgentIdServicePrincipals": ["All"]},
                "agentIdRiskLevels": "high",
            },
            "grantControls": {"operator": "OR", "builtInControls": ["block"]},
        }
    )
    question = what_if(agent.object_id)
    question["signInIdentity"] = {
        "@odata.type": "#microsoft.graph.agentSignIn",
        "agentServicePrincipalId": agent.object_id,
    }
    question["signInConditions"] = {"agentIdRiskLevel": "high"}

    v1 = await world.graph("POST", f"{ACCESS}/evaluate", json=question)
    beta = await world.graph("POST", f"{ACCESS.replace('v1.0', 'beta')}/evaluate", json=question)

    assert v1.status == 400
    assert beta.body["value"][0]["policyApplies"] is True


@pytest.mark.parametrize("missing", ["signInIdentity", "signInContext"])
async def test_what_if_without_its_question_is_a_bad_request(world: World, missing: str) -> None:
    question = what_if(world.agent.object_id)
    del question[missing]

    assert (await world.graph("POST", f"{ACCESS}/evaluate", json=question)).status == 400


# -- CAE ------------------------------------------------------------------------


async def test_a_cp1_token_from_before_the_risk_is_challenged(world: World) -> None:
    world.tenant.add_risk_policy()
    token = await world.token(world.agent, claims=CP1)
    path = f"/v1.0/servicePrincipals/{world.agent.object_id}"
    await world.confirm(world.agent.object_id)

    pending = await world.graph("GET", path, token=token)
    world.tenant.clock.advance(timedelta(minutes=1))
    challenged = await world.graph("GET", path, token=token)

    assert pending.status == 200
    assert (challenged.status, challenged.code) == (401, "InvalidAuthenticationToken")
    header = challenged.headers["WWW-Authenticate"]
    assert header.startswith('Bearer realm="", authorization_uri="')
    assert 'error="insufficient_claims"' in header
    [encoded] = re.findall(r'claims="([^"]+)"', header)
    claims = json.loads(base64.b64decode(encoded))
    assert claims["access_token"]["nbf"]["essential"] is True
    assert (await world.token_answer(world.agent, claims=json.dumps(claims))).body["error_codes"] == [53003]


async def test_tokens_without_cp1_go_on_until_they_expire(world: World) -> None:
    world.tenant.add_risk_policy()
    token = await world.token(world.agent)
    path = f"/v1.0/servicePrincipals/{world.agent.object_id}"
    await world.confirm(world.agent.object_id)
    world.tenant.clock.advance(timedelta(minutes=5))

    going_on = await world.graph("GET", path, token=token)
    world.tenant.clock.advance(timedelta(minutes=90))
    expired = await world.graph("GET", path, token=token)

    assert (going_on.status, expired.status) == (200, 401)
    assert "WWW-Authenticate" not in expired.headers


async def test_cae_does_not_reach_multitenant_apps_and_managed_identities(world: World) -> None:
    saas = world.tenant.add_application(
        "saas", sign_in_audience="AzureADMultipleOrgs", app_roles={"Application.Read.All"}
    )
    managed = world.tenant.add_managed_identity("vm", app_roles={"Application.Read.All"})
    for principal in (saas, managed):
        token = world.tenant.tokens.issue(principal, "https://graph.microsoft.com", cp1=True)
        world.tenant.set_enabled(principal.object_id, enabled=False)
        assert (await world.graph("GET", "/v1.0/servicePrincipals", token=token)).status == 200


async def test_disabling_challenges_too_and_cae_can_be_off(world: World) -> None:
    token = await world.token(world.agent, claims=CP1)
    world.tenant.set_enabled(world.agent.object_id, enabled=False)

    assert (await world.graph("GET", "/v1.0/servicePrincipals", token=token)).status == 401
    world.tenant.settings.cae_enabled = False
    assert (await world.graph("GET", "/v1.0/servicePrincipals", token=token)).status == 200


async def test_a_new_token_after_the_event_is_not_challenged(world: World) -> None:
    """Without a policy the block has no teeth: the challenged client simply gets another token."""
    world.tenant.raise_risk(world.agent.object_id, "high", "leakedCredentials")

    token = await world.token(world.agent, claims=CP1)

    assert (await world.graph("GET", "/v1.0/servicePrincipals", token=token)).status == 200


# -- activity log ------------------------------------------------------------------


async def test_each_call_of_a_principal_is_in_the_activity_log(world: World) -> None:
    token = await world.token(world.agent)
    sign_in = world.logs.of("AADServicePrincipalSignInLogs")[0]
    await world.graph(
        "GET",
        f"/v1.0//servicePrincipals/{NOBODY}?$select=id",
        token=token,
        headers={"X-Sim-Client-IP": "203.0.113.9", "User-Agent": "agent/2", "client-request-id": NOBODY},
    )

    [row] = world.logs.of("MicrosoftGraphActivityLogs")
    assert row["RequestUri"] == f"https://graph.microsoft.com/v1.0/servicePrincipals/{NOBODY}?$select=id"
    assert (row["RequestMethod"], row["ResponseStatusCode"]) == ("GET", 404)
    assert row["SignInActivityId"] == sign_in["UniqueTokenIdentifier"]
    assert (row["ServicePrincipalId"], row["AppId"]) == (world.agent.object_id, world.agent.app_id)
    assert (row["IPAddress"], row["UserAgent"]) == ("203.0.113.9", "agent/2")
    assert (row["ClientRequestId"], row["Roles"]) == (NOBODY, "Application.Read.All")


async def test_a_denied_call_is_logged_as_403(world: World) -> None:
    await world.graph("GET", "/v1.0/users", caller=world.agent)

    assert world.logs.of("MicrosoftGraphActivityLogs")[0]["ResponseStatusCode"] == 403


# -- the real SDK -----------------------------------------------------------------


@asynccontextmanager
async def sdk(world: World, principal: Principal) -> AsyncIterator[GraphServiceClient]:
    """The real SDK as a principal, declaring cp1, on the simulated tenant."""
    async with (
        azure.identity.aio.ClientSecretCredential(
            world.tenant.settings.tenant_id,
            principal.app_id,
            principal.secret or "",
            authority=world.server.tls_url,
            disable_instance_discovery=True,
            connection_verify=str(world.server.ca_file),
        ) as credential,
        httpx.AsyncClient() as http,
    ):
        provider = AzureIdentityAuthenticationProvider(
            credential, scopes=["https://graph.microsoft.com/.default"], allowed_hosts=["127.0.0.1"]
        )
        adapter = GraphRequestAdapter(provider, client=http)
        adapter.base_url = f"{world.server.base_url}/v1.0"
        yield GraphServiceClient(request_adapter=adapter)


# The SDK and kiota warn about themselves when they are imported.
@pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:msgraph\..*", r"ignore::DeprecationWarning:kiota_abstractions\..*"
)
async def test_the_real_sdk_reads_confirms_and_reads_back(world: World) -> None:
    async with sdk(world, world.responder) as graph:
        agent = world.agent.object_id
        risky = graph.identity_protection.risky_service_principals

        principal = await graph.service_principals.by_service_principal_id(agent).get()
        by_app_id = await graph.service_principals_with_app_id(world.agent.app_id).get()
        with pytest.raises(ODataError) as not_yet:
            await risky.by_risky_service_principal_id(agent).get()
        await risky.confirm_compromised.post(ConfirmCompromisedPostRequestBody(service_principal_ids=[agent]))
        pending = await risky.by_risky_service_principal_id(agent).get()
        world.tenant.clock.advance(timedelta(minutes=1))
        done = await risky.by_risky_service_principal_id(agent).get()

    assert principal is not None
    assert by_app_id is not None
    assert principal.display_name == by_app_id.display_name == "invoice-agent"
    assert not_yet.value.response_status_code == 404
    assert not_yet.value.error is not None
    assert not_yet.value.error.code == "Request_ResourceNotFound"
    assert pending is not None
    assert pending.is_processing is True
    assert done is not None
    assert done.risk_level is SdkRiskLevel.High


@pytest.mark.filterwarnings(
    r"ignore::DeprecationWarning:msgraph\..*", r"ignore::DeprecationWarning:kiota_abstractions\..*"
)
async def test_the_real_sdk_answers_the_challenge_and_is_refused(world: World) -> None:
    """The whole of CAE: 401 with claims, a new token asked for with them, no token given."""
    world.tenant.add_risk_policy()
    async with sdk(world, world.agent) as graph:
        own = graph.service_principals.by_service_principal_id(world.agent.object_id)
        before = await own.get()
        await world.confirm(world.agent.object_id)
        world.tenant.clock.advance(timedelta(minutes=1))
        with pytest.raises(ClientAuthenticationError, match="AADSTS53003"):
            await own.get()

    assert before is not None
    assert [row["ResultType"] for row in world.logs.of("AADServicePrincipalSignInLogs")] == ["0", "53003"]
    statuses = [
        row["ResponseStatusCode"]
        for row in world.logs.of("MicrosoftGraphActivityLogs")
        if row["ServicePrincipalId"] == world.agent.object_id
    ]
    assert statuses == [200, 401]
