from datetime import timedelta

import pytest

from clients import errors
from clients.sentinel import ForeignIncident, NotAnIncident, _alert, incident_arm_id

WORKSPACE = "/subscriptions/1f0b6c2e-9d3a-4a57-b5a4-0e8d7c6b5a49/resourceGroups/rg/providers/Microsoft.OperationalInsights/workspaces/law"
NAME = "33333333-3333-4333-8333-333333333333"


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_has_a_class_and_no_write_is_called_undone_without_word(status):
    read, write = (errors.from_status("s", "w", status, write=w) for w in (False, True))

    assert type(read) is not errors.ClientError
    if status >= 500 or status == 408 or status < 400:
        assert isinstance(write, errors.OutcomeUnknown)
    assert not isinstance(read, errors.OutcomeUnknown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", timedelta(seconds=5)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", timedelta(0)),
        ("soon", None),
        ("", None),
        ("-3", None),
    ],
)
def test_retry_after_is_read_in_both_forms(text, expected):
    assert errors.retry_after({"Retry-After": text}) == expected


def test_an_incident_id_is_rebuilt_from_our_own_workspace():
    given = f"{WORKSPACE.upper()}/PROVIDERS/microsoft.securityinsights/incidents/{NAME}"

    assert (
        incident_arm_id(given, WORKSPACE)
        == f"{WORKSPACE}/providers/Microsoft.SecurityInsights/incidents/{NAME}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        NAME,
        f"{WORKSPACE}/providers/Microsoft.SecurityInsights/Incidents/../../x",
        f"{WORKSPACE}/providers/Microsoft.SecurityInsights/Incidents/{NAME}?x=1",
        f"https://evil.example{WORKSPACE}/providers/Microsoft.SecurityInsights/Incidents/{NAME}",
    ],
)
def test_what_is_no_incident_id_reaches_no_path(text):
    with pytest.raises(NotAnIncident):
        incident_arm_id(text, WORKSPACE)


def test_another_workspace_is_foreign():
    with pytest.raises(ForeignIncident):
        incident_arm_id(f"{WORKSPACE}2/providers/Microsoft.SecurityInsights/Incidents/{NAME}", WORKSPACE)


@pytest.mark.parametrize("details", [None, "", "[]", "{", '{"ServicePrincipalId": "x"}', 7])
def test_custom_details_that_cannot_be_read_name_nobody(details):
    alert = _alert({"name": "a", "properties": {"additionalData": {"Custom Details": details}}})

    assert alert.custom_details == {}


def test_the_rule_of_an_alert_is_read_from_its_type_and_its_list():
    other = "44444444-4444-4444-8444-444444444444"
    data = {"Analytic Rule Ids": f'["{other}", "not a guid"]', "Custom Details": '{"AppId": ["x", "y"]}'}

    alert = _alert(
        {"name": "a", "properties": {"alertType": f"{NAME}_{NAME.upper()}", "additionalData": data}}
    )

    assert alert.rule_ids == {NAME, other}
    assert alert.custom_details["AppId"] == ("x", "y")
