"""The ledger in the audit table: every entry, whatever happens on the way, and twice at most recognisably."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clients import audit
from clients.errors import NotSent, OutcomeUnknown, Refused, Throttled
from clients.stores import CorruptRecord, Put, StoreUnreachable
from handlers import sweeps
from handlers.process import Process, build
from response import auditing, ledger
from response.auditing import SHIPPED, ship
from response.ledger import Draft, EntryKind, commit_with_entries
from settings import Settings
from simtenant.estate import Estate
from simtenant.faults import Fault, FaultKind
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clients.stores import Write
    from response.world import World

PRINCIPAL = "9b2e0000-0000-4000-8000-000000000001"
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ledger.md").read_text()
UPLOADS = re.compile("POST /dataCollectionRules/")


class Audited:
    """A tenant, and the app with the audit table set."""

    def __init__(self, estate: Estate, process: Process) -> None:
        self.estate, self.process = estate, process

    @property
    def world(self) -> World:
        return self.process.world

    async def write(self, entries: int, body: dict[str, Any] | None = None) -> None:
        async def build_drafts() -> tuple[list[Write], list[Draft]]:
            drafts = [
                Draft(EntryKind.CLAIMED, "agentbreaker", PRINCIPAL, "c1", body or {"n": n})
                for n in range(entries)
            ]
            return [], drafts

        await commit_with_entries(self.world.store, build_drafts)

    async def rows(self, kql: str = "", *, order: str = "| sort by Number asc") -> list[dict[str, Any]]:
        """What a query of the workspace sees, in the order of numbers."""
        now = self.world.now()
        query = f"AgentbreakerAudit_CL {kql} {order}"
        answer = await self.world.logs.query(query, now - timedelta(days=1), now + timedelta(days=1))
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]

    async def numbers(self) -> list[int]:
        return [row["Number"] for row in await self.rows()]

    async def mark(self) -> int:
        record = await self.world.store.get(SHIPPED)
        return 0 if record is None else int(record.body["number"])

    def fail(self, kind: FaultKind = FaultKind.STATUS, **options: Any) -> None:
        self.estate.tenant.faults.arm(Fault(UPLOADS, kind, **options))


@asynccontextmanager
async def audited(directory: Path) -> AsyncIterator[Audited]:
    settings = TenantSettings(log_ingestion_delay=timedelta(0), identity_protection_per_second=1000.0)
    async with Estate(directory, settings=settings, history=False) as estate:
        environment = estate.app_environment(**estate.audit_settings())
        process = await build(Settings.from_env(environment))
        try:
            yield Audited(estate, process)
        finally:
            await process.close()


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Audited]:
    async with audited(tmp_path) as opened:
        yield opened


async def test_each_entry_becomes_one_row_that_a_query_finds(app: Audited) -> None:
    await app.write(3, {"note": "first use of a vault", "list": [1, None]})

    assert await ship(app.world) == 3
    assert await ship(app.world) == 0

    stored = await ledger.entries(app.world.store)
    rows = await app.rows("| where Subject == '" + PRINCIPAL + "'")
    assert [row["EventId"] for row in rows] == [entry.id for entry in stored]
    for row, entry in zip(rows, stored, strict=True):
        assert (row["Number"], row["Kind"], row["Actor"]) == (entry.number, entry.kind, entry.actor)
        assert (row["ContainmentId"], row["PreviousHash"], row["Hash"]) == (
            "c1",
            entry.previous_hash,
            entry.hash,
        )
        assert row["TimeGenerated"] == row["RecordedAt"] == entry.at
    assert len(await app.rows("| where Body.note == 'first use of a vault'")) == 3
    assert await app.mark() == 3


async def test_without_a_table_nothing_is_sent_or_marked(app: Audited) -> None:
    await app.write(2)

    assert await ship(replace(app.world, audit=None)) == 0
    assert await app.mark() == 0
    assert app.estate.audit.uploads == []


async def test_after_an_outage_everything_is_caught_up_oldest_first(app: Audited) -> None:
    await app.write(4)
    app.fail(times=2, status=503)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await ship(app.world)
    assert (await app.mark(), await app.numbers()) == (0, [])

    await app.write(3)
    assert await ship(app.world) == 7

    assert await app.numbers() == [1, 2, 3, 4, 5, 6, 7]


async def test_an_answer_that_never_came_leads_to_rows_twice_with_the_same_event_id(app: Audited) -> None:
    await app.write(3)
    app.estate.audit.lose_answers = 1
    with pytest.raises(OutcomeUnknown):
        await ship(app.world)
    assert await app.mark() == 0

    assert await ship(app.world) == 3

    assert await app.numbers() == [1, 1, 2, 2, 3, 3]
    assert len(await app.rows("| summarize arg_max(TimeGenerated, *) by EventId")) == 3


async def test_the_queries_of_the_page_remove_duplicates_and_find_a_gap(app: Audited) -> None:
    once, gap = (
        " ".join(text.split()).removeprefix("AgentbreakerAudit_CL ")
        for text in re.findall(r"```kusto\n(.*?)```", PAGE, re.DOTALL)
    )
    await app.write(3)
    app.estate.audit.lose_answers = 1
    with pytest.raises(OutcomeUnknown):
        await ship(app.world)
    await ship(app.world)

    assert [row["Number"] for row in await app.rows(once)] == [1, 2, 3]
    assert await app.rows(gap, order="") == []
    await app.write(2)
    await app.world.store.commit([Put(SHIPPED, {"number": 4})])
    await ship(app.world)
    assert [(row["Rows"], row["Last"]) for row in await app.rows(gap, order="")] == [(4, 5)]


async def test_a_connection_that_breaks_is_an_unclear_outcome_and_never_a_refusal(app: Audited) -> None:
    await app.write(1)
    for kind in (FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER):
        app.fail(kind)
        with pytest.raises(OutcomeUnknown):
            await ship(app.world)
    assert await app.mark() == 0


async def test_a_partial_failure_marks_what_was_accepted_and_no_more(app: Audited) -> None:
    large = {f"t{n}": "x" * 1990 for n in range(29)}  # near 60 KB an entry: three calls
    for _ in range(3):
        await app.write(12, large)
    app.estate.audit._calls_per_minute = 1
    with pytest.raises(Throttled):
        await ship(app.world)
    sent = await app.mark()

    assert 0 < sent < 36
    assert await app.numbers() == list(range(1, sent + 1))
    app.estate.audit._calls_per_minute = 1000
    assert await ship(app.world) == 36 - sent
    assert await app.numbers() == list(range(1, 37))
    assert all(upload.size <= 1_000_000 for upload in app.estate.audit.uploads)


async def test_throttling_is_waited_for_when_the_service_names_a_short_time(app: Audited) -> None:
    await app.write(2)
    app.fail(status=429, retry_after=1)

    assert await ship(app.world) == 2
    assert await app.numbers() == [1, 2]


async def test_what_is_too_large_together_goes_alone_and_what_is_too_large_alone_goes_without_its_body(
    app: Audited,
) -> None:
    await app.write(5)
    await app.write(1, {"text": ["x" * 1900] * 5})
    await app.write(2)
    app.estate.audit.max_body = 3000

    assert await ship(app.world) == 8

    assert await app.numbers() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["Number"] for row in await app.rows("| where Body.refused == 'HTTP 413'")] == [6]


async def test_a_long_body_is_cut_into_json_that_says_so(app: Audited) -> None:
    await app.write(1, {"texts": ["y" * 1900] * 40})

    await ship(app.world)

    assert len(await app.rows("| where Body.cut == true and Body.characters > 70000")) == 1


async def test_text_that_utf_8_cannot_carry_stops_nothing(app: Audited) -> None:
    await app.write(1, {"name": "half \ud800", "half \ud801": ["\udfff"]})

    assert await ship(app.world) == 1
    assert await app.numbers() == [1]


async def test_an_entry_that_cannot_be_read_is_a_row_too(app: Audited) -> None:
    await app.write(3)
    await app.world.store.commit([Put("ledger:000000000002", {"number": "two"})])

    assert await ship(app.world) == 3

    rows = await app.rows()
    assert [(row["Number"], row["Kind"]) for row in rows] == [
        (1, "claimed"),
        (2, "unreadable"),
        (3, "claimed"),
    ]
    assert rows[1]["EventId"] == "unreadable-2"


async def test_a_run_has_an_end_and_the_next_goes_on(app: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "_A_RUN", 10)
    monkeypatch.setattr(auditing, "_PAGE", 5)
    await app.write(23)

    assert [await ship(app.world) for _ in range(4)] == [10, 10, 3, 0]
    assert await app.numbers() == list(range(1, 24))


@pytest.mark.parametrize("body", [{"number": 9}, {"number": "2"}, {"number": -1}, {}, {"number": True}])
async def test_a_mark_that_names_no_entry_is_said_so_and_nothing_is_skipped(
    app: Audited, body: dict[str, Any]
) -> None:
    await app.write(3)
    await app.world.store.commit([Put(SHIPPED, body)])

    with pytest.raises(CorruptRecord):
        await ship(app.world)


async def test_two_that_ship_at_once_leave_nothing_out(app: Audited) -> None:
    await app.write(40)

    await asyncio.gather(*(ship(app.world) for _ in range(4)))
    await ship(app.world)

    assert set(await app.numbers()) == set(range(1, 41))
    assert await app.mark() == 40


async def test_more_than_one_call_at_a_time_is_refused_before_anything_is_sent(app: Audited) -> None:
    assert app.world.audit is not None
    with pytest.raises(ValueError, match="900000"):
        await app.world.audit.upload([{"EventId": "x" * audit.MAX_CALL}])
    assert app.estate.audit.uploads == []


async def test_an_endpoint_that_nobody_listens_on_is_not_sent(app: Audited, unused_tcp_port: int) -> None:
    credential = app.process._closing[-1]
    client = audit.AuditClient(f"http://127.0.0.1:{unused_tcp_port}", credential, "dcr-0", "Custom-X_CL")
    try:
        with pytest.raises(NotSent):
            await client._once([{"EventId": "1"}])
    finally:
        await client.close()


# --- settle ---------------------------------------------------------------------------------------


async def test_settle_ships_and_a_table_that_refuses_never_stops_it(
    app: Audited, caplog: pytest.LogCaptureFixture
) -> None:
    await app.write(2)
    publishers, app.estate.audit.publishers = app.estate.audit.publishers, set()
    with pytest.raises(Refused):
        await ship(app.world)

    await sweeps.settle(app.process)
    assert "the audit table is behind" in caplog.text
    assert PRINCIPAL not in caplog.text
    assert await app.mark() == 0

    app.estate.audit.publishers = publishers
    await sweeps.settle(app.process)
    assert await app.numbers() == [1, 2]


async def test_the_ledger_is_shipped_also_when_settling_fails(
    app: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.write(2)

    async def fails(_: World) -> list[Any]:
        raise StoreUnreachable("gone")

    monkeypatch.setattr("response.flow.settle", fails)

    with pytest.raises(StoreUnreachable):
        await sweeps.settle(app.process)
    assert await app.numbers() == [1, 2]


async def test_the_daily_sweep_checks_the_whole_ledger_and_records_a_break(app: Audited) -> None:
    await app.write(3)
    await sweeps.sweep_dormant(app.process)
    assert await app.world.store.get("ledger-checkpoint") is not None
    record = await app.world.store.get("ledger:000000000001")
    assert record is not None
    await app.world.store.commit([Put(record.key, {**record.body, "actor": "somebody else"})])

    await sweeps.sweep_dormant(app.process)

    assert await app.world.store.get("ledger-broken") is not None
