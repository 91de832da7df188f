"""What the script sends to Graph, and what the simulated tenant answers, against Microsoft's contract."""

import json

import httpx
import pytest
from graph_contract import SHARED, check, check_request
from test_grant_permissions import ANALYSTS, World, serving

from simtenant.tenant import Tenant

pytestmark = pytest.mark.skipif(
    SHARED is None, reason="no contracts on this machine: set AGENTDESK_SHARED to the shared folder"
)
NAMES = {"applications": "application", "servicePrincipals": "servicePrincipal"}


def named(path):
    """Turn a path into the contract's."""
    parts = path.replace("//", "/").strip("/").split("/")[1:]
    if len(parts) > 1:
        parts[1] = f"{{{NAMES[parts[0]]}-id}}"
    if len(parts) > 3:
        parts[3] = "{appRoleAssignment-id}"
    return "/" + "/".join(parts)


async def test_bodies_and_answers_are_those_of_the_contract(tmp_path, monkeypatch):
    seen = []

    async def keep(response):
        await response.aread()
        request = response.request
        if request.url.path.startswith("/v1.0"):
            body = json.loads(request.content) if request.content else None
            answer = json.loads(response.content) if response.content else ""
            seen.append((request.method, request.url.path, body, response.status_code, answer))

    class Watched(httpx.AsyncClient):
        def __init__(self, **options):
            super().__init__(**options, event_hooks={"response": [keep]})

    monkeypatch.setattr(httpx, "AsyncClient", Watched)
    async with serving(tmp_path, Tenant()) as world:
        assert isinstance(world, World)
        assert await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}") == 0
        assert await world.run("--remove", "--assign", f"Containment.Read={ANALYSTS}") == 0
        assert await world.run("--remove") == 0

    written = {(method, named(path)) for method, path, *_ in seen if method != "GET"}
    sp = "/servicePrincipals/{servicePrincipal-id}"
    assert written == {
        ("POST", "/applications"),
        ("PATCH", "/applications/{application-id}"),
        ("DELETE", "/applications/{application-id}"),
        ("POST", "/servicePrincipals"),
        ("POST", f"{sp}/appRoleAssignments"),
        ("DELETE", f"{sp}/appRoleAssignments/{{appRoleAssignment-id}}"),
        ("POST", f"{sp}/appRoleAssignedTo"),
        ("DELETE", f"{sp}/appRoleAssignedTo/{{appRoleAssignment-id}}"),
    }
    for method, path, body, status, answer in seen:
        if body is not None:
            check_request("v1.0", method, named(path), body)
        if method == "POST" or (method == "GET" and "(" not in path and status == 200):
            check("v1.0", method, named(path), status, answer)
