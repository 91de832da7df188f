"""Exports as people have them: other encodings, broken lines, the portal's CSV, Parquet."""

import codecs
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workbench.engine import LogEngine
from workbench.logfiles import Loaded, LogFileError, load_folder

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)


@pytest.fixture
def engine():
    made = LogEngine()
    yield made
    made.close()


def ask(engine: LogEngine, kql: str) -> list[tuple[Any, ...]]:
    return engine.query(kql, now=NOW).rows


def load(engine: LogEngine, folder: Path, **more: Any) -> tuple[Loaded, list[str]]:
    told: list[str] = []
    return load_folder(engine, folder, report=told.append, **more), told


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_is_read_in_the_encoding_it_has(engine: LogEngine, tmp_path: Path, encoding: str) -> None:
    line = json.dumps({"TimeGenerated": "2026-03-03T11:00:00Z", "Identity": "Zoë"}, ensure_ascii=False)
    (tmp_path / "AuditLogs.jsonl").write_bytes(f"{line}\r\n\r\n{line}".encode(encoding))
    loaded, told = load(engine, tmp_path)

    assert (loaded.rows, told, loaded.skipped) == ({"AuditLogs": 2}, [], "")
    assert ask(engine, "AuditLogs | project Identity") == [("Zoë",), ("Zoë",)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_of_the_portal(engine: LogEngine, tmp_path: Path, encoding: str, delimiter: str) -> None:
    lines = [
        ["TimeGenerated [UTC]", "IsInteractive", "ResultType", "ConditionalAccessPolicies", "Id"],
        ['"11/7/2025, 9:05:26.123 PM"', "TRUE", "0", '"[{""id"": ""p""}]"', "one"],
        ["2025-11-07T22:00:00.1234567Z", "0", "50057", "", '"two\n lines"'],
        ["2025-11-07T23:00:00Z", "False", "", "none of it", "three"],
    ]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "SigninLogs.csv").write_bytes(text.encode(encoding))
    loaded, told = load(engine, tmp_path)

    assert (loaded.rows, told) == ({"SigninLogs": 3}, [])
    assert loaded.earliest == datetime(2025, 11, 7, 21, 5, 26, 123000, UTC)
    rows = ask(
        engine,
        "SigninLogs | sort by TimeGenerated asc | project IsInteractive, ResultType, ConditionalAccessPolicies, Id",
    )
    assert rows == [
        (True, "0", [{"id": "p"}], "one"),
        (False, "50057", None, "two\n lines"),
        (False, "", "none of it", "three"),
    ]


def test_csv_faults_carry_the_line_on_which_the_record_begins(engine: LogEngine, tmp_path: Path) -> None:
    text = (
        "TimeGenerated,Id,IsInteractive,Mood\n"
        '2026-03-03T11:00:00Z,"a\nb\nc",true,\n'
        "2026-03-03T11:00:00Z,short\n"
        "2026-03-03T11:00:00Z,x,perhaps,\n"
        "soon,x,true,good\n"
    )
    (tmp_path / "SigninLogs.csv").write_text(text)
    loaded, told = load(engine, tmp_path)

    assert loaded.rows == {"SigninLogs": 2}
    assert loaded.skipped == "2 lines, 1 value, 1 column"
    assert sorted(told) == [
        "SigninLogs.csv:5: not as many cells as the header has",
        "SigninLogs.csv:6: SigninLogs.IsInteractive: 'perhaps' is no bool; left empty",
        "SigninLogs.csv:7: SigninLogs.Mood: not a documented column of the table; left out",
        "SigninLogs.csv:7: TimeGenerated: 'soon' is no ISO 8601 time",
    ]


