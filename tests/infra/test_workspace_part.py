"""Tables, summary rules, analytics rules, watchlist, alerts: what the workspace gets is what the app's own files say."""

import csv
import json
import re
from datetime import timedelta

import bicep
import pytest
import yaml

from detections import catalog
from workbench.__main__ import main
from workbench.export import as_list, obstacles

RULES = catalog.load()
COMMITTED = json.loads((bicep.INFRA / "sentinel" / "rules.json").read_text())
BASELINES = yaml.safe_load((bicep.ROOT / "detections" / "baselines" / "baselines.yaml").read_text())
SCHEMAS = bicep.ROOT / "workbench" / "schemas"
WATCHLIST = bicep.INFRA / "sentinel" / "agent-inventory.csv"


def minutes(text):
    return int(catalog.duration(text) / timedelta(minutes=1))


def test_the_committed_rules_are_what_the_rules_say():
    assert (bicep.INFRA / "sentinel" / "rules.json").read_text() == as_list(RULES), (
        "run python -m workbench export --bicep infra/sentinel/rules.json"
    )


def test_the_command_writes_the_committed_list(tmp_path, capsys):
    target = tmp_path / "new" / "rules.json"

    assert main(["export", "--bicep", str(target)]) == 0

    assert json.loads(target.read_text()) == COMMITTED
    assert f"{len(COMMITTED)} rules written" in capsys.readouterr().out


def test_every_rule_that_sentinel_takes_is_in_the_list_once():
    assert [rule["id"] for rule in COMMITTED] == [rule.id for rule in RULES if not obstacles(rule)]
    assert len({rule["name"] for rule in COMMITTED}) == len(COMMITTED)
    # The GA version of the type knows no other kind that has a query.
    assert {rule["kind"] for rule in COMMITTED} == {"Scheduled"}


def test_bicep_passes_on_every_property_of_every_rule():
    body = bicep.load("modules/analytics-rules.bicep").resource("analyticsRules")["properties"]

    for rule in COMMITTED:
        assert set(body) == {*rule["properties"], "enabled"}
    assert all(each.text == f"rule.properties.{n}" for n, each in body.items() if n != "enabled")
    assert body["enabled"].text == "enabled"


def test_the_automation_rule_names_the_rules_by_id():
    file = bicep.load("modules/automation-rule.bicep")
    body = file.resource("runPlaybook")["properties"]
    (condition,) = body["triggeringLogic"]["conditions"]

    assert condition["conditionProperties"]["propertyName"] == "IncidentRelatedAnalyticRuleIds"
    assert condition["conditionProperties"]["propertyValues"] == bicep.Expression("ruleIds")
    assert "for rule in rules: extensionResourceId(workspace.id" in str(file.variable("ruleIds"))
    assert file.variable("rules") == bicep.Expression("loadJsonContent('../sentinel/rules.json')")
    assert [action["actionType"] for action in body["actions"]] == ["RunPlaybook"]


def test_tables_and_summary_rules_are_those_of_the_baselines():
    file = bicep.load("modules/baselines.bicep")
    deployed = {each["table"]: each for each in file.variable("baselines")}

    assert set(deployed) == {baseline["table"] for baseline in BASELINES}
    for baseline in BASELINES:
        each = deployed[baseline["table"]]
        assert each["columns"].text == f"loadJsonContent('../../workbench/schemas/{baseline['table']}.json')"
        assert each["query"].text == f"loadTextContent('../../detections/baselines/{baseline['query']}')"
        assert each["binMinutes"] == minutes(baseline["bin"])
        assert each["delayMinutes"] == minutes(baseline["delay"])
        assert 20 <= each["binMinutes"] <= 1440


@pytest.mark.parametrize("table", ["AgentbreakerAudit_CL", *(each["table"] for each in BASELINES)])
def test_columns_have_types_that_tables_and_streams_take(table):
    columns = dict(json.loads((SCHEMAS / f"{table}.json").read_text()))

    assert columns["TimeGenerated"] == "datetime"
    # Table types are the same but for dateTime, which Bicep spells so.
    assert set(columns.values()) <= {"string", "int", "long", "real", "datetime", "dynamic"}


def test_the_audit_table_and_the_stream_have_the_columns_of_the_schema_file():
    load = "loadJsonContent('../../workbench/schemas/AgentbreakerAudit_CL.json')"
    rule = bicep.load("modules/audit-rule.bicep")
    flow = rule.resource("rule")["properties"]["dataFlows"][0]

    assert bicep.load("modules/audit.bicep").variable("columns").text == load
    assert rule.variable("columns").text == load
    assert flow["outputStream"] == "Custom-AgentbreakerAudit_CL"
    assert flow["streams"] == list(rule.resource("rule")["properties"]["streamDeclarations"])


def test_the_watchlist_has_the_columns_that_rules_read():
    page = (bicep.ROOT / "docs" / "rules.md").read_text()
    table = page[page.index("| `SearchKey` |") :].partition("\n\n")[0]
    read = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines())))
    header, *rows = csv.reader(WATCHLIST.read_text().splitlines())

    # Sentinel makes SearchKey out of the column that the watchlist names as its key.
    assert set(header) == (read - {"SearchKey"}) | {"ObjectId", "DisplayName"}
    assert (
        bicep.load("modules/inventory.bicep").resource("inventory")["properties"]["itemsSearchKey"]
        == "ObjectId"
    )
    ended = header.index("ExpiresOn")
    assert rows
    assert all(row[ended] < "2001" and len(row) == len(header) for row in rows)


def test_alerts_have_what_the_module_reads():
    source = bicep.load("modules/alerts.bicep").source
    read = set(re.findall(r"\balert\.(\w+)", source))
    alerts = yaml.safe_load((bicep.INFRA / "monitoring" / "alerts.yaml").read_text())

    assert read == {
        "name",
        "title",
        "description",
        "runbook",
        "severity",
        "every",
        "window",
        "threshold",
        "split",
        "query",
    }
    assert all(read <= set(alert) for alert in alerts)
    assert len({alert["name"] for alert in alerts}) == len(alerts)


def test_what_an_alert_leaves_to_the_deployment_is_written_in():
    text = (bicep.INFRA / "monitoring" / "alerts.yaml").read_text()
    modules = {module.symbol: module for module in bicep.load("main.bicep").declared("module")}

    left_open = set(re.findall(r'"([A-Z]+_[A-Z]+)"', text))
    written_in = dict(re.findall(r"'([A-Z]+_[A-Z]+)', (\w+)\)", bicep.load("modules/alerts.bicep").source))
    assert left_open == set(written_in) == {"LEDGER_ACCOUNT", "APP_PRINCIPAL"}
    given = modules["alerts"].body["params"]
    assert given[written_in["LEDGER_ACCOUNT"]].text == "stateStorage.outputs.name"
    assert given[written_in["APP_PRINCIPAL"]].text == "identity.outputs.principalId"


@pytest.mark.parametrize(
    "file", sorted(path.name for path in (bicep.ROOT / "detections" / "baselines").glob("*.kql"))
)
def test_a_summary_rules_query_defines_no_function(file):
    """Summary rules take none (summary-rules.md: "User-defined functions aren't supported"); one refused stops a deployment."""
    query = (bicep.ROOT / "detections" / "baselines" / file).read_text()

    assert not re.search(r"\blet\s+\w+\s*=\s*\(", query)
