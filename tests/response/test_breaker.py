"""Every reason why a policy blocks, blocks in part, or does not, one case each; and what no condition may ever do."""

import string

import pytest
from builders import AGENT, principal
from hypothesis import given
from hypothesis import strategies as st

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, Unknown
from response import breaker, coverage
from response.attributes import matches
from response.breaker import Breaker, Coverage, policy_from_body, policy_to_body
from response.coverage import About, Reason
from response.evidence import Armed, NotArmed
from response.levers import LEVERS

OTHER = "99999999-9999-4999-8999-999999999999"
APP_ID = AppId("88888888-8888-4888-8888-888888888888")
APPLICATION_OBJECT = "66666666-6666-4666-8666-666666666666"
VAULT = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"
BLOCK = {"operator": "OR", "builtInControls": ["block"]}
NOT_ME = {"mode": "exclude", "rule": 'CustomSecurityAttribute.Agents_Zone -eq "blue"'}
TAGGED = {"mode": "include", "rule": 'CustomSecurityAttribute.Agents_Zone -eq "red"'}


def body(state="enabled", grant=None, id_="p1", **conditions):
    """A policy that blocks every service principal of the tenant at high risk, as Graph shows it, with changes."""
    basic = {
        "clientAppTypes": ["all"],
        "applications": {"includeApplications": ["All"], "excludeApplications": []},
        "users": {"includeUsers": ["None"]},
        "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
        "servicePrincipalRiskLevels": ["high"],
    }
    return {
        "id": id_,
        "displayName": "Policy",
        "state": state,
        "conditions": basic | conditions,
        "grantControls": BLOCK if grant is None else grant,
    }


def agents(**changes):
    """The same for agent identities, as beta shows it."""
    return body(
        servicePrincipalRiskLevels=[],
        agentIdRiskLevels=changes.pop("levels", "high"),
        clientApplications=changes.pop("clients", {"includeAgentIdServicePrincipals": ["All"]}),
        **changes,
    )


def clients(include=("ServicePrincipalsInMyTenant",), exclude=(), **more):
    return {"includeServicePrincipals": list(include), "excludeServicePrincipals": list(exclude), **more}


def answer(*bodies, held=None, registration="", **changes):
    about = About(principal(**changes), held, registration)
    return Breaker([policy_from_graph(one) for one in bodies]).answer(about)


def people(**users):
    return body(clientApplications=None, servicePrincipalRiskLevels=[], users=users)


def test_a_policy_on_all_service_principals_and_resources_at_high_risk_arms():
    found = answer(body())

    assert (found.coverage, found.policies) == (Coverage.ARMED, ("p1",))
    assert breaker.armed([policy_from_graph(body())], principal()) == Armed(("p1",))


