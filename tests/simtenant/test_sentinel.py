import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from workspace_world import World, running

from simtenant.sentinel import AUDIENCE, MAX_COMMENTS, Incident


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def incident(world: World) -> Incident:
    agent = world.tenant.add_application("invoice-reader")
    return world.sentinel.raise_incident(
        "First Key Vault use", principals=[agent], ip_addresses=["203.0.113.7"], rule_id=str(uuid.uuid4())
    )


async def call(
    world: World,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
    version: str = "?api-version=2025-09-01",
) -> tuple[int, Any]:
    sent = world.bearer(AUDIENCE) if headers is None else headers
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{world.server.base_url}{path}{version}", json=body, headers=sent
        ) as response,
    ):
        text = await response.text()
        return response.status, json.loads(text) if text else None


async def test_an_incident_is_read_by_its_arm_id_whatever_the_case(world: World, incident: Incident) -> None:
    status, read = await call(world, "GET", incident.arm_id)
    lowered, _ = await call(world, "GET", incident.arm_id.replace("Incidents", "incidents"))

    assert status == lowered == 200
    assert read["properties"]["title"] == "First Key Vault use"
    assert read["properties"]["relatedAnalyticRuleIds"] == incident.rule_ids


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"headers": {}}, 401, "InvalidAuthenticationToken"),
        ({"version": ""}, 400, "MissingApiVersionParameter"),
    ],
)
async def test_arm_refuses_without_token_or_api_version(
    world: World, incident: Incident, change: dict[str, Any], status: int, code: str
) -> None:
    answered, body = await call(world, "GET", incident.arm_id, **change)

    assert (answered, body["error"]["code"]) == (status, code)


async def test_a_token_for_another_audience_is_refused(world: World, incident: Incident) -> None:
    status, _ = await call(world, "GET", incident.arm_id, headers=world.bearer("https://graph.microsoft.com"))

    assert status == 401


async def test_a_caller_without_rights_is_told_so(world: World, incident: Incident) -> None:
    world.sentinel.allowed = set()

    status, body = await call(world, "GET", incident.arm_id)

    assert (status, body["error"]["code"]) == (403, "AuthorizationFailed")


async def test_an_unknown_incident_and_a_foreign_workspace_are_not_found(
    world: World, incident: Incident
) -> None:
    unknown = await call(world, "GET", incident.arm_id.replace(incident.name, str(uuid.uuid4())))
    foreign = await call(world, "GET", incident.arm_id.replace("law-security", "law-other"))

    assert unknown[0] == foreign[0] == 404
    assert unknown[1]["error"]["code"] == foreign[1]["error"]["code"] == "ResourceNotFound"


async def test_an_update_replaces_the_labels_and_needs_the_present_etag(
    world: World, incident: Incident
) -> None:
    _, read = await call(world, "GET", incident.arm_id)
    read["properties"]["labels"] = [{"labelName": "agentbreaker"}]

    first = await call(world, "PUT", incident.arm_id, read)
    stale = await call(world, "PUT", incident.arm_id, read)
    without = await call(world, "PUT", incident.arm_id, {"properties": read["properties"]})

    assert first[0] == 200
    assert [label["labelName"] for label in first[1]["properties"]["labels"]] == ["agentbreaker"]
    assert first[1]["etag"] != read["etag"]
    assert stale[0] == without[0] == 409
    assert stale[1]["error"]["code"] == "Conflict"


async def test_a_stale_if_match_is_a_failed_precondition(world: World, incident: Incident) -> None:
    _, read = await call(world, "GET", incident.arm_id)
    headers = {**world.bearer(AUDIENCE), "If-Match": '"99"'}

    status, body = await call(world, "PUT", incident.arm_id, read, headers=headers)

    assert (status, body["error"]["code"]) == (412, "PreconditionFailed")


async def test_closing_needs_a_classification(world: World, incident: Incident) -> None:
    _, read = await call(world, "GET", incident.arm_id)
    read["properties"]["status"] = "Closed"

    refused, _ = await call(world, "PUT", incident.arm_id, read)
    read["properties"]["classification"] = "TruePositive"
    closed, _ = await call(world, "PUT", incident.arm_id, read)

    assert (refused, closed) == (400, 200)


