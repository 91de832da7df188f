"""
Which identity is which, in the one file that joins the modules.

Object ids and client ids, the app's and the playbook's, tenant and subscription are all GUIDs: no type tells them apart, and
a template that mixes them deploys. So each place is written down here, word for word.
"""

import re

import bicep
import pytest
import yaml
from bicep import INFRA, ROOT

WIRED = {
    "main.bicep": (
        "callerObjectIds: concat([playbookIdentity.outputs.principalId], callerObjectIds)",
        "callerClientIds: concat([playbookIdentity.outputs.clientId], callerClientIds)",
        "AzureWebJobsStorage__clientId: identity.outputs.clientId",
        "AGENTBREAKER_CLIENT_ID: identity.outputs.clientId",
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.outputs.clientId};Authorization=AAD'",
        "AGENTBREAKER_TENANT_ID: subscription().tenantId",
        # Without its own identity among these the app could contain itself.
        "concat([identity.outputs.principalId, playbookIdentity.outputs.principalId], ownPrincipals)",
        "audience: 'api://${apiClientId}'",
        "var privateStorage = !empty(privateEndpointSubnetId)",
        "output AGENTBREAKER_APP_PRINCIPAL_ID string = identity.outputs.principalId",
        "output AGENTBREAKER_APP_CLIENT_ID string = identity.outputs.clientId",
        "output AGENTBREAKER_PLAYBOOK_PRINCIPAL_ID string = playbookIdentity.outputs.principalId",
        "output AZURE_TENANT_ID string = subscription().tenantId",
    ),
    "modules/app.bicep": (
        "enabled: !empty(apiClientId)",
        "openIdIssuer: '${environment().authentication.loginEndpoint}${tenantId}/v2.0'",
        "clientId: apiClientId",
        "'api://${apiClientId}'",
        "ipSecurityRestrictionsDefaultAction: empty(allowedIpRanges) ? 'Allow' : 'Deny'",
    ),
    "modules/storage.bicep": (
        "publicNetworkAccess: privateOnly ? 'Disabled' : 'Enabled'",
        "defaultAction: privateOnly ? 'Deny' : 'Allow'",
    ),
}
APP, PLAYBOOK = "identity.outputs.principalId", "playbookIdentity.outputs.principalId"
ROLES = {
    "audit-publisher": (APP, "appResourceGroup"),
    "host-blobs": (APP, "appResourceGroup"),
    "host-diagnostics": (APP, "appResourceGroup"),
    "incident-commenter": (APP, "workspaceResourceGroup"),
    "logs-reader": (APP, "workspaceResourceGroup"),
    "playbook-trigger": (PLAYBOOK, "workspaceResourceGroup"),
    "state-table": (APP, "appResourceGroup"),
    "telemetry-publisher": (APP, "appResourceGroup"),
    "webhook-secrets": (APP, "webhookVaultResourceGroup"),
}


def text(file):
    return " ".join((INFRA / file).read_text().split())


@pytest.mark.parametrize(
    ("file", "words"), [(file, words) for file, lines in WIRED.items() for words in lines]
)
def test_the_right_id_is_in_the_right_place(file, words):
    assert words in text(file)


@pytest.mark.parametrize("role", sorted(path.stem for path in (INFRA / "roles").glob("*.bicep")))
def test_each_role_goes_to_its_identity_in_its_group(role):
    found = re.search(
        rf"^module \w+ 'roles/{role}\.bicep'.*?^\}}",
        (INFRA / "main.bicep").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    body = found[0]

    assert (
        re.search(r"principalId: (\S+)", body)[1],
        re.search(r"scope: resourceGroup\((?:empty\(\w+\) \? \w+ : )?(\w+)\)", body)[1],
    ) == ROLES[role]


def test_state_and_host_are_different_accounts():
    """Who may write the package's account must not be able to write the ledger."""
    main = (INFRA / "main.bicep").read_text()
    state = re.search(r"^module \w+ 'roles/state-table\.bicep'.*?^\}", main, re.MULTILINE | re.DOTALL)[0]
    host = re.search(r"^module \w+ 'roles/host-blobs\.bicep'.*?^\}", main, re.MULTILINE | re.DOTALL)[0]

    assert "stateStorage." in state
    assert "hostStorage." not in state
    assert "hostStorage." in host


def test_both_groups_are_locked_by_default_and_last():
    main = (INFRA / "main.bicep").read_text()

    assert "param lockGroups bool = true" in main
    for group in ("appResourceGroup", "playbookResourceGroup"):
        assert re.search(
            rf"'modules/lock\.bicep' = if \(lockGroups\) \{{\s+name: '[^']+'\s+scope: resourceGroup\({group}\)",
            main,
        )


def test_bins_are_as_long_as_the_queries_think_and_days_begin_at_midnight():
    baselines = text("modules/baselines.bicep")

    assert "binSize: baseline.binMinutes" in baselines
    assert "binStartTime: baseline.binMinutes == 1440 ? '${firstDay}T00:00:00Z' : null" in baselines


def test_every_deployment_of_an_environment_begins_its_days_at_the_same_one():
    assert "firstDay: empty(firstBinDay) ? today : firstBinDay" in text("main.bicep")
    assert '"firstBinDay": { "value": "${AGENTBREAKER_FIRST_BIN_DAY=}" }' in text("main.parameters.json")
    hook = yaml.safe_load((ROOT / "azure.yaml").read_text())["hooks"]["preprovision"]
    for shell in hook.values():
        assert shell["run"].startswith("azd env get-value AGENTBREAKER_FIRST_BIN_DAY ")
        assert "azd env set AGENTBREAKER_FIRST_BIN_DAY" in shell["run"]


def test_two_environments_of_a_subscription_do_not_share_the_name_of_a_deployment_to_it():
    modules = bicep.load("main.bicep").declared("module")

    assert [m.body["name"].text for m in modules if "scope" not in m.body] == [
        "'agentbreaker-groups-${suffix}'"
    ]
