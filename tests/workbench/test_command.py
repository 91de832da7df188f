"""The commands as a detection engineer meets them."""

import json
import shutil
from pathlib import Path

import pytest

from detections import catalog
from workbench import parser as official
from workbench.__main__ import BAD, GOOD, MISUSED, main
from workbench.cases import load_cases

FOLDER = "ag_30c_activity_after_containment"
PRINCIPAL = "11111111-2222-4333-8444-00000000030c"
CASES = len(load_cases(catalog.DETECTIONS / FOLDER))


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    shutil.copytree(catalog.DETECTIONS / FOLDER, folder / FOLDER)
    return folder


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    risk = {
        "TimeGenerated": "2026-03-03T11:00:00Z",
        "ServicePrincipalId": PRINCIPAL,
        "RiskEventType": "adminConfirmedServicePrincipalCompromised",
        "DetectedDateTime": "2026-03-03T11:00:00Z",
    }
    sign_in = {
        "TimeGenerated": "2026-03-03T11:30:00Z",
        "Id": "a",
        "ServicePrincipalId": PRINCIPAL,
        "ResultType": "0",
    }
    (folder / "AADServicePrincipalRiskEvents.jsonl").write_text(json.dumps(risk) + "\n\n", encoding="utf-8")
    (folder / "AADServicePrincipalSignInLogs.jsonl").write_text(
        "\n".join(
            json.dumps(row)
            for row in (sign_in, {**sign_in, "Id": "b", "TimeGenerated": "2026-03-03T11:40:00Z"})
        ),
        encoding="utf-8-sig",
    )
    return folder


def test_all_cases_of_a_rule_are_run_and_told(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules", str(rules), "test", "ag-30c"]) == GOOD
    told = capsys.readouterr().out
    assert "✓ dismissed after the confirmation" in told
    assert f"{CASES} cases, 0 failed" in told


def test_a_failing_case_shows_what_differs(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rules / FOLDER / "query.kql"
    file.write_text(
        file.read_text(encoding="utf-8").replace('= "high"', '= "low"').replace("10m;", "3h;"),
        encoding="utf-8",
    )
    cases = rules / FOLDER / "cases.yaml"
    cases.write_text(
        cases.read_text(encoding="utf-8").replace("expect: []", "expect: [{PrincipalId: nobody}]", 1),
        encoding="utf-8",
    )

    assert main(["--rules", str(rules), "test"]) == BAD
    told = capsys.readouterr().out
    assert "✗ a token is issued forty minutes after the confirmation" in told
    assert "at 12:00: - missing: PrincipalId=" in told


def test_check_says_loudly_that_the_official_parser_did_not_run(
    rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(official.NODE_MODULES_ENV, str(tmp_path / "nothing"))

    assert main(["--rules", str(rules), "check"]) == GOOD
    told = capsys.readouterr()
    assert "SKIPPED: Microsoft's KQL parser did not run" in told.err
    assert "not checked by the official parser" in told.out


def test_check_tells_faults_of_a_rule_that_loads_and_of_one_that_does_not(
    rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rules / FOLDER / "rule.yaml"
    good = file.read_text(encoding="utf-8")
    file.write_text(good.replace("[T1550]", "[T1528]"), encoding="utf-8")
    assert main(["--rules", str(rules), "check"]) == BAD
    assert "tactics: T1528 needs CredentialAccess as well; write CredentialAccess" in capsys.readouterr().out

    file.write_text(good.replace("severity: High", "severity: Huge"), encoding="utf-8")
    assert main(["--rules", str(rules), "check"]) == BAD
    assert "severity: 'Huge' is none of them" in capsys.readouterr().err


def test_one_rule_is_run_over_a_folder_of_logs(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "AG-30c", "--logs", str(logs), "--format", "json"]) == GOOD
    (found,) = json.loads(capsys.readouterr().out)
    assert found["principal_id"] == PRINCIPAL
    assert found["event_ids"] == ["a", "b"]
    assert found["first_seen"] == "2026-03-03T11:30:00+00:00"


def test_a_stretch_of_time_is_swept_as_it_came_to_be(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", FOLDER, "--logs", str(logs), "--from", "2026-03-01", "--to", "2026-03-03T15:00"]

    assert main(command) == GOOD
    told = capsys.readouterr().out
    assert "2026-03-03 11:30:00  high" in told


def test_an_end_before_anything_happened_finds_nothing(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "AG-30c", "--logs", str(logs), "--to", "2026-03-03T11:05Z"]) == GOOD
    assert capsys.readouterr().out == "0 findings\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "AG-99", "--logs", "{logs}"], "no rule AG-99; there are AG-"),
        (["run", "AG-30c", "--logs", "{logs}/none"], "no <Table>.jsonl in it"),
        (
            ["run", "AG-30c", "--logs", "{logs}", "--from", "2026-03-05", "--to", "2026-03-04"],
            "is not before",
        ),
        (["run", "AG-08", "--logs", "{logs}", "--inventory", "{logs}/none.json"], "none.json"),
    ],
)
def test_misuse_is_told_in_one_line(
    logs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main([part.replace("{logs}", str(logs)) for part in arguments]) == MISUSED
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("let windowStart = ago(90m);", "let start = ago(90m);", "query.kql: the query has 0 lines"),
        ("| where RiskEventType", "| where NoSuchColumn", "query.kql: unknown-column"),
        ("| project PrincipalId, PrincipalName", "| project PrincipalId, Name", "expected the columns"),
        ("| join kind=inner confirmed", "| jion kind=inner confirmed", "query.kql: syntax"),
    ],
)
def test_a_broken_query_fails_its_cases_in_words(
    rules: Path,
    logs: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    before: str,
    after: str,
    says: str,
) -> None:
    file = rules / FOLDER / "query.kql"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")

    assert main(["--rules", str(rules), "test"]) == BAD
    told = capsys.readouterr().out
    assert says in told
    assert f"{CASES} cases, {CASES} failed" in told
    assert main(["--rules", str(rules), "run", "AG-30c", "--logs", str(logs)]) == BAD
    assert "the rule's query: " in capsys.readouterr().err


