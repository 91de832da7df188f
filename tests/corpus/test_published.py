"""
Events that others published, through our loaders and rules. Nobody here wrote them, so nobody here bent them to fit.

The files are not part of the project (``../shared/samples``); without them these tests are skipped, loudly.
"""

import csv
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, Policy, ServicePrincipal, object_id
from detections import catalog
from detections.runner import DetectionRow, bind_window, parse_rows
from response.breaker import armed
from response.evidence import Armed, NotArmed
from workbench import schemas
from workbench.engine import LogEngine
from workbench.logfiles import load_folder

SAMPLES = Path(os.environ.get("AGENTDESK_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "samples"
PANTHER = SAMPLES / "panther-analysis-tests"
LAB = SAMPLES / "sentinel-training-lab"
SCUBA = SAMPLES / "scubagear"
RULES = {rule.id: rule for rule in catalog.load()}
AGENT = "11111111-2222-4333-8444-00000000aaaa"
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
TABLES = {
    "SignInLogs": "SigninLogs",
    "ServicePrincipalSignInLogs": "AADServicePrincipalSignInLogs",
    "AuditLogs": "AuditLogs",
    "Administrative": "AzureActivity",
    "StorageRead": "StorageBlobLogs",
    "StorageWrite": "StorageBlobLogs",
}
# The envelope's names that differ from the table's in more than case.
RENAMED = {
    "AzureActivity": {"operationname": "OperationNameValue", "resulttype": "ActivityStatusValue", "resourceid": "_ResourceId"},
    "AADServicePrincipalSignInLogs": {},
    "SigninLogs": {"appliedconditionalaccesspolicies": "ConditionalAccessPolicies"},
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"PUBLISHED SAMPLES NOT RUN: {SAMPLES} is not there"
)


@pytest.fixture
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


def published() -> list[dict[str, Any]]:
    if not PANTHER.is_dir():
        return []
    return [
        json.loads(line)
        for name in ("azure_signin", "azure_activity")
        for line in (PANTHER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def row_of(log: dict[str, Any], table: str) -> dict[str, object]:
    """Give an event of the event-hub envelope the columns of its table, as Log Analytics does: by name, without case."""
    columns = {name.lower(): name for name, _ in schemas.tables()[table]}
    columns |= RENAMED.get(table, {})
    found: dict[str, object] = {}
    for part in (log, log.get("properties") or {}):
        for name, value in part.items():
            column = columns.get(name.lower())
            if column is not None and value is not None:
                found[column] = value
    kinds = dict(schemas.tables()[table])
    found = {
        name: value
        for name, value in found.items()
        if kinds[name] not in ("datetime", "bool", "int", "long", "real")
    }
    return {**found, "TimeGenerated": NOW - timedelta(minutes=10)}  # fmt: skip


EVENTS = [
    (each, TABLES[each["log"]["category"]]) for each in published() if each["log"].get("category") in TABLES
]


def findings(engine: LogEngine, rule_id: str) -> list[DetectionRow]:
    rule = RULES[rule_id]
    query = bind_window(rule.query, NOW - rule.window - rule.late_arrival, NOW)
    answer = engine.query(query, now=NOW)
    rows = parse_rows(rule, [name for name, _ in answer.columns], answer.rows)
    assert all(isinstance(row, DetectionRow) for row in rows)
    return [row for row in rows if isinstance(row, DetectionRow)]


def test_every_published_event_fits_its_table(engine: LogEngine) -> None:
    assert len(EVENTS) > 100

    for number, (event, table) in enumerate(EVENTS):
        engine.insert(table, [row_of(event["log"], table)])
        assert sum(engine.count(name) for name in set(TABLES.values())) == number + 1


@pytest.mark.parametrize("rule_id", RULES)
def test_no_rule_blames_an_agent_for_what_people_did(engine: LogEngine, rule_id: str) -> None:
    for event, table in EVENTS:
        engine.insert(table, [row_of(event["log"], table)])

    assert findings(engine, rule_id) == []


def of(rule: str) -> list[Any]:
    return [
        pytest.param(event["log"], event["expectAlert"], id=f"{event['test']}")
        for event, _ in EVENTS
        if event["rule"] == rule
    ]


@pytest.mark.parametrize(("log", "expected"), of("Azure.MonitorActivity.StorageAccount.KeysListed"))
def test_keys_listed_by_an_agent_break_attribution(
    engine: LogEngine, log: dict[str, Any], expected: bool
) -> None:
    engine.insert("AzureActivity", [{**row_of(log, "AzureActivity"), "Caller": AGENT}])

    assert bool(findings(engine, "AG-22")) is expected


@pytest.mark.parametrize(
    ("log", "expected"), [p for p in of("Azure.MonitorActivity.DiagnosticSettings.Deleted") if p.values[1]]
)
def test_diagnostic_settings_deleted_by_an_agent_are_tampering(
    engine: LogEngine, log: dict[str, Any], expected: bool
) -> None:
    engine.insert("AzureActivity", [{**row_of(log, "AzureActivity"), "Caller": AGENT}])

    assert bool(findings(engine, "AG-19")) is expected


def stamped(source: Path, copy: Path) -> None:
    """Copy an export with the time that the lab's ingestion gives its rows, so that they lie in the rules' windows."""
    with (
        source.open(encoding="utf-8-sig", newline="") as read,
        copy.open("w", encoding="utf-8", newline="") as write,
    ):
        header, *rows = csv.reader(read)
        at = (NOW - timedelta(minutes=30)).isoformat()
        csv.writer(write).writerows([["TimeGenerated", *header], *([at, *row] for row in rows)])


@pytest.mark.parametrize(
    ("name", "table", "rows"), [("disable_accounts", "SigninLogs", 4), ("AuditLogs_Hunting", "AuditLogs", 5)]
)
def test_the_training_labs_rows_without_a_time_are_left_out_and_told(
    engine: LogEngine, tmp_path: Path, name: str, table: str, rows: int
) -> None:
    (tmp_path / f"{table}.csv").symlink_to(LAB / f"{name}.csv")
    told: list[str] = []
    loaded = load_folder(engine, tmp_path, report=told.append)

    assert (loaded.rows, loaded.lines_skipped) == ({table: 0}, rows)
    assert sum("no TimeGenerated" in line for line in told) == rows


def test_the_training_labs_exports_load_and_accuse_no_agent(engine: LogEngine, tmp_path: Path) -> None:
    stamped(LAB / "office_activity.csv", tmp_path / "OfficeActivity.csv")
    stamped(LAB / "disable_accounts.csv", tmp_path / "SigninLogs.csv")
    stamped(LAB / "AuditLogs_Hunting.csv", tmp_path / "AuditLogs.csv")
    loaded = load_folder(engine, tmp_path, report=lambda _: None)

    assert loaded.rows == {"OfficeActivity": 266, "SigninLogs": 4, "AuditLogs": 5}
    assert loaded.lines_skipped == 0
    for rule_id in RULES:
        assert findings(engine, rule_id) == [], rule_id


def as_graph(value: Any) -> Any:
    """Give what PowerShell's module exports the names that Graph itself has."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: as_graph(held) for name, held in value.items()}
    return [as_graph(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def lived_in() -> list[Policy]:
    if not SCUBA.is_dir():
        pytest.skip(f"PUBLISHED SAMPLES NOT RUN: {SCUBA} is not there")
    export = json.loads(
        (SCUBA / "ProviderSettingsExport.create-report-stub.json").read_text(encoding="utf-8-sig")
    )
    return [policy_from_graph(as_graph(each)) for each in export["conditional_access_policies"]]


def application() -> ServicePrincipal:
    return ServicePrincipal(
        object_id(AGENT),
        AppId(AGENT),
        "notes-agent",
        Kind.APPLICATION,
        owner_tenant=None,
        account_enabled=True,
    )


def test_the_policies_of_a_lived_in_tenant_are_read_whole_and_arm_nobody(lived_in: list[Policy]) -> None:
    assert len({policy.id for policy in lived_in}) == 20
    assert {policy.state for policy in lived_in} == {"enabled", "enabledForReportingButNotEnforced"}
    assert any(policy.blocks for policy in lived_in)
    assert isinstance(armed(lived_in, application()), NotArmed)


def test_among_the_policies_of_a_lived_in_tenant_ours_is_the_one_that_arms(lived_in: list[Policy]) -> None:
    ours = policy_from_graph(
        {
            "id": "11111111-2222-4333-8444-0000000000aa",
            "displayName": "Block risky agents",
            "state": "enabled",
            "conditions": {
                "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
                "servicePrincipalRiskLevels": ["high"],
                "applications": {"includeApplications": ["All"]},
            },
            "grantControls": {"builtInControls": ["block"]},
        }
    )

    assert armed([*lived_in, ours], application()) == Armed((ours.id,))