@pytest.mark.parametrize(
    "one",
    [
        body(clientApplications=clients([AGENT])),
        body(clientApplications=clients([AGENT.upper()])),
        body(servicePrincipalRiskLevels=["medium", "high"]),
        body(servicePrincipalRiskLevels=[]),  # blocks whatever the risk is, so at high risk too
        body(grant={"operator": "AND", "builtInControls": ["block", "mfa"]}),
        body(locations={"includeLocations": ["All"]}),
        body(locations=None, platforms=None, devices=None, signInRiskLevels=[], userRiskLevels=[]),
        body(clientApplications=clients(exclude=[OTHER])),
        body(clientAppTypes=[]),
    ],
)
def test_what_arms(one):
    assert answer(one).coverage is Coverage.ARMED


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (body("disabled"), Reason.DISABLED),
        (body(clientApplications=clients(exclude=[AGENT])), Reason.EXCLUDES_IT),
        (body(clientApplications=clients([AGENT], [AGENT.upper()])), Reason.EXCLUDES_IT),
        (body(clientApplications=clients(exclude=["ServicePrincipalsInMyTenant"])), Reason.EXCLUDES_IT),
        (body(clientApplications=clients([OTHER])), Reason.DOES_NOT_INCLUDE_IT),
        (body(clientApplications=clients(["None"])), Reason.DOES_NOT_INCLUDE_IT),
        (body(clientApplications=clients([APP_ID])), Reason.LISTS_THE_APP_ID),
        (body(clientApplications=clients([APPLICATION_OBJECT])), Reason.LISTS_THE_APPLICATION_OBJECT_ID),
        (agents(), Reason.FOR_AGENT_IDENTITIES),
        (agents(clients={"includeAgentIdServicePrincipals": [AGENT]}), Reason.FOR_AGENT_IDENTITIES),
        (body(servicePrincipalRiskLevels=["medium"]), Reason.RISK_NOT_HIGH),
        (body(servicePrincipalRiskLevels=["low", "medium"]), Reason.RISK_NOT_HIGH),
        (body(grant={"operator": "OR", "builtInControls": ["mfa"]}), Reason.GRANTS),
        (body(grant={"operator": "OR", "authenticationStrength": {"id": "x"}}), Reason.GRANTS),
        (body(grant={}), Reason.GRANTS),
        (body(applications={"includeApplications": ["None"]}), Reason.NO_RESOURCES),
        (body(applications={}), Reason.NO_RESOURCES),
        (body(applications={"includeUserActions": ["urn:user:registerdevice"]}), Reason.NO_RESOURCES),
    ],
)
def test_what_does_not_cover_it_says_why(one, reason):
    found = answer(one, registration=APPLICATION_OBJECT)

    assert (found.coverage, found.policies) == (Coverage.NOT_COVERED, ())
    assert {why.reason for why in found.reasons} == {reason}
    assert all(why.policy_id == "p1" and "policy p1" in why.words for why in found.reasons)
    assert (found.lever, "includes this service principal" in found.would_bite) == ("disable-principal", True)


@pytest.mark.parametrize(
    ("users", "word"),
    [
        ({"includeUsers": ["All"]}, "users"),
        ({"includeGroups": [OTHER]}, "groups"),
        ({"includeRoles": [OTHER]}, "roles"),
        ({"includeGuestsOrExternalUsers": {"guestOrExternalUserTypes": "internalGuest"}}, "guests"),
        ({"includeUsers": ["AllAgentIdUsers"]}, "agent users"),
    ],
)
def test_targeting_people_or_groups_cannot_reach_a_service_principal(users, word):
    one = people(**users)
    [why] = coverage.verdict_on(coverage.compiled(policy_from_graph(one), coverage.SERVICE_PRINCIPALS),
                             About(principal())).reasons  # fmt: skip

    assert (why.reason, f"targets {word}" in why.words) == (Reason.TARGETS_PEOPLE, True)
    found = answer(one, people(includeUsers=["All"]))
    assert found.coverage is Coverage.NOT_COVERED
    assert [why.reason for why in found.reasons] == [Reason.NO_POLICY]
    assert "(2 of 2 are for users, groups, roles or guests)" in found.why


def test_a_policy_that_only_reports_is_named_as_what_would_bite_if_it_were_enabled():
    found = answer(body("enabledForReportingButNotEnforced"), people(includeUsers=["All"]))
    short = breaker.short(found)

    assert (found.coverage, found.policies) == (Coverage.REPORT_ONLY, ("p1",))
    assert found.would_bite == "enabling policy p1"
    assert isinstance(short, NotArmed)
    assert (short.report_only, short.lever) == (True, "disable-principal")
    assert "only reports" in short.why


@pytest.mark.parametrize(
    "change",
    [
        {"clientApplications": clients(exclude=[AGENT])},
        {"locations": {"includeLocations": ["AllTrusted"]}},
        {"somethingOfNextYear": {"x": 1}},
    ],
)
def test_a_policy_that_only_reports_never_arms_nor_is_promised_to(change):
    assert answer(body("enabledForReportingButNotEnforced", **change)).coverage is Coverage.NOT_COVERED


