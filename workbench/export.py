"""
``python -m workbench export``: the rules as Sentinel takes them, YAML of its content repository and ARM templates.

``--bicep FILE`` writes the one list that ``infra/modules/analytics-rules.bicep`` loops over instead.

Field names, limits and enums: Azure-Sentinel's detection template validators and service limits
(``facts/sentinel-rule-format.md``), ``Microsoft.SecurityInsights/alertRules`` 2025-09-01. A rule that Sentinel would
refuse is not bent to fit: it stays in the app, and the export says why.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from detections.catalog import Kind, Rule, duration_text, load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

MAX_QUERY: Final = 10_000  # characters
SHORTEST, LONGEST = timedelta(minutes=5), timedelta(days=14)
_LONG_PERIOD: Final = timedelta(days=2)  # from here on Sentinel runs a rule once an hour at most
_GROUPED_FOR: Final = timedelta(hours=5)
_API: Final = "2025-09-01"
_CONTENT_VERSION: Final = "1.0.0.0"
_SCHEMA: Final = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"


def obstacles(rule: Rule) -> tuple[str, ...]:
    """Say why Sentinel could not run a rule on a schedule; empty when it can. The app runs it either way."""
    found = []
    needs = rule.window + rule.late_arrival + rule.lookback
    if rule.kind is Kind.SCHEDULED and needs > LONGEST:
        found.append(
            f"it reads {needs.days} days back, and a scheduled rule looks back {duration_text(LONGEST)} at most"
        )
    length = len(rule.sentinel_query())
    if length > MAX_QUERY:
        found.append(f"its query has {length:,} characters, and a rule's query has {MAX_QUERY:,} at most")
    if rule.lifts:
        found.append(
            f"its weight is in lifting later findings of {', '.join(rule.lifts)}, which only the app does; "
            "as a rule of its own it would raise an incident for every blocked prompt"
        )
    return tuple(found)


def as_yaml(rule: Rule) -> str:
    """Give a rule in the form of Sentinel's content repository."""
    scheduled = rule.kind is Kind.SCHEDULED
    document: dict[str, Any] = {
        "id": str(rule.sentinel_id),
        "name": rule.name,
        "description": rule.description,
        "severity": str(rule.severity),
        "status": "Available",
        "requiredDataConnectors": _connectors(rule),
    }
    if scheduled and rule.query_frequency and rule.query_period:
        document |= {
            "queryFrequency": duration_text(rule.query_frequency),
            "queryPeriod": duration_text(rule.query_period),
            "triggerOperator": "gt",
            "triggerThreshold": 0,
        }
    document |= {
        "tactics": list(rule.tactics),
        "relevantTechniques": list(rule.techniques),
        "query": rule.sentinel_query(),
        "entityMappings": _entity_mappings(rule),
        "customDetails": dict(rule.custom_details),
        "alertDetailsOverride": {"alertDescriptionFormat": "{{Reason}}"},
        "eventGroupingSettings": {"aggregationKind": "AlertPerResult"},
        "incidentConfiguration": _incidents(rule, duration_text),
        "version": rule.version,
        "kind": str(rule.kind),
    }
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def as_arm(rule: Rule) -> dict[str, Any]:
    """Give a deployment template with the one rule; parameters ``workspace`` (its name) and ``enabled``."""
    properties: dict[str, Any] = {
        "displayName": rule.name,
        "description": rule.description,
        "severity": str(rule.severity),
        "enabled": "[parameters('enabled')]",
        "query": rule.sentinel_query(),
        "suppressionEnabled": False,
        "suppressionDuration": _iso(_GROUPED_FOR),
        "tactics": list(rule.tactics),
        # The published type has no field for sub-techniques.
        "techniques": list(dict.fromkeys(technique.partition(".")[0] for technique in rule.techniques)),
        "entityMappings": _entity_mappings(rule),
        "customDetails": dict(rule.custom_details),
        "alertDetailsOverride": {"alertDescriptionFormat": "{{Reason}}"},
        "eventGroupingSettings": {"aggregationKind": "AlertPerResult"},
        "incidentConfiguration": _incidents(rule, _iso),
        "templateVersion": rule.version,
    }
    if rule.kind is Kind.SCHEDULED and rule.query_frequency and rule.query_period:
        properties |= {
            "queryFrequency": _iso(rule.query_frequency),
            "queryPeriod": _iso(rule.query_period),
            "triggerOperator": "GreaterThan",
            "triggerThreshold": 0,
        }
    return {
        "$schema": _SCHEMA,
        "contentVersion": _CONTENT_VERSION,
        "parameters": {
            "workspace": {
                "type": "string",
                "metadata": {"description": "Name of the Log Analytics workspace with Sentinel."},
            },
            "enabled": {
                "type": "bool",
                "defaultValue": True,
                "metadata": {"description": "Whether Sentinel runs the rule."},
            },
        },
        "resources": [
            {
                "type": "Microsoft.SecurityInsights/alertRules",
                "apiVersion": _API,
                "name": str(rule.sentinel_id),
                "scope": "[format('Microsoft.OperationalInsights/workspaces/{0}', parameters('workspace'))]",
                "kind": str(rule.kind),
                "properties": properties,
            }
        ],
    }


