"""What rules may rely on in the local engine, and the traps a rule must walk around. A new version must pass or be refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from workbench.engine import LogEngine, QueryError, QueryFault

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    engine.insert(
        "MicrosoftGraphActivityLogs",
        [
            {"TimeGenerated": NOW - timedelta(minutes=n), "RequestId": f"r{n % 3}", "ResponseStatusCode": 200}
            for n in range(6)
        ],
    )
    engine.insert(
        "AuditLogs",
        [
            {
                "TimeGenerated": NOW,
                "TargetResources": [{"id": "a", "none": None}, {"id": "b"}],
                "AdditionalDetails": [],
            }
        ],
    )
    yield engine
    engine.close()


def answer(engine: LogEngine, kql: str) -> list[tuple[object, ...]]:
    return engine.query(kql, now=NOW).rows


def test_a_string_that_no_row_gives_is_empty_and_never_null(engine: LogEngine) -> None:
    assert answer(engine, 'AuditLogs | where OperationName == "" | count') == [(1,)]
    assert answer(engine, "AuditLogs | where isnotempty(OperationName) | count") == [(0,)]


def test_the_clock_is_the_callers(engine: LogEngine) -> None:
    assert answer(engine, "print now(), ago(1h)") == [(NOW, NOW - timedelta(hours=1))]


def test_the_same_text_follows_another_clock(engine: LogEngine) -> None:
    later = NOW + timedelta(days=1)

    answer(engine, "print At = now()")
    assert engine.query("print At = now()", now=later).rows == [(later,)]


def test_first_column_of_arg_min_is_deduplication(engine: LogEngine) -> None:
    found = answer(
        engine,
        "MicrosoftGraphActivityLogs | summarize arg_min(TimeGenerated, ResponseStatusCode) by RequestId | summarize count(), min(TimeGenerated)",
    )

    assert found == [(3, NOW - timedelta(minutes=5))]


def test_has_finds_whole_terms_only(engine: LogEngine) -> None:
    text = "Update application \u2013 Certificates and secrets management "
    assert answer(
        engine, f'print "{text}" has "secrets", "{text}" has "secret", "{text}" startswith "update"'
    ) == [(True, False, True)]


def test_mv_expand_of_a_literal_list_repeats_the_row(engine: LogEngine) -> None:
    found = answer(
        engine,
        "print T = datetime(2026-03-03T12:07:30Z) | mv-expand Back = dynamic([0, 1, 2]) to typeof(long) "
        "| project Start = bin(T, 1m) - Back * 1m | sort by Start asc",
    )

    assert found == [(NOW + timedelta(minutes=n),) for n in (5, 6, 7)]


def test_the_subset_of_a_dynamic_list_is_a_list(engine: LogEngine) -> None:
    result = engine.query(
        "MicrosoftGraphActivityLogs | summarize Ids = make_set(RequestId) | project Ids = array_slice(Ids, 0, 1)",
        now=NOW,
    )

    assert result.columns == [("Ids", "dynamic")]
    assert len(result.rows[0][0]) == 2


def test_regular_expressions_replace_every_match(engine: LogEngine) -> None:
    assert answer(engine, 'print replace_regex("/a/12/34b/56", @"/[0-9]+\\b", "/{n}")') == [
        ("/a/{n}/34b/{n}",)
    ]


def test_windows_at_the_head_are_bound_and_share_a_translation(engine: LogEngine) -> None:
    text = "let windowStart = datetime(2026-03-03T11:58:00Z);\nlet windowEnd = datetime({}Z);\nMicrosoftGraphActivityLogs | where TimeGenerated between (windowStart .. windowEnd) | count"

    assert answer(engine, text.format("2026-03-03T12:00:00.000000")) == [(3,)]
    assert answer(engine, text.format("2026-03-03T11:59:00.000000")) == [(2,)]


def test_trap_make_set_ignores_its_limit(engine: LogEngine) -> None:
    (found,) = answer(engine, "MicrosoftGraphActivityLogs | summarize make_set(RequestId, 1)")

    assert len(found[0]) == 3  # type: ignore[arg-type]  # Kusto gives one: use array_slice


def test_trap_bins_of_a_week_begin_on_another_day(engine: LogEngine) -> None:
    # Kusto counts from 0001-01-01, a Monday: 2026-03-02. Rules use startofweek or bins that divide a day.
    ((found,),) = answer(engine, "print bin(datetime(2026-03-03), 7d)")

    assert found != datetime(2026, 3, 2, tzinfo=UTC)


def test_trap_text_that_is_no_json_becomes_null(engine: LogEngine) -> None:
    assert answer(engine, 'print isnull(parse_json("plain text"))') == [(True,)]


def test_trap_an_explicit_null_is_not_null(engine: LogEngine) -> None:
    assert answer(
        engine,
        "AuditLogs | project isnull(TargetResources[0].none), isempty(tostring(TargetResources[0].none))",
    ) == [(False, True)]


def test_trap_unmatched_strings_of_an_outer_join_are_told_by_isempty(engine: LogEngine) -> None:
    kql = (
        "AuditLogs | extend Key = 'x' | join kind=leftouter (MicrosoftGraphActivityLogs | project Key = 'y', RequestId) on Key "
        "| project isempty(RequestId), isnotempty(RequestId)"
    )

    assert answer(engine, kql) == [(True, False)]


def test_trap_a_number_against_a_text_column_raises_with_the_first_text(engine: LogEngine) -> None:
    with pytest.raises(QueryError) as caught:
        answer(engine, "MicrosoftGraphActivityLogs | where RequestId == 0")

    assert caught.value.code is QueryFault.TYPE


def test_trap_names_in_another_case_pass_here_and_only_the_parser_objects(engine: LogEngine) -> None:
    assert answer(engine, "AuditLogs | where timegenerated <= now() | count") == [(1,)]


@pytest.mark.parametrize(
    ("kql", "gives"),
    [
        (
            "AuditLogs | project x = column_ifexists('Result', 'none'), y = column_ifexists('Gone', 'none')",
            ("", "none"),
        ),
        ("AuditLogs | where column_ifexists('Gone', 'a') == 'a' | project x = 1", (1,)),
        ("AuditLogs | extend Made = 'new' | project x = column_ifexists('Made', 'none')", ("new",)),
        (
            "union isfuzzy=true (datatable(x:string)[]), (AuditLogs | project x = strcat(column_ifexists('Gone', 'd'), 'e'))",
            ("de",),
        ),
        ("let t = AuditLogs | project Id; t | project x = column_ifexists('Result', 'none')", ("none",)),
    ],
)
def test_a_column_that_may_be_missing_has_a_default(
    engine: LogEngine, kql: str, gives: tuple[object, ...]
) -> None:
    assert answer(engine, kql) == [gives]


@pytest.mark.parametrize(
    "kql",
    [
        "AuditLogs | mv-apply t = TargetResources on (where tostring(t.id) == 'a')",
        "AuditLogs | make-series count() on TimeGenerated step 1h",
        "externaldata(a:string)['https://example.com']",
        "AuditLogs | evaluate bag_unpack(InitiatedBy)",
        "AuditLogs | extend x = column_ifexists(Id, '')",
        "print x = column_ifexists('a', '')",
        "print range(0, 3, 1)",
    ],
)
def test_what_is_not_portable_is_refused_and_never_guessed(engine: LogEngine, kql: str) -> None:
    with pytest.raises(QueryError) as caught:
        answer(engine, kql)

    assert caught.value.code in {QueryFault.UNSUPPORTED, QueryFault.SYNTAX}
