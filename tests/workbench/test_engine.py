import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from workbench import schemas
from workbench.engine import (
    InvalidRowError,
    LogEngine,
    QueryError,
    QueryFault,
    UnknownColumnError,
    UnknownTableError,
)

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
GRAPH = "MicrosoftGraphActivityLogs"


@pytest.fixture
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


def count(engine: LogEngine, visible_at: datetime | None = None) -> int:
    return int(engine.query(f"{GRAPH} | count", now=NOW, visible_at=visible_at).rows[0][0])


def test_every_documented_column_exists_with_its_type(engine: LogEngine) -> None:
    for table, columns in schemas.tables().items():
        assert engine.query(f"{table} | take 0", now=NOW).columns == columns


def test_rows_are_hidden_until_they_are_ingested(engine: LogEngine) -> None:
    engine.insert(GRAPH, [{"TimeGenerated": NOW}] * 2, ingested_at=[NOW, NOW + timedelta(minutes=5)])

    assert count(engine, NOW - timedelta(seconds=1)) == 0
    assert count(engine, NOW) == 1
    assert count(engine, NOW + timedelta(minutes=5)) == 2
    assert count(engine) == 2


def test_without_an_ingestion_time_the_rows_own_counts_and_else_its_event_time(engine: LogEngine) -> None:
    engine.insert(
        GRAPH, [{"TimeGenerated": NOW}, {"TimeGenerated": NOW, "_IngestedAt": NOW + timedelta(hours=1)}]
    )

    assert count(engine, NOW) == 1


def test_a_row_without_event_time_gets_its_ingestion_time(engine: LogEngine) -> None:
    engine.insert(GRAPH, [{"RequestId": "a"}], ingested_at=NOW)

    assert engine.query(f"{GRAPH} | project TimeGenerated", now=NOW).rows == [(NOW,)]


@pytest.mark.parametrize(
    "written",
    [
        NOW,
        NOW.astimezone(timezone(timedelta(hours=5))),
        "2026-03-03T12:00:00Z",
        "2026-03-03T17:00:00+05:00",
        "2026-03-03 12:00:00",
        "2026-03-03T12:00:00.0000000Z",
    ],
)
def test_times_are_stored_in_utc_however_they_are_written(engine: LogEngine, written: object) -> None:
    engine.insert(GRAPH, [{"TimeGenerated": written}])

    assert engine.query(f"{GRAPH} | project TimeGenerated", now=NOW).rows == [(NOW,)]


@pytest.mark.parametrize("written", [{"app": {"id": "x"}}, '{"app": {"id": "x"}}'])
def test_dynamic_takes_objects_and_json_text(engine: LogEngine, written: object) -> None:
    engine.insert("AuditLogs", [{"TimeGenerated": NOW, "InitiatedBy": written}])

    found = engine.query("AuditLogs | project InitiatedBy, tostring(InitiatedBy.app.id)", now=NOW).rows
    assert found == [({"app": {"id": "x"}}, "x")]


def test_values_come_back_with_kustos_types(engine: LogEngine) -> None:
    key = uuid.UUID("11111111-2222-4333-8444-000000000001")
    engine.insert(
        "AzureDiagnostics",
        [{"TimeGenerated": NOW, "identity_claim_appid_g": str(key), "httpStatusCode_d": 200}],
    )

    result = engine.query(
        "AzureDiagnostics | project identity_claim_appid_g, httpStatusCode_d, OperationName, Day = startofday(TimeGenerated), Span = now() - TimeGenerated, Missing = toint('')",
        now=NOW,
    )
    assert [kind for _, kind in result.columns] == ["guid", "real", "string", "datetime", "timespan", "int"]
    assert result.records()[0] == {
        "identity_claim_appid_g": key,
        "httpStatusCode_d": 200.0,
        "OperationName": "",
        "Day": datetime(2026, 3, 3, tzinfo=UTC),
        "Span": timedelta(0),
        "Missing": None,
    }


def test_an_unknown_table_is_named(engine: LogEngine) -> None:
    with pytest.raises(UnknownTableError, match=r"^Nope: "):
        engine.insert("Nope", [{}])


def test_an_unknown_column_is_named_with_its_table(engine: LogEngine) -> None:
    with pytest.raises(UnknownColumnError, match=r"^AuditLogs\.Nope: "):
        engine.insert("AuditLogs", [{"TimeGenerated": NOW}, {"TimeGenerated": NOW, "Nope": 1}])
    assert engine.count("AuditLogs") == 0