def as_list(rules: Sequence[Rule]) -> str:
    """Give the rules that fit as one JSON array of ``id``, ``name``, ``kind`` and ``properties``: what Bicep deploys in a loop."""
    entries = []
    for rule in rules:
        if obstacles(rule):
            continue
        (resource,) = as_arm(rule)["resources"]
        properties = {name: value for name, value in resource["properties"].items() if name != "enabled"}
        entries.append(
            {"id": rule.id, "name": resource["name"], "kind": resource["kind"], "properties": properties}
        )
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def write(rules: Sequence[Rule], out: Path) -> tuple[list[Rule], list[tuple[Rule, tuple[str, ...]]]]:
    """Write every rule that fits as ``out/sentinel/*.yaml`` and ``out/arm/*.json``; give these, and why others do not."""
    written: list[Rule] = []
    refused: list[tuple[Rule, tuple[str, ...]]] = []
    for form in ("sentinel", "arm"):
        (out / form).mkdir(parents=True, exist_ok=True)
    for rule in rules:
        why = obstacles(rule)
        if why:
            refused.append((rule, why))
            continue
        (out / "sentinel" / f"{rule.folder}.yaml").write_text(as_yaml(rule), encoding="utf-8")
        template = json.dumps(as_arm(rule), indent=2, ensure_ascii=False)
        (out / "arm" / f"{rule.folder}.json").write_text(template + "\n", encoding="utf-8")
        written.append(rule)
    return written, refused


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "export",
        help="write the rules as Sentinel YAML and ARM templates",
        description="Write DIR/sentinel/*.yaml (the form of Sentinel's content repository) and DIR/arm/*.json (deployment "
        "templates), one file a rule. A rule that Sentinel would refuse is left out, and told with its reason.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("dist/rules"), metavar="DIR", help="default: dist/rules"
    )
    parser.add_argument(
        "--bicep",
        type=Path,
        metavar="FILE",
        help="write one JSON array for infra/modules/analytics-rules.bicep instead (infra/sentinel/rules.json)",
    )
    parser.set_defaults(command=_export)


def _export(parsed: argparse.Namespace) -> int:
    rules = load(parsed.rules)
    if parsed.bicep:
        text = as_list(rules)
        parsed.bicep.parent.mkdir(parents=True, exist_ok=True)
        parsed.bicep.write_text(text, encoding="utf-8")
        print(f"{len(json.loads(text))} rules written to {parsed.bicep}")
        return 0
    written, refused = write(rules, parsed.out)
    for rule in written:
        print(f"✓ {rule.id} {rule.name}")
    for rule, why in refused:
        print(f"- {rule.id} {rule.name}: stays in the app: {'; '.join(why)}")
    print(
        f"{len(written)} rules written to {parsed.out}/sentinel and {parsed.out}/arm, {len(refused)} left out"
    )
    return 0


def _connectors(rule: Rule) -> list[dict[str, Any]]:
    """Leave out our own baseline tables: no connector brings them, summary rules do."""
    brought = {
        connector: [table for table in tables if not table.endswith("_CL")]
        for connector, tables in rule.connectors.items()
    }
    return [
        {"connectorId": connector, "dataTypes": tables} for connector, tables in brought.items() if tables
    ]


def _entity_mappings(rule: Rule) -> list[dict[str, Any]]:
    return [
        {
            "entityType": mapping.entity_type,
            "fieldMappings": [
                {"identifier": identifier, "columnName": column} for identifier, column in mapping.fields
            ],
        }
        for mapping in rule.entity_mappings
    ]


def _incidents(rule: Rule, written: Callable[[timedelta], str]) -> dict[str, Any]:
    """Group alerts about one principal: a rule looks again at what may have changed, and finds the same again."""
    return {
        "createIncident": True,
        "groupingConfiguration": {
            "enabled": True,
            "reopenClosedIncident": False,
            "lookbackDuration": written(max(rule.quiet_for, _GROUPED_FOR)),
            "matchingMethod": "Selected",
            "groupByEntities": [],
            "groupByAlertDetails": [],
            "groupByCustomDetails": ["ServicePrincipalId"],
        },
    }


def _iso(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours}H" * (hours > 0) + f"{minutes}M" * (minutes > 0)
    return "P" + f"{days}D" * (days > 0) + (f"T{time}" if time else "") if span else "PT0M"


class _Dumper(yaml.SafeDumper):
    """Long texts as literal blocks, lists indented: what people review is the query."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # PyYAML's signature
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A literal block cannot hold a line that ends in a blank.
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    block = "\n" in text
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", lines + "\n" if block else text, style="|" if block else None
    )


_Dumper.add_representer(str, _text)
