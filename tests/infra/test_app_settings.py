"""The settings that the deployment writes are the ones the app reads, and it can read them."""

import re

import bicep
import pytest

from handlers.auth import Role
from response.policy import Mode
from settings import SETTINGS, Settings, SettingsError

MAIN = bicep.load("main.bicep")
TUNED = "its default is the safe side; parameter otherSettings changes it"
NOT_WRITTEN = {
    "AGENTBREAKER_AUTOMATIC_SHARE_PERCENT": TUNED,
    "AGENTBREAKER_AUTOMATIC_PER_OWNER": TUNED,
    "AGENTBREAKER_EVIDENCE_MAX_AGE_MINUTES": TUNED,
    "AGENTBREAKER_APPROVAL_HOURS": TUNED,
    "AGENTBREAKER_PROBATION_HOURS": TUNED,
    "AGENTBREAKER_WHAT_IF": TUNED,
    "AGENTBREAKER_BATCH_SIZE": TUNED,
    "AGENTBREAKER_POLICIES_MAX_AGE_SECONDS": TUNED,
    "AGENTBREAKER_DORMANT_AFTER_DAYS": TUNED,
    "AGENTBREAKER_SIGN_IN_ACTIVITY_REPORT": TUNED,
    "AGENTBREAKER_AUTHORITY_URL": "the default is the public cloud; another cloud writes it with otherSettings",
    "AGENTBREAKER_GRAPH_URL": "the default is the public cloud; another cloud writes it with otherSettings",
    "AGENTBREAKER_LOGS_URL": "the default is the public cloud; another cloud writes it with otherSettings",
    "AGENTBREAKER_ARM_URL": "the default is the public cloud; another cloud writes it with otherSettings",
    "AGENTBREAKER_CLIENT_SECRET": "never in Azure: the app is its managed identity",
    "AGENTBREAKER_CA_BUNDLE": "for a proxy that inspects TLS; otherSettings",
    "WEBSITE_AUTH_ENABLED": "written by the platform when Easy Auth is on; nobody else may say so",
}
OF_THE_HOST = {
    *(f"AzureWebJobsStorage__{service}ServiceUri" for service in ("blob", "queue", "table")),
    *("AzureWebJobsStorage__credential", "AzureWebJobsStorage__clientId"),
    *("APPLICATIONINSIGHTS_CONNECTION_STRING", "APPLICATIONINSIGHTS_AUTHENTICATION_STRING"),
    "PYTHON_ENABLE_OPENTELEMETRY",
}
# What the expressions of main.bicep stand for, with made-up names.
GUID = "11111111-1111-4111-8111-111111111111"
KNOWN_AT_DEPLOYMENT = {
    "AGENTBREAKER_TENANT_ID": GUID,
    "AGENTBREAKER_WORKSPACE_ID": GUID,
    "AGENTBREAKER_WORKSPACE_RESOURCE_ID": f"/subscriptions/{GUID}/resourceGroups/rg/providers/Microsoft.OperationalInsights/workspaces/law",
    "AGENTBREAKER_OWN_PRINCIPALS": f"{GUID},22222222-2222-4222-8222-222222222222",
    "AGENTBREAKER_AUDIT_ENDPOINT": "https://dcr-x.westeurope-1.ingest.monitor.azure.com",
    "AGENTBREAKER_AUDIT_RULE_ID": "dcr-" + "0" * 32,
    "AGENTBREAKER_CLIENT_ID": GUID,
}


def written() -> dict:
    """The object literal that wins over otherSettings."""
    text = MAIN.variable("settings").text
    head, _, literal = text.partition(",")
    assert head == "union(otherSettings"
    return bicep.Bicep(f"var settings = {literal.strip()[:-1]}\n", MAIN.path).variable("settings")