@pytest.mark.parametrize("broken", ['"two,0,x', 'two,"0,x', 'two,0,"x', 'two,"0"1,x'])
@pytest.mark.parametrize("text", ['"in {},\nwith ""words"""', "plain\ttext {}"])
def test_a_quote_that_is_never_closed_costs_its_line_only(
    engine: LogEngine, tmp_path: Path, broken: str, text: str
) -> None:
    good = [f"2026-03-03T11:00:00Z,{n},0,{text.format(n)}" for n in range(2500)]
    held = {'"': 'in 7,\nwith "words"', "p": "plain\ttext 7"}[text[0]]
    line = good[0].count("\n") + 3
    rows = "\n".join(
        ["TimeGenerated,Id,ResultType,Identity", good[0], f"2026-03-03T11:00:00Z,{broken}", *good[1:]]
    )
    (tmp_path / "SigninLogs.csv").write_text(rows)
    loaded, told = load(engine, tmp_path)

    assert told == [f"SigninLogs.csv:{line}: a quote that is not closed, or text behind one"]
    assert (loaded.rows, loaded.lines_skipped) == ({"SigninLogs": 2500}, 1)
    assert ask(engine, 'SigninLogs | where Id == "7" | project Identity') == [(held,)]


def test_a_record_of_several_lines_that_does_not_fit_counts_as_all_of_them(
    engine: LogEngine, tmp_path: Path
) -> None:
    text = 'TimeGenerated,Id\n2026-03-03T11:00:00Z,"a\nb\nc",more\n2026-03-03T11:00:00Z,d\n'
    (tmp_path / "SigninLogs.csv").write_text(text)
    loaded, told = load(engine, tmp_path)

    assert told == [
        "SigninLogs.csv:2: not as many cells as the header has",
        "SigninLogs.csv: not as many cells as the header has: 2 more lines",
    ]
    assert (loaded.rows, loaded.lines_skipped) == ({"SigninLogs": 1}, 3)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("table", ["AuditLogs.csv", "AuditLogs.jsonl"])
def test_a_line_in_another_encoding_than_its_file_is_told_and_left_out(
    engine: LogEngine, tmp_path: Path, table: str, mark: bytes
) -> None:
    rows = [("one", "utf-8"), ("Z\u00fcrich", "latin-1"), ("Z\u00fcrich", "utf-8")]
    if table.endswith("csv"):
        lines = [
            b"TimeGenerated,Identity",
            *(f"2026-03-03T11:00:00Z,{name}".encode(held) for name, held in rows),
        ]
    else:
        form = '{{"TimeGenerated": "2026-03-03T11:00:00Z", "Identity": "{}"}}'
        lines = [b"", *(form.format(name).encode(held) for name, held in rows)]
    (tmp_path / table).write_bytes(mark + b"\n".join(lines))
    loaded, told = load(engine, tmp_path)

    assert len(told) == 1
    assert told[0].startswith(f"{table}:3: no UTF-8")
    assert (loaded.rows, loaded.lines_skipped) == ({"AuditLogs": 2}, 1)
    assert ask(engine, "AuditLogs | project Identity | sort by Identity asc") == [("Z\u00fcrich",), ("one",)]


@pytest.mark.parametrize("table", ["AuditLogs.csv", "AuditLogs.jsonl"])
def test_half_a_character_of_utf_16_costs_its_line(engine: LogEngine, tmp_path: Path, table: str) -> None:
    if table.endswith("csv"):
        lines = ["TimeGenerated,Identity", "2026-03-03T11:00:00Z,\ud800x", "2026-03-03T11:00:00Z,two"]
    else:
        form = '{{"TimeGenerated": "2026-03-03T11:00:00Z", "Identity": "{}"}}'
        lines = ["", form.format("\ud800x"), form.format("two")]
    (tmp_path / table).write_bytes(
        codecs.BOM_UTF16_LE + "\r\n".join(lines).encode("utf-16-le", "surrogatepass")
    )
    loaded, told = load(engine, tmp_path)

    assert told[0].startswith(f"{table}:2: no UTF-16")
    assert (loaded.rows, loaded.lines_skipped, len(told)) == ({"AuditLogs": 1}, 1, 1)


