"""The back-test as a detection engineer meets it: logs in, findings and verdicts out."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from workbench.__main__ import BAD, GOOD, MISUSED, main

ROOT = Path(__file__).resolve().parents[2]
PRINCIPAL = "11111111-2222-4333-8444-000000000001"
OTHER = "11111111-2222-4333-8444-000000000002"
HOME = "aaaaaaaa-0000-4000-8000-000000000001"
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)

RULE = """
id: 5a1b7a3e-0000-4000-8000-0000000000{number}
name: rows called {word} by a principal
description: A rule of a test.
kind: NRT
severity: High
version: 1.0.0
requiredDataConnectors: [{{connectorId: AzureActiveDirectory, dataTypes: [AuditLogs]}}]
tactics: [Persistence]
relevantTechniques: [T1098]
entityMappings:
  - {{entityType: Account, fieldMappings: [{{identifier: AadUserId, columnName: PrincipalId}}]}}
customDetails: {{AppId: AppId}}
breaker:
  id: AG-{number}
  family: {family}
  tier: {tier}
  sweep: {sweep}
  window: 1h
  lateArrival: 30m
  lookback: 0m
  quietFor: {quiet}
  requiredTables: [AuditLogs]
  anyOfTables: []
  whenTableMissing: nothing is found
  falsePositives: ["none"]
  knownGaps: [many]
  runbook: [{{window: 1h, field: Id, question: "Is it a test?"}}]