def test_a_column_that_differs_only_in_case_names_the_one_to_use(engine: LogEngine) -> None:
    with pytest.raises(UnknownColumnError, match="clientIP_s"):
        engine.insert("AzureDiagnostics", [{"TimeGenerated": NOW, "clientIp_s": "192.0.2.1"}])


@pytest.mark.parametrize(
    "row",
    [
        {"TimeGenerated": "yesterday"},
        {"TimeGenerated": NOW, "ResponseStatusCode": "forbidden"},
        {"RequestId": "no time at all"},
    ],
)
def test_a_value_that_does_not_fit_stores_nothing_of_the_batch(
    engine: LogEngine, row: dict[str, object]
) -> None:
    with pytest.raises(InvalidRowError, match=GRAPH):
        engine.insert(GRAPH, [{"TimeGenerated": NOW}, row])
    assert engine.count(GRAPH) == 0


def test_a_late_fault_in_a_large_batch_stores_nothing_either(engine: LogEngine) -> None:
    rows: list[dict[str, object]] = [{"TimeGenerated": NOW, "ResponseStatusCode": 200}] * 6000
    with pytest.raises(InvalidRowError):
        engine.insert(GRAPH, [*rows, {"TimeGenerated": NOW, "ResponseStatusCode": "x"}])
    assert engine.count(GRAPH) == 0


@pytest.mark.parametrize(
    ("kql", "code"),
    [
        ("AuditLogs | wher x", QueryFault.SYNTAX),
        ("Nope | count", QueryFault.UNKNOWN_TABLE),
        ("AuditLogs | where Nope == 1", QueryFault.UNKNOWN_COLUMN),
        ("AuditLogs | project nope(1)", QueryFault.UNSUPPORTED),
        (".drop table AuditLogs", QueryFault.UNSUPPORTED),
        (".set-or-replace AuditLogs <| AuditLogs", QueryFault.UNSUPPORTED),
        ("declare query_parameters(a:long); print a", QueryFault.TYPE),
    ],
)
def test_a_refused_query_says_in_which_way_it_is_wrong(engine: LogEngine, kql: str, code: QueryFault) -> None:
    with pytest.raises(QueryError) as caught:
        engine.query(kql, now=NOW)
    assert caught.value.code is code
    assert caught.value.message


def test_parameters_are_bound_as_values(engine: LogEngine) -> None:
    text = 'x" | take 0'
    assert engine.query(
        "declare query_parameters(a:string); print a", now=NOW, parameters={"a": text}
    ).rows == [(text,)]


def test_a_watchlist_is_read_by_alias_and_replaced_whole(engine: LogEngine) -> None:
    kql = "union isfuzzy=true (datatable(SearchKey:string, Role:string)[]), (_GetWatchlist('AgentInventory')) | project SearchKey, Role"

    assert engine.query(kql, now=NOW).rows == []
    engine.set_watchlist("AgentInventory", [{"SearchKey": "a", "Role": "directory-tool"}])
    engine.set_watchlist("Other", [{"SearchKey": "z", "Colour": "red"}])
    assert engine.query(kql, now=NOW).rows == [("a", "directory-tool")]
    engine.set_watchlist("AgentInventory", [])
    assert engine.query(kql, now=NOW).rows == []


def test_a_watchlist_with_columns_that_differ_only_in_case_changes_nothing(engine: LogEngine) -> None:
    engine.set_watchlist("AgentInventory", [{"SearchKey": "a"}])
    with pytest.raises(InvalidRowError):
        engine.set_watchlist("AgentInventory", [{"SearchKey": "b", "searchkey": "c"}])
    assert engine.query("_GetWatchlist('AgentInventory') | project SearchKey", now=NOW).rows == [("a",)]


def test_queries_in_threads_see_whole_batches_while_rows_arrive(engine: LogEngine) -> None:
    stop = threading.Event()

    def look() -> set[int]:
        seen = set()
        while not stop.is_set():
            seen.add(count(engine))
        return seen

    with ThreadPoolExecutor(4) as pool:
        watching = [pool.submit(look) for _ in range(3)]
        for _ in range(20):
            engine.insert(GRAPH, [{"TimeGenerated": NOW}] * 50)
            engine.set_watchlist("AgentInventory", [{"SearchKey": "a"}])
        stop.set()
        seen = set().union(*(each.result() for each in watching))

    assert count(engine) == 1000
    assert all(number % 50 == 0 for number in seen)