@pytest.mark.parametrize(
    ("kind", "reason", "lever"),
    [
        (Kind.MULTITENANT_APPLICATION, Reason.MULTITENANT, "disable-principal"),
        (Kind.FOREIGN_APPLICATION, Reason.FOREIGN, "disable-principal"),
        (Kind.MANAGED_IDENTITY, Reason.MANAGED_IDENTITY, "disable-principal"),
        (Kind.AGENT_BLUEPRINT, Reason.AGENT_BLUEPRINT, "disable-principal"),
        (Kind.AGENT_USER, Reason.AGENT_USER, ""),
        (Kind.MICROSOFT, Reason.MICROSOFT, ""),
        (Kind.OTHER, Reason.UNFAMILIAR_KIND, ""),
    ],
)
def test_a_kind_that_conditional_access_does_not_reach_is_named_with_the_lever_that_does(kind, reason, lever):
    found = answer(body(clientApplications=clients([AGENT])), agents(), kind=kind)

    assert (found.coverage, [why.reason for why in found.reasons]) == (Coverage.NOT_COVERED, [reason])
    assert found.lever == lever
    assert lever == "" or kind in LEVERS[lever].bites_on
    assert found.would_bite == (f"the lever {lever}" if lever else "no lever of this version")


def test_every_kind_is_answered():
    assert {kind for kind in Kind if answer(body(), agents(), kind=kind).coverage is Coverage.ARMED} == {
        Kind.APPLICATION,
        Kind.AGENT_IDENTITY,
    }


@pytest.mark.parametrize(
    ("one", "coverage", "reason"),
    [
        (agents(), Coverage.ARMED, None),
        (agents(levels="medium,high"), Coverage.ARMED, None),
        (agents(clients={"includeAgentIdServicePrincipals": [AGENT]}), Coverage.ARMED, None),
        (agents(levels="low, medium"), Coverage.NOT_COVERED, Reason.RISK_NOT_HIGH),
        (agents(clients={"includeAgentIdServicePrincipals": [OTHER]}), Coverage.NOT_COVERED, Reason.DOES_NOT_INCLUDE_IT),
        (
            agents(clients={"includeAgentIdServicePrincipals": ["All"], "excludeAgentIdServicePrincipals": [AGENT]}),
            Coverage.NOT_COVERED,
            Reason.EXCLUDES_IT,
        ),
        (body(), Coverage.NOT_COVERED, Reason.FOR_SERVICE_PRINCIPALS),
        (body(clientApplications=clients([AGENT])), Coverage.NOT_COVERED, Reason.FOR_SERVICE_PRINCIPALS),
        (agents(applications={"includeApplications": ["AllAgentIdResources"]}), Coverage.PARTLY, Reason.SOME_RESOURCES),
        # v1.0 shows no agents' fields: a policy that names nobody may be theirs.
        (body(clientApplications={}, servicePrincipalRiskLevels=[]), Coverage.UNKNOWN, None),
    ],
)  # fmt: skip
def test_an_agent_identity_has_a_door_of_its_own(one, coverage, reason):
    found = answer(one, kind=Kind.AGENT_IDENTITY)

    assert found.coverage is coverage
    assert {why.reason for why in found.reasons} == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"applications": {"includeApplications": [VAULT]}}, Reason.SOME_RESOURCES, VAULT),
        ({"applications": {"includeApplications": ["Office365"]}}, Reason.SOME_RESOURCES, "office365"),
        (
            {"applications": {"includeApplications": ["All"], "excludeApplications": [VAULT]}},
            Reason.SOME_RESOURCES,
            f"all but {VAULT}",
        ),
        (
            {"applications": {"includeAuthenticationContextClassReferences": ["c1"]}},
            Reason.SOME_RESOURCES,
            "authentication contexts",
        ),
        ({"locations": {"includeLocations": ["AllTrusted"]}}, Reason.SOME_LOCATIONS, "alltrusted"),
        (
            {"locations": {"includeLocations": ["All"], "excludeLocations": [OTHER]}},
            Reason.SOME_LOCATIONS,
            f"everywhere but {OTHER}",
        ),
    ],
)
def test_what_blocks_in_part_says_which_part_and_is_no_yes(change, reason, words):
    found = answer(body(**change))

    assert (found.coverage, found.policies) == (Coverage.PARTLY, ("p1",))
    assert [why.reason for why in found.reasons] == [reason]
    assert words in found.why
    assert isinstance(breaker.short(found), Unknown)