def test_json_lines_that_cannot_be_read_cost_themselves_only(engine: LogEngine, tmp_path: Path) -> None:
    good = {"TimeGenerated": "2026-03-03T11:00:00Z"}
    lines = [
        json.dumps(good).encode(),
        b"",
        b'{"TimeGenerated": ',
        b"[1]",
        b'{"Id": "no time"}',
        b'{"TimeGenerated": "2026-03-03T11:00:00Z", "Id": "\xff"}',
        json.dumps({**good, "Mood": 1, "ActivityDateTime": "soon"}).encode(),
        json.dumps({**good, "Mood": 2}).encode(),
    ]
    (tmp_path / "AuditLogs.jsonl").write_bytes(b"\n".join(lines))
    loaded, told = load(engine, tmp_path)

    assert loaded.rows == {"AuditLogs": 3}
    assert loaded.skipped == "4 lines, 1 value, 1 column"
    assert sorted(told) == [
        "AuditLogs.jsonl:3: no JSON",
        "AuditLogs.jsonl:4: not an object",
        "AuditLogs.jsonl:5: no TimeGenerated and no _IngestedAt",
        "AuditLogs.jsonl:6: no UTF-8, or longer than 16 MB",
        "AuditLogs.jsonl:7: AuditLogs.ActivityDateTime: 'soon' is no datetime; left empty",
        "AuditLogs.jsonl:7: AuditLogs.Mood: not a documented column of the table; left out (2 times)",
    ]


def test_many_faults_of_one_kind_are_a_number(engine: LogEngine, tmp_path: Path) -> None:
    (tmp_path / "AuditLogs.jsonl").write_text('{"TimeGenerated": "2026-03-03T11:00:00Z"}\n' + "x\n" * 5000)
    loaded, told = load(engine, tmp_path)

    assert loaded.lines_skipped == 5000
    assert len(told) == 6
    assert told[-1] == "AuditLogs.jsonl: no JSON: 4995 more lines"


def test_json_in_text_goes_parsed_into_a_dynamic_column_and_stays_text_in_a_string(
    engine: LogEngine, tmp_path: Path
) -> None:
    row = {
        "TimeGenerated": "2026-03-03T11:00:00Z",
        "TargetResources": '[{"id": "x"}]',
        "InitiatedBy_dynamic": {"app": {"displayName": "a"}},
        "AdditionalDetails": "plain",
        "Identity": {"a": 1},
        "Result": True,
    }
    (tmp_path / "AuditLogs.jsonl").write_text(json.dumps(row))
    load(engine, tmp_path)

    ((targets, initiator, details, identity, result),) = ask(
        engine, "AuditLogs | project TargetResources, InitiatedBy, AdditionalDetails, Identity, Result"
    )
    assert targets == [{"id": "x"}]
    assert initiator == {"app": {"displayName": "a"}}
    assert details == "plain"
    assert json.loads(identity) == {"a": 1}
    assert result == "true"


