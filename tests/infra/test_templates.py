"""The three JSON templates that are modules, because the published types do not hold their resources."""

import json
import re

import bicep
import pytest

TEMPLATES = ("private-endpoints.json", "resource-groups.json", "sentinel-connection.json")


def template(name):
    return json.loads((bicep.INFRA / "modules" / name).read_text())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_why_it_is_json_and_uses_every_parameter_and_no_other(name):
    told = template(name)
    text = json.dumps(told["resources"]) + json.dumps(told.get("outputs", {}))

    assert "JSON, because" in told["metadata"]["description"]
    assert set(re.findall(r"parameters\('(\w+)'\)", text)) == set(told["parameters"])
    assert all(each["metadata"]["description"] for each in told["parameters"].values())
    assert set(told) <= {"$schema", "contentVersion", "metadata", "parameters", "resources", "outputs"}


def test_each_endpoint_has_its_zone_group_and_waits_for_it():
    endpoint, group = template("private-endpoints.json")["resources"]
    (connection,) = endpoint["properties"]["privateLinkServiceConnections"]
    (zone,) = group["properties"]["privateDnsZoneConfigs"]

    assert endpoint["type"] == "Microsoft.Network/privateEndpoints"
    assert group["type"] == "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"
    assert connection["properties"]["groupIds"] == ["[parameters('endpoints')[copyIndex()].groupId]"]
    assert zone["properties"]["privateDnsZoneId"] == "[parameters('endpoints')[copyIndex()].zoneId]"
    assert group["dependsOn"] == [
        "[resourceId('Microsoft.Network/privateEndpoints', parameters('endpoints')[copyIndex()].name)]"
    ]
    assert endpoint["copy"]["count"] == group["copy"]["count"] == "[length(parameters('endpoints'))]"
    assert endpoint["copy"]["name"] != group["copy"]["name"]


def test_every_endpoint_passed_has_what_the_template_reads():
    modules = {module.symbol: module for module in bicep.load("main.bicep").declared("module")}
    endpoints = modules["privateEndpoints"].body["params"]["endpoints"]
    text = json.dumps(template("private-endpoints.json"))

    fields = set(re.findall(r"\[copyIndex\(\)\]\.(\w+)", text))
    assert all(set(endpoint) == fields for endpoint in endpoints)
    assert {(e["groupId"], e["serviceId"].text.split(".")[0]) for e in endpoints} == {
        ("blob", "hostStorage"),
        ("queue", "hostStorage"),
        ("table", "hostStorage"),
        ("table", "stateStorage"),
    }


def test_the_connection_to_sentinel_holds_no_secret():
    (connection,) = template("sentinel-connection.json")["resources"]

    assert connection["kind"] == "V1"
    assert connection["properties"]["parameterValueType"] == "Alternative"
    assert set(connection["properties"]) == {"displayName", "parameterValueType", "api"}
