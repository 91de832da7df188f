"""That deciding types at translation time changes no answer: each claim is checked against DuckDB's own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from duckdb_kql import translate

from detections import catalog
from detections.baselines import load as baselines
from detections.catalog import Rule, load
from detections.runner import bind_window, newest_window
from workbench import engine as engines
from workbench import kinds, schemas
from workbench.cases import load_cases
from workbench.engine import LogEngine

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    engine.insert(
        "AuditLogs",
        [
            {
                "TimeGenerated": NOW,
                "OperationName": "Update application \u2013 Certificates and secrets management ",
                "Result": "success",
                "TargetResources": [{"id": "A", "n": 3, "flag": True, "at": "2026-03-03T12:00:00Z"}],
                "InitiatedBy": {"app": {"displayName": "Broker"}},
            },
            {"TimeGenerated": NOW - timedelta(hours=1), "TargetResources": [], "InitiatedBy": "text"},
        ],
    )
    engine.insert(
        "MicrosoftGraphActivityLogs",
        [{"TimeGenerated": NOW, "RequestId": "r", "ResponseStatusCode": 200, "DurationMs": 7}],
    )
    engine.insert("AzureDiagnostics", [{"TimeGenerated": NOW, "httpStatusCode_d": 200.5}])
    yield engine
    engine.close()


@pytest.fixture
def without_types(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The translator as it was made."""
    monkeypatch.setattr(kinds._Columns, "kinds", lambda _: {})
    engines._translate.cache_clear()
    yield
    engines._translate.cache_clear()


SQL_TYPES = {
    "string": {"VARCHAR"},
    "bool": {"BOOLEAN"},
    "whole": {"BIGINT", "INTEGER", "HUGEINT", "UBIGINT"},
    "datetime": {"TIMESTAMP"},
    "dynamic": {"JSON"},
    "real": {"DOUBLE"},
}
CLAIMED = {
    "string": [
        "tostring(TargetResources)", "tolower(Id)", "toupper(Id)", "strcat(Id, 1, true)", "substring(Id, 1)",
        "strcat_array(split(Id, '-'), ',')", "trim(' ', Id)", "trim_start(' ', Id)", "trim_end(' ', Id)",
        "extract('(a)', 1, Id)", "replace_regex(Id, 'a', 'b')", "replace_string(Id, 'a', 'b')",
        "iff(Id == '', 'a', Result)", "case(Id == '', 'a', Id == 'b', Result, 'c')", "coalesce(Id, 'a')",
        "column_ifexists('Result', '')", "column_ifexists('Gone', '')",
    ],
    "bool": [
        "isempty(Id)", "isnotempty(Id)", "isnull(TargetResources)", "isnotnull(TargetResources)", "not(Id == '')",
        "Id == ''", "Id has 'a'", "Id !has 'a'", "Id matches regex 'a'", "Id in ('a', 'b')", "Id has_any ('a', 'b')",
        "TimeGenerated between (ago(1d) .. now())", "Id == '' and Id startswith 'x'", "Id contains 'x'", "Id in~ ('a')",
    ],
    "whole": ["strlen(Id)", "array_length(TargetResources)", "tolong(Id)", "toint(Id)", "strlen(Id) + 1 * 3", "strlen(Id) / 2"],
    "datetime": ["todatetime(Id)", "startofday(TimeGenerated)", "now()", "ago(1d)", "bin(TimeGenerated, 1h)", "bin(TimeGenerated, 15s)"],
    "dynamic": ["TargetResources", "TargetResources[0].id", "InitiatedBy.app"],
}  # fmt: skip
CLAIMED_OF_GROUPS = {
    "string": ["take_any(Result)", "max(Result)", "min(tolower(Result))"],
    "whole": ["count()", "countif(Result == '')", "dcount(Result)", "dcountif(Result, Id == '')", "sum(strlen(Result))"],
    "datetime": ["max(TimeGenerated)", "min(TimeGenerated)"],
}  # fmt: skip


def claims() -> list[tuple[str, str]]:
    return [
        *(
            (kind, f"AuditLogs | project Made = {made}")
            for kind, all_made in CLAIMED.items()
            for made in all_made
        ),
        *(
            (kind, f"AuditLogs | summarize Made = {made} by Id")
            for kind, all_made in CLAIMED_OF_GROUPS.items()
            for made in all_made
        ),
        ("string", "AuditLogs | summarize Made = arg_max(Result, Id)"),
        ("string", "AuditLogs | summarize arg_max(TimeGenerated, Result) by Id | project Made = Result"),
        ("whole", "AuditLogs | mv-expand Made = dynamic([1, 2]) to typeof(long) | project Made"),
        ("string", "AuditLogs | mv-expand Made = dynamic(['a']) to typeof(string) | project Made"),
        ("real", "AzureDiagnostics | project Made = httpStatusCode_d"),
        ("whole", "AuditLogs | count | project Made = Count"),
        ("string", "union (datatable(Made:string)[]), (AuditLogs | project Made = Id)"),
        ("string", "let f = (x:string) { tolower(x) }; AuditLogs | project Made = f(Id)"),
        ("string", "let f = AuditLogs | extend Made = Id; f | project Made"),
    ]


