"""Each right of the deployment stands in a file of its own, says what it serves, and is none of the great ones."""

import re

import bicep
import pytest

ROLES = sorted(path.name for path in (bicep.INFRA / "roles").glob("*.bicep"))
# Azure's built-in roles by id (facts: recorded role definitions of public tests and samples).
EXPECTED = {
    "audit-publisher.bicep": "3913510d-42f4-4e42-8a64-420c390055eb",  # Monitoring Metrics Publisher
    "host-blobs.bicep": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",  # Storage Blob Data Owner
    "host-diagnostics.bicep": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",  # Storage Table Data Contributor
    "incident-commenter.bicep": "3e150937-b8fe-4cfb-8069-0eaf05ecd056",  # Microsoft Sentinel Responder
    "logs-reader.bicep": "3b03c2da-16b3-4a49-8834-0f8130efdd3b",  # Log Analytics Data Reader
    "playbook-trigger.bicep": "8d289c81-5878-46d4-8554-54e1e3d8b5cb",  # Microsoft Sentinel Reader
    "state-table.bicep": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",  # Storage Table Data Contributor
    "telemetry-publisher.bicep": "3913510d-42f4-4e42-8a64-420c390055eb",  # Monitoring Metrics Publisher
    "webhook-secrets.bicep": "4633458b-17de-408a-b874-0445c86b69e6",  # Key Vault Secrets User
}
# Owner, Contributor, User Access Administrator, Role Based Access Control Administrator, Storage Account Contributor,
# Microsoft Sentinel Contributor, Logic App Contributor.
GREAT = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
    "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
    "f58310d9-a9f6-439a-9e8d-f62e7b41a168",
    "17d1049b-9a84-46fb-8f53-869881c3d3ab",
    "ab8e14d6-4a74-4a29-9ba8-549422addade",
    "87a39d53-fc1b-424a-814c-f7e04687dc9e",
}


def test_the_rights_are_these_and_no_others():
    assert {name: bicep.load(f"roles/{name}").variable("roleId") for name in ROLES} == EXPECTED


RULES = bicep.INFRA / "sentinel" / "rules.json"  # queries that look for these very roles


def great_roles(text):
    return GREAT & set(re.findall(r"[0-9a-f-]{36}", text))


@pytest.mark.parametrize(
    "path",
    sorted({*bicep.INFRA.rglob("*.bicep"), *bicep.INFRA.rglob("*.json")} - {RULES}),
    ids=lambda path: path.name,
)
def test_no_great_role_anywhere(path):
    text = path.read_text()

    assert not great_roles(text)
    assert "Microsoft.Authorization/roleAssignments" not in text or path.parent.name == "roles"


@pytest.mark.parametrize("great", sorted(GREAT))
def test_a_great_role_would_be_noticed(great):
    text = bicep.load("roles/incident-commenter.bicep").source

    assert great_roles(text.replace(EXPECTED["incident-commenter.bicep"], great))


@pytest.mark.parametrize("name", bicep.files())
def test_rights_are_given_only_in_their_folder(name):
    assignments = [each for each in bicep.load(name).declared("resource") if "roleAssignments" in each.target]

    assert len(assignments) == (1 if name.startswith("roles/") else 0)


@pytest.mark.parametrize("name", ROLES)
def test_a_right_says_what_it_serves_and_is_given_to_a_service_principal_on_one_thing(name):
    file = bicep.load(f"roles/{name}")
    body = file.resource("assignment")

    assert file.source.startswith("// Serves: ")
    assert body["properties"]["principalType"] == "ServicePrincipal"
    assert body["properties"]["roleDefinitionId"].text.endswith("roleId)")
    assert body["scope"].text.removesuffix("[at]") in file.names("resource")


def test_of_the_vault_only_the_two_secrets_that_the_settings_name_can_be_read():
    secrets = bicep.load("roles/webhook-secrets.bicep").variable("secretNames")
    named = re.findall(r"\$\{vaultUrl\}/([\w-]+)", bicep.load("main.bicep").source)

    assert sorted(secrets) == sorted(named)
    assert len(secrets) == 2


def test_every_right_is_given_once():
    targets = [module.target for module in bicep.load("main.bicep").declared("module")]

    assert sorted(t for t in targets if t.startswith("roles/")) == [f"roles/{name}" for name in ROLES]


def test_the_app_waits_for_all_of_its_own_rights():
    modules = bicep.load("main.bicep").declared("module")
    (app,) = (module for module in modules if module.symbol == "app")
    own = {
        module.symbol
        for module in modules
        if module.target.startswith("roles/")
        and module.body["params"]["principalId"] == bicep.Expression("identity.outputs.principalId")
    }

    assert own <= {each.text for each in app.body["dependsOn"]}
    assert len(own) == 8