def test_what_blocks_in_part_whatever_the_risk_is_has_nothing_to_do_with_the_lever():
    found = answer(body(servicePrincipalRiskLevels=[], locations={"includeLocations": ["AllTrusted"]}))

    assert found.coverage is Coverage.IN_PLACE
    assert found.why.endswith("whatever the risk is")
    assert isinstance(breaker.short(found), NotArmed)


@pytest.mark.parametrize(
    "one",
    [
        body("aStateOfNextYear"),
        body(somethingOfNextYear={"x": 1}),
        body(userRiskLevels=["high"]),
        body(platforms={"includePlatforms": ["windows"]}),
        body(devices={"deviceFilter": {"mode": "include", "rule": "x"}}),
        body(authenticationFlows={"transferMethods": "deviceCodeFlow"}),
        body(clientAppTypes=["browser"]),
        body(users={"includeUsers": ["All"]}),
        body(agentIdRiskLevels="high", servicePrincipalRiskLevels=[]),
        body(agentIdRiskLevels="high"),  # conditions add up, and it has no agent risk
        body(servicePrincipalRiskLevels=["unknownFutureValue"]),
        body(grant={"operator": "OR", "builtInControls": ["block", "mfa"]}),
        body(applications={"includeApplications": ["All"], "excludeApplications": ["All"]}),
        body(applications={"includeApplications": ["All"], "includeUserActions": ["x"]}),
        body(applications={"includeApplications": ["All"], "applicationFilter": TAGGED}),
        body(locations={"excludeLocations": ["AllTrusted"]}),
        body(clientApplications=clients(["AllOfThem"])),
        body(clientApplications=clients(exclude=["SomeOfThem"])),
        body(clientApplications=clients(exclude=["SomeOfThem"], servicePrincipalFilter=NOT_ME)),
        body(clientApplications=clients(servicePrincipalFilter=TAGGED)),
        body(clientApplications=clients([], servicePrincipalFilter=TAGGED)),
        body(clientApplications=clients(servicePrincipalFilter=TAGGED | {"mode": "exclude"})),
        body(clientApplications=clients(servicePrincipalFilter={"mode": "sideways", "rule": "x"})),
        body(clientApplications=clients(agentIdServicePrincipalFilter=TAGGED)),
    ],
)
def test_what_cannot_be_told_is_unknown(one):
    found = answer(
        one, held={} if one["conditions"]["clientApplications"].get("excludeServicePrincipals") else None
    )

    assert found.coverage is Coverage.UNKNOWN
    assert "policy p1" in found.why
    assert breaker.short(found) == Unknown(found.why)


def test_a_policy_that_surely_blocks_outweighs_doubts_and_a_doubt_outweighs_what_only_reports():
    doubtful, reporting = body(id_="d", x={"y": 1}), body("enabledForReportingButNotEnforced", id_="r")

    assert answer(doubtful, body(), reporting).policies == ("p1",)
    assert answer(reporting, doubtful).coverage is Coverage.UNKNOWN
    assert answer(reporting, body("disabled")).coverage is Coverage.REPORT_ONLY