@pytest.mark.parametrize(("kind", "kql"), claims())
def test_the_type_that_is_claimed_is_the_one_duckdb_has(engine: LogEngine, kind: str, kql: str) -> None:
    read, _ = kinds_of(kql)
    translation = engines._translate(kql, engine._watchlist_columns)
    with engine.writing() as connection:
        values = {**translation.values({}, NOW.replace(tzinfo=None)), "visible_at": NOW.replace(tzinfo=None)}
        described = connection.execute(f"DESCRIBE {translation.statement.query}", values).fetchall()

    assert read["Made"] == kind
    assert {row[0]: row[1] for row in described}["Made"] in SQL_TYPES[kind]


def kinds_of(kql: str) -> tuple[dict[str, str], kinds.Reading]:
    _, read = engines._to_sql(kql, schemas.tables(), engines._WATCHLIST_COLUMNS)
    return dict(read.kinds or {}), read


@pytest.mark.parametrize(
    "kql",
    [
        "union (AuditLogs | project Made = Id), (AuditLogs | project Made = TimeGenerated)",  # two types
        "AuditLogs | extend Made = Id | extend Made = strlen(Made)",
        "AuditLogs | project Made = iff(Id == '', tostring(1), TargetResources)",
        "AuditLogs | mv-expand Made = TargetResources | project Made",
        "AuditLogs | project Id, Made = Result | join kind=inner (AuditLogs | project Id, Made = 1) on Id",
        "AuditLogs | parse OperationName with 'a' Made:long | project Made",  # an operator that is not read
        "AuditLogs | summarize Made = make_set(Id)",
        "AuditLogs | project Id1 = Result, Id | join kind=inner (AuditLogs | project Id) on Id | project Made = Id1",
    ],
)
def test_a_name_with_two_types_or_of_unknown_origin_has_none(kql: str) -> None:
    assert kinds_of(kql)[0].get("Made", "unknown") == "unknown"


TEXTS = """
    AuditLogs | project tostring(TimeGenerated), tostring(TargetResources), tostring(Result == 'success'), tostring(strlen(Id))
    AuditLogs | project strcat(Id, '|', TimeGenerated, '|', InitiatedBy, '|', TargetResources[0].flag, '|', true, '|', 5, '|', 2.5)
    AuditLogs | mv-expand T = TargetResources | project tolower(T.id), tolong(T.n), toint(tostring(T.n)), tostring(T.flag), tolower(T)
    AuditLogs | mv-expand T = TargetResources to typeof(string) | project tolower(T), strlen(T)
    AuditLogs | extend X = Result | extend X = strlen(X) | project tostring(X)
    AuditLogs | where InitiatedBy has 'broker' or InitiatedBy == 'text' | project Result
    AuditLogs | project isempty(InitiatedBy), isnotempty(TargetResources), isempty(Result), InitiatedBy contains 'Bro'
    AzureDiagnostics | project tostring(httpStatusCode_d), toint(httpStatusCode_d), tolong(httpStatusCode_d), strcat(httpStatusCode_d)
    AuditLogs | summarize N = count(), S = sum(strlen(Result)), L = max(TimeGenerated) by Result | project strcat(N, S, L, Result)
    AuditLogs | project Id, Result | join kind=leftouter (MicrosoftGraphActivityLogs | project Id = 'r', RequestId, N = 1) on Id | project strcat(RequestId, N)
    print a = tolong('5.7'), b = toint('12'), c = tolong(' 3 '), d = toint('x'), e = tostring(datetime(null)), f = strcat('a', int(null))
    AuditLogs | project a = tolong(OperationName), b = toint(Result), c = tolong(strlen(OperationName)), d = toint(strlen(Result))
    union AuditLogs, MicrosoftGraphActivityLogs | project strcat(RequestId, Result, Type, DurationMs) | sort by Column1 asc
    AuditLogs | where Result =~ 'SUCCESS' and OperationName has_any ('secrets', 'nothing') | project TimeGenerated = tostring(TimeGenerated)
    AuditLogs | summarize arg_max(TimeGenerated, *) by Result
    AuditLogs | where TimeGenerated > ago(1m)
"""


