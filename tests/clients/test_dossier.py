"""The dossier over real sockets: one request, and each part known or Unknown by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from graph_world import READS, World, as_ours, between, running

from clients.errors import Malformed, NotSent, Refused
from clients.terms import Dossier, Kind, Mark, Person, Unknown
from simtenant.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BOSS = "0d1fd2a5-1111-4222-8333-444455556666"
GLOBAL_ADMIN = "62e90394-69f5-4237-9190-012177145e10"
READER = "88d8e3e3-8f55-4a1e-953a-9b9898b8876b"
PARTS = {
    "owners": r"GET .*/owners",
    "app_roles": r"GET .*/appRoleAssignments",
    "directory_roles": r"GET .*/roleAssignments",
    "mark": r"GET /v1.0/servicePrincipals/[-0-9a-f]+$",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        world.agent.owners.append(BOSS)
        world.agent.directory_roles.append(READER)
        world.agent.group_roles.append(GLOBAL_ADMIN)
        world.agent.security_attributes = {
            "Agentbreaker": {
                "@odata.type": "#microsoft.graph.customSecurityAttributeValue",
                "Containment": "approval",
            }
        }
        yield world


def unknown(dossier: Dossier) -> set[str]:
    return {name for name in dossier.__slots__ if isinstance(getattr(dossier, name), Unknown)}


def why(part: object) -> str:
    assert isinstance(part, Unknown), part
    return part.why


async def test_everything_is_asked_in_one_request_and_read(world: World) -> None:
    graph = world.graph()

    dossier = await graph.dossier(as_ours(world.agent))

    assert dossier == Dossier(
        owners=(Person(BOSS, "Owner"),),
        sponsors=(),
        app_roles=frozenset({"Microsoft Graph/Mail.Read", "Microsoft Graph/User.Read.All"}),
        directory_roles=frozenset({READER, GLOBAL_ADMIN}),
        mark=Mark.APPROVAL,
    )
    assert world.asked("POST") == ["POST /v1.0/$batch"]
    assert len(world.asked("GET")) == 1  # what Graph's roles are called
    assert world.turns == 0


async def test_the_names_of_roles_are_read_once_and_again_for_a_role_that_is_new(world: World) -> None:
    graph = world.graph()
    await graph.dossier(as_ours(world.agent))
    await graph.dossier(as_ours(world.agent))
    assert len(world.asked("GET")) == 1

    world.agent.app_roles.add("Sites.FullControl.All")
    dossier = await graph.dossier(as_ours(world.agent))

    assert "Microsoft Graph/Sites.FullControl.All" in dossier.app_roles
    assert len(world.asked("GET")) == 2


@pytest.mark.parametrize("kind", [Kind.AGENT_IDENTITY, Kind.AGENT_BLUEPRINT])
async def test_agents_and_blueprints_have_sponsors(world: World, kind: Kind) -> None:
    blueprint = world.tenant.add_agent_blueprint("blueprint")
    agent = world.tenant.add_agent_identity("agent", blueprint=blueprint)
    principal = agent if kind is Kind.AGENT_IDENTITY else blueprint
    principal.sponsors.append(BOSS)

    dossier = await world.graph().dossier(as_ours(principal, kind))

    assert dossier.sponsors == (Person(BOSS, "Owner"),)
    assert unknown(dossier) == set()


async def test_sponsors_that_are_refused_are_unknown(world: World) -> None:
    agent = world.tenant.add_agent_identity("agent", blueprint=world.tenant.add_agent_blueprint("blueprint"))
    world.tenant.faults.add(r"GET .*/sponsors", FaultKind.STATUS, times=1, status=403)

    dossier = await world.graph().dossier(as_ours(agent, Kind.AGENT_IDENTITY))

    assert unknown(dossier) == {"sponsors"}


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
@pytest.mark.parametrize("part", PARTS)
async def test_an_inner_failure_makes_its_part_unknown_and_no_other(
    world: World, part: str, status: int
) -> None:
    world.tenant.faults.add(PARTS[part], FaultKind.STATUS, times=1, status=status)

    dossier = await world.graph().dossier(as_ours(world.agent))

    assert unknown(dossier) == {part}
    assert f"HTTP {status}" in why(getattr(dossier, part))


async def test_roles_through_groups_that_are_not_answered_make_directory_roles_unknown(world: World) -> None:
    world.tenant.faults.add(r"GET .*/transitiveMemberOf", FaultKind.STATUS, times=1, status=403)

    dossier = await world.graph().dossier(as_ours(world.agent))

    assert unknown(dossier) == {"directory_roles"}


async def test_names_of_roles_that_are_not_read_make_app_roles_unknown_not_harmless(world: World) -> None:
    graph = world.graph()
    world.tenant.faults.add(
        r"GET /v1.0/+servicePrincipals/[-0-9a-f]+$", FaultKind.STATUS, times=2, status=403
    )

    dossier = await graph.dossier(as_ours(world.agent))

    assert unknown(dossier) == {"app_roles", "mark"}
    assert "403" in why(dossier.app_roles)
    assert unknown(await graph.dossier(as_ours(world.agent))) == set()


async def test_a_role_that_its_resource_no_longer_offers_is_named_by_its_id(world: World) -> None:
    def unnamed(found: Any) -> Any:
        for one in found["responses"]:
            if one["id"] == "assignments":
                one["body"]["value"][0]["appRoleId"] = BOSS
        return found

    async with between(world, unnamed) as url:
        dossier = await world.graph(url).dossier(as_ours(world.agent))

    assert f"Microsoft Graph/{BOSS}" in dossier.app_roles


@pytest.mark.parametrize(
    ("permission", "lost"),
    [
        ("RoleManagement.Read.Directory", "directory_roles"),
        ("CustomSecAttributeAssignment.Read.All", "mark"),
    ],
)
async def test_without_its_permission_a_part_is_unknown(world: World, permission: str, lost: str) -> None:
    world.us.app_roles = set(READS) - {permission}

    dossier = await world.graph().dossier(as_ours(world.agent))

    assert unknown(dossier) == {lost}


async def test_no_mark_is_only_said_by_who_could_see_one(world: World) -> None:
    world.agent.security_attributes = {}
    assert (await world.graph().dossier(as_ours(world.agent))).mark is None

    world.us.app_roles = set(READS) - {"CustomSecAttributeAssignment.Read.All"}
    dossier = await world.graph().dossier(as_ours(world.agent))

    assert why(dossier.mark) == "mark: CustomSecAttributeAssignment.Read.All is not held"


@pytest.mark.parametrize(
    ("value", "mark"),
    [
        ("protected", Mark.PROTECTED),
        ("auto", Mark.AUTO),
        (" Approval ", Mark.APPROVAL),
        ("", None),
        (None, None),
    ],
)
async def test_a_mark_is_read(world: World, value: object, mark: Mark | None) -> None:
    world.agent.security_attributes = {
        "Agentbreaker": {"Containment": value},
        "Marketing": {"Level": "Public"},
    }

    assert (await world.graph().dossier(as_ours(world.agent))).mark is mark


@pytest.mark.parametrize("value", ["never", True, 1, ["protected"]])
async def test_a_value_that_is_no_mark_is_unknown(world: World, value: object) -> None:
    world.agent.security_attributes = {"Agentbreaker": {"Containment": value}}

    assert "none of protected" in why((await world.graph().dossier(as_ours(world.agent))).mark)


async def test_a_second_page_makes_a_part_unknown(world: World) -> None:
    world.tenant.settings.page_size = 1
    world.agent.owners.append(world.us.object_id)

    dossier = await world.graph().dossier(as_ours(world.agent))

    assert unknown(dossier) == {"owners", "app_roles", "directory_roles"}
    assert {why(one) for one in (dossier.owners, dossier.app_roles, dossier.directory_roles)} == {
        "owners: more than one page",
        "app roles: more than one page",
        "directory roles: more than one page",
    }


def without(*names: str) -> Callable[[Any], Any]:
    return lambda found: {"responses": [one for one in found["responses"] if one["id"] not in names]}


def with_body(name: str, body: object) -> Callable[[Any], Any]:
    def change(found: Any) -> Any:
        return {
            "responses": [one | {"body": body} if one["id"] == name else one for one in found["responses"]]
        }

    return change


def with_status(name: str, status: object) -> Callable[[Any], Any]:
    def change(found: Any) -> Any:
        return {
            "responses": [
                one | {"status": status} if one["id"] == name else one for one in found["responses"]
            ]
        }

    return change


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (without("owners"), "owners"),
        (without("assignments"), "app_roles"),
        (without("directoryRoles"), "directory_roles"),
        (without("memberships"), "directory_roles"),
        (without("mark"), "mark"),
        (with_body("owners", {"value": [{"displayName": "no id"}]}), "owners"),
        (with_body("owners", {}), "owners"),
        (with_body("owners", "text"), "owners"),
        (with_body("assignments", {"value": [{"appRoleId": BOSS}]}), "app_roles"),
        (with_body("directoryRoles", {"value": [{"roleDefinitionId": None}]}), "directory_roles"),
        (with_body("memberships", {"value": [{"roleTemplateId": None}]}), "directory_roles"),
        (with_body("mark", {"customSecurityAttributes": None}), "mark"),
        (with_body("mark", {"id": BOSS, "customSecurityAttributes": None}), "mark"),
        (with_status("mark", "200"), "mark"),
        (with_status("owners", None), "owners"),
    ],
)
async def test_an_answer_that_is_missing_or_misshapen_makes_its_part_unknown(
    world: World, change: Callable[[Any], Any], lost: str
) -> None:
    async with between(world, change) as url:
        dossier = await world.graph(url).dossier(as_ours(world.agent))

    assert unknown(dossier) == {lost}


async def test_an_answer_that_leaves_the_attributes_out_is_unknown_and_never_no_mark(world: World) -> None:
    async with between(world, with_body("mark", {"id": world.agent.object_id})) as url:
        dossier = await world.graph(url).dossier(as_ours(world.agent))

    assert unknown(dossier) == {"mark"}


@pytest.mark.parametrize("attributes", [[], "text", {"Agentbreaker": "text"}])
async def test_attributes_of_another_shape_are_unknown(world: World, attributes: object) -> None:
    body = {"id": world.agent.object_id, "customSecurityAttributes": attributes}
    async with between(world, with_body("mark", body)) as url:
        dossier = await world.graph(url).dossier(as_ours(world.agent))

    assert unknown(dossier) == {"mark"}


@pytest.mark.parametrize("answer", [{}, {"responses": {}}, {"responses": ["text"]}, []])
async def test_a_batch_answer_that_is_none_is_malformed(world: World, answer: Any) -> None:
    async with between(world, lambda _: answer) as url:
        with pytest.raises(Malformed):
            await world.graph(url).dossier(as_ours(world.agent))


async def test_an_outer_refusal_is_an_error_and_not_a_dossier(world: World) -> None:
    world.tenant.faults.add(r"POST .*batch", FaultKind.STATUS, times=1, status=403)

    with pytest.raises(Refused):
        await world.graph().dossier(as_ours(world.agent))


async def test_an_outer_failure_that_passes_is_asked_again(world: World) -> None:
    world.tenant.faults.add(r"POST .*batch", FaultKind.STATUS, times=1, status=503, retry_after=0)

    assert unknown(await world.graph().dossier(as_ours(world.agent))) == set()
    assert world.asked("POST") == ["POST /v1.0/$batch"] * 2


async def test_what_is_not_reached_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.graph.calls.GraphCalls.read_within", timedelta(0))

    with pytest.raises(NotSent):
        await world.graph("http://127.0.0.1:1").dossier(as_ours(world.agent))
