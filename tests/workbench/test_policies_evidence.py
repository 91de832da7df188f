"""Whom a policy would have hit: never "nobody" from an answer that was not whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from policies_world import CODE_POLICY, SOMEBODY, SP_POLICY, Desk, desk

from clients.logs import Rows
from workbench.engine import LogEngine
from workbench.policies import evidence
from workbench.policies.refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from workbench.parser import KqlParser

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
POLICY = "aaaaaaaa-0000-4000-8000-000000000001"
OTHER = "aaaaaaaa-0000-4000-8000-000000000002"
WHO = "bbbbbbbb-0000-4000-8000-000000000001"
REPORT_ONLY = "enabledForReportingButNotEnforced"


@pytest.fixture
async def d(tmp_path: Path, monkeypatch: Any, capsys: Any) -> AsyncIterator[Desk]:
    async with desk(tmp_path, monkeypatch, capsys) as opened:
        yield opened


class Local:
    """The engine as the promote query's log."""

    def __init__(self, engine: LogEngine) -> None:
        self.engine = engine

    async def query(self, kql: str, start: datetime, end: datetime) -> Rows:
        found = self.engine.query(kql, now=end, visible_at=end)
        return Rows(tuple(name for name, _ in found.columns), tuple(found.rows))


@pytest.fixture
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


def row(
    days: float, result: str, *, number: int = 0, who: str = WHO, policies: str | None = None
) -> dict[str, Any]:
    applied = [{"id": OTHER, "result": "failure"}, {"id": POLICY.upper(), "result": result}]
    return {
        "TimeGenerated": NOW - timedelta(days=days),
        "Id": f"{days}-{result}-{number}",
        "ServicePrincipalId": who,
        "ServicePrincipalName": "agent",
        "ResourceDisplayName": "Microsoft Graph",
        "ConditionalAccessPolicies": json.dumps(applied) if policies is None else policies,
    }


async def gather(engine: LogEngine, *rows: dict[str, Any], since: float = 20) -> evidence.Evidence:
    engine.insert("AADServicePrincipalSignInLogs", [*rows, *rows])
    return await evidence.gather(Local(engine), POLICY, NOW - timedelta(days=since), NOW, people=False)


async def test_rows_that_come_twice_count_once_and_only_this_policy_counts(engine: LogEngine) -> None:
    found = await gather(
        engine,
        row(20, "reportOnlyNotApplied"),
        row(15, "reportOnlyFailure"),  # before the window
        row(3, "reportOnlyFailure"),
        row(2, "reportOnlyFailure"),
        row(1, "reportOnlyNotApplied", who=SOMEBODY),
        row(0.1, "reportOnlyNotApplied"),
    )

    [hit] = found.hits
    assert (hit.id, hit.times, hit.resources) == (WHO, 2, ("Microsoft Graph",))
    assert (hit.first, hit.last) == (NOW - timedelta(days=3), NOW - timedelta(days=2))
    assert found.history.days == pytest.approx(14)


@pytest.mark.parametrize(
    ("rows", "since", "days", "why"),
    [
        ([], 20, 0, "no row"),
        ([(20, "[]"), (0.1, "[]")], 20, 0, "names the policy"),
        ([(5, None), (0.1, None)], 20, 5, "reaches back only to"),
        ([(20, None), (0.1, None)], 3, 3, "only since"),
        ([(20, "[]"), (6, None), (0.1, None)], 20, 6, "first row"),
        ([(20, None), (4, None)], 20, 10, "last row is of"),
    ],
)
async def test_how_long_the_log_speaks_about_the_policy(
    engine: LogEngine, rows: list[tuple[float, str | None]], since: float, days: float, why: str
) -> None:
    found = await gather(
        engine, *(row(at, "reportOnlyNotApplied", policies=text) for at, text in rows), since=since
    )

    assert found.history.days == pytest.approx(days)
    assert why in found.history.why