def test_closing_waits_for_queries_under_way_and_refuses_later_ones() -> None:
    engine = LogEngine()
    engine.insert(GRAPH, [{"TimeGenerated": NOW + timedelta(seconds=n)} for n in range(3000)])
    slow = f"{GRAPH} | extend k=1 | join kind=inner ({GRAPH} | extend k=1) on k | summarize dcount(TimeGenerated1)"
    begun = threading.Barrier(4)

    def ask_until_refused() -> None:
        while True:
            engine.query(slow, now=NOW)

    def ask() -> None:
        begun.wait()
        with pytest.raises(QueryError):
            ask_until_refused()

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        begun.wait()
        engine.query("print 1", now=NOW)
        engine.close()
        for each in asking:
            each.result()


def test_bulk_writers_and_inserts_take_turns(engine: LogEngine) -> None:
    def look() -> None:
        for _ in range(50):
            with engine.writing() as connection:
                connection.execute(f'SELECT count(*) FROM raw."{GRAPH}"').fetchone()  # noqa: S608

    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(look)
        for _ in range(50):
            engine.insert(GRAPH, [{"TimeGenerated": NOW}] * 20)
        looking.result()

    assert count(engine) == 1000


def test_queries_with_different_visibility_do_not_disturb_each_other(engine: LogEngine) -> None:
    engine.insert(GRAPH, [{"TimeGenerated": NOW + timedelta(minutes=n)} for n in range(100)])

    with ThreadPoolExecutor(4) as pool:
        moments = [NOW + timedelta(minutes=n) for n in range(100)]
        assert list(pool.map(lambda at: count(engine, at), moments)) == list(range(1, 101))


WINDOWED = (
    "let windowStart = datetime({});\nlet windowEnd = datetime({});\n"
    f"{GRAPH} | where TimeGenerated between (windowStart .. windowEnd) and RequestId != 'x' "
    "| summarize Calls = count() by RequestId | project RequestId, Calls"
)


def in_window(
    engine: LogEngine, start: datetime, end: datetime, visible_at: datetime | None = None
) -> list[object]:
    kql = WINDOWED.format(*(f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start, end)))
    return list(engine.query(kql, now=end, visible_at=visible_at).rows)


def test_an_answer_that_was_empty_is_found_when_its_rows_come(engine: LogEngine) -> None:
    hour = timedelta(hours=1)
    assert in_window(engine, NOW - hour, NOW) == []
    assert in_window(engine, NOW - hour, NOW) == []
    engine.insert(GRAPH, [{"TimeGenerated": NOW, "RequestId": "a"}], ingested_at=NOW + hour)

    assert in_window(engine, NOW - hour, NOW, NOW) == []
    assert in_window(engine, NOW - hour, NOW, NOW + hour) == [("a", 1)]
    assert in_window(engine, NOW + hour, NOW + 2 * hour, NOW + hour) == []
    with engine.writing() as connection:
        connection.execute(f'DELETE FROM raw."{GRAPH}"')  # noqa: S608
    assert in_window(engine, NOW - hour, NOW) == []


def test_an_answer_without_rows_has_its_columns_the_first_and_the_second_time(engine: LogEngine) -> None:
    kql = f"{GRAPH} | where RequestId == 'none' | summarize Last = max(TimeGenerated), Ids = make_set(RequestId) by AppId"

    first, second = (engine.query(kql, now=NOW) for _ in range(2))
    assert first == second
    assert first.columns == [("AppId", "string"), ("Last", "datetime"), ("Ids", "dynamic")]


def test_a_watchlist_that_comes_later_is_part_of_an_answer_that_was_empty(engine: LogEngine) -> None:
    kql = (
        f"union (datatable(Key:string)[]), ({GRAPH} | where RequestId == 'a' | project Key = RequestId), "
        "(_GetWatchlist('AgentInventory') | project Key = SearchKey) | project Key"
    )

    assert engine.query(kql, now=NOW).rows == engine.query(kql, now=NOW).rows == []
    engine.set_watchlist("AgentInventory", [{"SearchKey": "w"}])
    assert engine.query(kql, now=NOW).rows == [("w",)]
    engine.insert(GRAPH, [{"TimeGenerated": NOW, "RequestId": "a"}])
    assert sorted(engine.query(kql, now=NOW).rows) == [("a",), ("w",)]


