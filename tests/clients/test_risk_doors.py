"""The doors of ID Protection and of disabling: what they take, whom they refuse, and what is known after a failure."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from graph_world import World, as_ours, running

from clients.errors import BadRequest, NotFound, NotSent, OutcomeUnknown, Refused, Throttled, Unavailable
from clients.graph import GraphClient
from clients.terms import Kind, ObjectId, RiskLevel, object_id
from simtenant.faults import FaultKind
from simtenant.tenant import Principal

ROLES = {
    "Application.Read.All",
    "Application.ReadWrite.All",
    "AgentIdentity.EnableDisable.All",
    "AgentIdentityBlueprintPrincipal.EnableDisable.All",
    "IdentityRiskEvent.Read.All",
    "IdentityRiskyAgent.Read.All",
    "IdentityRiskyAgent.ReadWrite.All",
    "IdentityRiskyServicePrincipal.ReadWrite.All",
}
Write = Callable[[GraphClient, World], Awaitable[object]]
WRITES: dict[str, tuple[str, Write]] = {
    "dismiss": (
        "POST /v1.0/identityProtection/riskyServicePrincipals/dismiss",
        lambda graph, world: graph.dismiss([object_id(world.agent.object_id)]),
    ),
    "dismiss agents": (
        "POST /beta/identityProtection/riskyAgents/dismiss",
        lambda graph, world: graph.dismiss_agents([object_id(agent_of(world).object_id)]),
    ),
    "confirm agents": (
        "POST /beta/identityProtection/riskyAgents/confirmCompromised",
        lambda graph, world: graph.confirm_agents_compromised([object_id(agent_of(world).object_id)]),
    ),
    "disable application": (
        "PATCH /v1.0/servicePrincipals/{id}",
        lambda graph, world: graph.set_enabled(as_ours(world.agent), enabled=False),
    ),
    "disable agent identity": (
        "PATCH /v1.0/servicePrincipals/microsoft.graph.agentIdentity/{id}",
        lambda graph, world: graph.set_enabled(as_ours(agent_of(world), Kind.AGENT_IDENTITY), enabled=False),
    ),
    "disable blueprint": (
        "PATCH /v1.0/servicePrincipals/microsoft.graph.agentIdentityBlueprintPrincipal/{id}",
        lambda graph, world: graph.set_enabled(
            as_ours(blueprint_of(world), Kind.AGENT_BLUEPRINT), enabled=False
        ),
    ),
}
each_write = pytest.mark.parametrize("write", WRITES)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as opened:
        opened.us.app_roles = set(ROLES)
        blueprint = opened.tenant.add_agent_blueprint("blueprint")
        opened.tenant.add_agent_identity("agent", blueprint=blueprint)
        yield opened


def named(world: World, name: str) -> Principal:
    return next(one for one in world.tenant.principals.values() if one.display_name == name)


def agent_of(world: World) -> Principal:
    return named(world, "agent")


def blueprint_of(world: World) -> Principal:
    return named(world, "blueprint")


def sent(world: World) -> list[str]:
    return [f"{one.method} {one.template}" for one in world.tenant.requests if one.method != "GET"]


def pass_time(world: World) -> None:
    world.tenant.clock.advance(timedelta(minutes=5))


def state_of(world: World, principal: Principal) -> str | None:
    found = world.tenant.risk.get(principal.object_id)
    return None if found is None else found.state


def effect(world: World) -> tuple[object, ...]:
    """Give everything that the writes here can change."""
    pass_time(world)
    everybody = (world.agent, agent_of(world), blueprint_of(world))
    return tuple((one.account_enabled, state_of(world, one)) for one in everybody)


# --- what every write has in common -----------------------------------------------------------------


@each_write
async def test_each_goes_through_its_own_door_once(world: World, write: str) -> None:
    path, call = WRITES[write]
    before = effect(world)

    await call(world.graph(), world)

    assert sent(world) == [path]
    assert world.turns == 0  # the caller has taken the turn: it gathers who waits after that
    assert write.startswith("dismiss") or effect(world) != before


@each_write
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (429, Throttled),
        (500, OutcomeUnknown),
        (503, OutcomeUnknown),
    ],
)
async def test_a_refusal_is_told_apart_and_never_repeated(
    world: World, write: str, status: int, error: type[Exception]
) -> None:
    path, call = WRITES[write]
    before = effect(world)
    world.tenant.faults.add("^(POST|PATCH) ", FaultKind.STATUS, status=status, times=None)

    with pytest.raises(error) as raised:
        await call(world.graph(), world)

    assert type(raised.value) is error
    assert len(sent(world)) == 1
    assert path.split(" ")[0] == sent(world)[0].split(" ")[0]
    assert effect(world) == before


@each_write
@pytest.mark.parametrize("status", [200, 202, 302])
async def test_only_a_204_counts(world: World, write: str, status: int) -> None:
    _, call = WRITES[write]

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"Location": "http://127.0.0.1:1/"}, json={})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        other = World.__new__(World)
        other.tenant, other.server, other.http = world.tenant, world.server, http
        other.us, other.agent, other.turns = world.us, world.agent, 0
        with pytest.raises(OutcomeUnknown):
            await call(other.graph(), other)


@each_write
@pytest.mark.parametrize("kind", [FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER])
async def test_a_dropped_connection_is_an_unknown_outcome_whether_it_took_effect_or_not(
    world: World, write: str, kind: FaultKind
) -> None:
    _, call = WRITES[write]
    world.tenant.raise_risk(world.agent.object_id, "medium", "suspiciousSignins")
    world.tenant.raise_risk(agent_of(world).object_id, "medium", "signInSpike")
    before = effect(world)
    world.tenant.faults.add("^(POST|PATCH) ", kind)

    with pytest.raises(OutcomeUnknown):
        await call(world.graph(), world)

    assert len(sent(world)) == 1
    assert (effect(world) == before) is (kind is FaultKind.DROP_BEFORE)
    await call(world.graph(), world)  # and a repeat completes it
    assert effect(world) != before


@each_write
async def test_what_could_not_be_reached_was_not_sent(world: World, write: str) -> None:
    _, call = WRITES[write]
    graph = world.graph("http://127.0.0.1:1")

    with pytest.raises(NotSent):
        await call(graph, world)


@each_write
async def test_a_repeat_is_harmless(world: World, write: str) -> None:
    _, call = WRITES[write]
    await call(world.graph(), world)
    first = effect(world)

    await call(world.graph(), world)

    assert effect(world) == first


NEEDED = {
    "dismiss": {"IdentityRiskyServicePrincipal.ReadWrite.All"},
    "dismiss agents": {"IdentityRiskyAgent.ReadWrite.All"},
    "confirm agents": {"IdentityRiskyAgent.ReadWrite.All"},
    "disable application": {"Application.ReadWrite.All"},
    "disable agent identity": {"AgentIdentity.EnableDisable.All"},
    "disable blueprint": {"AgentIdentityBlueprintPrincipal.EnableDisable.All"},
}


@each_write
async def test_the_narrowest_permission_is_enough_and_without_it_nothing_happens(
    world: World, write: str
) -> None:
    _, call = WRITES[write]
    world.us.app_roles = NEEDED[write]
    await call(world.graph(), world)

    world.us.app_roles = ROLES - NEEDED[write]
    with pytest.raises(Refused):
        await call(world.graph(), world)


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        (Kind.AGENT_IDENTITY, "AgentIdentity.ReadWrite.All"),
        (Kind.AGENT_BLUEPRINT, "AgentIdentityBlueprintPrincipal.ReadWrite.All"),
    ],
)
async def test_the_wider_permission_of_a_door_is_enough_too(world: World, kind: Kind, role: str) -> None:
    principal = agent_of(world) if kind is Kind.AGENT_IDENTITY else blueprint_of(world)
    world.us.app_roles = {role}

    await world.graph().set_enabled(as_ours(principal, kind), enabled=False)

    assert principal.account_enabled is False


# --- the wrong door -----------------------------------------------------------------------------------


async def test_an_agent_is_refused_at_the_service_principals_door_and_the_other_way_round(
    world: World,
) -> None:
    graph, before = world.graph(), effect(world)
    agent, application = object_id(agent_of(world).object_id), object_id(world.agent.object_id)

    for call, wrong in (
        (graph.confirm_compromised, agent),
        (graph.dismiss, agent),
        (graph.confirm_agents_compromised, application),
        (graph.dismiss_agents, application),
    ):
        with pytest.raises(NotFound):
            await call([wrong])

    assert effect(world) == before


async def test_a_mixed_batch_that_is_refused_leaves_the_others_alone(world: World) -> None:
    graph, before = world.graph(), effect(world)

    with pytest.raises(NotFound):
        await graph.confirm_compromised(
            [ObjectId(world.agent.object_id), ObjectId(agent_of(world).object_id)]
        )

    assert effect(world) == before


async def test_an_agents_kind_decides_the_path_and_the_wrong_path_is_refused(world: World) -> None:
    with pytest.raises(NotFound):
        await world.graph().set_enabled(as_ours(world.agent, Kind.AGENT_IDENTITY), enabled=False)
    with pytest.raises(NotFound):
        await world.graph().set_enabled(as_ours(agent_of(world), Kind.AGENT_BLUEPRINT), enabled=False)

    assert world.agent.account_enabled
    assert agent_of(world).account_enabled


# --- what it does -------------------------------------------------------------------------------------


async def test_a_disabled_application_gets_no_token_and_an_enabled_one_does_again(world: World) -> None:
    graph = world.graph()
    assert await world.token_status(world.agent) == 200

    await graph.set_enabled(as_ours(world.agent), enabled=False)
    assert (await graph.service_principal(object_id(world.agent.object_id))).account_enabled is False
    assert await world.token_status(world.agent) in (400, 401)

    await graph.set_enabled(as_ours(world.agent), enabled=True)
    assert await world.token_status(world.agent) == 200


async def test_confirming_and_dismissing_agents_shows_in_their_risk(world: World) -> None:
    graph, agent = world.graph(), object_id(agent_of(world).object_id)
    assert await graph.agent_risk(agent) is None

    await graph.confirm_agents_compromised([agent])
    pass_time(world)
    risk = await graph.agent_risk(agent)
    assert risk is not None
    assert risk.confirmed
    assert set(await graph.high_agent_risks()) == {agent}
    assert await graph.high_risks() == {}

    await graph.dismiss_agents([agent])
    pass_time(world)
    risk = await graph.agent_risk(agent)
    assert risk is not None
    assert risk.dismissed
    assert await graph.high_agent_risks() == {}


async def test_an_agent_still_being_worked_on_is_not_confirmed(world: World) -> None:
    graph, agent = world.graph(), object_id(agent_of(world).object_id)

    await graph.confirm_agents_compromised([agent])

    risk = await graph.agent_risk(agent)
    assert risk is None or not risk.confirmed


async def test_dismissing_takes_back_what_microsoft_detected_too(world: World) -> None:
    graph, principal = world.graph(), object_id(world.agent.object_id)
    world.tenant.raise_risk(principal, "high", "leakedCredentials")
    assert set(await graph.high_risks()) == {principal}

    await graph.dismiss([principal])
    pass_time(world)

    risk = await graph.risk(principal)
    assert risk is not None
    assert risk.dismissed
    assert await graph.high_risks() == {}


# --- reading ------------------------------------------------------------------------------------------


async def test_all_pages_of_agents_at_high_risk_are_read_a_turn_each(world: World) -> None:
    world.tenant.settings.page_size = 1
    others = [
        world.tenant.add_agent_identity(f"agent {number}", blueprint=blueprint_of(world))
        for number in range(2)
    ]
    agents = [object_id(one.object_id) for one in (*others, agent_of(world))]
    graph = world.graph()
    await graph.confirm_agents_compromised(agents)
    world.tenant.raise_risk(blueprint_of(world).object_id, "medium", "signInSpike")
    pass_time(world)

    assert set(await graph.high_agent_risks()) == set(agents)
    assert world.turns == 3


async def test_detections_are_this_principals_and_ours_are_told_from_microsofts(world: World) -> None:
    world.tenant.settings.page_size = 1
    other = world.tenant.add_application("other")
    graph, principal = world.graph(), object_id(world.agent.object_id)
    world.tenant.raise_risk(other.object_id, "high", "leakedCredentials")
    world.tenant.raise_risk(principal, "medium", "suspiciousSignins")
    await graph.confirm_compromised([principal])
    pass_time(world)
    world.turns = 0

    found = await graph.risk_detections(principal)

    assert {(one.event_type, one.level, one.is_ours) for one in found} == {
        ("suspiciousSignins", RiskLevel.MEDIUM, False),
        ("adminConfirmedServicePrincipalCompromised", RiskLevel.HIGH, True),
    }
    assert all(one.id and one.detected_at is not None and one.detected_at.tzinfo for one in found)
    assert world.turns == 2


async def test_detections_need_a_permission_of_their_own(world: World) -> None:
    world.us.app_roles = ROLES - {"IdentityRiskEvent.Read.All"}

    with pytest.raises(Refused):
        await world.graph().risk_detections(object_id(world.agent.object_id))


async def test_what_is_no_guid_is_never_written_into_a_filter(world: World) -> None:
    with pytest.raises(ValueError, match="GUID"):
        await world.graph().risk_detections(ObjectId("x' or riskLevel eq 'high"))

    assert world.asked() == []


READS: dict[str, Write] = {
    "agent risk": lambda graph, world: graph.agent_risk(object_id(agent_of(world).object_id)),
    "high agent risks": lambda graph, _: graph.high_agent_risks(),
    "detections": lambda graph, world: graph.risk_detections(object_id(world.agent.object_id)),
}


@pytest.mark.parametrize("read", READS)
async def test_a_read_that_is_refused_is_an_error_and_never_no_risk(world: World, read: str) -> None:
    world.us.app_roles = {"Application.Read.All"}

    with pytest.raises(Refused):
        await READS[read](world.graph(), world)


@pytest.mark.parametrize("read", READS)
async def test_a_read_whose_answer_is_lost_is_asked_again(world: World, read: str) -> None:
    world.tenant.faults.add("^GET ", FaultKind.DROP_AFTER, times=1)

    await READS[read](world.graph(), world)

    assert world.turns == 2


@pytest.mark.parametrize("read", READS)
async def test_a_read_that_nobody_answers_is_unavailable(
    world: World, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.graph.calls.GraphCalls.read_within", timedelta(0))
    world.tenant.faults.add("^GET ", FaultKind.STATUS, status=503, times=None)

    with pytest.raises(Unavailable):
        await READS[read](world.graph(), world)