@pytest.mark.parametrize(
    ("include", "mode", "held", "expected"),
    [
        ([], "include", {"Agents_Zone": "red"}, Coverage.ARMED),
        ([], "include", {"Agents_Zone": "blue"}, Coverage.NOT_COVERED),
        ([], "include", {}, Coverage.NOT_COVERED),
        ([], "include", None, Coverage.UNKNOWN),
        (["ServicePrincipalsInMyTenant"], "include", {"Agents_Zone": "red"}, Coverage.ARMED),
        (["ServicePrincipalsInMyTenant"], "include", {}, Coverage.UNKNOWN),  # list and filter disagree
        ([OTHER], "include", {"Agents_Zone": "red"}, Coverage.UNKNOWN),
        (["ServicePrincipalsInMyTenant"], "exclude", {"Agents_Zone": "red"}, Coverage.NOT_COVERED),
        (["ServicePrincipalsInMyTenant"], "exclude", {}, Coverage.ARMED),
        (["ServicePrincipalsInMyTenant"], "exclude", {"Agents_Zone": "Red"}, Coverage.UNKNOWN),  # letter case
        (
            [OTHER],
            "exclude",
            None,
            Coverage.NOT_COVERED,
        ),  # not listed, so the filter has nothing to take away
    ],
)
def test_a_filter_on_attributes_is_evaluated_where_the_attributes_are_known(include, mode, held, expected):
    one = body(clientApplications=clients(include, servicePrincipalFilter=TAGGED | {"mode": mode}))

    assert answer(one, held=held).coverage is expected


A = "CustomSecurityAttribute.S_"


@pytest.mark.parametrize(
    ("rule", "held", "expected"),
    [
        (f'{A}A -eq "x"', {"S_A": "x"}, True),
        (f"{A}A -eq 'x'", {"S_A": "x"}, True),
        ('customSecurityAttribute.S.A -eq "x"', {"S_A": "x"}, True),
        (f'{A}A -EQ "x"', {"S_A": "y"}, False),
        (f'{A}A -eq "x"', {"S_A": "X"}, None),
        (f'{A}A -ne "x"', {"S_A": "y"}, True),
        (f'{A}A -ne "x"', {}, None),
        (f'{A}A -in ["x", "y"]', {"S_A": "y"}, True),
        (f'{A}A -notIn ["x"]', {"S_A": "y"}, True),
        (f'{A}A -contains "x"', {"S_A": frozenset({"x", "y"})}, True),
        (f'{A}A -contains "x"', {"S_A": frozenset({"y"})}, False),
        (f'{A}A -notContains "x"', {"S_A": frozenset({"y"})}, True),
        (f'{A}A -contains "x"', {"S_A": "xyz"}, None),
        (f'{A}A -contains "q"', {"S_A": "xyz"}, False),
        (f'{A}A -eq "x"', {"S_A": frozenset({"x"})}, None),
        (f'{A}A -startsWith "x"', {"S_A": "xyz"}, True),
        (f'{A}A -notStartsWith "x"', {"S_A": "xyz"}, False),
        (f'{A}A -endsWith "yz"', {"S_A": "xyz"}, True),
        (f'{A}A -notEndsWith "x"', {"S_A": "xyz"}, True),
        (f'{A}A -eq "x" -and {A}B -eq "y"', {"S_A": "x", "S_B": "y"}, True),
        (f'{A}A -eq "x" -and {A}B -eq "y"', {"S_A": "x"}, False),
        (f'{A}A -eq "x" -or {A}B -ne "y"', {"S_A": "x"}, True),
        (f'{A}A -eq "z" -or {A}B -ne "y"', {"S_A": "x"}, None),
        # -and binds more closely than -or
        (f'{A}A -eq "x" -or {A}A -eq "q" -and {A}B -eq "q"', {"S_A": "x"}, True),
        (f'({A}A -eq "x" -or {A}A -eq "q") -and {A}B -eq "q"', {"S_A": "x"}, False),
        (f'-not ({A}A -eq "x")', {"S_A": "x"}, False),
        (f'{A}A -eq ")-or("', {"S_A": ")-or("}, True),
        (f"{A}A -eq true", {"S_A": "true"}, None),
        (f'{A}A -like "x"', {"S_A": "x"}, None),
        (f'{A}A -eq "x" {A}B', {"S_A": "x"}, None),
        (f'({A}A -eq "x"', {"S_A": "x"}, None),
        (f'{A}A -in ["x",]', {"S_A": "x"}, None),
        (f'{A}A -eq "x', {"S_A": "x"}, None),
        ('device.isCompliant -eq "x"', {"S_A": "x"}, None),
        ("", {"S_A": "x"}, None),
        ("(" * 3000, {"S_A": "x"}, None),
        (f'{A}A -eq "x"', None, None),
    ],
)
def test_the_grammar_of_filters(rule, held, expected):
    assert matches(rule, held) is expected


