"""docs/telemetry.md names what there is, and nothing else."""

import re
from pathlib import Path

import pytest
from workspace import ask

from clients.telemetry.words import METRICS, SPANS
from settings import SETTINGS
from workbench.parser import KqlParser, ParserMissingError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text()


def test_every_span_and_measurement_is_on_the_page_as_it_is():
    for name, meaning in SPANS.items():
        assert f"| `{name}` | {meaning} |" in PAGE
    for metric in METRICS:
        attributes = ", ".join(f"`{name}`" for name in metric.attributes) or "none"
        assert (
            f"| `{metric.name}` | {metric.kind} | {metric.unit} | {attributes} | {metric.meaning} |" in PAGE
        )


def test_the_page_names_no_measurement_that_is_gone():
    assert set(re.findall(r"^\| `(agentbreaker\.[a-z_.]+)`", PAGE, re.MULTILINE)) == {m.name for m in METRICS}


RUNBOOKS = (Path(__file__).resolve().parents[2] / "docs" / "operate.md").read_text()
QUERIES = re.findall(r"^```kusto\n(.*?)^```", PAGE + RUNBOOKS, re.MULTILINE | re.DOTALL)


def test_every_runbook_says_what_it_means_where_to_look_what_to_do_and_when_it_is_over():
    parts = re.split(r"^## ", RUNBOOKS, flags=re.MULTILINE)[1:]

    assert len(parts) > 15
    for part in parts:
        title = part.splitlines()[0]
        assert "**Do this.**" in part, title
        assert "**Over when**" in part, title
        if title not in ("A rotated identity", "Restoring the store"):  # no alert leads to these
            assert "**Means.**" in part, title
            assert "**Look here.**" in part, title


def test_links_within_the_runbooks_lead_to_headings():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", RUNBOOKS, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOKS)) <= headings


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_queries_of_the_pages_run_on_what_the_app_left(told, query):
    _, rows, now = told

    ask(query, rows, now)


def test_microsofts_parser_takes_the_queries_of_the_pages():
    try:
        parser = KqlParser()
    except ParserMissingError as error:
        pytest.skip(f"MICROSOFT'S PARSER IS NOT INSTALLED: {error}")
    try:
        assert [parser.check(query).errors for query in QUERIES] == [()] * len(QUERIES)
    finally:
        parser.close()


def test_settings_that_the_runbooks_name_exist():
    assert set(re.findall(r"AGENTBREAKER_[A-Z_]+", RUNBOOKS)) <= {setting.name for setting in SETTINGS}