@pytest.mark.parametrize(
    "odd",
    [
        row(1, "reportOnlySomethingNew"),
        row(1, "reportOnlyFailure", who=""),
        row(1, "", policies=f'[{{"id": "{POLICY}", "result": "reportOnlyFail'),  # cut off
    ],
)
async def test_what_cannot_be_read_is_never_nobody(engine: LogEngine, odd: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        await gather(engine, row(20, "reportOnlyNotApplied"), odd)


@pytest.mark.parametrize("bad", ['x"', f'{POLICY}" or true', "", POLICY + "\n"])
def test_a_policy_id_that_is_no_guid_never_reaches_a_query(bad: str) -> None:
    with pytest.raises(ValueError, match="GUID"):
        evidence.queries(bad, NOW, NOW, people=False)


@pytest.mark.parametrize("people", [False, True])
def test_microsofts_parser_takes_the_queries(parser: KqlParser, people: bool) -> None:
    for table, *texts in evidence.queries(POLICY, NOW - timedelta(days=14), NOW, people=people):
        for kql in texts:
            assert parser.check(kql).errors == (), (table, kql)


async def test_the_queries_about_people_run_too(engine: LogEngine) -> None:
    for table in ("SigninLogs", "AADNonInteractiveUserSignInLogs"):
        rows = [row(20, "reportOnlyNotApplied"), row(2, "reportOnlyFailure")]
        people = [
            {**one, "Id": f"{table}{one['Id']}", "UserId": WHO, "UserPrincipalName": "a@example.com"}
            for one in rows
        ]
        for one in people:
            del one["ServicePrincipalId"], one["ServicePrincipalName"]
        engine.insert(table, people)

    found = await evidence.gather(Local(engine), POLICY, NOW - timedelta(days=20), NOW, people=True)

    assert [(hit.id, hit.name, hit.times) for hit in found.hits] == [(WHO, "a@example.com", 2)]


# --- promote ----------------------------------------------------------------------------------------


async def test_a_partial_answer_never_promotes(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    await d.fortnight(d.agent)
    d.world.logs.partial_next(9)

    code, said = await d.run("promote", SP_POLICY)

    assert (code, d.policy()["state"]) == (1, REPORT_ONLY)
    assert "could not be read whole" in said


async def test_a_refused_query_never_promotes(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    await d.fortnight(d.agent)
    d.world.logs.allowed = set()

    code, _ = await d.run("promote", SP_POLICY)

    assert (code, d.policy()["state"]) == (1, REPORT_ONLY)


@pytest.mark.parametrize(("accepted", "code"), [(None, 1), ("6", 1), ("4", 0)])
async def test_a_young_policy_needs_its_short_history_accepted(
    d: Desk, accepted: str | None, code: int
) -> None:
    await d.run("apply", SP_POLICY)
    await d.sign_in(d.agent)
    d.later(5)
    await d.sign_in(d.agent)

    got, said = await d.run("promote", SP_POLICY, *(("--accept-short-history", accepted) if accepted else ()))

    assert got == code, said
    assert "5.0 days" in said


async def test_a_change_that_covers_more_starts_the_fortnight_again(d: Desk) -> None:
    await d.run("apply", SP_POLICY, "--exclude", SOMEBODY)
    await d.fortnight(d.agent)
    await d.run("apply", SP_POLICY, "--remove", SOMEBODY)

    code, said = await d.run("promote", SP_POLICY)

    assert (code, "only since" in said) == (1, True), said


@pytest.mark.parametrize(("count", "code"), [("1", 1), ("3", 1), ("2", 0)])
async def test_accepting_all_takes_the_right_number(d: Desk, count: str, code: int) -> None:
    second = d.tenant.add_application("second")
    await d.run("apply", SP_POLICY)
    d.at_risk(d.agent, second)
    await d.fortnight(d.agent, second)

    got, said = await d.run("promote", SP_POLICY, "--accept-all", count)

    assert (got, d.policy()["state"] == "enabled") == (code, code == 0), said


async def test_a_policy_for_people_is_judged_by_the_logs_of_people(d: Desk) -> None:
    await d.run("apply", CODE_POLICY, "--exclude-user", SOMEBODY)
    await d.fortnight(d.agent)

    code, said = await d.run("promote", CODE_POLICY)

    assert (code, d.policy(CODE_POLICY)["state"]) == (1, REPORT_ONLY)
    assert "SigninLogs has no row" in said
