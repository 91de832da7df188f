"""A rule that is not fit is told why, in words that help."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from detections import catalog
from workbench.engine import LogEngine
from workbench.gate import Desk, check_rule
from workbench.parser import KqlParser, ParserMissingError, find_package

FOLDER = "ag_18_self_grant"


@pytest.fixture(scope="module")
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    shutil.copytree(catalog.DETECTIONS / FOLDER, tmp_path / FOLDER)
    return tmp_path


def change(rules: Path, file: str, before: str, after: str) -> None:
    path = rules / FOLDER / file
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def faults_of(rules: Path, engine: LogEngine, parser: KqlParser | None = None) -> list[str]:
    (rule,) = catalog.load(rules)
    return [str(fault) for fault in check_rule(rule, Desk(rules, engine, parser))]


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        ("rule.yaml", "id: AG-18", "id: AG-19", "breaker.id: AG-19 and the folder ag_18_self_grant differ"),
        ("rule.yaml", "name: Self-grant of", "name: Strange thing about", "name: 'Strange thing"),
        ("rule.yaml", "by an agent\n", "by an agent.\n", "full stop"),
        (
            "rule.yaml",
            "tactics: [Persistence]",
            "tactics: [Persistance]",
            "Persistance is none of Sentinel's",
        ),
        ("rule.yaml", "[T1098]", "[T1078]", "T1078 needs InitialAccess, PrivilegeEscalation, DefenseEvasion"),
        ("rule.yaml", "[T1098]", "[T1619]", "T1619 is not in attack.json"),
        (
            "rule.yaml",
            "queryFrequency: 1h",
            "queryFrequency: 10m",
            "too often for a period of 2d or more; write 1h",
        ),
        (
            "rule.yaml",
            "queryFrequency: 1h",
            "queryFrequency: 2h",
            "1h is shorter than queryFrequency: what comes late between two runs",
        ),
        ("rule.yaml", "queryPeriod: 14d", "queryPeriod: 15d", "Sentinel refuses it"),
        ("rule.yaml", "queryPeriod: 14d", "queryPeriod: 1d", "shorter than the"),
        (
            "rule.yaml",
            "columnName: PrincipalId",
            "columnName: ObjectId",
            "ObjectId is no column of the answer",
        ),
        ("rule.yaml", "  DetectionId: DetectionId\n", "", "customDetails: DetectionId is missing"),
        (
            "rule.yaml",
            "  AppId: AppId",
            "  AppId: AppId\n  ANameThatIsTooLongHere: AppId",
            "Sentinel refuses the key",
        ),
        (
            "rule.yaml",
            "requiredTables: [AuditLogs]",
            "requiredTables: [AuditLog]",
            "AuditLog is not in workbench",
        ),
        (
            "rule.yaml",
            "requiredTables: [AuditLogs]",
            "requiredTables: [AuditLogs, OfficeActivity]",
            "does not read OfficeActivity",
        ),
        (
            "rule.yaml",
            "[AuditLogs, AgentSignInDaily_CL, AgentsInfo]",
            "[AuditLogs, AgentsInfo]",
            "no connector brings AgentSignInDaily_CL",
        ),
        (
            "rule.yaml",
            "lateArrival: 30m",
            "lateArrival: 1h",
            "ago(90m) is not window + lateArrival; write ago(2h)",
        ),
        ("query.kql", "let windowEnd = now();", "let windowEnd = now(-1m);", "exactly one"),
        ("query.kql", "let windowStart", "// first\nlet windowStart", "stand before the two let lines"),
        (
            "query.kql",
            "let raised = materialize(AuditLogs",
            "let raised = materialize(AuditLogs | where TimeGenerated > ago(1h)",
            "ago() and now()",
        ),
        (
            "query.kql",
            "make_set(Id)",
            "make_set(Id, 20)",
            "make_set with a limit is not portable; write array_slice",
        ),
        ("query.kql", "OperationName has", "OperationNam has", "unknown-column"),
        ("query.kql", 'Confidence = iff(High > 0, "high", "medium")', 'Sure = "high"', "last project"),
        (
            "cases.yaml",
            "cases:\n",
            "cases:\n  - {name: x, rows: {}, expect: [], expects: []}\n",
            "no such field: expects",
        ),
        (
            "cases.yaml",
            "cases:\n",
            "cases:\n  - {name: x, rows: {}, expect: [{Count: 1}]}\n",
            "no PrincipalId",
        ),
    ],
)
def test_a_fault_says_what_is_wrong_and_what_to_write(
    rules: Path, engine: LogEngine, *, file: str, before: str, after: str, says: str
) -> None:
    change(rules, file, before, after)

    faults = faults_of(rules, engine)
    assert any(says in fault for fault in faults), faults
    assert all(fault.startswith(f"{FOLDER}/") for fault in faults)


def test_a_rule_without_a_silent_case_is_not_fit(rules: Path, engine: LogEngine) -> None:
    (rules / FOLDER / "cases.yaml").write_text(
        "now: 2026-03-03T12:00:00Z\ncases:\n- {name: x, rows: {}, expect: [{PrincipalId: y}]}\n",
        encoding="utf-8",
    )

    faults = faults_of(rules, engine)
    assert any("none has to stay silent" in fault for fault in faults)
    assert any("only 1; write at least 6" in fault for fault in faults)


def test_only_the_official_parser_knows_a_name_in_another_case(
    rules: Path, engine: LogEngine, parser: KqlParser
) -> None:
    change(rules, "query.kql", "| where TimeGenerated between", "| where timegenerated between")

    assert faults_of(rules, engine) == []
    (fault,) = faults_of(rules, engine, parser)
    assert fault.startswith(f"{FOLDER}/query.kql: line 7: KS142 The name 'timegenerated'")


def test_a_table_that_a_workspace_may_lack_stands_in_the_union_itself(
    rules: Path, engine: LogEngine, parser: KqlParser
) -> None:
    change(
        rules,
        "query.kql",
        "let signIns = union",
        "let early = AgentSignInDaily_CL;\nlet signIns = union",
    )
    change(rules, "query.kql", "(AgentSignInDaily_CL\n", "(early\n")

    assert faults_of(rules, engine) == []
    faults = faults_of(rules, engine, parser)
    assert any("without AgentSignInDaily_CL: KS" in fault for fault in faults), faults
    assert all("as a part of union isfuzzy=true" in fault for fault in faults)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            "AzureDiagnostics | where identity_claim_oid_g == 'x' | project identity_claim_oid_g",
            "no identity_claim_oid_g",
        ),
        (
            "union isfuzzy=true (datatable(identity_claim_oid_g:string)[]), AzureDiagnostics | project identity_claim_oid_g",
            "ids as guid",
        ),
    ],
)
def test_legacy_columns_may_be_missing_or_of_another_type(
    rules: Path, engine: LogEngine, parser: KqlParser, *, written: str, says: str
) -> None:
    change(rules, "query.kql", "let owners =", f"let legacy = {written};\nlet owners =")

    faults = faults_of(rules, engine, parser)
    assert any(f"with {says} in AzureDiagnostics" in fault for fault in faults), faults


def test_a_query_over_another_workspace_leaves_the_parser_as_it_was(parser: KqlParser) -> None:
    assert parser.check("AuditLogs | count", {}).errors
    assert not parser.check("AuditLogs | count").errors


def test_the_parser_gives_the_columns_of_the_answer(parser: KqlParser) -> None:
    assert parser.check("AuditLogs | project Id, n = 1").columns == (("Id", "string"), ("n", "long"))


def test_a_missing_parser_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ParserMissingError, match="npm install"):
        find_package({"AGENTDESK_NODE_MODULES": str(tmp_path)})


def test_a_parser_of_another_version_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "@kusto" / "language-service-next"
    folder.mkdir(parents=True)
    for name in ("bridge.min.js", "Kusto.Language.Bridge.min.js"):
        (folder / name).touch()
    (folder / "package.json").write_text('{"version": "11.0.0"}', encoding="utf-8")

    with pytest.raises(ParserMissingError, match=r"11\.0\.0"):
        find_package({"AGENTDESK_NODE_MODULES": str(tmp_path)})
