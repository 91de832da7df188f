"""``POST /$batch`` over real sockets: its limits, and that each inner request is judged for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from desk import Answer, World, running

from simtenant.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RISKY = "/identityProtection/riskyServicePrincipals"
NOBODY = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def get(number: object, url: str, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "method": "GET", "url": url, **more}


async def batch(world: World, *requests: object, version: str = "v1.0", **options: Any) -> Answer:
    return await world.graph("POST", f"/{version}/$batch", json={"requests": list(requests)}, **options)


def inner(answer: Answer) -> dict[str, dict[str, Any]]:
    assert answer.status == 200, answer.body
    return {one["id"]: one for one in answer.body["responses"]}


@pytest.mark.parametrize("version", ["v1.0", "beta"])
async def test_each_inner_request_has_its_own_status_under_an_outer_200(world: World, version: str) -> None:
    answer = await batch(
        world,
        get("one", f"/servicePrincipals/{world.agent.object_id}?$select=id,displayName"),
        get("gone", f"/servicePrincipals/{NOBODY}"),
        get("nonsense", "inventions"),
        version=version,
    )

    found = inner(answer)
    assert {name: one["status"] for name, one in found.items()} == {"one": 200, "gone": 404, "nonsense": 400}
    assert found["one"]["body"]["displayName"] == "invoice-agent"
    assert set(found["one"]["body"]) == {"@odata.context", "id", "displayName"}
    assert found["gone"]["body"]["error"]["code"] == "Request_ResourceNotFound"


async def test_the_answers_come_in_another_order_than_the_questions(world: World) -> None:
    answer = await batch(world, get(1, "/organization"), get(2, "/subscribedSkus"))

    assert [one["id"] for one in answer.body["responses"]] == ["2", "1"]


async def test_inner_requests_need_their_own_permissions(world: World) -> None:
    reader = world.tenant.add_application("reader", app_roles={"Application.Read.All"})

    found = inner(
        await batch(
            world, get(1, f"/servicePrincipals/{NOBODY}"), get(2, "/users"), get(3, RISKY), caller=reader
        )
    )

    assert [found[one]["status"] for one in "123"] == [404, 403, 403]


async def test_an_inner_write_is_carried_out_and_answers_its_own_204(world: World) -> None:
    request = {
        "id": "1",
        "method": "PATCH",
        "url": f"/servicePrincipals/{world.agent.object_id}",
        "headers": {"Content-Type": "application/json"},
        "body": {"accountEnabled": False},
    }

    found = inner(await batch(world, request))

    assert found["1"]["status"] == 204
    assert "body" not in found["1"]
    assert world.agent.account_enabled is False


async def test_twenty_requests_are_taken_and_twenty_one_are_not(world: World) -> None:
    twenty = [get(number, "/organization") for number in range(20)]

    assert len(inner(await batch(world, *twenty))) == 20
    refused = await batch(world, *twenty, get(20, "/organization"))
    assert (refused.status, refused.code) == (400, "BadRequest")


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [get(1, "/organization"), get(1, "/users")],
        [{"method": "GET", "url": "/organization"}],
        [get("", "/organization")],
        [{"id": 1, "method": "GET", "url": "/organization"}],
        [{"id": "1", "method": "BREW", "url": "/organization"}],
        [{"id": "1", "method": "GET"}],
        [get(1, "/$batch")],
        [get(1, "https://graph.microsoft.com/v1.0/organization")],
        [{"id": "1", "method": "POST", "url": "/organization", "body": {}}],
        ["text"],
    ],
    ids=str,
)
async def test_a_batch_that_is_none_is_refused_whole(world: World, requests: list[object]) -> None:
    answer = await batch(world, *requests)

    assert (answer.status, answer.code) == (400, "BadRequest")


async def test_a_batch_takes_no_turn_but_its_inner_requests_are_throttled_one_by_one(world: World) -> None:
    world.tenant.settings.identity_protection_per_second = 1.0

    found = inner(await batch(world, get(1, RISKY), get(2, RISKY), get(3, "/organization")))

    assert [found[one]["status"] for one in "123"] == [200, 429, 200]
    assert "Retry-After" not in found["2"]["headers"]


async def test_a_fault_hits_the_inner_request_it_names_alone(world: World) -> None:
    world.tenant.faults.add("GET /v1.0/organization", FaultKind.STATUS, times=1, status=429, retry_after=7)

    found = inner(await batch(world, get(1, "/organization"), get(2, "/subscribedSkus")))

    assert [found[one]["status"] for one in "12"] == [429, 200]
    assert found["1"]["headers"]["Retry-After"] == "7"
    assert inner(await batch(world, get(1, "/organization")))["1"]["status"] == 200


async def test_what_depends_on_a_failure_fails_with_424(world: World) -> None:
    found = inner(
        await batch(
            world,
            get(1, f"/servicePrincipals/{NOBODY}"),
            get(2, "/organization", dependsOn=["1"]),
            get(3, "/subscribedSkus"),
            get(4, "/organization", dependsOn=["3"]),
        )
    )

    assert [found[one]["status"] for one in "1234"] == [404, 424, 200, 200]


async def test_the_activity_log_has_a_row_for_the_batch_and_one_for_each_inner_request(world: World) -> None:
    await batch(world, get(1, "/organization"), get(2, f"/servicePrincipals/{NOBODY}"))

    rows = world.logs.of("MicrosoftGraphActivityLogs")
    assert [(row["RequestMethod"], row["ResponseStatusCode"]) for row in rows] == [
        ("GET", 200),
        ("GET", 404),
        ("POST", 200),
    ]
    assert len({row["RequestId"] for row in rows}) == 3


async def test_without_a_token_the_whole_batch_is_refused(world: World) -> None:
    answer = await batch(world, get(1, "/organization"), token="x")

    assert answer.status == 401
