"""A Graph that takes no lever: the app goes on trying, and somebody is called. Lived through, not made up."""

from datetime import timedelta

from workspace import TABLES, fires

from clients.telemetry import azure
from response import turns
from response.finding import Tier
from simtenant.faults import FaultKind
from simtenant.observed import observed


async def test_a_containment_that_graph_does_not_take_calls_somebody(tmp_path, monkeypatch):
    for name, value in azure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(turns, "INTERVAL", timedelta(milliseconds=20))
    async with observed(tmp_path) as seen:
        faults = seen.estate.tenant.faults
        faults.add("POST .*/confirmCompromised", FaultKind.STATUS, status=503, times=None)
        await seen.find(seen.estate.population.rogue.principal, "AG-04", Tier.AUTO)
        await seen.tick("settle")
        await seen.ship()
        rows = {table: seen.engine.query(table, now=seen.now).records() for table in TABLES}
        (record,) = await seen.process.world.store.scan("containment:")

    assert record.body["state"] == "claimed"
    assert fires("containment-stuck", rows, seen.now + timedelta(minutes=4)) == []
    ((found,)) = fires("containment-stuck", rows, seen.now + timedelta(minutes=7))
    assert found["ContainmentId"] == record.body["id"]
