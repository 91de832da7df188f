import base64
import json
from dataclasses import replace

import pytest
from desk_app import ALL_ROLES, ANALYST, desk, identity

ROUTES = {
    "incidents": "Incident.Submit",
    "compromise": "Containment.Execute",
    "containments": "Containment.Read",
    "principal": "Containment.Read",
    "killswitch": "Containment.Approve",
    "readiness": "Containment.Read",
    "dormant": "Containment.Read",
    "signals": "Signal.Submit",
    "approval": "Containment.Approve",
    "undo": "Containment.Execute",
    "notifications": "Containment.Read",
    "retry_notifications": "Containment.Execute",
    "openapi": "Containment.Read",
}


@pytest.fixture
async def closed(tmp_path, quick_turns):
    """An app behind which Easy Auth is off."""
    async with desk(tmp_path) as opened:
        opened.process = replace(opened.process, settings=replace(opened.process.settings, easy_auth=False))
        yield opened


@pytest.mark.parametrize("name", ROUTES)
async def test_a_forged_identity_is_refused_while_easy_auth_is_off(closed, name):
    answer = await closed.call(name, body={}, headers=identity(*ALL_ROLES))

    assert (answer.status, answer.body["error"]["code"]) == (401, "easy_auth_off")
    assert len(closed.estate.tenant.requests) == 0


@pytest.mark.parametrize(("name", "role"), ROUTES.items())
async def test_every_route_needs_its_role_and_no_other_will_do(app, name, role):
    others = [other for other in ALL_ROLES if other != role]

    answer = await app.call(name, body={}, headers=identity(*others, role.lower(), f"{role} "))

    assert (answer.status, answer.body["error"]["code"]) == (403, "missing_role")
    assert answer.body["error"]["details"]["required"] == role


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ms-client-principal": ""},
        {"x-ms-client-principal": "not base64!"},
        {"x-ms-client-principal": base64.b64encode(b"[]").decode()},
        {"x-ms-client-principal": base64.b64encode(b'{"claims": null}').decode()},
        {"x-ms-client-principal": base64.b64encode(b'{"claims": [{"typ": "roles"}]}').decode()},
        {"x-ms-client-principal-id": ANALYST},
    ],
)
async def test_an_identity_that_cannot_be_read_is_nobody(app, headers):
    answer = await app.call("containments", headers=headers)

    assert answer.status == 401


async def test_no_other_claim_can_be_named_the_role_claim(app):
    principal = {
        "role_typ": "name",
        "claims": [{"typ": "name", "val": "Containment.Read"}, {"typ": "oid", "val": ANALYST}],
    }

    answer = await app.call(
        "containments",
        headers={"x-ms-client-principal": base64.b64encode(json.dumps(principal).encode()).decode()},
    )

    assert answer.status == 403


async def test_two_object_ids_are_nobody(app):
    claims = [
        {"typ": "oid", "val": ANALYST},
        {"typ": "oid", "val": "x"},
        {"typ": "roles", "val": "Containment.Read"},
    ]

    answer = await app.call(
        "containments",
        headers={"x-ms-client-principal": base64.b64encode(json.dumps({"claims": claims}).encode()).decode()},
    )

    assert (answer.status, answer.body["error"]["code"]) == (401, "no_object_id")


async def test_roles_in_the_long_form_are_accepted(app):
    claims = [
        {"typ": "http://schemas.microsoft.com/ws/2008/06/identity/claims/role", "val": "Containment.Read"},
        {"typ": "oid", "val": ANALYST},
    ]

    answer = await app.call(
        "containments",
        headers={"x-ms-client-principal": base64.b64encode(json.dumps({"claims": claims}).encode()).decode()},
    )

    assert answer.status == 200
