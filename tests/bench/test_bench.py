"""That the measurements run and say what they should. How fast anything is, is not asserted: machines differ."""

import asyncio
import json
import os
import re
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from bench import corpus, ledger, rows_read
from bench.figures import Span, against, covered, spread
from clients.stores import open_store
from detections import baselines
from detections.catalog import load
from response.ledger import Draft, EntryKind, about, commit_with_entries, entries, reindex, verify
from workbench.baselines import backfill

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("start", "firstIncident", "hotPath", "graphCalls", "storm")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What ``python -m bench`` prints and writes, with as few runs as it takes."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"

    async def run():
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "bench",
                "--runs",
                "1",
                "--orders",
                "8",
                "--part",
                "app",
                "--json",
                str(path),
            ),
            cwd=ROOT,
            env=dict(os.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()[-2000:]
        return out

    printed = json.loads(asyncio.run(run()))
    assert printed == json.loads(path.read_text())
    return printed


def test_every_item_says_its_target_unit_runs_and_whether_it_is_met(measured):
    assert list(measured) == ["environment", *SECTIONS]
    assert {"date", "python", "cpus", "platform", "loadBefore"} <= set(measured["environment"])
    for name in SECTIONS:
        item = measured[name]
        assert {"target", "unit", "runs", "ok", "notes"} <= set(item), name
        assert item["ok"] in (True, False, None)


def test_every_figure_has_a_median_and_a_95th_percentile(measured):
    figures = [
        measured["start"]["localHost"],
        *(measured["firstIncident"][store][what]
          for store in ("restart", "emptyStore") for what in ("startToAnswer", "requestToAnswer")),
        *(measured["hotPath"][case][what]
          for case in ("policiesFresh", "policiesStale") for what in ("own", "wall", "services")),
        measured["storm"]["secondsToLastAccepted"],
    ]  # fmt: skip
    for figure in figures:
        assert 0 <= figure["min"] <= figure["p50"] <= figure["p95"] <= figure["max"]


def test_a_start_that_was_not_measured_says_why(measured):
    item = measured["start"]
    if item["microsoftRuntime"] is None:
        assert item["ok"] is None
        assert re.search(r"AGENTDESK_(SHARED|BENCH_PYTHON)", item["reason"])
    else:
        assert item["microsoftRuntime"]["runs"] == 1


@pytest.mark.parametrize(("case", "calls", "paced"), [("warm", 3, 0), ("cold", 4, 1)])
def test_containing_one_principal_takes_few_graph_calls(measured, case, calls, paced):
    found = measured["graphCalls"][case]
    assert found["calls"] <= 4
    assert found["pacedBeforeConfirm"] <= 1
    assert (found["calls"], found["pacedBeforeConfirm"]) == (calls, paced), found["which"]
    assert found["which"][-1].endswith("/confirmCompromised")


def test_there_is_one_client_of_each_kind(measured):
    assert set(measured["graphCalls"]["clientInstances"].values()) == {1}


def test_orders_at_once_share_confirmations(measured):
    storm = measured["storm"]
    assert storm["orders"] == 8
    assert storm["confirmCalls"]["max"] < 8


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.duckdb"
    corpus.build(path, corpus.Size(calls=20_000, principals=20))
    return path


def test_every_rule_runs_over_the_corpus(workspace):
    found = asyncio.run(corpus.measure(1, workspace))
    assert {"target", "unit", "runs", "ok"} <= set(found)
    assert found["failed"] == {}
    assert found["rules"] == len(load())
    assert found["rows"]["MicrosoftGraphActivityLogs"] == 20_000
    assert found["rows"]["AADServicePrincipalSignInLogs"] == 4_000
    assert 0 < found["peakGigabytes"] < 16
    assert len(found["slowest"]) == 5


def test_rows_are_counted_and_not_guessed(workspace):
    found = rows_read.measure(workspace, load())
    assert {"target", "unit", "runs", "ok"} <= set(found)
    assert 0 < found["sweep"]["rows"] <= found["withBaselineGroup"]["rows"]
    assert found["sweep"]["rowsOfLookback"] > 20_000
    assert found["sweep"]["share"] == pytest.approx(
        found["sweep"]["rows"] / found["sweep"]["rowsOfLookback"], abs=1e-4
    )


def test_the_corpus_has_the_baselines_that_the_summary_rules_would_make(workspace):
    engine = corpus.opened(workspace)
    try:
        tables = ("AgentGraphHourly_CL", "AgentResourceDaily_CL", "AgentSignInDaily_CL")
        made = {table: _rows(engine, table) for table in tables}
        assert all(made.values())
        ours = [baseline for baseline in baselines.load() if baseline.table in tables]
        backfill(engine, corpus.NOW - timedelta(days=13), corpus.NOW, baselines=ours)
        assert {table: _rows(engine, table) for table in tables} == made
    finally:
        engine.close()


def _rows(engine, table):
    """Complete bins of the last 13 days; which of the equal application ids a bin takes is nobody's matter."""
    start = corpus.NOW - timedelta(days=12)
    start, end = start.replace(hour=0), corpus.NOW.replace(hour=0)
    bound = f"BinStart between (datetime({start:%Y-%m-%d}) .. datetime({end:%Y-%m-%d}))"
    last = "" if table == "AgentGraphHourly_CL" else f" and BinStart < datetime({end:%Y-%m-%d})"
    rows = engine.query(f"{table} | where {bound}{last}", now=corpus.NOW).records()
    return sorted(
        json.dumps({name: str(value) for name, value in row.items()}, sort_keys=True) for row in rows
    )


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ((), 0.0),
        ((Span(1, 2), Span(4, 5)), 2.0),
        ((Span(1, 3), Span(2, 4)), 3.0),
        ((Span(1, 9), Span(2, 3), Span(4, 5)), 8.0),
        ((Span(-5, 1), Span(9, 20), Span(30, 31)), 2.0),
    ],
)
def test_requests_that_overlap_are_not_counted_twice(spans, expected):
    assert covered(spans, Span(0, 10)) == pytest.approx(expected)


