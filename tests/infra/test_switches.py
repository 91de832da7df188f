"""
The switches of docs/hardening.md: each is on, and each test can fail.

Every check is made twice: on the file as it is, where it holds, and on a copy in which the switch is turned, where it
must not.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import bicep
import pytest

APP, STORAGE, MAIN, PLAYBOOK = (
    "modules/app.bicep",
    "modules/storage.bicep",
    "main.bicep",
    "modules/playbook.bicep",
)
DEFINITION = "playbook/definition.json"
AUTH = "identityProviders.azureActiveDirectory.validation"


@dataclass(frozen=True)
class Switch:
    """A switch by its name in docs/hardening.md, how it is read, and how it is turned."""

    name: str
    file: str
    holds: Callable[[str], bool]
    written: str
    turned: str


def is_set(symbol: str, path: str, wanted: object) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        try:
            return bicep.at(bicep.Bicep(text, bicep.INFRA).resource(symbol), path) == wanted
        except KeyError:
            return False

    return holds


def defaults_to(name: str, wanted: object) -> Callable[[str], bool]:
    return lambda text: bicep.Bicep(text, bicep.INFRA).defaults().get(name) == wanted


def setting(name: str, wanted: object) -> Callable[[str], bool]:
    return lambda text: re.search(rf"^  {name}: {re.escape(str(wanted))}$", text, re.MULTILINE) is not None


def steps_hide(text: str) -> bool:
    steps = [step for part in ("triggers", "actions") for step in json.loads(text)[part].values()]
    return all(
        {"inputs", "outputs"} == set(step.get("runtimeConfiguration", {}).get("secureData", {}).get("properties", ()))
        for step in steps
    )  # fmt: skip


def callers_are_named(text: str) -> bool:
    policy = bicep.at(
        bicep.Bicep(text, bicep.INFRA).resource("auth"), f"properties.{AUTH}.defaultAuthorizationPolicy"
    )
    return policy == {
        "allowedPrincipals": {
            "identities": bicep.Expression("callerObjectIds"),
            "groups": bicep.Expression("callerGroupIds"),
        },
        "allowedApplications": bicep.Expression("callerClientIds"),
    }


OUR_AUDIENCES = ["api://${apiClientId}", "apiClientId"]


def audiences_are_ours(text: str) -> bool:
    audiences = bicep.at(
        bicep.Bicep(text, bicep.INFRA).resource("auth"), f"properties.{AUTH}.allowedAudiences"
    )
    return [
        each.text.strip("'") if isinstance(each, bicep.Expression) else each for each in audiences
    ] == OUR_AUDIENCES


SWITCHES = (
    Switch("https-only", APP, is_set("site", "properties.httpsOnly", True), "httpsOnly: true", "httpsOnly: false"),
    Switch("site-tls", APP, is_set("site", "properties.siteConfig.minTlsVersion", "1.2"), "  minTlsVersion: '1.2'", "  minTlsVersion: '1.0'"),
    Switch("scm-tls", APP, is_set("site", "properties.siteConfig.scmMinTlsVersion", "1.2"), "scmMinTlsVersion: '1.2'", "scmMinTlsVersion: '1.1'"),
    Switch("ftp-off", APP, is_set("site", "properties.siteConfig.ftpsState", "Disabled"), "ftpsState: 'Disabled'", "ftpsState: 'AllAllowed'"),
    Switch("remote-debugging-off", APP, is_set("site", "properties.siteConfig.remoteDebuggingEnabled", False), "remoteDebuggingEnabled: false", "remoteDebuggingEnabled: true"),
    Switch("ssh-off", APP, is_set("site", "properties.sshEnabled", False), "sshEnabled: false", "sshEnabled: true"),
    Switch("publishing-password-off", APP, is_set("noPublishingPassword", "properties.allow", False), "name: 'scm'\n  properties: {\n    allow: false", "name: 'scm'\n  properties: {\n    allow: true"),
    Switch("ftp-password-off", APP, is_set("noFtpPassword", "properties.allow", False), "name: 'ftp'\n  properties: {\n    allow: false", "name: 'ftp'\n  properties: {\n    allow: true"),
    Switch("one-identity", APP, is_set("site", "identity.type", "UserAssigned"), "identity: {\n    type: 'UserAssigned'", "identity: {\n    type: 'SystemAssigned, UserAssigned'"),
    Switch("package-by-identity", APP, is_set("site", "properties.functionAppConfig.deployment.storage.authentication.type", "UserAssignedIdentity"), "type: 'UserAssignedIdentity'", "type: 'StorageAccountConnectionString'"),
    Switch("easy-auth-on", APP, is_set("auth", "properties.platform.enabled", True), "platform: {\n      enabled: true", "platform: {\n      enabled: false"),
    Switch("easy-auth-required", APP, is_set("auth", "properties.globalValidation.requireAuthentication", True), "requireAuthentication: true", "requireAuthentication: false"),
    Switch("easy-auth-401", APP, is_set("auth", "properties.globalValidation.unauthenticatedClientAction", "Return401"), "'Return401'", "'AllowAnonymous'"),
    Switch("only-health-open", APP, is_set("auth", "properties.globalValidation.excludedPaths", ["/api/health"]), "'/api/health'", "'/api/health'\n        '/api/incidents'"),
    Switch("easy-auth-https", APP, is_set("auth", "properties.httpSettings.requireHttps", True), "requireHttps: true", "requireHttps: false"),
    Switch("our-audience-only", APP, audiences_are_ours, "'api://${apiClientId}'\n", "'api://${apiClientId}'\n            'https://management.azure.com'\n"),
    Switch("callers-named", APP, callers_are_named, "identities: callerObjectIds", "identities: []"),
    Switch("storage-keys-off", STORAGE, is_set("account", "properties.allowSharedKeyAccess", False), "allowSharedKeyAccess: false", "allowSharedKeyAccess: true"),
    Switch("public-blobs-off", STORAGE, is_set("account", "properties.allowBlobPublicAccess", False), "allowBlobPublicAccess: false", "allowBlobPublicAccess: true"),
    Switch("storage-tls", STORAGE, is_set("account", "properties.minimumTlsVersion", "TLS1_2"), "minimumTlsVersion: 'TLS1_2'", "minimumTlsVersion: 'TLS1_0'"),
    Switch("storage-https", STORAGE, is_set("account", "properties.supportsHttpsTrafficOnly", True), "supportsHttpsTrafficOnly: true", "supportsHttpsTrafficOnly: false"),
    Switch("local-users-off", STORAGE, is_set("account", "properties.isLocalUserEnabled", False), "isLocalUserEnabled: false", "isLocalUserEnabled: true"),
    Switch("no-copy-to-other-tenants", STORAGE, is_set("account", "properties.allowCrossTenantReplication", False), "allowCrossTenantReplication: false", "allowCrossTenantReplication: true"),
    Switch("ledger-writes-logged", STORAGE, is_set("tableLog", "properties.logs", [{"category": "StorageWrite", "enabled": True}, {"category": "StorageDelete", "enabled": True}]), "category: 'StorageDelete'\n        enabled: true", "category: 'StorageDelete'\n        enabled: false"),
    Switch("storage-by-identity", MAIN, setting("AzureWebJobsStorage__credential", "'managedidentity'"), "AzureWebJobsStorage__credential: 'managedidentity'", "AzureWebJobsStorage: 'AccountKey=x'"),
    Switch("telemetry-keys-off", "modules/insights.bicep", is_set("component", "properties.DisableLocalAuth", True), "DisableLocalAuth: true", "DisableLocalAuth: false"),
    Switch("audit-table-queryable", "modules/audit.bicep", is_set("auditTable", "properties.plan", "Analytics"), "plan: 'Analytics'", "plan: 'Auxiliary'"),
    Switch("run-history-closed", PLAYBOOK, defaults_to("runHistoryRanges", ["127.0.0.1/32"]), "'127.0.0.1/32'", "'0.0.0.0/0'"),
    Switch("run-history-hides", DEFINITION, steps_hide, '"properties": ["inputs", "outputs"]', '"properties": ["inputs"]'),
    Switch("groups-locked", "modules/lock.bicep", is_set("lock", "properties.level", "CanNotDelete"), "'CanNotDelete'", "'NotSpecified'"),
    Switch("locks-by-default", MAIN, defaults_to("lockGroups", True), "param lockGroups bool = true", "param lockGroups bool = false"),
    Switch("observe-by-default", MAIN, defaults_to("mode", "observe"), "param mode string = 'observe'", "param mode string = 'enforce'"),
    Switch("nothing-without-a-protected-list", MAIN, defaults_to("protectedPrincipals", ""), "param protectedPrincipals string = ''", "param protectedPrincipals string = 'none'"),
    Switch("wide-levers-off", MAIN, lambda text: defaults_to("disablePrincipal", "off")(text) and defaults_to("removalLevers", False)(text), "param removalLevers bool = false", "param removalLevers bool = true"),
)  # fmt: skip
by_name = pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)


@by_name
def test_the_switch_is_on(switch):
    assert switch.holds((bicep.INFRA / switch.file).read_text())


@by_name
def test_a_turned_switch_is_noticed(switch):
    text = (bicep.INFRA / switch.file).read_text()
    turned = text.replace(switch.written, switch.turned, 1)

    assert turned != text, "the switch is not written as this test thinks"
    assert not switch.holds(turned)


@by_name
def test_a_switch_that_is_left_out_is_noticed(switch):
    """The platform's default would count then."""
    text = (bicep.INFRA / switch.file).read_text()
    if switch.file.endswith(".json"):
        without = text.replace("runtimeConfiguration", "left_out")
    else:
        first = switch.written.splitlines()[-1].strip()
        without = "\n".join(line for line in text.splitlines() if first not in line)

    assert not switch.holds(without)


def test_the_switches_are_those_of_the_page():
    page = (bicep.ROOT / "docs" / "hardening.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)

    assert listed == [switch.name for switch in SWITCHES]


def test_the_default_of_main_for_run_histories_is_the_modules():
    assert (
        bicep.load(MAIN).defaults()["runHistoryRanges"] == bicep.load(PLAYBOOK).defaults()["runHistoryRanges"]
    )


def test_no_file_writes_a_key_or_a_password():
    for name in bicep.files():
        assert not re.search(
            r"listKeys|AccountKey=|SharedAccessKey|@secure\(\)|password:", bicep.load(name).source
        )


@pytest.mark.parametrize("page", ["hardening.md", "deploy.md"])
def test_files_that_the_page_names_are_there(page):
    text = (bicep.ROOT / "docs" / page).read_text()
    named = re.findall(r"`((?:infra|handlers|response|detections|clients|tests|\.github)/[\w./-]+)`", text)

    assert named
    assert [path for path in named if not (bicep.ROOT / path).exists()] == []