def env() -> dict[str, str]:
    """What the app would read after a deployment with the defaults of main.bicep."""
    defaults = MAIN.defaults()
    found = {}
    for name, value in written().items():
        if not name.startswith("AGENTBREAKER_"):
            continue
        if isinstance(value, str):
            found[name] = value
        elif name in KNOWN_AT_DEPLOYMENT:
            found[name] = KNOWN_AT_DEPLOYMENT[name]
        elif name == "AGENTBREAKER_STORE":
            assert value.text == "'${stateStorage.outputs.tableEndpoint}${storeTable}'"
            found[name] = f"https://ststatex.table.core.windows.net/{MAIN.variable('storeTable')}"
        else:
            found[name] = from_parameter(value.text, defaults)
    return found


def from_parameter(text: str, defaults: dict) -> str:
    if text in defaults:
        return defaults[text]
    if call := re.fullmatch(r"string\((\w+)\)", text):
        return str(defaults[call[1]])
    if choice := re.fullmatch(r"(\w+) \? 'true' : 'false'", text):
        return "true" if defaults[choice[1]] else "false"
    empty = re.match(r"empty\((\w+)\) \? '' : ", text)
    assert empty, text
    assert defaults[empty[1]] == ""
    return ""


def test_every_setting_is_written_or_has_a_reason_not_to_be():
    known = {setting.name for setting in SETTINGS} - OF_THE_HOST
    ours = {name for name in written() if name.startswith("AGENTBREAKER_")}

    assert ours - known == set()
    assert known - ours == set(NOT_WRITTEN)
    assert set(written()) - ours == OF_THE_HOST


def test_the_app_can_read_what_a_deployment_with_defaults_writes_and_touches_nothing():
    settings = Settings.from_env({**env(), "WEBSITE_SITE_NAME": "func-x", "WEBSITE_AUTH_ENABLED": "True"})

    assert settings.mode is Mode.OBSERVE
    assert settings.protected is None  # nothing is contained until somebody says what is protected
    assert settings.store.endswith("/agentbreaker")
    assert len(settings.own_principals) == 2


def test_a_setting_that_is_misspelled_in_other_settings_stops_the_app():
    with pytest.raises(SettingsError, match="AGENTBREAKER_WHATIF is no setting"):
        Settings.from_env({**env(), "AGENTBREAKER_WHATIF": "true"})


def test_defaults_of_the_deployment_are_the_defaults_of_the_app():
    by_name = {setting.name: setting for setting in SETTINGS}
    decided = {*KNOWN_AT_DEPLOYMENT, "AGENTBREAKER_STORE"}

    assert {n: v for n, v in env().items() if n not in decided} == {
        n: by_name[n].default for n in env() if n not in decided
    }


def test_every_timer_has_its_schedule():
    source = (bicep.ROOT / "function_app.py").read_text()
    named = set(re.findall(r"%(AGENTBREAKER_\w+)%", source))

    assert named
    assert named <= set(written())


def test_the_table_is_the_one_that_is_made_and_given_rights_to():
    modules = {module.symbol: module.body.get("params", {}) for module in MAIN.declared("module")}

    assert modules["stateStorage"]["tableName"].text == "storeTable"
    assert modules["stateTable"]["tableName"].text == "storeTable"
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,62}", MAIN.variable("storeTable"))


def test_the_modes_that_may_be_chosen_are_the_apps():
    allowed = re.findall(r"'(\w+)'", MAIN.decorated()["mode"].split("@allowed")[1])

    assert set(allowed) == set(Mode)


def test_the_app_roles_that_the_documents_assign_are_the_apps():
    page = (bicep.ROOT / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"`((?:Incident|Containment|Signal)\.\w+)`", page))

    assert named == set(Role)


def test_what_flex_consumption_refuses_is_not_written():
    """azure-skills consumption-to-flex.md: settings of the older plan."""
    refused = {"FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "WEBSITE_RUN_FROM_PACKAGE"}

    assert refused.isdisjoint(written())
    assert "AzureWebJobsStorage" not in written()
    assert "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY" not in written()
