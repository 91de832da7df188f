import base64
import json

import pytest

from clients import policies
from clients.errors import Malformed
from clients.graph import calls, directory
from clients.graph import risk as risks
from clients.terms import Kind, RiskLevel, TenantId

TENANT = TenantId("11111111-1111-4111-8111-111111111111")
OTHER = "99999999-9999-4999-8999-999999999999"
MICROSOFT = "f8cdef31-a31e-4b4a-93e4-5f571e91255a"
ID = "7c9e6679-7425-4de4-944b-e07fc1f90ae7"


def kind(**found):
    owner = found.pop("owner", TENANT)
    return directory._kind(found, owner and TenantId(owner), TENANT)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"servicePrincipalType": "Application", "signInAudience": "AzureADMyOrg"}, Kind.APPLICATION),
        (
            {"servicePrincipalType": "Application", "signInAudience": "AzureADMultipleOrgs"},
            Kind.MULTITENANT_APPLICATION,
        ),
        ({"servicePrincipalType": "Application", "signInAudience": None}, Kind.MULTITENANT_APPLICATION),
        (
            {"servicePrincipalType": "Application", "signInAudience": "AzureADMyOrg", "owner": OTHER},
            Kind.FOREIGN_APPLICATION,
        ),
        (
            {"servicePrincipalType": "Application", "signInAudience": "AzureADMyOrg", "owner": MICROSOFT},
            Kind.MICROSOFT,
        ),
        ({"servicePrincipalType": "ManagedIdentity", "owner": None}, Kind.MANAGED_IDENTITY),
        ({"servicePrincipalType": "ServiceIdentity"}, Kind.AGENT_IDENTITY),
        (
            {"@odata.type": "#microsoft.graph.agentIdentity", "servicePrincipalType": "Application"},
            Kind.AGENT_IDENTITY,
        ),
        (
            {
                "@odata.type": "#microsoft.graph.agentIdentityBlueprintPrincipal",
                "servicePrincipalType": "Application",
            },
            Kind.AGENT_BLUEPRINT,
        ),
        ({"servicePrincipalType": "Application", "owner": None}, Kind.OTHER),
        ({"servicePrincipalType": "Legacy"}, Kind.OTHER),
        ({}, Kind.OTHER),
    ],
)
def test_the_kind_of_identity_is_told_and_what_is_unclear_is_no_application(found, expected):
    assert kind(**found) is expected


def test_risk_words_that_are_not_known_are_unknown_and_not_none():
    risk = risks._risk({"id": ID, "riskLevel": "catastrophic", "riskState": "atRisk", "isProcessing": "no"})

    assert (risk.level, risk.state, risk.is_processing) == (None, "atRisk", None)
    assert not risk.confirmed


def test_high_risk_that_is_still_processing_is_not_confirmed():
    done = {"id": ID, "riskLevel": "high", "riskState": "confirmedCompromised", "isProcessing": False}

    assert risks._risk(done).confirmed
    assert not risks._risk(done | {"isProcessing": True}).confirmed
    assert risks._risk(done).microsoft_says is None
    assert risks._risk(done | {"riskState": "atRisk"}).microsoft_says is RiskLevel.HIGH


def policy(**conditions):
    return policies.policy_from_graph(
        {
            "id": "ABC",
            "state": "enabled",
            "conditions": {
                "clientAppTypes": ["all"],
                "users": {"includeUsers": ["None"]},
                "applications": {"includeApplications": ["All"], "excludeApplications": []},
                "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
                "servicePrincipalRiskLevels": ["high"],
                "locations": None,
                "userRiskLevels": [],
                **conditions,
            },
            "grantControls": {"operator": "OR", "builtInControls": ["block"]},
        }
    )


def test_a_plain_risk_policy_is_read_whole():
    found = policy()

    assert (found.id, found.blocks, found.other_conditions) == ("abc", True, ())
    assert found.include_applications == {"all"}


@pytest.mark.parametrize(
    "condition",
    [
        {"locations": {"includeLocations": ["All"]}},
        {"somethingOfNextYear": {"x": 1}},
        {"clientAppTypes": ["browser"]},
        {
            "clientApplications": {
                "includeServicePrincipals": ["x"],
                "servicePrincipalFilter": {"mode": "include"},
            }
        },
        {"applications": {"includeApplications": ["All"], "applicationFilter": {"mode": "exclude"}}},
    ],
)
def test_a_condition_that_is_not_evaluated_is_named(condition):
    assert policy(**condition).other_conditions


def test_our_own_identity_is_read_from_our_token_and_nonsense_is_an_error():
    def token(claims):
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return f"x.{payload}.y"

    assert calls._own_claims(token({"oid": ID.upper(), "roles": ["A"]})) == (ID, {"A"})
    for text in ("", "x", "x.y.z", token({}), token({"oid": "me"}), token([])):
        with pytest.raises(Malformed):
            calls._own_claims(text)
