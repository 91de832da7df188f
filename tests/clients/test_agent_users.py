"""Agent identities, their users, and what they belong to, over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from graph_world import World, running

from clients.errors import Malformed, NotFound, Refused
from clients.graph.calls import Beta
from clients.terms import AppId, Kind, ServicePrincipal, object_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from simtenant.tenant import Principal


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        world.us.app_roles = {"Application.Read.All", "User.Read.All"}
        yield world


def an_agent(world: World) -> Principal:
    return world.tenant.add_agent_identity("agent", blueprint=world.tenant.add_agent_blueprint("blueprint"))


async def test_an_agent_identity_names_its_blueprint_by_app_id(world: World) -> None:
    agent = an_agent(world)
    graph = world.graph()

    for found in (
        await graph.service_principal(object_id(agent.object_id)),
        await graph.service_principal_by_app_id(AppId(agent.app_id)),
    ):
        assert (found.kind, found.parent) == (Kind.AGENT_IDENTITY, agent.agent_identity_blueprint_id)
    assert world.tenant.principal_by_app_id(found.parent) is not None


async def test_what_is_no_agent_has_no_parent(world: World) -> None:
    assert (await world.graph().service_principal(object_id(world.agent.object_id))).parent == ""


async def test_an_agent_user_names_its_agent_identity(world: World) -> None:
    agent = an_agent(world)
    user = world.tenant.add_agent_user("agent's user", parent=agent)

    assert await world.graph().agent_user(object_id(user["id"])) == ServicePrincipal(
        object_id(user["id"]), AppId(""), "agent's user", Kind.AGENT_USER, None, True, agent.object_id
    )
    assert (await world.graph().service_principal(object_id(agent.object_id))).kind is Kind.AGENT_IDENTITY


async def test_a_person_is_no_agent_user_and_neither_is_nobody_or_an_agent_identity(world: World) -> None:
    graph = world.graph()
    person = next(
        iter(await graph._read_all("list users", Beta(f"{graph._base_url}/v1.0/users"), paced=False))
    )["id"]

    for other in (person, an_agent(world).object_id, "11111111-2222-4333-8444-555555555555"):
        with pytest.raises(NotFound):
            await graph.agent_user(object_id(other))


async def test_an_agent_user_whose_parent_is_not_shown_is_malformed_not_nobody(world: World) -> None:
    user = world.tenant.add_agent_user("agent's user", parent=an_agent(world))
    world.us.app_roles = {"User.ReadBasic.All"}

    with pytest.raises(Malformed):
        await world.graph().agent_user(object_id(user["id"]))


async def test_a_user_that_names_a_parent_is_an_agent_user_whatever_its_type(world: World) -> None:
    agent = an_agent(world)
    user = world.tenant.add_agent_user("agent's user", parent=agent)
    del user["@odata.type"]

    assert (await world.graph().agent_user(object_id(user["id"]))).parent == agent.object_id


async def test_without_the_permission_it_is_refused(world: World) -> None:
    user = world.tenant.add_agent_user("agent's user", parent=an_agent(world))
    world.us.app_roles = {"Application.Read.All"}

    with pytest.raises(Refused):
        await world.graph().agent_user(object_id(user["id"]))
