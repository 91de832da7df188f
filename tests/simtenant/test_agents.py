import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from workspace_world import World, running, until

from simtenant.agents import Agent, AgentCrew
from simtenant.faults import Fault, FaultKind
from simtenant.history import write_history
from simtenant.population import BENIGN, VAULTS, Api, Population, build_population
from simtenant.stories import STORIES, Pace
from simtenant.tenant import RecordedLogs, TenantSettings
from workbench.baselines import backfill

DETECTIONS = Path(__file__).resolve().parents[2] / "detections"
Named = Callable[[str], Agent]
QUICK = Pace(call=0.0, round=0.01, patience=20.0)


class Told:
    """Collects what agents report."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def __call__(self, at: datetime, principal: str, what: str, detail: str) -> None:
        assert at.tzinfo is not None
        self.events.append((principal, what, detail))

    def kinds(self, principal: str) -> Counter[str]:
        return Counter(what for name, what, _ in self.events if name == principal)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = TenantSettings(
        log_ingestion_delay=timedelta(0), duplicate_share=0.0, risk_takes_effect_after=timedelta(0)
    )
    async with running(tmp_path, settings) as made:
        made.tenant.logs = RecordedLogs()
        yield made


@pytest.fixture
def population(world: World) -> Population:
    return build_population(world.tenant)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def agent_named(world: World, population: Population, told: Told, session: aiohttp.ClientSession) -> Named:
    def named(name: str) -> Agent:
        return Agent(
            population.named(name),
            tenant=world.tenant,
            base_url=world.server.base_url,
            session=session,
            on_event=told,
        )

    return named


def rows(world: World, table: str) -> list[dict[str, object]]:
    assert isinstance(world.tenant.logs, RecordedLogs)
    return world.tenant.logs.of(table)


async def test_every_activity_of_every_benign_agent_is_served(
    population: Population, agent_named: Named, told: Told
) -> None:
    for member in population:
        agent = agent_named(member.name)
        for activity in member.profile.activities:
            path = activity.paths[0].replace("{id}", "8d2f0a52-7b9e-4b3f-9a44-0c9d1e6f7a10")
            assert await agent.call(activity.api, path) in {200, 403, 404}, (member.name, path)
            assert told.events[-1][1] == "call" or member.name == "project-scraper", told.events[-1]


async def test_a_token_is_kept_until_shortly_before_it_expires(
    world: World, agent_named: Named, told: Told
) -> None:
    agent = agent_named("mail-summariser")
    for _ in range(3):
        await agent.call(Api.SHAREPOINT, "finance/invoice-001.pdf")
    world.tenant.clock.advance(timedelta(minutes=90))
    await agent.call(Api.SHAREPOINT, "finance/invoice-001.pdf")

    assert told.kinds("mail-summariser") == {"token": 2, "call": 4}


async def test_the_first_call_of_a_vault_is_made_without_a_token(world: World, agent_named: Named) -> None:
    agent = agent_named("payments-worker")
    for _ in range(2):
        await agent.call(Api.VAULT, "kv-payments/secrets/ledger-db")

    assert [row["OperationName"] for row in rows(world, "AZKVAuditLogs")] == [
        "Authentication", "SecretGet", "SecretGet"
    ]  # fmt: skip


async def test_a_managed_identity_signs_in_without_an_origin(world: World, agent_named: Named) -> None:
    assert await agent_named("func-group-sync").call(Api.VAULT, "kv-platform/secrets/telemetry-key") == 200

    (row,) = rows(world, "AADManagedIdentitySignInLogs")
    assert row["ResourceDisplayName"] == "Azure Key Vault"
    assert "IPAddress" not in row
    assert not rows(world, "AADServicePrincipalSignInLogs")


async def test_an_agent_identity_signs_in_through_its_blueprint(world: World, agent_named: Named) -> None:
    assert await agent_named("helpdesk-agent").call(Api.SHAREPOINT, "knowledge/article-01.aspx") == 200

    signed_in = [row["ServicePrincipalName"] for row in rows(world, "AADServicePrincipalSignInLogs")]
    assert signed_in == ["helpdesk-agent-blueprint", "helpdesk-agent"]


async def test_a_challenged_agent_asks_for_a_new_token_and_goes_on(
    world: World, population: Population, agent_named: Named, told: Told
) -> None:
    """No policy blocks, so the new token is granted: a label alone stops nobody."""
    agent = agent_named("invoice-reader")
    await agent.call(Api.GRAPH, "/v1.0/sites/finance/lists")
    world.tenant.raise_risk(population.rogue.principal.object_id, "high", "suspiciousSignins")

    assert await agent.call(Api.GRAPH, "/v1.0/sites/finance/lists") == 200
    assert told.kinds("invoice-reader") == {"token": 2, "call": 2, "challenged": 1}


async def test_a_challenged_agent_is_blocked_where_a_policy_bites(
    world: World, population: Population, agent_named: Named, told: Told
) -> None:
    world.tenant.add_risk_policy()
    agent = agent_named("invoice-reader")
    await agent.call(Api.GRAPH, "/v1.0/sites/finance/lists")
    world.tenant.raise_risk(population.rogue.principal.object_id, "high", "suspiciousSignins")

    assert await agent.call(Api.GRAPH, "/v1.0/sites/finance/lists") == 0
    assert agent.blocked.is_set()
    assert told.kinds("invoice-reader") == {"token": 1, "call": 1, "challenged": 1, "blocked": 1}


async def test_a_disabled_agent_is_refused_not_blocked(
    world: World, population: Population, agent_named: Named, told: Told
) -> None:
    world.tenant.set_enabled(population.rogue.principal.object_id, enabled=False)

    await agent_named("invoice-reader").call(Api.GRAPH, "/v1.0/sites/finance/lists")

    assert told.events[-1][1:] == ("refused", "GET /v1.0/sites/finance/lists: AADSTS7000112")


async def test_the_vault_story_empties_two_vaults_until_it_is_refused_tokens(
    world: World, population: Population, agent_named: Named, told: Told
) -> None:
    world.tenant.add_risk_policy()
    agent = agent_named("invoice-reader")
    story = STORIES["vault"]
    play = asyncio.create_task(story.play(agent, pace=QUICK))
    everything = sum(1 + len(secrets) for secrets in VAULTS.values())
    await until(lambda: told.kinds("invoice-reader")["call"] >= everything)
    world.tenant.raise_risk(
        population.rogue.principal.object_id, "high", "adminConfirmedServicePrincipalCompromised"
    )
    await asyncio.wait_for(play, 10)

    kinds = told.kinds("invoice-reader")
    assert kinds["rogue"] == 1
    assert kinds["blocked"] >= 3
    assert "gave up" not in kinds
    read = {
        str(row["Id"]).split("/")[2]
        for row in rows(world, "AZKVAuditLogs")
        if row["OperationName"] == "SecretGet"
    }
    assert read == {f"{vault}.vault.azure.net" for vault in VAULTS}
    assert rows(world, "AADServicePrincipalSignInLogs")[-1]["ResultType"] == "53003"


async def test_a_story_that_nobody_stops_ends_by_itself(agent_named: Named, told: Told) -> None:
    await STORIES["vault"].play(agent_named("invoice-reader"), pace=Pace(call=0.0, round=0.01, patience=0.3))

    assert told.events[-1][1] == "gave up"


@pytest.mark.parametrize("name", ["enumeration", "probing"])
async def test_the_other_stories_leave_what_their_rule_looks_for(
    world: World, population: Population, agent_named: Named, name: str
) -> None:
    story = STORIES[name]
    story.prepare(population)
    play = asyncio.create_task(story.play(agent_named(story.rogue), pace=QUICK))
    enough = 550 if name == "enumeration" else 35
    await until(lambda: len(rows(world, "MicrosoftGraphActivityLogs")) >= enough)
    play.cancel()
    await asyncio.wait([play])

    calls = [
        (str(row["RequestUri"]), row["ResponseStatusCode"])
        for row in rows(world, "MicrosoftGraphActivityLogs")
    ]
    families = {uri.split("/")[4] for uri, status in calls if status == 200}
    if name == "enumeration":
        assert len({uri for uri, _ in calls}) >= 500
        assert families == {"users", "groups", "applications", "servicePrincipals", "devices"}
    else:
        denied = [uri for uri, status in calls[:30] if status == 403]
        assert len(denied) >= 20
        assert len(set(denied)) >= 8
        assert families == {"users"}


async def test_a_crew_works_undisturbed_and_stops_when_told(
    world: World, population: Population, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simtenant.agents._FASTEST_SECONDS", 0.05)
    crew = AgentCrew(
        population, tenant=world.tenant, base_url=world.server.base_url, on_event=told, compression=100_000.0
    )
    async with crew:
        await until(lambda: all(agent.calls >= 2 for agent in crew.agents.values()))

    assert {what for _, what, _ in told.events} <= {"token", "call", "denied", "failed"}
    troubled = {name for name, what, _ in told.events if what in {"denied", "failed"}}
    assert troubled <= {"project-scraper"}


async def test_a_crew_with_a_broken_agent_says_so(world: World, population: Population) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with AgentCrew(
            population, tenant=world.tenant, base_url=world.server.base_url, on_event=broken, compression=1e6
        ):
            await asyncio.sleep(60)  # ended by what the agent raises

    assert raised.value.subgroup(ZeroDivisionError) is not None


@pytest.mark.parametrize("name", sorted(STORIES))
async def test_the_rules_of_a_story_find_its_rogue_and_nobody_else(
    world: World, population: Population, agent_named: Named, told: Told, name: str
) -> None:
    """From real calls through ingestion to the rule's own text, with fourteen days of everybody's past."""
    world.tenant.logs = world.ingestion
    story = STORIES[name]
    story.prepare(population)
    past = write_history(world.tenant, population, world.engine)
    backfill(world.engine, past.start, past.until)
    play = asyncio.create_task(story.play(agent_named(story.rogue), pace=QUICK))
    enough = {"vault": 11, "probing": 35, "enumeration": 550}[name]
    await until(lambda: sum(what in {"call", "denied", "failed"} for _, what, _ in told.events) >= enough)
    play.cancel()
    await asyncio.wait([play])
    await world.ingestion.flush()

    now = world.tenant.clock.now()
    for rule in story.rules:
        (folder,) = DETECTIONS.glob(f"{rule.lower().replace('-', '_')}_*")
        query = (folder / "query.kql").read_text(encoding="utf-8")
        found = {row["PrincipalId"] for row in world.engine.query(query, now=now, visible_at=now).records()}
        assert found == {population.rogue.principal.object_id}


def test_a_population_can_be_scaled_and_says_what_everyone_is_for(world: World) -> None:
    population = build_population(world.tenant, scale=3)

    assert (
        population.named("mail-summariser-3").profile.why == population.named("mail-summariser").profile.why
    )
    ids = [member.principal.object_id for member in population]
    assert len(ids) == len(set(ids)) == 1 + 3 * len(BENIGN)
    assert [row["SearchKey"] for row in population.watchlist] == ids
    tools = {row["DisplayName"] for row in population.watchlist if row["Role"] == "directory-tool"}
    assert tools == {"directory-inventory", "directory-inventory-2", "directory-inventory-3"}
    assert population.watchlist[0]["DeclaredResources"] == "graph sharepoint"


def test_a_scale_below_one_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        build_population(world.tenant, scale=0)


async def test_an_agent_tries_again_what_a_client_library_would(
    world: World, agent_named: Named, told: Told
) -> None:
    world.tenant.faults.arm(Fault(re.compile("GET /v1.0/sites"), FaultKind.STATUS, times=2, status=503))

    assert await agent_named("invoice-reader").call(Api.GRAPH, "/v1.0/sites/finance/lists") == 200
    assert told.kinds("invoice-reader") == {"token": 1, "call": 1}


async def test_an_agent_reports_a_service_that_stays_away(
    world: World, agent_named: Named, told: Told
) -> None:
    world.tenant.faults.arm(Fault(re.compile("oauth2"), FaultKind.STATUS, times=None, status=502, html=True))

    assert await agent_named("invoice-reader").call(Api.GRAPH, "/v1.0/sites/finance/lists") == 0
    assert told.kinds("invoice-reader") == {"failed": 1}
