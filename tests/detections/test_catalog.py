import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from detections import catalog
from detections.catalog import CatalogError, Confidence, Rule, SweepGroup, Tier

FOLDER = "ag_04_first_key_vault_use"
# Not one of the catalogue's own: those change, and what is tested here is how any rule is read.
TEXT = """\
id: 5b0c7d1e-6a4f-4c0d-9f0a-3d0a4c7e9b04
kind: Scheduled
name: First Key Vault use by an agent
description: It uses a vault that it never used.
severity: High
version: 1.0.0
requiredDataConnectors:
  - connectorId: AzureKeyVault
    dataTypes: [AZKVAuditLogs, AzureDiagnostics]
queryFrequency: 1h
queryPeriod: 14d
tactics: [CredentialAccess]
relevantTechniques: [T1555]
entityMappings:
  - entityType: Account
    fieldMappings:
      - {identifier: AadUserId, columnName: PrincipalId}
customDetails: {ServicePrincipalId: PrincipalId}
breaker:
  id: AG-04
  family: vault
  tier: corroborated
  tierByConfidence: {high: auto, low: context}
  window: 1h
  lateArrival: 30m
  lookback: 13d
  sweep: windowed
  requiredTables: []
  anyOfTables: [AZKVAuditLogs, AzureDiagnostics]
  whenTableMissing: No use of a vault is seen.
  falsePositives: [A new version of the agent.]
  knownGaps: [A vault without a diagnostic setting.]
  runbook:
    - window: 1h before
      field: OperationName
      question: What was read?
    - window: 13d before
      field: CallerIPAddress
      question: Did the same address do the agent's usual work?
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "rule.yaml").write_text(TEXT, encoding="utf-8")
    query = (catalog.DETECTIONS / "ag_07_probing" / "query.kql").read_text(encoding="utf-8")
    (tmp_path / FOLDER / "query.kql").write_text(query, encoding="utf-8")
    shutil.copytree(catalog.DETECTIONS / "ag_07_probing", tmp_path / "ag_07_probing")
    return tmp_path


def change(rules: Path, before: str, after: str, folder: str = FOLDER) -> None:
    file = rules / folder / "rule.yaml"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def faults_of(rules: Path) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        catalog.load(rules)
    return [str(fault) for fault in caught.value.faults]


def test_a_rule_is_read_into_types(rules: Path) -> None:
    rule = catalog.load(rules)[0]

    assert isinstance(rule, Rule)
    assert rule.id == "AG-04"
    assert rule.window == timedelta(hours=1)
    assert rule.lookback == timedelta(days=13)
    assert rule.any_of_tables == ("AZKVAuditLogs", "AzureDiagnostics")
    assert rule.connectors["AzureKeyVault"] == ("AZKVAuditLogs", "AzureDiagnostics")
    assert [step.window for step in rule.runbook]
    assert rule.tier_of(Confidence.HIGH) is Tier.AUTO
    assert rule.tier_of(Confidence.MEDIUM) is Tier.CORROBORATED
    assert (rule.sweep, rule.quiet_for, rule.lifts) == (SweepGroup.WINDOWED, timedelta(0), ())


def test_who_is_learning_gives_context_whatever_the_rule_is_worth(rules: Path) -> None:
    change(rules, "tier: corroborated", "tier: auto")

    assert catalog.load(rules)[0].tier_of(Confidence.LEARNING) is Tier.CONTEXT


def test_quiet_time_and_lifted_rules_are_read(rules: Path) -> None:
    change(rules, "  sweep: windowed", "  sweep: baseline\n  quietFor: 26h\n  lifts: [AG-07]")

    rule = catalog.load(rules)[0]

    assert (rule.sweep, rule.quiet_for) == (SweepGroup.BASELINE, timedelta(hours=26))
    assert rule.lifts == ("AG-07",)


def test_every_rule_of_the_catalogue_has_a_timer() -> None:
    assert {rule.sweep for rule in catalog.load()} <= set(SweepGroup)


def test_the_exported_query_adds_the_detection_id_only(rules: Path) -> None:
    rule = catalog.load(rules)[0]

    assert rule.sentinel_query() == f'{rule.query.rstrip()}\n| extend DetectionId = "AG-04"\n'


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            "severity: High",
            "severity: Terrible",
            "severity: 'Terrible' is none of them; write Informational or",
        ),
        ("window: 1h", "window: 1 hour", "breaker.window: '1 hour' is no duration; write as 5m"),
        ("  family: vault\n", "", "breaker.family: missing; write a text"),
        ("family:", "famly:", "breaker.famly: no such field"),
        (
            "{high: auto, low: context}",
            "{sure: auto}",
            "breaker.tierByConfidence: 'sure' is none of them; write learning or low or medium or high",
        ),
        (
            "{high: auto, low: context}",
            "{high: auto, learning: corroborated}",
            "breaker.tierByConfidence: learning is more than context",
        ),
        ("tier: corroborated", "tier: kill", "breaker.tier: 'kill' is none of them"),
        ("sweep: windowed", "sweep: daily", "breaker.sweep: 'daily' is none of them; write fast or"),
        ("  sweep: windowed\n", "", "breaker.sweep: missing"),
        ("sweep: windowed", "sweep: fast\n  quietFor: a day", "breaker.quietFor: 'a day' is no duration"),
        ("sweep: windowed", "sweep: fast\n  lifts: AG-07", "breaker.lifts: 'AG-07' is no list of texts"),
        ("id: AG-04", "id: four", "breaker.id: 'four' does not fit"),
        ("version: 1.0.0", "version: 1.0", "version: 1.0 does not fit"),
        ("5b0c7d1e-6a4f-4c0d-9f0a-3d0a4c7e9b04", "my-rule", "id: 'my-rule' is no GUID"),
        ("tactics: [CredentialAccess]", "tactics: []", "tactics: the list is empty"),
        (
            "relevantTechniques: [T1555]",
            "relevantTechniques: T1555",
            "relevantTechniques: 'T1555' is no list",
        ),
        (
            "identifier: AadUserId",
            "identifer: AadUserId",
            "entityMappings[0].fieldMappings[0].identifier: missing",
        ),
        ("      question: Did the", "      ask: Did the", "breaker.runbook[1].question: missing"),
    ],
)
def test_a_fault_says_file_field_what_is_wrong_and_what_to_write(
    rules: Path, before: str, after: str, says: str
) -> None:
    change(rules, before, after)

    assert any(fault.startswith(f"{FOLDER}/rule.yaml: {says}") for fault in faults_of(rules)), faults_of(
        rules
    )


def test_all_faults_of_all_rules_are_told_at_once(rules: Path) -> None:
    change(rules, "severity: High", "severity: Terrible")
    change(rules, "window: 1h", "window: long")
    change(rules, "kind: Scheduled", "kind: Sometimes", folder="ag_07_probing")

    assert len(faults_of(rules)) == 3


def test_no_rule_is_handed_out_while_one_is_wrong(rules: Path) -> None:
    (rules / "ag_07_probing" / "query.kql").unlink()

    assert faults_of(rules) == [
        "ag_07_probing/query.kql: file: it is missing; write the file, see docs/rules.md"
    ]


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", ""])
def test_a_rule_file_that_is_no_mapping_is_a_fault(rules: Path, text: str) -> None:
    (rules / FOLDER / "rule.yaml").write_text(text, encoding="utf-8")

    assert faults_of(rules)[0].startswith(f"{FOLDER}/rule.yaml: file: no ")


def test_two_rules_of_one_id_are_a_fault(rules: Path) -> None:
    shutil.copytree(rules / FOLDER, rules / "ag_05_copy")

    assert any("breaker.id: AG-04 belongs to" in fault for fault in faults_of(rules))


def test_a_folder_without_rules_is_a_fault(tmp_path: Path) -> None:
    assert "there is no rule in it" in faults_of(tmp_path)[0]


def test_deployed_code_does_not_need_the_desk() -> None:
    for file in catalog.DETECTIONS.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "import workbench" not in text
        assert "from workbench" not in text
        assert "duckdb" not in text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(minutes=90), "90m"),
        (timedelta(hours=1), "1h"),
        (timedelta(days=13), "13d"),
        (timedelta(0), "0m"),
    ],
)
def test_a_duration_is_written_as_rules_write_it(span: timedelta, text: str) -> None:
    assert catalog.duration_text(span) == text


def test_a_rule_cannot_lift_one_that_does_not_exist(rules: Path) -> None:
    change(rules, "  sweep: windowed", "  sweep: windowed\n  lifts: [AG-07, AG-99]")

    assert faults_of(rules) == [
        f"{FOLDER}/rule.yaml: breaker.lifts: there is no rule AG-99; write ids of the catalogue"
    ]