@given(st.text(string.printable, max_size=80), st.dictionaries(st.just("S_A"), st.text(max_size=5)))
def test_no_text_of_the_tenant_breaks_the_reading_of_a_rule(rule, held):
    assert matches(rule, held) in (True, False, None)


# --- what may never happen ------------------------------------------------------------------------

IDS = st.sampled_from(
    [AGENT, OTHER, APP_ID, APPLICATION_OBJECT, "ServicePrincipalsInMyTenant", "All", "None"]
)
FILTERS = st.sampled_from([None, TAGGED, TAGGED | {"mode": "exclude"}, {"mode": "include", "rule": "?"}])


@st.composite
def bodies(draw):
    lists = st.lists(IDS, max_size=3)
    resources = st.lists(st.sampled_from(["All", "None", VAULT, "AllAgentIdResources"]), max_size=2)
    places = st.lists(st.sampled_from(["All", "AllTrusted", OTHER]), max_size=2)
    return body(
        draw(st.sampled_from(["enabled", "enabled", "disabled", "enabledForReportingButNotEnforced", "new"])),
        draw(st.sampled_from([BLOCK, BLOCK, {"operator": "OR", "builtInControls": ["mfa"]}])),
        id_=draw(st.sampled_from(["p1", "p2", "p3"])),
        clientAppTypes=draw(st.sampled_from([["all"], ["all"], ["browser"], []])),
        applications={"includeApplications": draw(resources), "excludeApplications": draw(resources)},
        users={"includeUsers": draw(st.sampled_from([["None"], ["None"], ["All"]]))},
        clientApplications={
            "includeServicePrincipals": draw(lists),
            "excludeServicePrincipals": draw(lists),
            "includeAgentIdServicePrincipals": draw(lists),
            "excludeAgentIdServicePrincipals": draw(lists),
            "servicePrincipalFilter": draw(FILTERS),
        },
        servicePrincipalRiskLevels=draw(st.sampled_from([["high"], ["high", "low"], ["medium"], []])),
        agentIdRiskLevels=draw(st.sampled_from([None, None, "high", "low"])),
        locations=draw(
            st.one_of(
                st.none(), st.fixed_dictionaries({"includeLocations": places, "excludeLocations": places})
            )
        ),
    )


PRINCIPALS = st.builds(
    About,
    st.builds(lambda kind: principal(kind=kind), st.sampled_from(Kind)),
    st.sampled_from([None, {}, {"Agents_Zone": "red"}]),
    st.sampled_from(["", APPLICATION_OBJECT]),
)


def parsed(bodies_):
    return [policy_from_graph(one) for one in bodies_]


