"""What a compiler would say of symbols, modules and loaded files, as far as that is cheap to ask."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bicep
import pytest
import yaml

SHARED = Path(os.environ.get("AGENTDESK_SHARED", bicep.ROOT.parent / "shared"))
CHECKER = SHARED / "tools" / "check_bicep.py"
FILES = bicep.files()
RULES = json.loads((bicep.INFRA / "sentinel" / "rules.json").read_text())
LOADED = re.compile(r"load(Json|Text|Yaml)Content\('([^']+)'\)")
needs_types = pytest.mark.skipif(
    not CHECKER.is_file(), reason=f"NOT RUN: {CHECKER} is absent (set AGENTDESK_SHARED)"
)
# Kinds and streams are open lists in the published types, and these two are not on them.
WARNINGS = ("rule.kind: 'Direct'", "streams[]: 'Custom-AgentbreakerAudit_CL'")


@pytest.mark.parametrize("name", FILES)
def test_every_name_is_declared_and_every_parameter_used(name):
    file = bicep.load(name)

    assert not file.broken()
    assert bicep.unresolved(file) == []
    assert file.names("parameter") - bicep.used(file) == set()
    assert file.names("variable") - bicep.used(file) == set()


@pytest.mark.parametrize("name", FILES)
def test_every_parameter_and_output_says_what_it_is(name):
    for symbol, decorators in bicep.load(name).decorated().items():
        assert re.search(r"@description\('.{3,}'\)", decorators), f"{name}: {symbol}"


def contract_faults(file):
    faults = []
    for module in file.declared("module"):
        given, outputs = bicep.contract(file, module.target)
        passed = set(module.body.get("params", {}))
        faults += [f"{module.symbol} has no parameter {name}" for name in sorted(passed - set(given))]
        wanted = {name for name, must in given.items() if must}
        faults += [f"{module.symbol} wants {name}" for name in sorted(wanted - passed)]
        read = set(re.findall(rf"\b{module.symbol}\.outputs\.(\w+)", file.source))
        faults += [f"{module.symbol} gives no {name}" for name in sorted(read - outputs)]
        if module.conditional and read:
            faults.append(f"{module.symbol} may not be there and its outputs are read")
    return faults


@pytest.mark.parametrize("name", FILES)
def test_modules_get_what_they_ask_for_and_give_what_is_read(name):
    assert contract_faults(bicep.load(name)) == []


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("    tableName: storeTable\n    privateOnly", "    tableNam: storeTable\n    privateOnly", "no parameter tableNam"),
        ("    redundancy: storageRedundancy\n", "", "wants redundancy"),
        ("workspace.outputs.customerId", "workspace.outputs.guid", "gives no guid"),
        ("appHost: app.outputs.host", "appHost: privateEndpoints.outputs.host", "may not be there"),
    ],
)  # fmt: skip
def test_a_broken_module_contract_is_told(written, instead, told):
    file = bicep.load("main.bicep")
    assert written in file.source

    faults = contract_faults(bicep.Bicep(file.source.replace(written, instead), file.path))

    assert any(told in fault for fault in faults)


def test_a_misspelled_name_is_told():
    file = bicep.load("modules/app.bicep")
    wrong = file.source.replace("serverFarmId: plan.id", "serverFarmId: plann.id").replace(
        "concat(", "conkat("
    )

    assert bicep.unresolved(bicep.Bicep(wrong, file.path)) == ["conkat()", "plann"]


@pytest.mark.parametrize("name", FILES)
def test_loaded_files_exist_and_can_be_read(name):
    file = bicep.load(name)

    for kind, target in LOADED.findall(file.source):
        text = (file.path.parent / target).read_text()
        # Bicep's own limits for loaded files (131,072 characters of text, 1,048,576 of JSON or YAML).
        assert len(text) <= (131_072 if kind == "Text" else 1_048_576)
        if kind != "Text":
            assert json.loads(text) if kind == "Json" else yaml.safe_load(text)


@pytest.mark.parametrize("name", FILES)
def test_no_name_is_declared_twice(name):
    file = bicep.load(name)
    kinds = ("parameter", "variable", "resource", "module")
    declared = [node.named_children[0].text for kind in kinds for node in file.declarations(kind)]

    assert len(declared) == len(set(declared))


def waits_for(file):
    """Module to the modules it waits for, by dependsOn or because it reads what they give."""
    modules = {
        node.named_children[0].text.decode(): node.text.decode() for node in file.declarations("module")
    }
    read = {v: set(re.findall(r"\b(\w+)\.outputs\.", str(file.variable(v)))) for v in file.names("variable")}
    found = {}
    for symbol, text in modules.items():
        listed = {each.text for each in bicep.declared_in(file, symbol).body.get("dependsOn", [])}
        through = set().union(
            *(each for v, each in read.items() if re.search(rf": {v}$", text, re.MULTILINE))
        )
        found[symbol] = (set(re.findall(r"\b(\w+)\.outputs\.", text)) | listed | through) & set(modules)
    return found


def reached(symbol, waits):
    direct = waits[symbol]
    return direct.union(*(reached(each, waits) for each in direct))


def groupless(file):
    waits = waits_for(file)
    made = re.compile(r"scope: resourceGroup\((appResourceGroup|playbookResourceGroup)\)")
    nodes = {node.named_children[0].text.decode(): node.text.decode() for node in file.declarations("module")}
    return [s for s, text in nodes.items() if made.search(text) and "groups" not in reached(s, waits)]


def test_nothing_is_put_into_a_group_before_the_group_is_there():
    assert groupless(bicep.load("main.bicep")) == []


def test_a_module_that_does_not_wait_for_its_group_is_told():
    file = bicep.load("main.bicep")
    text = file.source.replace(
        "    workspaceId: workspace.outputs.id\n  }\n  dependsOn: [\n    groups\n  ]\n}\n\nmodule alerts",
        "    workspaceId: workspace.outputs.id\n  }\n}\n\nmodule alerts",
    )
    assert text != file.source

    assert groupless(bicep.Bicep(text, file.path)) == ["workbook"]


def test_names_of_deployments_differ():
    names = [str(module.body["name"]) for module in bicep.load("main.bicep").declared("module")]

    assert len(names) == len(set(names))
    assert all(len(name) <= 64 for name in names)


def test_the_parameter_file_gives_what_has_no_default_and_nothing_else():
    given = json.loads((bicep.INFRA / "main.parameters.json").read_text())["parameters"]
    parameters = bicep.load("main.bicep").parameters()

    assert set(given) <= set(parameters)
    assert {name for name, must in parameters.items() if must} <= set(given)


def test_the_environment_gives_only_text_to_the_parameter_file():
    """azd puts text where a variable is named; a list or a truth value is edited in the file."""
    given = json.loads((bicep.INFRA / "main.parameters.json").read_text())["parameters"]
    types = dict(re.findall(r"^param (\w+) (\S+)", bicep.load("main.bicep").source, re.MULTILINE))

    for name, entry in given.items():
        if isinstance(entry["value"], str) and "${" in entry["value"]:
            assert types[name] == "string"


def test_azd_finds_the_app_by_its_tag():
    project = yaml.safe_load((bicep.ROOT / "azure.yaml").read_text())
    app = {module.symbol: module for module in bicep.load("main.bicep").declared("module")}["app"]

    assert project["services"] == {"api": {"project": ".", "language": "python", "host": "function"}}
    assert "'azd-service-name': 'api'" in app.body["params"]["tags"].text
    assert "AZURE_RESOURCE_GROUP" in bicep.load("main.bicep").names("output")
    assert project["infra"] == {"provider": "bicep", "path": "infra", "module": "main"}


def literal(value):
    """Write a value as Bicep would."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            # As long as it is, but in one line and with nothing to put in.
            return "'" + re.sub(r"[\\\n'$]", "_", value) + "'"
        case list():
            return "[\n" + "".join(f"{literal(item)}\n" for item in value) + "]"
        case dict():
            return "{\n" + "".join(f"{name}: {literal(item)}\n" for name, item in value.items()) + "}"
    raise TypeError(value)


