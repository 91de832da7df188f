from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from detections import catalog
from detections.catalog import Confidence, Rule
from detections.runner import bind_window
from response.finding import Tier
from simtenant.history import History, write_history
from simtenant.population import Population, build_population, pooled_id
from simtenant.tenant import Tenant, TenantSettings
from workbench.baselines import backfill
from workbench.engine import LogEngine

# A Tuesday, in the afternoon: every activity has had its hours on the day before.
UNTIL = datetime(2026, 11, 24, 15, tzinfo=UTC)


class Past(NamedTuple):
    tenant: Tenant
    population: Population
    engine: LogEngine
    history: History

    def ask(self, kql: str) -> list[tuple[Any, ...]]:
        return self.engine.query(kql, now=UNTIL).rows


def past(seed: int = 1, days: int = 14) -> Past:
    tenant = Tenant(TenantSettings(seed=seed))
    population = build_population(tenant)
    engine = LogEngine()
    return Past(tenant, population, engine, write_history(tenant, population, engine, until=UNTIL, days=days))


@pytest.fixture(scope="module")
def fortnight() -> Iterator[Past]:
    made = past()
    backfill(made.engine, made.history.start, made.history.until)
    yield made
    made.engine.close()


def fingerprint(world: Past) -> list[tuple[object, ...]]:
    return [
        (
            table,
            *world.ask(
                f"{table} | summarize n = count(), begin = min(TimeGenerated), finish = max(TimeGenerated)"
            ),
        )
        for table in world.history.rows
    ] + world.ask(
        "MicrosoftGraphActivityLogs | where RequestId startswith 'a' | sort by RequestId asc, TimeGenerated asc"
    )


def test_the_same_seed_writes_the_same_past() -> None:
    assert fingerprint(past(seed=5, days=2)) == fingerprint(past(seed=5, days=2))
    assert fingerprint(past(seed=5, days=2)) != fingerprint(past(seed=6, days=2))


def test_the_past_is_large_enough_to_learn_from(fortnight: Past) -> None:
    assert sum(fortnight.history.rows.values()) > 100_000
    for table, rows in fortnight.history.rows.items():
        assert fortnight.engine.count(table) == rows > 0


def test_nothing_happens_before_the_fortnight_or_after_now(fortnight: Past) -> None:
    for table in ("MicrosoftGraphActivityLogs", "OfficeActivity", "AZKVAuditLogs"):
        ((first, last),) = fortnight.ask(f"{table} | summarize min(TimeGenerated), max(TimeGenerated)")
        assert UNTIL - timedelta(days=14) <= first < UNTIL - timedelta(days=13)
        assert UNTIL - timedelta(hours=2) < last < UNTIL + timedelta(minutes=1)


def test_three_to_four_percent_of_the_rows_come_again(fortnight: Past) -> None:
    ((rows, calls),) = fortnight.ask("MicrosoftGraphActivityLogs | summarize count(), dcount(RequestId)")

    assert 0.03 < (rows - calls) / calls < 0.045


def test_every_graph_call_leads_to_the_sign_in_that_issued_its_token(fortnight: Past) -> None:
    orphans = fortnight.ask(
        """
        let tokens = union AADServicePrincipalSignInLogs, AADManagedIdentitySignInLogs
            | distinct UniqueTokenIdentifier;
        MicrosoftGraphActivityLogs
        | join kind=leftanti tokens on $left.SignInActivityId == $right.UniqueTokenIdentifier
        | take 1
        """
    )

    assert orphans == []


def test_office_hours_and_weekends_are_kept(fortnight: Past) -> None:
    reader = fortnight.population.rogue.principal.app_id
    days = fortnight.ask(
        f"OfficeActivity | where ClientAppId == '{reader}' | summarize n = count() by d = startofday(TimeGenerated)"
    )
    hours = fortnight.ask(
        f"OfficeActivity | where ClientAppId == '{reader}' | summarize n = count() by h = hourofday(TimeGenerated)"
    )

    workdays = [
        n
        for day, n in days
        if day.isoweekday() < 6 and day.date() not in {UNTIL.date(), UNTIL.date() - timedelta(days=14)}
    ]
    weekends = [n for day, n in days if day.isoweekday() >= 6]
    assert max(weekends) < min(workdays)
    assert {hour for hour, _ in hours} == set(range(5, 21))


def test_managed_identity_sign_ins_have_no_origin(fortnight: Past) -> None:
    assert fortnight.ask("AADManagedIdentitySignInLogs | distinct IPAddress, UserAgent, Location") == [
        ("", "", "")
    ]


def test_the_new_agent_has_fewer_than_three_active_days(fortnight: Past) -> None:
    newcomer = fortnight.population.named("expense-bot").principal.object_id

    days = fortnight.ask(
        f"AADServicePrincipalSignInLogs | where ServicePrincipalId == '{newcomer}' "
        "| summarize n = count() by d = startofday(CreatedDateTime)"
    )

    assert 1 <= len(days) <= 2


def test_live_ids_are_those_of_the_past(fortnight: Past) -> None:
    """A path an agent calls live must be one it may have called before."""
    seen = pooled_id("release-pipeline", 3)

    assert fortnight.ask(f"MicrosoftGraphActivityLogs | where RequestUri has '{seen}' | take 1")


# -- none of the five rules of issue 2 sees its behaviour in this past ------------------------------------------


