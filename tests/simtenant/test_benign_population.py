"""
What all rules say about a tenant where nothing is wrong, and about the same tenant when something is.

Two hundred and fifty principals, half a million rows, thirteen days of baselines: the false positives counted here are
those a SOC would see. The stories after that are the other side: what each must find.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from detections import baselines, catalog
from detections.catalog import Rule
from detections.runner import DetectionRow, bind_window, parse_rows
from response.finding import CORROBORATION_WINDOW, Tier
from simtenant.history import History, write_history
from simtenant.population import Population
from simtenant.tenant import PrincipalKind, Tenant, TenantSettings
from simtenant.wide import KINDS, wide_population
from simtenant.written_stories import WRITTEN_STORIES, write_story
from workbench.baselines import backfill
from workbench.engine import LogEngine

# A Tuesday, in the afternoon.
UNTIL = datetime(2026, 11, 24, 15, tzinfo=UTC)
# The hours of two days when most is done at once: weekly reports and restarts in the morning, the indexers' evening,
# bulk reads at night, office hours.
MOMENTS = (
    datetime(2026, 11, 23, 7, 20, tzinfo=UTC),
    datetime(2026, 11, 23, 21, 30, tzinfo=UTC),
    datetime(2026, 11, 24, 2, 50, tzinfo=UTC),
    UNTIL,
)
# Half a minute on two idle processors; others use them as well, now and then.
pytestmark = pytest.mark.timeout(300)
RULES = {rule.id: rule for rule in catalog.load()}


@dataclass(frozen=True)
class World:
    tenant: Tenant
    population: Population
    engine: LogEngine
    history: History

    def run(self, rule: Rule, at: datetime) -> list[DetectionRow]:
        """One run of a rule as the sweep does it: over its newest window, seeing what had arrived."""
        query = bind_window(rule.query, at - rule.window - rule.late_arrival, at)
        answer = self.engine.query(query, now=at, visible_at=at)
        rows = parse_rows(rule, [name for name, _ in answer.columns], answer.rows)
        found = [row for row in rows if isinstance(row, DetectionRow)]
        assert len(found) == len(rows), f"{rule.id} gives rows that are no findings: {rows}"
        return found

    def run_all(self, runs: Sequence[tuple[Rule, datetime]]) -> list[DetectionRow]:
        with ThreadPoolExecutor(2) as workers:
            return [row for rows in workers.map(lambda one: self.run(*one), runs) for row in rows]

    def name(self, row: DetectionRow) -> str:
        principal = self.tenant.principals.get(row.principal_id)
        return row.principal_id if principal is None else principal.display_name


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    tenant = Tenant(TenantSettings(seed=1, log_ingestion_delay=timedelta(minutes=5)))
    population = wide_population(tenant)
    engine = LogEngine()
    history = write_history(tenant, population, engine, until=UNTIL)
    backfill(engine, history.start, history.until)
    yield World(tenant, population, engine, history)
    engine.close()


@pytest.fixture(scope="module")
def noise(world: World) -> list[DetectionRow]:
    return world.run_all([(rule, moment) for rule in RULES.values() for moment in MOMENTS])


@pytest.fixture(scope="module")
def astray(world: World, noise: list[DetectionRow]) -> dict[str, set[str]]:
    """All stories, by rogue the rules that found it; after ``noise``, which wants none of their rows."""
    runs = set()
    for story in WRITTEN_STORIES.values():
        begins = UNTIL - timedelta(minutes=40) - story.takes
        write_story(world.engine, world.population, story.name, begins)
        ends = begins + story.takes
        # In the middle of a sweep's windows, and when the last late row is in.
        runs |= {
            (rule, at)
            for rule in story.rules
            if rule in RULES
            for at in (ends + timedelta(minutes=10), ends + timedelta(minutes=30))
        }
    # The hours of the stories as the summary rules would have them by now.
    hourly = [baseline for baseline in baselines.load() if baseline.bin < timedelta(days=1)]
    backfill(world.engine, UNTIL - timedelta(hours=26), UNTIL, baselines=hourly)
    found: dict[str, set[str]] = {}
    for row in world.run_all(
        [(RULES[rule], at) for rule, at in sorted(runs, key=lambda run: (run[0], run[1]))]
    ):
        found.setdefault(world.name(row), set()).add(row.rule_id)
    return found


# -- the population is what it claims to be --------------------------------------------------------------------


def test_the_population_is_of_ordinary_size(world: World) -> None:
    rows = sum(world.history.rows.values())

    assert len(KINDS) >= 30
    assert len([member for member in world.population.benign if member.profile.activities]) >= 200
    assert 450_000 < rows < 550_000
    assert len(world.history.rows) == 8
    for table, written in world.history.rows.items():
        assert world.engine.count(table) == written > 0


def test_every_member_that_acts_is_seen_in_a_sign_in(world: World) -> None:
    seen = {
        oid
        for (oid,) in world.engine.query(
            "union AADServicePrincipalSignInLogs, AADManagedIdentitySignInLogs | distinct ServicePrincipalId",
            now=UNTIL,
        ).rows
    }

    acting = {one.principal.object_id for one in world.population if one.profile.activities}
    silent = {one.principal.object_id for one in world.population if not one.profile.activities}
    assert acting <= seen
    assert not silent & seen


def test_a_new_key_is_used_after_the_broker_made_it(world: World) -> None:
    rotator = world.population.named("key-rotator-01").principal
    keys = world.engine.query(
        f"AADServicePrincipalSignInLogs | where ServicePrincipalId == '{rotator.object_id}' and ResultType == '0'"
        "| summarize min(CreatedDateTime) by Key = ServicePrincipalCredentialKeyId",
        now=UNTIL,
    ).rows
    made = world.engine.query(
        "AuditLogs | where OperationName has 'secrets' | extend Target = tostring(TargetResources[0].id)"
        f"| where Target == '{rotator.application_object_id}'"
        "| project TimeGenerated, New = tostring(TargetResources[0].modifiedProperties[0].newValue)",
        now=UNTIL,
    ).rows

    assert len(keys) >= 3
    assert rotator.credential_key_id in {key for key, _ in keys}
    for at, new in made:
        used = [first for key, first in keys if key in new]
        assert len(used) == 1
        assert used[0] > at


def test_an_autoscaler_calls_from_many_addresses_of_one_network(world: World) -> None:
    scaler = world.population.named("autoscaler-03").principal.object_id
    addresses = world.engine.query(
        f"MicrosoftGraphActivityLogs | where ServicePrincipalId == '{scaler}' | distinct IPAddress", now=UNTIL
    ).rows
    networks = world.engine.query(
        f"AgentSignInDaily_CL | where PrincipalId == '{scaler}' | distinct Network, Country", now=UNTIL
    ).rows

    assert len(addresses) > 30
    assert len(networks) == 1


def test_a_library_is_upgraded_in_the_middle_of_the_history(world: World) -> None:
    bumper = world.population.named("patch-bumper-04").principal.object_id
    versions = world.engine.query(
        f"AgentSignInDaily_CL | where PrincipalId == '{bumper}' | summarize days = count() by Client, ClientVersion",
        now=UNTIL,
    ).rows

    assert {(client, version) for client, version, _ in versions} == {
        ("msal.python", "1.28.0"),
        ("msal.python", "1.28.1"),
    }


def test_an_agent_identity_signs_in_after_its_blueprint(world: World) -> None:
    agents = [one for one in world.population if one.principal.kind is PrincipalKind.AGENT_IDENTITY]
    blueprints = {one.blueprint.object_id for one in agents if one.blueprint}
    exchanged = world.engine.query(
        "AADServicePrincipalSignInLogs | where ResourceDisplayName startswith 'AAD Token Exchange'"
        "| distinct ServicePrincipalId",
        now=UNTIL,
    ).rows

    assert len(agents) > len(blueprints) == 4
    assert {oid for (oid,) in exchanged} == blueprints


def test_sleepers_are_known_to_the_directory_only(world: World) -> None:
    last = world.tenant.client_sign_ins
    sleepers = [one.principal for one in world.population if one.name.startswith("sleeper")]
    now = world.tenant.clock.now()

    assert all(UNTIL - last[one.app_id].at >= timedelta(days=45) for one in sleepers)
    assert {one.account_enabled for one in sleepers} == {True, False}
    assert {one.credentials[0].ends_at > now for one in sleepers} == {True, False}


# -- noise ---------------------------------------------------------------------------------------------------------


def test_hardly_anybody_is_flagged(world: World, noise: list[DetectionRow]) -> None:
    flagged = {
        (world.name(row), row.rule_id)
        for row in noise
        if RULES[row.rule_id].tier_of(row.confidence) is not Tier.CONTEXT
    }

    assert len({name for name, _ in flagged}) <= 0.02 * len(world.population.benign), sorted(flagged)


def test_nobody_would_be_contained(world: World, noise: list[DetectionRow]) -> None:
    weighed = [(row, RULES[row.rule_id].tier_of(row.confidence)) for row in noise]
    alone = [(world.name(row), row.rule_id, row.reason) for row, tier in weighed if tier is Tier.AUTO]
    together = [
        (world.name(one), one.rule_id, other.rule_id)
        for one, tier in weighed
        for other, other_tier in weighed
        if (tier, other_tier) == (Tier.CORROBORATED, Tier.CORROBORATED)
        and one.principal_id == other.principal_id
        and RULES[one.rule_id].family != RULES[other.rule_id].family
        and abs(one.last_seen - other.last_seen) <= CORROBORATION_WINDOW
    ]

    assert alone == []
    assert together == []


# -- stories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN_STORIES)
def test_a_story_is_found_by_its_rules(world: World, astray: dict[str, set[str]], name: str) -> None:
    story = WRITTEN_STORIES[name]
    expected = {rule for rule in story.rules if rule in RULES}

    assert expected <= astray.get(story.rogue, set())


def test_a_story_or_a_rogue_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(KeyError):
        write_story(world.engine, world.population, "volcano", UNTIL)
    with pytest.raises(KeyError):
        write_story(world.engine, world.population, "vault", UNTIL, rogue="nobody")