"""
QUERY = """let windowStart = ago(90m);
let windowEnd = now();
AuditLogs
| where TimeGenerated between (windowStart .. windowEnd)
| where OperationName == "{word}"
| summarize FirstSeen = min(TimeGenerated), LastSeen = max(TimeGenerated), Count = dcount(Id), EventIds = array_sort_asc(make_set(Id)), PrincipalName = min(Identity) by PrincipalId = ResultReason
| extend AppId = "", Reason = strcat("{word} by ", PrincipalName), IPAddress = "", Resource = "", Confidence = "high"
| project PrincipalId, PrincipalName, AppId, FirstSeen, LastSeen, Count, Reason, IPAddress, Resource, EventIds, Confidence
"""


def rule(
    folder: Path, number: int, word: str, family: str, tier: str, sweep: str = "windowed", quiet: str = "0m"
) -> None:
    place = folder / f"ag_{number}_{word}"
    place.mkdir(parents=True)
    values = {"number": number, "word": word, "family": family, "tier": tier, "sweep": sweep, "quiet": quiet}
    (place / "rule.yaml").write_text(RULE.format(**values))
    (place / "query.kql").write_text(QUERY.replace("{word}", word))


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    rule(folder, 91, "bold", "reach", "auto")
    rule(folder, 92, "sign", "volume", "corroborated")
    rule(folder, 93, "other", "probing", "corroborated", "fast")
    rule(folder, 94, "hourly", "token", "context", "baseline")
    return folder


def row(
    word: str, minutes: float, *, principal: str = PRINCIPAL, late: float | None = None, **more: object
) -> dict:
    at = NOON + timedelta(minutes=minutes)
    found = {
        "TimeGenerated": at.isoformat(),
        "Id": f"{word}/{minutes}/{principal[-1]}",
        "OperationName": word,
        "ResultReason": principal,
        "Identity": "invoice-reader",
        **more,
    }
    if late is not None:
        found["_IngestedAt"] = (at + timedelta(minutes=late)).isoformat()
    return found


class Desk:
    def __init__(self, folder: Path, rules: Path) -> None:
        self.folder, self.rules = folder, rules
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.out = folder / "out.json"

    def rows(self, *rows: dict) -> None:
        with (self.logs / "AuditLogs.jsonl").open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)

    def tenant(self, *principals: dict, **more: object) -> Path:
        file = self.folder / "tenant.json"
        file.write_text(json.dumps({"tenantId": HOME, "principals": list(principals), **more}))
        return file

    def command(
        self, *more: object, since: str = "2026-03-03T11:00", until: str = "2026-03-03T16:00"
    ) -> list[str]:
        return [
            *("--rules", str(self.rules), "backtest", "--logs", str(self.logs)),
            *("--from", since, "--to", until, "--json", str(self.out), *map(str, more)),
        ]

    def run(self, *more: object, **span: str) -> list[dict]:
        assert main(self.command(*more, **span)) == GOOD
        return json.loads(self.out.read_text())


@pytest.fixture
def desk(tmp_path: Path, rules: Path) -> Desk:
    return Desk(tmp_path, rules)


def agent(object_id: str = PRINCIPAL, **more: object) -> dict:
    return {
        "objectId": object_id,
        "appId": object_id,
        "name": "invoice-reader",
        "kind": "application",
        **more,
    }


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_finding_has_what_the_issue_asks_for(desk: Desk) -> None:
    desk.rows(row("bold", 1), row("bold", 2))
    (found,) = desk.run("--tenant", desk.tenant(agent()))

    assert set(found) == {
        *("detection", "principalId", "time", "windowStart", "windowEnd", "severity", "tier", "verdict"),
        *("reasons", "eventIds"),
    }
    assert (found["detection"], found["principalId"], found["severity"], found["tier"]) == (
        *("AG-91", PRINCIPAL, "High", "auto"),
    )
    assert found["verdict"] == "contain"
    assert found["time"] == "2026-03-03T12:01:00Z"
    assert found["windowEnd"] == "2026-03-03T12:05:00Z"
    assert found["windowStart"] == "2026-03-03T10:35:00Z"
    assert found["eventIds"] == ["bold/1/1", "bold/2/1"]
    assert found["reasons"][0] == "bold by invoice-reader"


def test_a_row_is_never_seen_before_it_has_arrived(desk: Desk) -> None:
    desk.rows(row("bold", 1, late=50))
    (found,) = desk.run()

    assert moment(found["windowEnd"]) == NOON + timedelta(minutes=55)
    assert found["time"] == "2026-03-03T12:01:00Z"


def test_a_row_that_arrives_after_the_end_is_no_finding(desk: Desk) -> None:
    desk.rows(row("bold", 1, late=400))

    assert desk.run() == []


def test_two_weeks_without_a_row_in_the_tables_of_the_baselines(desk: Desk) -> None:
    desk.rows(row("bold", -14 * 24 * 60), row("bold", 1))

    assert [f["detection"] for f in desk.run()] == ["AG-91"]


def test_a_row_delivered_again_adds_no_finding(desk: Desk) -> None:
    desk.rows(row("bold", 1), row("bold", 1), {**row("bold", 1, late=20)}, {**row("bold", 1, late=80)})

    assert len(desk.run()) == 1


def test_what_goes_on_is_told_once(desk: Desk) -> None:
    desk.rows(*(row("sign", minutes) for minutes in range(0, 200, 10)))

    assert len(desk.run()) == 1


def test_two_signs_of_different_families_contain(desk: Desk) -> None:
    desk.rows(
        row("sign", 1), row("other", 31), row("sign", 1, principal=OTHER), row("other", 120, principal=OTHER)
    )
    found = desk.run("--tenant", desk.tenant(agent(), agent(OTHER)))

    verdicts = {(f["principalId"], f["detection"]): f["verdict"] for f in found}
    assert verdicts == {
        (PRINCIPAL, "AG-92"): "watch",
        (PRINCIPAL, "AG-93"): "contain",
        (OTHER, "AG-92"): "watch",
        (OTHER, "AG-93"): "watch",
    }


def test_what_is_new_and_goes_on_makes_a_later_sign_one_to_ask_about(desk: Desk) -> None:
    rule(desk.rules, 95, "novel", "origin", "corroborated", quiet="26h")
    desk.rows(*(row("novel", minutes) for minutes in range(0, 200, 20)), row("sign", 190))
    found = desk.run("--tenant", desk.tenant(agent()))

    assert {f["detection"]: f["verdict"] for f in found} == {"AG-95": "watch", "AG-92": "ask"}
    assert "goes on: AG-95" in " ".join(found[1]["reasons"])


def test_a_protected_principal_is_never_contained(desk: Desk) -> None:
    desk.rows(row("bold", 1), row("sign", 5), row("other", 6))
    found = desk.run("--tenant", desk.tenant(agent(protected=True)))

    assert len(found) == 3
    assert {f["verdict"] for f in found} <= {"ask", "watch"}
    assert any("protected-principal" in reason for reason in found[0]["reasons"])


@pytest.mark.parametrize(
    "kind", ["managed_identity", "multitenant_application", "agentIdentity", "microsoft", "other"]
)
def test_what_no_lever_reaches_is_never_contained(desk: Desk, kind: str) -> None:
    desk.rows(row("bold", 1))
    (found,) = desk.run("--tenant", desk.tenant(agent(kind=kind, ownerTenant=OTHER)))

    assert found["verdict"] == "ask"


def test_without_a_tenant_file_people_are_asked_and_the_summary_says_so(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.rows(row("bold", 1))
    (found,) = desk.run()

    assert found["verdict"] == "ask"
    assert "No --tenant" in capsys.readouterr().out


def test_a_principal_that_the_tenant_file_lacks_is_not_contained(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.rows(row("bold", 1))
    (found,) = desk.run("--tenant", desk.tenant(agent(OTHER)))

    assert found["verdict"] == "ask"
    assert "1 principals with findings are not in tenant.json" in capsys.readouterr().out


def test_the_storm_brake_parks_what_is_too_much_for_an_hour(desk: Desk) -> None:
    many = [f"11111111-2222-4333-8444-0000000000{n}" for n in range(10, 16)]
    desk.rows(*(row("bold", n, principal=one) for n, one in enumerate(many)))
    found = desk.run("--tenant", desk.tenant(*map(agent, many)))

    assert [f["verdict"] for f in found] == ["contain"] * 3 + ["ask"] * 3
    assert "storm brake" in " ".join(found[-1]["reasons"])


def test_what_comes_after_a_containment_joins_it(desk: Desk) -> None:
    desk.rows(row("bold", 1), row("bold", 150))
    found = desk.run("--tenant", desk.tenant(agent()))

    assert len(found) == 2
    assert "joins that containment" in found[1]["reasons"][-1]


def test_the_baseline_group_runs_hourly_and_at_the_end(desk: Desk) -> None:
    desk.rows(row("hourly", 1), row("hourly", 1, principal=OTHER), row("hourly", 205, principal=OTHER))
    found = desk.run(until="2026-03-03T15:30")

    assert {f["windowEnd"] for f in found} == {"2026-03-03T12:30:00Z", "2026-03-03T15:30:00Z"}
    assert {f["verdict"] for f in found} == {"ask"}


def test_a_rule_that_cannot_be_asked_stops_no_other(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.rules / "ag_92_sign" / "query.kql"
    file.write_text(file.read_text().replace("| where OperationName", "| where NoSuchColumn"))
    desk.rows(row("bold", 1))

    assert main(desk.command()) == BAD
    assert len(json.loads(desk.out.read_text())) == 1
    assert "AG-92: " in capsys.readouterr().out


def test_an_unreadable_line_is_counted_and_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.rows(row("bold", 1))
    with (desk.logs / "AuditLogs.jsonl").open("a") as file:
        file.write('{"TimeGenerated": \n')
    assert len(desk.run()) == 1

    told = capsys.readouterr()
    assert "AuditLogs.jsonl:2: no JSON" in told.err
    assert "Skipped while loading: 1 line." in told.out


def test_nothing_is_left_behind_when_it_is_done(desk: Desk) -> None:
    desk.rows(row("bold", 1))
    desk.run()

    assert sorted(path.name for path in desk.folder.iterdir()) == ["logs", "out.json", "rules"]


def test_a_killed_run_goes_on_and_gives_the_same(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    people = [f"11111111-2222-4333-8444-0000000000{n}" for n in range(10, 40)]
    desk.rows(
        *(
            row(("bold", "sign", "other", "hourly")[n % 4], n * 7.3, principal=people[n % 30], late=n % 11)
            for n in range(200)
        )
    )
    tenant = desk.tenant(*map(agent, people))
    span = {"until": "2026-03-04T12:00"}
    whole = desk.run("--tenant", tenant, "--step", "2m", **span)
    assert len(whole) > 30
    desk.out.unlink()

    command = [sys.executable, "-m", "workbench", *desk.command("--tenant", tenant, "--step", "2m", **span)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    state = desk.folder / "out.json.state"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if state.exists() and "T16:" in json.loads(state.read_text())["progress"]["done_until"]:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not desk.out.exists()
    capsys.readouterr()

    assert desk.run("--tenant", tenant, "--step", "2m", "--resume", **span) == whole
    assert "resumed at 2026-03-03T1" in capsys.readouterr().err


def test_progress_of_another_run_is_not_taken_up(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.rows(row("bold", 1))
    (desk.folder / "out.json.state").write_text(json.dumps({"fingerprint": "of something else"}))

    assert main(desk.command("--resume")) == MISUSED
    told = capsys.readouterr().err
    assert "leave out --resume" in told
    assert told.count("\n") == 1


def test_the_page_loads_and_runs_nothing_and_escapes_what_a_tenant_wrote(desk: Desk) -> None:
    name = "<script>alert(1)</script>\"'&\u202egpj.exe"
    desk.rows(row("bold", 1, Identity=name), row("sign", 200, Identity=name, principal=OTHER))
    page = desk.folder / "report.html"
    desk.run("--tenant", desk.tenant(agent(name=name)), "--html", page)

    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text
    assert "\u202e" not in text
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert not [word for word in ("http://", "https://", "src=", "href=", "@import", "url(") if word in text]
    assert "<svg" in text


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"--logs": "{tmp}/none"}, "none: there is no such folder"),
        ({"--logs": "{tmp}"}, "no <Table>.jsonl in it"),
        ({"--from": "2026-03-04"}, "is not before --to"),
        ({"--from": "yesterday"}, "--from 'yesterday' is no ISO 8601 time"),
        ({"--step": "5"}, "--step 5 is no span"),
        ({"--step": "0m"}, "--step 0m is no span"),
        ({"--step": "2d"}, "--step 2d is no span"),
        ({"--json": "{tmp}/none/out.json"}, "name one in a folder that exists"),
        ({"--tenant": "{tmp}/none.json"}, "none.json: No such file"),
        ({"--tenant": "{tmp}/bad.json"}, "principals[1].objectId: missing"),
        ({"--inventory": "{tmp}/none.json"}, "none.json"),
    ],
)
def test_misuse_is_told_in_one_line(
    desk: Desk, capsys: pytest.CaptureFixture[str], changed: dict[str, str], says: str
) -> None:
    desk.rows(row("bold", 1))
    (desk.folder / "bad.json").write_text(json.dumps({"principals": [agent(), {"kind": "application"}]}))
    command = desk.command()
    for option, value in changed.items():
        text = value.replace("{tmp}", str(desk.folder))
        if option in command:
            command[command.index(option) + 1] = text
        else:
            command += [option, text]

    assert main(command) == MISUSED
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
    assert not desk.out.exists()