def test_the_95th_percentile_is_a_measured_value():
    assert spread([float(n) for n in range(1, 21)]) == {
        "p50": 10.5,
        "p95": 19.0,
        "min": 1.0,
        "max": 20.0,
        "runs": 20,
    }


def test_a_missed_target_is_said():
    assert against([90.0, 90.0, 300.0], p50=100, p95=250)["ok"] is False
    assert against([90.0, 90.0, 200.0], p50=100, p95=250)["ok"] is True


def test_a_ledger_is_built_whole_and_asked(tmp_path):
    found = asyncio.run(ledger.measure(3_000, 1, tmp_path))

    assert {"target", "unit", "runs", "ok", "verifySeconds"} <= set(found)
    assert found["entries"] == 3_000
    for figure in (found["recentMs"], found["historyMs"]):
        assert 0 < figure["min"] <= figure["p95"] <= figure["max"]


def test_the_ledger_that_is_built_is_what_the_app_writes(tmp_path):
    """The bulk builder leaves out commits and nothing else: the app goes on behind it and finds all of it."""

    async def run():
        store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", "tenant")
        await store.get("x")
        ledger.build(tmp_path / "ledger.db", 105)

        async def build():
            return [], [Draft(EntryKind.CLOSED, "agentbreaker", ledger._principal(3), "c", {})]

        await commit_with_entries(store, build)
        whole = await entries(store)
        theirs = [entry for entry in reversed(whole) if entry.subject == ledger._principal(3)]
        assert await about(store, ledger._principal(3)) == theirs
        assert len(theirs) == 8
        assert await reindex(store) == 0
        assert (await verify(store)).entries == 106
        await store.close()

    asyncio.run(run())