def rules_as_bicep():
    return "".join(
        f"resource rule{at} 'Microsoft.SecurityInsights/alertRules@2025-09-01' = "
        + literal(
            {
                "name": rule["name"],
                "kind": rule["kind"],
                "properties": {**rule["properties"], "enabled": True},
            }
        )
        + "\n"
        for at, rule in enumerate(RULES)
    )


def checked(path):
    done = subprocess.run(
        [sys.executable, str(CHECKER), str(path)], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout.splitlines()


@needs_types
def test_the_values_of_every_analytics_rule_fit_the_published_type(tmp_path):
    """In the module they are expressions, which the checker of types cannot see through."""
    file = tmp_path / "rules.bicep"
    file.write_text(rules_as_bicep())

    assert checked(file) == (
        0,
        [f"1 files, {len(RULES)} resources checked, 0 findings"],
    )


@needs_types
@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("'CredentialAccess'", "'CredentialTheft'", "'CredentialTheft' is not one of"),
        ("triggerThreshold: 0", "triggerThreshold: '0'", "string where IntegerType expected"),
        ("suppressionEnabled", "suppresionEnabled", "unknown property"),
    ],
)
def test_a_rule_that_does_not_fit_is_told(tmp_path, written, instead, told):
    file = tmp_path / "rules.bicep"
    text = rules_as_bicep()
    assert written in text
    file.write_text(text.replace(written, instead, 1))

    _, findings = checked(file)

    assert any(told in line for line in findings)


@needs_types
def test_every_resource_fits_azures_published_types():
    status, (*findings, summary) = checked(bicep.INFRA)

    assert status == 0, findings
    assert [line for line in findings if not any(known in line for known in WARNINGS)] == []
    assert int(re.match(r"\d+ files, (\d+) resources", summary)[1]) >= 30