@pytest.fixture(scope="module")
def typed(engine: LogEngine) -> dict[str, engines.Result]:
    return {kql: engine.query(kql, now=NOW) for kql in map(str.strip, TEXTS.strip().splitlines())}


@pytest.mark.parametrize("kql", list(map(str.strip, TEXTS.strip().splitlines())))
@pytest.mark.usefixtures("without_types")
def test_the_answer_is_the_same_as_without_types(
    engine: LogEngine, typed: dict[str, engines.Result], kql: str
) -> None:
    untyped = engine.query(kql, now=NOW)
    assert untyped.columns == typed[kql].columns
    assert in_one_order(untyped.rows) == in_one_order(typed[kql].rows) != []


def in_one_order(rows: list[Any]) -> list[Any]:
    """Rows without `sort` come in any order, in Log Analytics too."""
    return sorted(rows, key=repr)


HAYSTACKS = [
    "secrets", "a secrets b", "xsecrets", "secretsx", "_secrets_", "9secrets", "secrets\u2013x", "\u2013secrets\u2013",
    "\u00e9secrets", "secrets\u00e9", "\u00e9 secrets", "\u017fecrets", "x\u017fecrets", "secrets\u212a", "SECRETS",
    "\u00e9secrets secrets", "secrets\u0301", "\u4e2dsecrets", "\u3002secrets", "secret", "", "\u00a0secrets\u00a0",
    "secrets\u00b2", "\U0001f600secrets", "rotation-pipeline", "xrotation-pipeline", "\u00e9rotation-pipeline",
    "rotation-pipelin\u0435", "a.b", "axb", "\u00e9a.b",
]  # fmt: skip


@pytest.mark.parametrize("term", ["secrets", "rotation-pipeline", "a.b"])
@pytest.mark.parametrize("operator", ["has", "has_cs", "!has"])
def test_a_term_is_found_exactly_where_the_full_pattern_finds_it(
    engine: LogEngine, monkeypatch: pytest.MonkeyPatch, term: str, operator: str
) -> None:
    rows = ", ".join(f'"{text}"' for text in HAYSTACKS)
    kql = f'datatable(Text:string)[{rows}] | where Text {operator} "{term}"'
    fast = engine.query(kql, now=NOW).rows
    assert 0 < len(fast) < len(HAYSTACKS)

    monkeypatch.setattr(translate, "term_match_sql", kinds._term_match)
    assert in_one_order(engine.query(f"{kql} // in full", now=NOW).rows) == in_one_order(fast)


def test_every_rule_and_baseline_is_understood() -> None:
    # One that is not costs ten times as much on each run of a back-test.
    for text in [rule.query for rule in load()] + [baseline.query for baseline in baselines()]:
        found, read = kinds_of(text)
        assert found.get("TimeGenerated", "datetime") == "datetime"
        assert "PrincipalId" in found
        assert read.needs, text[:200]


@pytest.mark.parametrize(
    ("kql", "known"),
    [
        ("AuditLogs | where Result == 'x' | project Id", True),
        ("AuditLogs | where Result == 'x' | summarize count() by Id", True),
        ("AuditLogs | where Result == 'x' | summarize count()", False),
        ("AuditLogs | where Result == 'x' | count", False),
        ("let t = AuditLogs | where Result == 'x' | count; t | project Count", False),
        ("AuditLogs | where Result == 'x' | join kind=rightouter OfficeActivity on Type", False),
        ("AuditLogs | where Result == 'x' | join kind=fullouter OfficeActivity on Type", False),
        ("AuditLogs | where Result == 'x' | join kind=leftouter OfficeActivity on Type", True),
        ("union (AuditLogs | where Result == 'x'), (print Id = 'a') | project Id", False),
        ("union (AuditLogs | where Result == 'x'), (datatable(Id:string)['a']) | project Id", False),
        ("union (AuditLogs | where Result == 'x'), (datatable(Id:string)[]) | project Id", True),
        ("print 1", False),
    ],
)
def test_whether_an_empty_table_empties_the_answer_is_known(engine: LogEngine, kql: str, known: bool) -> None:
    assert bool(kinds_of(kql)[1].needs) is known
    first = engine.query(kql, now=NOW)
    assert engine.query(kql, now=NOW) == first


@pytest.fixture
def gates_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engines, "_GATES_AFTER", -1)
    monkeypatch.setattr(engines, "_GATE_SHARE", 100)
    engines._translate.cache_clear()
    yield
    engines._translate.cache_clear()