def test_whoever_uses_a_vault_uses_it_on_three_earlier_days(fortnight: Past) -> None:
    """AG-04: a first use of Key Vault."""
    users = fortnight.ask(
        "AZKVAuditLogs | summarize days = dcount(startofday(TimeGenerated)) by oid = tostring(Identity.claim.oid)"
    )

    assert len(users) >= 4
    assert min(days for _, days in users) >= 10
    assert fortnight.population.rogue.principal.object_id not in {oid for oid, _ in users}


def test_nobody_is_denied_twenty_times_in_a_quarter_of_an_hour(fortnight: Past) -> None:
    """AG-07: probing."""
    denied = fortnight.ask(
        "MicrosoftGraphActivityLogs | where ResponseStatusCode in (401, 403) "
        "| summarize n = count() by ServicePrincipalId, bin(TimeGenerated, 15m)"
    )

    assert denied, "the flaky agent is denied now and then"
    assert max(n for _, _, n in denied) < 10


def test_only_the_declared_directory_tool_enumerates(fortnight: Past) -> None:
    """AG-08: 500 distinct reads in an hour over four kinds of directory objects."""
    enumerators = fortnight.ask(
        """
        MicrosoftGraphActivityLogs
        | extend family = tostring(split(RequestUri, "/")[4])
        | where family in ("users", "groups", "applications", "servicePrincipals", "devices", "roleManagement")
        | summarize families = dcount(family), reads = dcount(RequestUri)
            by ServicePrincipalId, bin(TimeGenerated, 1h)
        | where families >= 4 and reads >= 500
        | distinct ServicePrincipalId
        """
    )
    declared = fortnight.ask(
        "_GetWatchlist('AgentInventory') | where Role == 'directory-tool' | project SearchKey"
    )

    assert enumerators == declared
    assert len(declared) == 1


def test_nobody_grants_anything_to_itself(fortnight: Past) -> None:
    """AG-18: the broker rotates the credentials of others only."""
    grants = fortnight.ask(
        "AuditLogs | project by_app = tostring(InitiatedBy.app.servicePrincipalId), "
        "app = tostring(InitiatedBy.app.appId), target = tostring(TargetResources[0].id)"
    )
    own = {
        (member.principal.object_id, member.principal.application_object_id)
        for member in fortnight.population
    }

    assert any(initiator for initiator, _, _ in grants)
    assert not [grant for grant in grants if grant[0] == grant[2] or (grant[0], grant[2]) in own]


def test_nobody_was_confirmed_compromised(fortnight: Past) -> None:
    """AG-30c: activity after containment needs a containment."""
    assert fortnight.ask("AADRiskyServicePrincipals | count")[0][0] == 0
    assert fortnight.ask("AADServicePrincipalSignInLogs | where ResultType != '0' | count")[0][0] == 0


def test_a_token_of_an_agent_identity_follows_one_of_its_blueprint(fortnight: Past) -> None:
    agent = fortnight.population.named("helpdesk-agent")
    assert agent.blueprint is not None
    ((tokens, exchanges),) = fortnight.ask(
        "AADServicePrincipalSignInLogs | summarize "
        f"dcountif(Id, ServicePrincipalId == '{agent.principal.object_id}'), "
        f"dcountif(Id, ServicePrincipalId == '{agent.blueprint.object_id}')"
    )

    assert tokens == exchanges > 100
    # Live, too, or its first live sign-in would come from a network nobody knows.
    assert agent.blueprint.ip_address == agent.principal.ip_address


def test_the_directory_and_the_report_know_what_the_logs_say(fortnight: Past) -> None:
    tenant, broker = fortnight.tenant, fortnight.population.named("release-pipeline")
    ((last,),) = fortnight.ask(
        "AADServicePrincipalSignInLogs | summarize max(CreatedDateTime) by ServicePrincipalName"
        "| where ServicePrincipalName == 'release-pipeline' | project max_CreatedDateTime"
    )
    ((key,),) = fortnight.ask(
        "AADServicePrincipalSignInLogs | where ServicePrincipalName == 'release-pipeline'"
        "| summarize arg_max(CreatedDateTime, ServicePrincipalCredentialKeyId) | project ServicePrincipalCredentialKeyId"
    )

    assert tenant.client_sign_ins[broker.principal.app_id].at == last
    assert key == broker.principal.credential_key_id
    assert broker.principal.credentials[0].starts_at.date() == UNTIL.date()


def test_a_vault_is_greeted_without_a_token_first(fortnight: Past) -> None:
    greeted = fortnight.ask(
        "AZKVAuditLogs | where HttpStatusCode == 401 | distinct OperationName, tostring(Identity), CallerIpAddress"
    )

    assert greeted == [("Authentication", "{}", "")]


@pytest.mark.parametrize("rule", catalog.load(), ids=lambda rule: rule.id)
def test_no_rule_acts_against_anybody_in_this_past(fortnight: Past, rule: Rule) -> None:
    """What is only context, as of the two days old agent, may be said."""
    for hours in (0, 12, 60):
        then = UNTIL - timedelta(hours=hours)
        query = bind_window(rule.query, then - rule.window - rule.late_arrival, then)
        found = fortnight.engine.query(query, now=then, visible_at=then).records()

        tiers = {row["PrincipalId"]: rule.tier_of(Confidence(row["Confidence"])) for row in found}
        assert set(tiers.values()) <= {Tier.CONTEXT}, found
