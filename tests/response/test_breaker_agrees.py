"""
Our answer against the token endpoint's judge of the simulated tenant, over random policies and principals.

The two were written from the same facts and share no code. Where ours says armed, every sign-in at high risk is refused,
to whatever resource and from wherever; where it says not covered or only reported, none is.
"""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, ServicePrincipal
from response.breaker import Breaker, Coverage
from response.coverage import About
from simtenant.conditional_access import evaluate, sign_in_of
from simtenant.tenant import Principal, PrincipalKind

GRAPH, VAULT = "00000003-0000-0000-c000-000000000000", "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"
HQ = {
    "id": "11111111-0000-4000-8000-00000000000a",
    "@odata.type": "#microsoft.graph.ipNamedLocation",
    "isTrusted": True,
    "ipRanges": [{"cidrAddress": "198.51.100.0/24"}],
}
STATES = ["enabled", "enabled", "enabled", "enabledForReportingButNotEnforced", "disabled", "new"]
CREATED = datetime(2026, 7, 1, tzinfo=UTC)
PLACES = [("198.51.100.10", "DE"), ("203.0.113.9", "US")]
IDS = [str(uuid.UUID(int=number)) for number in range(1, 4)]
APP_IDS = [str(uuid.UUID(int=number)) for number in range(101, 104)]

# (kind in the simulated tenant, sign-in audience, kind as our Graph client reads it)
KINDS = [
    (PrincipalKind.APPLICATION, "AzureADMyOrg", Kind.APPLICATION),
    (PrincipalKind.APPLICATION, "AzureADMyOrg", Kind.APPLICATION),
    (PrincipalKind.APPLICATION, "AzureADMultipleOrgs", Kind.MULTITENANT_APPLICATION),
    (PrincipalKind.MANAGED_IDENTITY, None, Kind.MANAGED_IDENTITY),
    (PrincipalKind.AGENT_IDENTITY, None, Kind.AGENT_IDENTITY),
    (PrincipalKind.AGENT_IDENTITY, None, Kind.AGENT_IDENTITY),
    (PrincipalKind.AGENT_BLUEPRINT, "AzureADMyOrg", Kind.AGENT_BLUEPRINT),
    (PrincipalKind.MICROSOFT_FIRST_PARTY, "AzureADMultipleOrgs", Kind.MICROSOFT),
]


@st.composite
def policies(draw):
    def some(*values, most=2):
        return draw(st.lists(st.sampled_from(values), max_size=most))

    def mostly(usual, *others):
        return usual if draw(st.integers(0, 19)) < 18 else draw(st.sampled_from(others))

    everyone = ["ServicePrincipalsInMyTenant"]
    conditions = {
        "clientAppTypes": mostly(["all"], ["browser"], [], ["exchangeActiveSync", "other"]),
        "applications": mostly(
            {"includeApplications": ["All"]},
            {"includeApplications": some("All", GRAPH, VAULT, "None"), "excludeApplications": some(VAULT, "All")},
            {"includeUserActions": ["urn:user:registerdevice"]},
            {},
            None,
        ),
        "users": mostly({"includeUsers": ["None"]}, {"includeUsers": ["All"]}, {"includeGroups": [IDS[0]]}, None),
        "clientApplications": mostly(
            {
                "includeServicePrincipals": mostly(everyone, some(*IDS, *APP_IDS, "None"), []),
                "excludeServicePrincipals": mostly([], some(*IDS), everyone),
                "includeAgentIdServicePrincipals": mostly(["All"], some(*IDS), []),
                "excludeAgentIdServicePrincipals": mostly([], some(*IDS), ["All"]),
                "servicePrincipalFilter": mostly(
                    None,
                    *({"mode": mode, "rule": f'CustomSecurityAttribute.S_A {operator} "x"'}
                      for mode in ("include", "exclude") for operator in ("-eq", "-ne")),
                ),
            },
            {"includeServicePrincipals": everyone},
            {"includeAgentIdServicePrincipals": ["All"]},
            None,
        ),
        "servicePrincipalRiskLevels": mostly(["high"], ["high", "medium"], ["medium"], [], None),
        "agentIdRiskLevels": mostly(None, "high", "medium,high", "low", ""),
        "locations": mostly(
            None,
            {"includeLocations": ["All"]},
            {"includeLocations": some("All", "AllTrusted", HQ["id"]), "excludeLocations": some("AllTrusted", "All")},
        ),
        "userRiskLevels": mostly([], ["high"]),
        "platforms": mostly(None, {"includePlatforms": ["all"]}),
    }  # fmt: skip
    return {
        "id": draw(st.sampled_from(["p1", "p2", "p3", "p4"])),
        "displayName": "Policy",
        "state": draw(st.sampled_from(STATES)),
        "conditions": conditions,
        "grantControls": mostly(
            {"operator": "OR", "builtInControls": ["block"]},
            {"operator": "OR", "builtInControls": ["mfa"]},
            {"operator": "AND", "builtInControls": ["block", "mfa"]},
            None,
        ),
        "sessionControls": None,
    }


@st.composite
def principals(draw):
    theirs, audience, ours = draw(st.sampled_from(KINDS))
    place = draw(st.integers(0, 2))
    simulated = Principal(IDS[place], APP_IDS[place], "x", CREATED, kind=theirs, sign_in_audience=audience)
    found = ServicePrincipal(ObjectId(IDS[place]), AppId(APP_IDS[place]), "x", ours, None, None)
    # A simulated principal carries no attributes, which we may or may not have read.
    return simulated, About(found, draw(st.sampled_from([None, {}])))


def refusals(bodies, principal, risk="high"):
    return [
        evaluate(bodies, [HQ], sign_in_of(principal, resource, ip, country, risk)).blocked
        for resource in (GRAPH, VAULT)
        for ip, country in PLACES
    ]


@settings(max_examples=400)
@given(st.lists(policies(), max_size=3), principals())
def test_ours_and_the_token_endpoints_judge_agree(bodies, who):
    simulated, about = who
    answer = Breaker([policy_from_graph(body) for body in bodies]).answer(about)

    match answer.coverage:
        case Coverage.ARMED:
            assert all(refusals(bodies, simulated)), answer
        case Coverage.NOT_COVERED:
            assert not any(refusals(bodies, simulated)), answer
        case _:  # in part, in place, unknown: nothing is claimed of every sign-in
            assert not all(refusals(bodies, simulated)) or answer.coverage is not Coverage.REPORT_ONLY


@settings(max_examples=100)
@given(st.lists(policies(), max_size=3), principals())
def test_what_only_reports_refuses_nothing_new_at_high_risk(bodies, who):
    simulated, about = who
    answer = Breaker([policy_from_graph(body) for body in bodies]).answer(about)

    if answer.coverage is Coverage.REPORT_ONLY:
        assert refusals(bodies, simulated, "high") == refusals(bodies, simulated, "none")


@pytest.mark.parametrize("coverage", [Coverage.ARMED, Coverage.NOT_COVERED, Coverage.REPORT_ONLY])
def test_the_random_policies_reach_every_answer_that_claims_something(coverage):
    """Otherwise the agreement above would be about nothing."""

    def reached(pair):
        bodies, (_, about) = pair
        return Breaker([policy_from_graph(body) for body in bodies]).answer(about).coverage is coverage

    assert find(
        st.tuples(st.lists(policies(), max_size=3), principals()),
        reached,
        settings=settings(max_examples=5000, database=None, phases=[Phase.generate]),
    )