def test_a_row_is_visible_from_its_ingestion_on(engine: LogEngine, tmp_path: Path) -> None:
    rows = [
        {"TimeGenerated": "2026-03-03T11:00:00Z", "_IngestedAt": "2026-03-03T13:30:00+02:00", "Id": "late"},
        {"TimeGenerated": "2026-03-03T11:00:00Z", "Id": "at once"},
        {"_IngestedAt": "2026-03-03T11:10:00Z", "Id": "no time of its own"},
    ]
    (tmp_path / "AuditLogs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    load(engine, tmp_path)

    def seen(minute: int) -> set[str]:
        at = NOW.replace(hour=11, minute=minute)
        return {id_ for (id_,) in engine.query("AuditLogs | project Id", now=at, visible_at=at).rows}

    assert seen(0) == {"at once"}
    assert seen(10) == {"at once", "no time of its own"}
    assert seen(30) == {"at once", "no time of its own", "late"}


def test_parquet_keeps_its_types(engine: LogEngine, tmp_path: Path) -> None:
    file = tmp_path / "MicrosoftGraphActivityLogs.parquet"
    duckdb.execute(
        "COPY (SELECT TIMESTAMPTZ '2026-03-03 11:00:00+00' AS TimeGenerated, '200' AS ResponseStatusCode, "
        "CAST('8c1f0000-0000-4000-8000-000000000001' AS UUID) AS ServicePrincipalId, 'a b' AS Roles, 7 AS DurationMs, "
        f"'x' AS Mood) TO '{file}'"
    )
    duckdb.execute(
        "COPY (SELECT TIMESTAMP '2026-03-03 11:00:00' AS TimeGenerated, [{'id': 'x'}] AS TargetResources, "
        f"'{{\"a\": 1}}' AS InitiatedBy, true AS Result) TO '{tmp_path / 'AuditLogs.parquet'}'"
    )
    loaded, told = load(engine, tmp_path, by_time=True)

    assert loaded.rows == {"AuditLogs": 1, "MicrosoftGraphActivityLogs": 1}
    assert told == [
        "MicrosoftGraphActivityLogs.parquet: MicrosoftGraphActivityLogs.Mood: not a documented column of the table; left out"
    ]
    assert ask(
        engine, "MicrosoftGraphActivityLogs | project ResponseStatusCode, ServicePrincipalId, DurationMs"
    ) == [(200, "8c1f0000-0000-4000-8000-000000000001", 7)]
    assert ask(engine, "AuditLogs | project TargetResources, InitiatedBy, Result") == [
        ([{"id": "x"}], {"a": 1}, "true")
    ]
    assert loaded.latest == NOW.replace(hour=11)


def test_files_that_are_no_table_or_unreadable_are_told_and_the_rest_is_loaded(
    engine: LogEngine, tmp_path: Path
) -> None:
    (tmp_path / "AuditLogs.jsonl").write_text('{"TimeGenerated": "2026-03-03T11:00:00Z"}')
    (tmp_path / "Firewall.jsonl").write_text("{}")
    (tmp_path / "AzureActivity.parquet").write_text("no parquet")
    (tmp_path / "notes.txt").write_text("not looked at")
    loaded, told = load(engine, tmp_path)

    assert loaded.files_skipped == len(told) == 2
    assert loaded.rows == {"AuditLogs": 1}


def test_several_files_of_one_table_add_up(engine: LogEngine, tmp_path: Path) -> None:
    (tmp_path / "AuditLogs.jsonl").write_text('{"TimeGenerated": "2026-03-03T11:00:00Z"}')
    (tmp_path / "AuditLogs.csv").write_text("TimeGenerated,Id\n2026-03-03T11:00:00Z,x\n")
    loaded, _ = load(engine, tmp_path)

    assert loaded.rows == {"AuditLogs": 2}


def test_an_empty_file_is_a_table_without_rows(engine: LogEngine, tmp_path: Path) -> None:
    (tmp_path / "AuditLogs.jsonl").write_text("")
    (tmp_path / "SigninLogs.csv").write_text("")
    loaded, told = load(engine, tmp_path)

    assert (loaded.rows, told, loaded.latest) == ({"AuditLogs": 0, "SigninLogs": 0}, [], None)


@pytest.mark.parametrize("name", ["", "Firewall.jsonl"])
def test_a_folder_of_which_nothing_can_be_read_is_refused(
    engine: LogEngine, tmp_path: Path, name: str
) -> None:
    if name:
        (tmp_path / name).write_text("{}")
    with pytest.raises(LogFileError, match=r"no <Table>\.jsonl|could be read"):
        load_folder(engine, tmp_path, report=lambda _: None)


@pytest.mark.parametrize("key", ['a"b', "a\\b", "TimeGenerated'", "\n", "$.x"])
def test_odd_keys_are_only_unknown(engine: LogEngine, tmp_path: Path, key: str) -> None:
    (tmp_path / "AuditLogs.jsonl").write_text(json.dumps({"TimeGenerated": "2026-03-03T11:00:00Z", key: 1}))
    loaded, _ = load(engine, tmp_path)

    assert (loaded.rows, loaded.columns_skipped) == ({"AuditLogs": 1}, 1)