def test_what_no_row_passes_can_still_have_an_answer(engine: LogEngine) -> None:
    engine.insert("AuditLogs", [{"TimeGenerated": NOW, "Id": "b"}])
    for kql, rows in {
        f"{GRAPH} | where RequestId == 'none' | count": [(0,)],
        f"{GRAPH} | where RequestId == 'none' | summarize n = count()": [(0,)],
        f"print n = toscalar({GRAPH} | where RequestId == 'none' | count)": [(0,)],
        f"AuditLogs | where Id !in ({GRAPH} | where RequestId == 'none' | project RequestId) | project Id": [
            ("b",)
        ],
        f"AuditLogs | project Id | join kind=leftanti ({GRAPH} | where RequestId == 'none' | project Id = RequestId) on Id": [
            ("b",)
        ],
        f"{GRAPH} | where RequestId == 'none' | project Id = RequestId | join kind=rightouter (AuditLogs | project Id) on Id | project Id1": [
            ("b",)
        ],
    }.items():
        assert engine.query(kql, now=NOW).rows == rows, kql
        assert engine.query(kql, now=NOW).rows == rows, kql


def test_only_the_columns_that_a_query_mentions_are_read_and_all_when_it_names_none(
    engine: LogEngine,
) -> None:
    engine.insert(GRAPH, [{"TimeGenerated": NOW, "RequestId": "a", "AppId": "b"}])
    columns = schemas.tables()[GRAPH]

    assert engine.query(f"{GRAPH} | where requestid == 'a'", now=NOW).columns == columns
    assert engine.query(f"{GRAPH} | where RequestId == 'a' | project-away AppId", now=NOW).columns == [
        (name, kind) for name, kind in columns if name != "AppId"
    ]
    assert len(
        engine.query(f"{GRAPH} | summarize arg_max(TimeGenerated, *) by RequestId", now=NOW).columns
    ) == len(columns)
    assert engine.query(f"{GRAPH} | summarize n = count() by ['AppId']", now=NOW).rows == [("b", 1)]
    both = f"AuditLogs | join kind=inner {GRAPH} on $left.CorrelationId == $right.RequestId"
    assert len(engine.query(both, now=NOW).columns) == len(columns) + len(schemas.tables()["AuditLogs"])


def test_threads_share_a_statement_with_different_values(engine: LogEngine) -> None:
    engine.insert(
        GRAPH, [{"TimeGenerated": NOW + timedelta(minutes=n), "RequestId": str(n)} for n in range(60)]
    )

    def look(minute: int) -> bool:
        at = NOW + timedelta(minutes=minute)
        return in_window(engine, at, at) == [(str(minute), 1)]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, [n for n in range(60) for _ in range(5)]))


def test_rows_read_are_those_of_the_scans_and_not_of_the_answer(engine: LogEngine) -> None:
    engine.insert(
        GRAPH, [{"TimeGenerated": NOW + timedelta(seconds=n), "RequestId": str(n)} for n in range(3000)]
    )
    engine.insert("AuditLogs", [{"TimeGenerated": NOW, "Id": "5"}])
    kql = f"{GRAPH} | where RequestId == '5' | join kind=inner (AuditLogs | project Id) on $left.RequestId == $right.Id | project Id"

    assert engine.query(kql, now=NOW).rows == [("5",)]
    assert engine.rows_read(kql, now=NOW) == {GRAPH: 3000, "AuditLogs": 1}
    with pytest.raises(QueryError):
        engine.rows_read("Nope", now=NOW)


def test_row_groups_outside_a_window_are_not_read(tmp_path: Path) -> None:
    engine = LogEngine(str(tmp_path / "logs.duckdb"))
    with engine.writing() as connection:
        connection.execute(
            f"""INSERT INTO raw."{GRAPH}" ("TimeGenerated", "RequestId", "_IngestedAt")
            SELECT TIMESTAMP '2026-03-03' + to_seconds(i), i::VARCHAR, TIMESTAMP '2026-03-03' + to_seconds(i + 60)
            FROM range(600000) r(i)"""  # noqa: S608
        )
    start = datetime(2026, 3, 3, tzinfo=UTC) + timedelta(seconds=300_000)
    window = (f"{start:%Y-%m-%dT%H:%M:%SZ}", f"{start + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}")
    read = engine.rows_read(WINDOWED.format(*window), now=NOW)
    engine.close()

    assert 0 < read[GRAPH] <= 2 * 122_880


def test_a_file_keeps_its_rows(tmp_path: Path) -> None:
    first = LogEngine(str(tmp_path / "logs.duckdb"))
    first.insert(GRAPH, [{"TimeGenerated": NOW}])
    first.close()
    second = LogEngine(str(tmp_path / "logs.duckdb"))
    assert count(second) == 1
    second.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}', "pairs"),
        ('[["a", "text"]]', "no KQL type"),
        ('[["a", "string"], ["A", "string"]]', "differ only in case"),
    ],
)
def test_a_wrong_schema_file_is_refused(text: str, says: str) -> None:
    with pytest.raises(schemas.SchemaFileError, match=says):
        schemas.parse("T.json", text)