def test_a_case_that_does_not_fit_the_tables_fails_in_words(
    rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rules / FOLDER / "cases.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("RiskLevel: high, DetectedDateTime", "Level: 1, DetectedDateTime"), "utf-8")

    assert main(["--rules", str(rules), "test"]) == BAD
    assert "cases.yaml: AADServicePrincipalRiskEvents.Level: not a documented" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["check"], ["test"], ["run", "AG-08", "--logs", "."]])
def test_a_folder_of_rules_that_is_not_there_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(["--rules", str(tmp_path / "nope"), *command]) == MISUSED
    told = capsys.readouterr().err
    assert "there is no such folder" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "says", "count"),
    [
        (
            "AuditLogs.jsonl",
            b'{"TimeGenerated": "2026-03-03T11:00:00Z"}\n{"Time',
            "AuditLogs.jsonl:2: no JSON",
            "1 line",
        ),
        ("AuditLogs.jsonl", b"[1]", "AuditLogs.jsonl:1: not an object", "1 line"),
        ("AuditLogs.jsonl", b"\xc3{}", "AuditLogs.jsonl:1: no UTF-8", "1 line"),
        (
            "AuditLogs.jsonl",
            b'{"TimeGenerated": "2026-03-03T11:00:00Z", "Who": 1}',
            "AuditLogs.jsonl:1: AuditLogs.Who",
            "1 column",
        ),
        (
            "AuditLogs.jsonl",
            b'{"TimeGenerated": "noon"}',
            "AuditLogs.jsonl:1: TimeGenerated: 'noon' is no ISO 8601 time",
            "1 line",
        ),
        (
            "MicrosoftGraphActivityLogs.jsonl",
            b'{"TimeGenerated": "2026-03-03T11:00Z"}\n\n{"TimeGenerated": "2026-03-03T11:00Z", "ResponseStatusCode": "x"}',
            "MicrosoftGraphActivityLogs.jsonl:3: MicrosoftGraphActivityLogs.ResponseStatusCode: 'x' is no int",
            "1 value",
        ),
        ("Firewall.jsonl", b"{}", "Firewall: no such table", "1 file"),
    ],
)
def test_what_cannot_be_read_is_named_and_counted_and_the_rest_is_judged(
    logs: Path, capsys: pytest.CaptureFixture[str], *, name: str, content: bytes, says: str, count: str
) -> None:
    (logs / name).write_bytes(content)

    assert main(["run", "AG-30c", "--logs", str(logs)]) == GOOD
    told = capsys.readouterr()
    assert says in told.err
    assert f"skipped while loading: {count}\n" in told.err
    assert PRINCIPAL in told.out


def test_a_time_that_is_none_is_misuse(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "AG-30c", "--logs", str(logs), "--to", "tomorrow"])
    assert caught.value.code == MISUSED
    assert "no ISO 8601 time" in capsys.readouterr().err