# Each with the lets without a row of which it has none. The tables above hold rows; in `none` there is none.
LETS = "let all = AuditLogs | project Id, Result; let none = AuditLogs | where Result == 'x' | project Id, Result; "
GATES = [
    ("none | project Id", {"none"}, 0),
    ("all | join kind=inner none on Id | project Id", {"all", "none"}, 0),
    ("all | join kind=leftsemi none on Id | project Id", {"all", "none"}, 0),
    ("all | lookup kind=inner none on Id | project Id", {"all", "none"}, 0),
    ("all | where Id in (none) | project Id", {"all", "none"}, 0),
    ("all | where Id == '' and Id in (none) | project Id", {"all", "none"}, 0),
    ("let part = all | where Id in (none); part | summarize n = count() by Id", {"all", "none", "part"}, 0),
    ("all | where Id == '' or Id in (none) | project Id", {"all"}, 2),
    ("all | where Id !in (none) | project Id", {"all"}, 2),
    ("all | join kind=leftouter none on Id | project Id", {"all"}, 2),
    ("all | join kind=leftanti none on Id | project Id", {"all"}, 2),
    ("none | join kind=rightouter all on Id | project Id1", set(), 2),
    ("none | join kind=fullouter all on Id | project Id1", set(), 2),
    ("none | summarize n = count()", set(), 1),
    ("none | count", set(), 1),
    ("union none, all | project Id", set(), 2),
    ("union (datatable(Id:string)[]), (none | project Id) | where Id != 'a' | project Id", {"none"}, 0),
    ("union (datatable(Id:string)['b']), (none | project Id) | where Id != 'a' | project Id", set(), 1),
    ("union (all | where Id in (none)), (none | project Id) | project Id", {"none"}, 0),
    ("let n = toscalar(none | count); all | where n == 0 | project Id", {"all"}, 2),
    ("let part = none | count; part | join kind=inner (part) on Count | project Count", set(), 1),
]


@pytest.mark.parametrize(("kql", "musts", "rows"), GATES)
@pytest.mark.usefixtures("gates_at_once")
def test_what_must_have_a_row_is_known_and_changes_no_answer(
    engine: LogEngine, kql: str, musts: set[str], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[frozenset[str]] = []
    ask = kinds._musts

    def noted(*query: Any) -> frozenset[str]:
        found.append(ask(*query))
        return found[-1]

    monkeypatch.setattr(kinds, "_musts", noted)
    answers = [engine.query(LETS + kql, now=NOW) for _ in range(3)]
    assert (found[-1] if found else frozenset()) == musts  # not asked where nothing can be told
    assert [len(answer.rows) for answer in answers] == [rows] * 3
    assert answers[0].columns == answers[1].columns


@pytest.mark.usefixtures("gates_at_once")
def test_a_gate_opens_when_rows_come() -> None:
    engine = LogEngine()
    kql = "let sought = AuditLogs | where Result == 'x' | project Id; AuditLogs | where Id in (sought) | project Id"
    for _ in range(20):
        assert engine.query(kql, now=NOW).rows == []
    engine.insert("AuditLogs", [{"TimeGenerated": NOW, "Id": "5", "Result": "x"}])
    for _ in range(20):
        assert engine.query(kql, now=NOW).rows == [("5",)]
    engine.close()


GATED = ("AG-01", "AG-07", "AG-31")


@pytest.mark.parametrize("rule", [rule for rule in load() if rule.id in GATED], ids=lambda rule: rule.id)
def test_a_replay_of_a_rule_finds_the_same_with_gates(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in load_cases(Path(catalog.__file__).parent / rule.folder) if case.fires)
    at = case.sweeps[-1].at
    moments = [at + timedelta(minutes=10 * n) for n in range(-10, 8)]
    told = []
    for after in (1_000_000, -1):
        monkeypatch.setattr(engines, "_GATES_AFTER", after)
        engines._translate.cache_clear()
        engine = LogEngine()
        for table, rows in case.rows.items():
            engine.insert(table, rows)
        for alias, entries in case.watchlists.items():
            engine.set_watchlist(alias, entries)
        told.append([_asked(engine, rule, moment) for moment in moments])
        made = [past.gates for past in engines._pasts.values() if past.gates]
        assert bool(made) is (after == -1)
        engine.close()
    engines._translate.cache_clear()

    assert any(answer.rows for answer in told[0])
    assert not all(answer.rows for answer in told[0])
    assert told[0] == told[1]
    assert any(gate.asked for gates in made for gate in gates or ())


def _asked(engine: LogEngine, rule: Rule, at: datetime) -> engines.Result:
    window = newest_window(rule, at)
    return engine.query(bind_window(rule.query, window.start, window.end), now=at, visible_at=at)
