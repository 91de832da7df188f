"""Conditional Access for workload identities, as the pure function it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simtenant.conditional_access import Reason, Result, SignIn, evaluate, sign_in_of
from simtenant.tenant import Principal, Tenant

GRAPH = "00000003-0000-0000-c000-000000000000"
VAULT = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"
HQ = {
    "id": "hq",
    "@odata.type": "#microsoft.graph.ipNamedLocation",
    "isTrusted": True,
    "ipRanges": [{"cidrAddress": "198.51.100.0/24"}, {"cidrAddress": "2001:db8::/32"}],
}
PARTNER = {
    "id": "partner",
    "@odata.type": "#microsoft.graph.ipNamedLocation",
    "isTrusted": False,
    "ipRanges": [{"cidrAddress": "203.0.113.0/24"}],
}
HOME = {
    "id": "home",
    "@odata.type": "#microsoft.graph.countryNamedLocation",
    "countriesAndRegions": ["DE", "AT"],
    "includeUnknownCountriesAndRegions": False,
}
NOWHERE = {
    "id": "nowhere",
    "@odata.type": "#microsoft.graph.countryNamedLocation",
    "countriesAndRegions": [],
    "includeUnknownCountriesAndRegions": True,
}


def sign_in(**changes: Any) -> SignIn:
    values: dict[str, Any] = {
        "object_id": "agent",
        "covered": True,
        "agent": False,
        "resource_app_id": GRAPH,
        "ip_address": "198.51.100.10",
        "country": "DE",
        "risk_level": "high",
    }
    return SignIn(**values | changes)


def policy(state: str = "enabled", **conditions: Any) -> dict[str, Any]:
    basic = {
        "clientAppTypes": ["all"],
        "applications": {"includeApplications": ["All"]},
        "users": {"includeUsers": ["None"]},
        "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
    }
    return {
        "id": "policy",
        "displayName": "Policy",
        "state": state,
        "conditions": basic | conditions,
        "grantControls": {"operator": "OR", "builtInControls": ["block"]},
    }


def result(one: dict[str, Any], who: SignIn) -> Result:
    [applied] = evaluate([one], [HQ, PARTNER, HOME, NOWHERE], who).applied
    return applied.result


def blocks(one: dict[str, Any], who: SignIn) -> bool:
    return evaluate([one], [HQ, PARTNER, HOME, NOWHERE], who).blocked


def clients(include: list[str], exclude: list[str] | None = None) -> dict[str, Any]:
    return {"includeServicePrincipals": include, "excludeServicePrincipals": exclude or []}


def test_an_enabled_policy_blocks_who_it_covers() -> None:
    assert blocks(policy(), sign_in())


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("enabled", Result.FAILURE),
        ("enabledForReportingButNotEnforced", Result.REPORT_ONLY_FAILURE),
        ("disabled", Result.NOT_ENABLED),
        ("somethingNew", Result.NOT_ENABLED),
    ],
)
def test_only_the_state_enabled_blocks(state: str, expected: Result) -> None:
    assert result(policy(state), sign_in()) is expected
    assert blocks(policy(state), sign_in()) is (state == "enabled")


def test_a_report_only_policy_that_does_not_match_says_so() -> None:
    reported = policy("enabledForReportingButNotEnforced", servicePrincipalRiskLevels=["high"])

    assert result(reported, sign_in(risk_level="low")) is Result.REPORT_ONLY_NOT_APPLIED


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (clients(["ServicePrincipalsInMyTenant"]), True),
        (clients(["agent"]), True),
        (clients(["other"]), False),
        (clients([]), False),
        (clients(["ServicePrincipalsInMyTenant"], ["agent"]), False),
        (clients(["ServicePrincipalsInMyTenant"], ["other"]), True),
        (clients(["agent"], ["ServicePrincipalsInMyTenant"]), False),
        ({}, False),
        (None, False),
    ],
)
def test_the_scope_is_include_minus_exclude(scope: dict[str, Any] | None, covered: bool) -> None:
    assert blocks(policy(clientApplications=scope), sign_in()) is covered


def test_a_principal_outside_conditional_access_is_not_blocked_even_when_named() -> None:
    assert not blocks(policy(clientApplications=clients(["agent"])), sign_in(covered=False))


@pytest.mark.parametrize(("mode", "covered"), [("include", False), ("exclude", True)])
def test_no_principal_carries_the_attribute_a_filter_asks_for(mode: str, covered: bool) -> None:
    scope = clients(["ServicePrincipalsInMyTenant"]) | {
        "servicePrincipalFilter": {"mode": mode, "rule": 'CustomSecurityAttribute.Set_Attr -eq "v"'}
    }

    assert blocks(policy(clientApplications=scope), sign_in()) is covered


@pytest.mark.parametrize("level", ["none", "low", "medium", "high"])
def test_risk_must_be_among_the_levels_named(level: str) -> None:
    assert blocks(policy(servicePrincipalRiskLevels=["medium", "high"]), sign_in(risk_level=level)) is (
        level in {"medium", "high"}
    )


def test_risk_that_was_not_given_is_not_enough_information() -> None:
    [applied] = evaluate([policy(servicePrincipalRiskLevels=["high"])], [], sign_in(risk_level=None)).applied

    assert applied.reasons == (Reason.NOT_ENOUGH_INFORMATION,)


@pytest.mark.parametrize(
    ("applications", "covered"),
    [
        ({"includeApplications": ["All"]}, True),
        ({"includeApplications": [GRAPH]}, True),
        ({"includeApplications": [VAULT]}, False),
        ({"includeApplications": ["All"], "excludeApplications": [GRAPH]}, False),
        ({"includeApplications": ["None"]}, False),
        ({"includeApplications": ["AllAgentIdResources"]}, False),
        ({"includeApplications": [], "includeUserActions": ["urn:user:registersecurityinfo"]}, False),
        ({}, False),
    ],
)
def test_the_resource_must_be_in_scope(applications: dict[str, Any], covered: bool) -> None:
    assert blocks(policy(applications=applications), sign_in()) is covered


@pytest.mark.parametrize(
    ("include", "exclude", "ip", "country", "covered"),
    [
        (["All"], [], "192.0.2.1", "US", True),
        (["All"], ["AllTrusted"], "198.51.100.7", "DE", False),
        (["All"], ["AllTrusted"], "203.0.113.7", "DE", True),
        (["All"], ["AllTrusted"], "2001:db8::1", "DE", False),
        (["All"], ["hq", "partner"], "203.0.113.7", "DE", False),
        (["partner"], [], "203.0.113.7", "DE", True),
        (["partner"], [], "198.51.100.7", "DE", False),
        (["AllTrusted"], [], "198.51.100.7", "DE", True),
        (["All"], ["home"], "192.0.2.1", "AT", False),
        (["All"], ["home"], "192.0.2.1", "US", True),
        (["nowhere"], [], "192.0.2.1", None, True),
        (["home"], [], "192.0.2.1", None, False),
        (["deleted"], [], "192.0.2.1", "DE", False),
        (["hq"], [], "not an address", "DE", False),
    ],
)
def test_locations_are_include_minus_exclude(
    include: list[str], exclude: list[str], ip: str, country: str | None, covered: bool
) -> None:
    placed = policy(locations={"includeLocations": include, "excludeLocations": exclude})

    assert blocks(placed, sign_in(ip_address=ip, country=country)) is covered


def test_a_location_cannot_be_judged_without_an_origin() -> None:
    nowhere = sign_in(ip_address=None, country=None)
    [applied] = evaluate([policy(locations={"includeLocations": ["hq"]})], [HQ], nowhere).applied
    [everywhere] = evaluate([policy(locations={"includeLocations": ["All"]})], [HQ], nowhere).applied

    assert applied.reasons == (Reason.NOT_ENOUGH_INFORMATION,)
    assert everywhere.result is Result.FAILURE


@pytest.mark.parametrize(
    "condition",
    [
        {"userRiskLevels": ["high"]},
        {"signInRiskLevels": ["high"]},
        {"platforms": {"includePlatforms": ["all"]}},
        {"clientAppTypes": ["exchangeActiveSync", "other"]},
    ],
)
def test_conditions_meant_for_users_never_match_a_principal(condition: dict[str, Any]) -> None:
    assert not blocks(policy(**condition), sign_in())


def test_a_policy_without_block_blocks_nobody() -> None:
    asks = policy() | {"grantControls": {"operator": "OR", "builtInControls": ["mfa"]}}
    empty = policy() | {"grantControls": None}

    assert not blocks(asks, sign_in())
    assert not blocks(empty, sign_in())


def test_an_agent_identity_is_reached_by_agent_conditions_only() -> None:
    agent = sign_in(covered=False, agent=True)
    for_agents = {"includeAgentIdServicePrincipals": ["All"]}

    assert not blocks(policy(), agent)
    assert blocks(policy(clientApplications=for_agents, agentIdRiskLevels="high"), agent)
    assert blocks(policy(clientApplications=for_agents, agentIdRiskLevels="medium, high"), agent)
    assert not blocks(policy(clientApplications=for_agents, agentIdRiskLevels="medium"), agent)
    assert not blocks(policy(clientApplications=for_agents, servicePrincipalRiskLevels=["high"]), agent)
    excluded = for_agents | {"excludeAgentIdServicePrincipals": ["agent"]}
    assert not blocks(policy(clientApplications=excluded), agent)


def test_agent_conditions_do_not_reach_a_service_principal() -> None:
    assert not blocks(policy(clientApplications={"includeAgentIdServicePrincipals": ["All"]}), sign_in())
    assert not blocks(policy(agentIdRiskLevels="high"), sign_in())


def test_which_kinds_of_principal_are_covered() -> None:
    tenant = Tenant()
    blueprint = tenant.add_agent_blueprint("blueprint")
    saas = tenant.add_application("saas", sign_in_audience="AzureADMultipleOrgs")
    graph = tenant.principal_by_app_id(GRAPH)
    assert graph is not None

    def covered(principal: Principal) -> bool:
        return sign_in_of(principal, VAULT, None, None, None).covered

    assert covered(tenant.add_application("own"))
    for other in (
        saas,
        graph,
        blueprint,
        tenant.add_managed_identity("vm"),
        tenant.add_agent_identity("agent", blueprint=blueprint),
    ):
        assert not covered(other)


def test_the_status_of_the_sign_in_follows_from_the_policies() -> None:
    other = policy(clientApplications=clients(["other"]))

    assert evaluate([], [], sign_in()).status == "notApplied"
    assert evaluate([other], [], sign_in()).status == "notApplied"
    assert evaluate([policy("enabledForReportingButNotEnforced")], [], sign_in()).status == "notApplied"
    assert evaluate([other, policy()], [], sign_in()).status == "failure"


@given(
    state=st.sampled_from(["disabled", "enabledForReportingButNotEnforced"]),
    level=st.sampled_from(["none", "low", "medium", "high"]),
    covered=st.booleans(),
    agent=st.booleans(),
)
def test_a_policy_that_is_not_enabled_never_blocks(
    state: str, level: str, covered: bool, agent: bool
) -> None:
    who = sign_in(risk_level=level, covered=covered, agent=agent)

    assert not blocks(policy(state, servicePrincipalRiskLevels=["high"]), who)
    assert not blocks(policy(state), who)


@given(level=st.sampled_from(["none", "low", "medium", "high"]), name=st.sampled_from(["agent", "other"]))
def test_excluding_a_principal_never_blocks_it(level: str, name: str) -> None:
    scope = clients(["ServicePrincipalsInMyTenant", name], [name])

    assert not blocks(policy(clientApplications=scope), sign_in(object_id=name, risk_level=level))