@given(
    st.lists(bodies(), min_size=1, max_size=3),
    PRINCIPALS,
    st.sampled_from(
        ["conditionOfNextYear", "devices", "platforms", "times", "insiderRiskLevels", "signInRiskLevels"]
    ),
)
def test_an_unknown_condition_never_makes_armed_of_what_was_not(found, about, name):
    before = Breaker(parsed(found)).answer(about)
    added = [one | {"conditions": one["conditions"] | {name: {"x": ["y"]}}} for one in found]
    after = Breaker(parsed(added)).answer(about)

    assert after.coverage is not Coverage.ARMED
    assert before.coverage is Coverage.ARMED or not isinstance(breaker.short(after), Armed)
    # And on one policy only: what that one had armed by itself is gone, what the others arm stays.
    alone = Breaker(parsed([added[0], *found[1:]])).answer(about)
    assert set(alone.policies) <= set(before.policies) or before.coverage is not Coverage.ARMED
    assert before.coverage is Coverage.ARMED or alone.coverage is not Coverage.ARMED


@given(st.lists(bodies(), min_size=1, max_size=3), PRINCIPALS)
def test_excluding_a_principal_never_arms_it(found, about):
    excluded = [
        one
        | {
            "conditions": one["conditions"]
            | {
                "clientApplications": one["conditions"]["clientApplications"]
                | {"excludeServicePrincipals": [AGENT], "excludeAgentIdServicePrincipals": [AGENT]}
            }
        }
        for one in found
    ]

    assert Breaker(parsed(excluded)).answer(about).coverage is not Coverage.ARMED


@given(st.lists(bodies(), max_size=4), PRINCIPALS)
def test_the_index_answers_as_looking_at_every_policy_does(found, about):
    door = coverage.DOORS.get(about.principal.kind)
    one = Breaker(parsed(found))
    if door is None:
        assert one.answer(about).coverage is Coverage.NOT_COVERED
        return
    side = one._sides[about.principal.kind]

    assert one._verdicts(side, about) == [
        coverage.verdict_on(coverage.compiled(policy, door), about) for policy in parsed(found)
    ]


# --- the store ------------------------------------------------------------------------------------


@given(bodies())
def test_a_policy_survives_the_store(found):
    policy = policy_from_graph(found)

    assert policy_from_body(policy_to_body(policy)) == policy


OLD = {
    "id": "p1",
    "display_name": "Policy",
    "state": "enabled",
    "include_service_principals": ["serviceprincipalsinmytenant"],
    "exclude_service_principals": [],
    "risk_levels": ["high"],
    "include_applications": ["all"],
    "exclude_applications": [],
    "blocks": True,
    "other_conditions": [],
}


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({}, Kind.APPLICATION, Coverage.UNKNOWN),
        ({"include_service_principals": []}, Kind.AGENT_IDENTITY, Coverage.UNKNOWN),
        (
            {"include_service_principals": [], "other_conditions": ["servicePrincipalFilter"]},
            Kind.APPLICATION,
            Coverage.UNKNOWN,
        ),
        ({"exclude_service_principals": [AGENT]}, Kind.APPLICATION, Coverage.NOT_COVERED),
        ({"include_service_principals": [OTHER]}, Kind.APPLICATION, Coverage.NOT_COVERED),
        ({"state": "disabled"}, Kind.AGENT_IDENTITY, Coverage.NOT_COVERED),
    ],
)
def test_a_reading_of_an_earlier_version_never_arms_and_a_missing_field_is_no_empty_one(
    change, kind, expected
):
    found = Breaker([policy_from_body(OLD | change)]).answer(About(principal(kind=kind)))

    assert found.coverage is expected


@pytest.mark.parametrize("missing", sorted(OLD))
def test_a_record_that_is_no_policy_is_an_error(missing):
    with pytest.raises(KeyError):
        policy_from_body({name: value for name, value in OLD.items() if name != missing})


def test_names_of_the_tenant_are_cut_and_reasons_are_not_endless():
    long = body(**{f"condition{n}" * 20: {"x": 1} for n in range(30)})
    many = [body("disabled", id_=f"p{n}") for n in range(50)]

    assert len(answer(long).why) < 500
    assert len(answer(*many).why) < 500
    assert answer(*many).why.endswith("and others")
