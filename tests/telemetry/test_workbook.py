"""The workbook's queries, on rows the app sent; and the page that shows them."""

import json
from datetime import UTC, datetime

import pytest
from workspace import ask as asked

from workbench import workbook
from workbench.engine import LogEngine, Result

TILES = {tile.name: tile for tile in workbook.tiles()}


@pytest.fixture(scope="module")
def answers(told):
    _, rows, now = told
    return {name: asked(tile.query, rows, now) for name, tile in TILES.items()}


def entries(told, *kinds):
    return {row["EventId"]: row for row in told[1]["AgentbreakerAudit_CL"] if row["Kind"] in kinds}.values()


def test_it_is_a_workbook_of_ten_tiles_at_most_on_one_time_range():
    book = json.loads(workbook.WORKBOOK.read_text())

    assert book["version"] == "Notebook/1.0"
    assert len(TILES) <= 10
    queries = [item["content"] for item in book["items"] if item["type"] == 3]
    # What stands now may have begun long before the hour that somebody looks at.
    now = {item["name"] for item in book["items"] if "timeContext" in item["content"]}
    assert now == {"states-now", "waits-for-people"}
    chosen = [content for content in queries if "timeContext" not in content]
    assert {content["timeContextFromParameter"] for content in chosen} == {"TimeRange"}
    assert {content["resourceType"] for content in queries} == {"microsoft.operationalinsights/workspaces"}
    assert len({item["name"] for item in book["items"]}) == len(book["items"])


def test_microsofts_parser_takes_every_query(parser):
    assert {name: parser.check(tile.query).errors for name, tile in TILES.items()} == dict.fromkeys(TILES, ())


def test_containments_are_counted_once_though_their_rows_came_twice(told, answers):
    counted = {row["Kind"]: row["Containments"] for row in answers["containments-over-time"]}

    assert len(told[1]["AgentbreakerAudit_CL"]) > len(
        {row["EventId"] for row in told[1]["AgentbreakerAudit_CL"]}
    )
    for kind in ("claimed", "pulled", "confirmed", "proven", "parked"):
        assert counted[kind] == len({row["ContainmentId"] for row in entries(told, kind)}), kind


def test_the_state_now_is_that_of_the_last_entry(answers):
    assert {row["State"]: row["Containments"] for row in answers["states-now"]} == {
        "proven": 1,
        "confirmed": 1,
        "awaiting_approval": 1,
        "vetoed": 1,
    }
    assert len(answers["waits-for-people"]) == 1
    assert answers["failed-or-not-covered"] == []


def test_times_are_those_between_the_entries(told, answers):
    found = {row["Step"]: row for row in answers["time-to"]}
    at = {
        (row["ContainmentId"], row["Kind"]): row["TimeGenerated"]
        for row in entries(told, "claimed", "pulled", "confirmed", "proven")
    }
    to_confirm = [
        (at[c, "confirmed"] - at[c, "claimed"]).total_seconds() for c, kind in at if kind == "confirmed"
    ]

    assert found["claim to confirmed"]["Containments"] == len(to_confirm) == 2
    assert found["claim to confirmed"]["Longest"] == pytest.approx(max(to_confirm), abs=0.01)
    assert found["accepted to proven"]["Containments"] == 1


def test_measurements_are_summed(answers):
    assert {
        row["Rule"]: row["Findings"] for row in answers["findings-per-rule"] if row["Rule"] != "other"
    } == {
        "AG-04": 2,
        "AG-07": 1,
        "AG-01": 1,
    }
    assert {row["Guardrail"]: row["Vetoes"] for row in answers["vetoes"]}["own-identity"] == 1
    assert all(row["Seconds"] < 300 for row in answers["watermark-age"])
    assert {row["Rule"] for row in answers["watermark-age"]} == {row["Rule"] for row in answers["query-time"]}
    assert len(answers["query-time"]) <= 10


def test_a_page_of_nothing_says_so():
    engine = LogEngine()
    try:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        shown = workbook.tiles()
        page = workbook.page(shown, workbook.ask(shown, engine, now), "x")
    finally:
        engine.close()

    assert page.count("Nothing in this time.") == len(shown)


def test_whatever_a_row_says_is_escaped():
    hostile = '<script>alert("1")</script>'
    answer = Result([("State", "string"), ("Containments", "long")], [(hostile, 1)])
    chart, table = (workbook.Tile(name, hostile, "", chart=name == "c") for name in ("c", "t"))

    page = workbook.page([chart, table], {"c": answer, "t": answer}, hostile)

    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5
