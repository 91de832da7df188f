"""The playbook hands over an id, as itself, for our audience, and leaves nothing readable behind."""

import json

import bicep
import pytest

from handlers.models import IncidentBody

TEXT = (bicep.INFRA / "playbook" / "definition.json").read_text()
ARM = "https://management.azure.com"


def definition():
    return json.loads(TEXT)


def call():
    (action,) = definition()["actions"].values()
    return action


def test_it_calls_as_its_own_identity_for_our_audience_and_never_for_resource_manager():
    authentication = call()["inputs"]["authentication"]
    modules = {module.symbol: module for module in bicep.load("main.bicep").declared("module")}

    assert authentication == {
        "type": "ManagedServiceIdentity",
        "identity": "{{IDENTITY}}",
        "audience": "{{AUDIENCE}}",
    }
    assert modules["playbook"].body["params"]["audience"].text == "'api://${apiClientId}'"
    assert ARM not in TEXT
    assert all(ARM not in bicep.load(name).source for name in bicep.files())


def test_what_it_sends_is_what_the_app_reads_and_no_more():
    body = call()["inputs"]["body"]

    assert body == {"object": {"id": "@triggerBody()?['object']?['id']"}}
    assert IncidentBody.model_validate({"object": {"id": "/subscriptions/x"}}).object.id
    assert call()["inputs"]["uri"] == "https://{{HOST}}/api/incidents"
    assert call()["inputs"]["method"] == "POST"


def test_it_tries_again_with_growing_waits_and_polls_nothing():
    """The app answers 200 when it is done; it never says 202."""
    retry = call()["inputs"]["retryPolicy"]

    assert (retry["type"], retry["count"]) == ("exponential", 4)
    assert call()["operationOptions"] == "DisableAsyncPattern"


@pytest.mark.parametrize("part", ["triggers", "actions"])
def test_run_histories_hide_inputs_and_outputs(part):
    for step in definition()[part].values():
        assert set(step["runtimeConfiguration"]["secureData"]["properties"]) == {"inputs", "outputs"}


def test_it_holds_no_secret_and_no_other_step():
    lowered = TEXT.lower()

    for word in ("secret", "password", "sig=", "code=", "sharedaccess", "apikey", "x-functions-key"):
        assert word not in lowered
    assert [step["type"] for step in definition()["actions"].values()] == ["Http"]
    (trigger,) = definition()["triggers"].values()
    assert (trigger["type"], trigger["inputs"]["path"]) == ("ApiConnectionWebhook", "/incident-creation")


def test_every_place_that_is_filled_in_is_filled_in():
    file = bicep.load("modules/playbook.bicep")
    text = TEXT

    for place in ("{{HOST}}", "{{IDENTITY}}", "{{AUDIENCE}}"):
        assert text.count(place) == 1
        assert f"'{place}'" in file.source
        text = text.replace(place, "x")
    assert "{{" not in text


def test_without_an_app_registration_there_is_no_playbook_and_no_automation_rule():
    source = bicep.load("main.bicep").source

    assert "module playbook 'modules/playbook.bicep' = if (withPlaybook)" in source
    assert "var withPlaybook = !empty(apiClientId)" in source
    assert "'modules/automation-rule.bicep' = if (withPlaybook)" in source
