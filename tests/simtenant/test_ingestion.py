import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from workspace_world import until

from simtenant.clock import Clock
from simtenant.ingestion import Ingestion, IngestionFailedError
from simtenant.tenant import Tenant, TenantSettings
from workbench.engine import LogEngine, UnknownColumnError

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class StoppedClock(Clock):
    def now(self) -> datetime:
        return NOON


def make(
    engine: LogEngine, *, delay: timedelta = 10 * MINUTE, duplicate_share: float = 0.0, seed: int = 7
) -> Ingestion:
    settings = TenantSettings(log_ingestion_delay=delay, duplicate_share=duplicate_share, seed=seed)
    return Ingestion(Tenant(settings, clock=StoppedClock()), engine)


async def test_a_row_hides_until_its_delay_is_over() -> None:
    engine = LogEngine()
    ingestion = make(engine)
    ingestion.write("AZKVAuditLogs", {"OperationName": "SecretGet"})
    await ingestion.flush()

    seen = [
        len(engine.query("AZKVAuditLogs", now=NOON, visible_at=NOON + minutes * MINUTE).rows)
        for minutes in (0, 7, 13)
    ]

    assert seen == [0, 0, 1]


async def test_a_table_with_a_factor_arrives_later_than_the_others() -> None:
    engine = LogEngine()
    ingestion = make(engine)
    for table in ("AZKVAuditLogs", "OfficeActivity"):
        ingestion.write(table, {"TimeGenerated": NOON})
    await ingestion.flush()
    at = NOON + 13 * MINUTE

    assert engine.query("AZKVAuditLogs", now=NOON, visible_at=at).rows
    assert not engine.query("OfficeActivity", now=NOON, visible_at=at).rows


async def test_some_rows_really_arrive_again_with_the_same_payload_and_another_envelope() -> None:
    engine = LogEngine()
    ingestion = make(engine, duplicate_share=0.035)
    for number in range(4_000):
        ingestion.write("MicrosoftGraphActivityLogs", {"RequestId": str(number), "TimeGenerated": NOON})
    await ingestion.flush()

    rows = engine.query("MicrosoftGraphActivityLogs | project RequestId, TimeGenerated", now=NOON).rows
    copies = Counter(Counter(request for request, _ in rows).values())

    duplicated = sum(requests for times, requests in copies.items() if times > 1)
    assert 0.02 < duplicated / 4_000 < 0.05
    assert copies[2] > copies[3] > 0
    assert max(copies) <= 4
    assert len(set(rows)) == len(rows), "copies differ in their envelope"


async def test_the_second_copy_is_seen_later_than_the_first() -> None:
    engine = LogEngine()
    ingestion = make(engine, duplicate_share=1.0)
    for number in range(50):
        ingestion.write("AuditLogs", {"Id": str(number)})
    await ingestion.flush()
    query = "AuditLogs | summarize n = count() by Id | summarize rows = sum(n), ids = count()"

    at_first = engine.query(query, now=NOON, visible_at=NOON + 12 * MINUTE).rows[0]
    in_the_end = engine.query(query, now=NOON).rows[0]

    assert at_first[0] < in_the_end[0]
    assert in_the_end[0] >= 100


async def test_the_envelope_of_a_sign_in_runs_after_the_event() -> None:
    engine = LogEngine()
    ingestion = make(engine)
    happened = NOON - MINUTE
    ingestion.write("AADServicePrincipalSignInLogs", {"CreatedDateTime": happened, "TimeGenerated": happened})
    await ingestion.flush()

    ((created, envelope),) = engine.query(
        "AADServicePrincipalSignInLogs | project CreatedDateTime, TimeGenerated", now=NOON
    ).rows

    assert created == happened
    assert MINUTE < envelope - created < 12 * MINUTE


async def test_the_same_seed_delivers_the_same_rows() -> None:
    async def delivered(seed: int) -> list[tuple[object, ...]]:
        engine = LogEngine()
        ingestion = make(engine, duplicate_share=0.3, seed=seed)
        for number in range(100):
            ingestion.write("AuditLogs", {"Id": str(number), "TimeGenerated": NOON})
        await ingestion.flush()
        return engine.query(
            "AuditLogs | project Id, TimeGenerated | sort by Id asc, TimeGenerated asc", now=NOON
        ).rows

    assert await delivered(1) == await delivered(1)
    assert await delivered(1) != await delivered(2)


async def test_in_the_background_rows_are_stored_without_a_flush() -> None:
    engine = LogEngine()
    async with make(engine, delay=timedelta(0)) as ingestion:
        ingestion.write("AuditLogs", {"Id": "1"})
        await until(lambda: engine.count("AuditLogs") == 1)


async def test_leaving_stores_what_is_still_waiting() -> None:
    engine = LogEngine()
    async with make(engine) as ingestion:
        ingestion.write("AuditLogs", {"Id": "1"})

    assert engine.count("AuditLogs") == 1


async def test_a_row_the_engine_refuses_is_not_swallowed() -> None:
    ingestion = make(LogEngine())
    ingestion.write("AuditLogs", {"NoSuchColumn": 1})

    with pytest.raises(UnknownColumnError):
        await ingestion.flush()


async def test_after_a_loss_in_the_background_nothing_more_is_accepted() -> None:
    async def lose() -> None:
        async with make(LogEngine()) as ingestion:
            ingestion.write("AuditLogs", {"NoSuchColumn": 1})
            async with asyncio.timeout(30):
                while True:
                    await asyncio.sleep(0.02)
                    ingestion.write("AuditLogs", {"Id": "2"})

    with pytest.raises(IngestionFailedError) as lost:
        await lose()

    assert isinstance(lost.value.__cause__, UnknownColumnError)