async def test_entities_lag_for_as_many_reads_as_asked(world: World, incident: Incident) -> None:
    incident.entities_lag = 2

    reads = [await call(world, "POST", f"{incident.arm_id}/entities") for _ in range(3)]

    assert [len(body["entities"]) for _, body in reads] == [0, 0, 3]
    assert {entity["kind"] for entity in reads[2][1]["entities"]} == {"Account", "CloudApplication", "Ip"}


async def test_a_comment_is_made_once_and_rewritten_after_that(world: World, incident: Incident) -> None:
    path = f"{incident.arm_id}/comments/{uuid.uuid4()}"

    made = await call(world, "PUT", path, {"properties": {"message": "one"}})
    rewritten = await call(world, "PUT", path, {"properties": {"message": "two"}})
    _, listed = await call(world, "GET", f"{incident.arm_id}/comments")

    assert (made[0], rewritten[0]) == (201, 200)
    assert [comment["properties"]["message"] for comment in listed["value"]] == ["two"]
    assert made[1]["properties"]["author"]["objectId"] == world.app.object_id


async def test_a_deleted_comment_is_gone(world: World, incident: Incident) -> None:
    path = f"{incident.arm_id}/comments/{uuid.uuid4()}"
    await call(world, "PUT", path, {"properties": {"message": "one"}})

    statuses = [(await call(world, method, path))[0] for method in ("DELETE", "DELETE", "GET")]

    assert statuses == [200, 204, 404]


@pytest.mark.parametrize(("length", "status"), [(30_000, 201), (30_001, 400), (0, 400)])
async def test_a_comment_has_at_most_30000_characters(
    world: World, incident: Incident, length: int, status: int
) -> None:
    path = f"{incident.arm_id}/comments/{uuid.uuid4()}"

    answered, _ = await call(world, "PUT", path, {"properties": {"message": "x" * length}})

    assert answered == status


async def test_an_incident_takes_100_comments(world: World, incident: Incident) -> None:
    message = {"properties": {"message": "x"}}
    paths = [f"{incident.arm_id}/comments/{uuid.uuid4()}" for _ in range(MAX_COMMENTS + 1)]

    statuses = [(await call(world, "PUT", path, message))[0] for path in paths]

    assert statuses == [201] * MAX_COMMENTS + [400]


async def test_racing_writers_of_one_etag_do_not_both_win(world: World, incident: Incident) -> None:
    _, read = await call(world, "GET", incident.arm_id)

    answers = await asyncio.gather(*(call(world, "PUT", incident.arm_id, read) for _ in range(5)))

    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409]


async def test_the_list_pages_newest_first(world: World) -> None:
    for number in range(5):
        world.sentinel.raise_incident(f"incident {number}")
    root = f"{world.tenant.settings.workspace_resource_id}/providers/Microsoft.SecurityInsights/incidents"

    _, page = await call(world, "GET", root, version="?api-version=2025-09-01&$top=3")
    _, rest = await call(world, "GET", page["nextLink"].removeprefix(world.server.base_url), version="")

    titles = [one["properties"]["title"] for one in page["value"] + rest["value"]]
    assert titles == [f"incident {number}" for number in (4, 3, 2, 1, 0)]


def test_the_playbook_body_is_what_the_trigger_sends(world: World, incident: Incident) -> None:
    body = incident.playbook_body()
    agent = next(one for one in world.tenant.principals.values() if one.display_name == "invoice-reader")

    properties = body["object"]["properties"]
    details = properties["alerts"][0]["properties"]["additionalData"]["Custom Details"]
    assert json.loads(details) == {"ServicePrincipalId": [agent.object_id], "AppId": [agent.app_id]}
    assert body["object"]["id"] == incident.arm_id
    assert body["workspaceInfo"]["WorkspaceName"] == "law-security"
    assert body["workspaceId"] == world.tenant.settings.workspace_id
    account = next(one for one in properties["relatedEntities"] if one["kind"] == "Account")
    assert account["properties"]["aadUserId"] == agent.object_id
    assert properties["owner"] == {
        "objectId": None, "email": None, "assignedTo": None, "userPrincipalName": None
    }  # fmt: skip


def test_a_redelivery_has_the_same_event_id_and_its_body_is_the_callers_own(incident: Incident) -> None:
    first, second = incident.playbook_body(), incident.playbook_body()
    first["object"]["properties"]["alerts"].clear()

    assert first["eventUniqueId"] == second["eventUniqueId"]
    assert incident.playbook_body()["object"]["properties"]["alerts"]
