"""The simulated workspace goes on summarising while it runs, as Azure's summary rules do."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from simtenant.summary_rules import SummaryRules
from simtenant.tenant import Tenant
from workbench.engine import LogEngine, QueryError

AGENT = "11111111-2222-4333-8444-000000000001"


@pytest.fixture
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


def call(tenant: Tenant, number: int) -> dict[str, object]:
    return {
        "TimeGenerated": tenant.clock.now(),
        "RequestId": f"request-{number}",
        "ServicePrincipalId": AGENT,
        "RequestMethod": "GET",
        "RequestUri": "https://graph.microsoft.com/v1.0/organization",
        "ResponseStatusCode": 200,
    }


async def test_a_bin_is_summarised_once_its_end_and_delay_are_over(engine: LogEngine) -> None:
    tenant = Tenant()
    rules = SummaryRules(tenant, engine)
    engine.insert("MicrosoftGraphActivityLogs", [call(tenant, 1)])
    assert await rules.run_due() == 0

    tenant.clock.advance(timedelta(hours=1, minutes=45))

    assert await rules.run_due() >= 1
    assert engine.count("AgentGraphHourly_CL") == 1
    assert await rules.run_due() == 0
    assert engine.count("AgentGraphHourly_CL") == 1


async def test_bins_that_passed_while_nobody_looked_are_made_up_for(engine: LogEngine) -> None:
    tenant = Tenant()
    rules = SummaryRules(tenant, engine)
    for number in range(3):
        engine.insert("MicrosoftGraphActivityLogs", [call(tenant, number)])
        tenant.clock.advance(timedelta(hours=2))
    tenant.clock.advance(timedelta(days=1, hours=2))

    await rules.run_due()

    now = tenant.clock.now()
    hours = engine.query("AgentGraphHourly_CL | project Calls, BinStart", now=now, visible_at=now).rows
    days = engine.query("AgentResourceDaily_CL | project Calls", now=now, visible_at=now).rows
    assert [calls for calls, _ in hours] == [1, 1, 1]
    assert sum(calls for (calls,) in days) == 3


async def test_a_rule_that_fails_is_heard_of(engine: LogEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, begun, left = Tenant(), threading.Event(), threading.Event()

    def broken(*_: object) -> int:
        begun.set()
        # The exit comes first: what is under way then must be waited for, not dropped.
        assert left.wait(30)
        raise QueryError("failed", "broken")

    monkeypatch.setattr("simtenant.summary_rules.summarise", broken)
    rules = SummaryRules(tenant, engine)

    async def open_for_a_while() -> None:
        async with rules:
            tenant.clock.advance(timedelta(hours=2))
            assert await asyncio.to_thread(begun.wait, 30)
            asyncio.get_running_loop().call_later(0.1, left.set)

    with pytest.raises(QueryError):
        await open_for_a_while()
