"""Rules as Sentinel takes them."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from detections import catalog
from detections.catalog import Rule
from workbench import pages
from workbench.export import MAX_QUERY, as_arm, as_yaml, obstacles, write

RULES = catalog.load()
FITTING = [rule for rule in RULES if not obstacles(rule)]
KEYS = {
    *("id", "name", "description", "severity", "status", "requiredDataConnectors", "queryFrequency", "queryPeriod"),
    *("triggerOperator", "triggerThreshold", "tactics", "relevantTechniques", "query", "entityMappings"),
    *("customDetails", "alertDetailsOverride", "eventGroupingSettings", "incidentConfiguration", "version", "kind"),
}  # fmt: skip


@pytest.mark.parametrize("rule", FITTING, ids=lambda rule: rule.id)
def test_yaml_has_the_repositorys_fields_and_the_query_unchanged(rule: Rule) -> None:
    document = yaml.safe_load(as_yaml(rule))

    assert set(document) == KEYS
    assert "breaker" not in document
    assert not [t for c in document["requiredDataConnectors"] for t in c["dataTypes"] if t.endswith("_CL")]
    assert document["query"].split() == rule.sentinel_query().split()
    assert len(document["query"]) <= MAX_QUERY
    assert re.fullmatch(r"\d+[mhd]", document["queryFrequency"])
    assert set(document["customDetails"]) >= {"ServicePrincipalId", "AppId", "DetectionId", "Confidence"}


@pytest.mark.parametrize("rule", FITTING, ids=lambda rule: rule.id)
def test_arm_has_iso_durations_and_what_resource_manager_requires(rule: Rule) -> None:
    (resource,) = as_arm(rule)["resources"]
    properties = resource["properties"]

    assert resource["name"] == str(rule.sentinel_id)
    assert {
        "displayName",
        "enabled",
        "suppressionDuration",
        "suppressionEnabled",
        "query",
        "severity",
    } <= set(properties)
    for name in ("queryFrequency", "queryPeriod", "suppressionDuration"):
        assert re.fullmatch(r"P(\d+D)?(T(\d+H)?(\d+M)?)?", properties[name]), name
    assert properties["query"] == rule.sentinel_query()
    assert all("." not in technique for technique in properties["techniques"])


def test_a_rule_that_looks_back_too_far_is_left_out_and_told(tmp_path: Path) -> None:
    far = replace(FITTING[0], lookback=timedelta(days=90))
    long = replace(FITTING[1], query=FITTING[1].query + "// x\n" * MAX_QUERY)

    written, refused = write([far, long, FITTING[2]], tmp_path)

    assert written == [FITTING[2]]
    assert "14d at most" in refused[0][1][0]
    assert "10,000 at most" in refused[1][1][0]
    assert [file.name for file in (tmp_path / "sentinel").iterdir()] == [f"{FITTING[2].folder}.yaml"]
    assert json.loads((tmp_path / "arm" / f"{FITTING[2].folder}.json").read_text())["resources"]


def test_the_pages_of_the_rules_are_what_the_rules_say() -> None:
    assert pages.differences(pages.pages(RULES, catalog.DETECTIONS)) == [], "run python -m workbench docs"


def test_a_page_that_differs_or_belongs_to_no_rule_is_told(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("x")
    (tmp_path / "changed.md").write_text("x")

    assert pages.differences({"changed.md": "y", "new.md": "z"}, tmp_path) == [
        "changed.md",
        "new.md",
        "old.md (no such rule)",
    ]
