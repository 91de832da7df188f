"""Microsoft's second opinion, what continuous access evaluation reaches, and until when old tokens work."""

import asyncio
import json
from datetime import timedelta

import pytest
from builders import AGENT, NOON, principal
from hypothesis import given
from hypothesis import strategies as st
from test_breaker import agents, body, clients

from clients.errors import Unavailable
from clients.logs import Rows
from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, RiskLevel, Unknown, WhatIf
from response import gathering, reach
from response.coverage import About
from response.evidence import Armed, NotArmed
from response.reach import MICROSOFT_GRAPH, Reach, Token
from simtenant.faults import FaultKind
from workbench.engine import LogEngine

VAULT = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"
OTHER = ObjectId("99999999-9999-4999-8999-999999999999")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NOT_ARMED = NotArmed("no policy", "one")


# --- a second opinion -----------------------------------------------------------------------------


def what_if(id_="p1", state="enabled", *, blocks=True, applies=True, reasons=()):
    return WhatIf(id_, state, blocks, applies, tuple(reasons))


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        (Armed(("p1",)), [what_if()], Armed(("p1",))),
        (Armed(("p1",)), [what_if("P1")], Armed(("p1",))),
        (Armed(("p1", "p2")), [what_if("p2"), what_if(applies=False)], Armed(("p2",))),
        (NOT_ARMED, [what_if(applies=False)], NOT_ARMED),
        # Report-only policies and What If both say "applies" without blocking.
        (NOT_ARMED, [what_if(state="enabledForReportingButNotEnforced")], NOT_ARMED),
        (NOT_ARMED, [what_if(blocks=False)], NOT_ARMED),
        (Unknown("a filter"), [], Unknown("a filter")),
        (Armed(("p1",)), Unknown("throttled"), Armed(("p1",))),
        (NOT_ARMED, Unknown("throttled"), NOT_ARMED),
    ],
)
def test_an_opinion_that_agrees_or_was_not_given_leaves_ours(own, theirs, expected):
    assert reach.second_opinion(own, theirs) == expected


@pytest.mark.parametrize(
    ("own", "theirs", "named"),
    [
        (Armed(("p1",)), [what_if(applies=False, reasons=["workloadIdentities"])], ["p1", "workloadIdentities"]),
        (Armed(("p1",)), [what_if(state="enabledForReportingButNotEnforced")], ["p1", "not enabled there"]),
        (Armed(("p1",)), [what_if(blocks=False)], ["p1", "does not block there"]),
        (Armed(("p1",)), [], ["p1", "does not name p1"]),
        (Armed(("p1",)), [what_if("p2")], ["p1", "does not name p1"]),
        (NOT_ARMED, [what_if("p9")], ["no policy", "p9"]),
        (Unknown("a filter"), [what_if("p9")], ["a filter", "p9", "one resource"]),
    ],
)  # fmt: skip
def test_a_disagreement_is_unknown_and_names_both(own, theirs, named):
    found = reach.second_opinion(own, theirs)

    assert isinstance(found, Unknown)
    assert [word for word in named if word not in found.why] == []


OPINIONS = st.lists(
    st.builds(
        WhatIf,
        st.sampled_from(["p1", "p2", "p3"]),
        st.sampled_from(["enabled", "disabled", "enabledForReportingButNotEnforced", "new"]),
        st.booleans(),
        st.booleans(),
        st.just(()),
    ),
    max_size=3,
)


@given(st.sampled_from([Armed(("p1",)), Armed(("p1", "p2")), NOT_ARMED, Unknown("?")]), OPINIONS)
def test_a_second_opinion_never_makes_us_surer(own, theirs):
    found = reach.second_opinion(own, theirs)

    assert isinstance(found, Unknown) or type(found) is type(own)
    assert not isinstance(found, Armed) or set(found.policies) <= set(own.policies)


async def test_microsoft_is_asked_about_graph_at_high_risk_and_only_where_it_has_an_answer():
    asked = []

    async def ask(who, resource, level):
        asked.append((who.object_id, resource, level))
        return (what_if("p9"),)

    async def fails(who, resource, level):
        raise Unavailable("Microsoft Graph", "no answer")

    assert isinstance(await gathering.second_opinion(NOT_ARMED, principal(), ask), Unknown)
    assert asked == [(AGENT, MICROSOFT_GRAPH, RiskLevel.HIGH)]
    assert await gathering.second_opinion(NOT_ARMED, principal(), fails) is NOT_ARMED
    for kind in set(Kind) - {Kind.APPLICATION}:
        assert await gathering.second_opinion(NOT_ARMED, principal(kind=kind), ask) is NOT_ARMED
    assert len(asked) == 1


# --- what CAE reaches -----------------------------------------------------------------------------


def turns_cae_off(mode="disabled", **changes):
    one = body(**{"servicePrincipalRiskLevels": [], **changes})
    return one | {"grantControls": None, "sessionControls": {"continuousAccessEvaluation": {"mode": mode}}}


def reached(*bodies, **changes):
    return reach.cae_reach(About(principal(**changes)), [policy_from_graph(one) for one in bodies])


def test_only_microsoft_graph_ends_tokens_and_only_of_single_tenant_applications():
    assert reached(body()).resources == (MICROSOFT_GRAPH,)
    for kind in set(Kind) - {Kind.APPLICATION, Kind.AGENT_IDENTITY}:
        assert reached(body(), kind=kind).resources == ()
    assert isinstance(reached(agents(), kind=Kind.AGENT_IDENTITY).resources, Unknown)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (turns_cae_off(), ()),
        (turns_cae_off(clientApplications=clients([AGENT])), ()),
        (turns_cae_off(clientApplications=clients([OTHER])), (MICROSOFT_GRAPH,)),
        (turns_cae_off(clientApplications=clients(exclude=[AGENT])), (MICROSOFT_GRAPH,)),
        (turns_cae_off("strictLocation"), (MICROSOFT_GRAPH,)),
        (turns_cae_off() | {"state": "disabled"}, (MICROSOFT_GRAPH,)),
        (turns_cae_off() | {"state": "enabledForReportingButNotEnforced"}, (MICROSOFT_GRAPH,)),
        (turns_cae_off() | {"sessionControls": None}, (MICROSOFT_GRAPH,)),
        # Whether it holds at this sign-in depends on what is not known here.
        (turns_cae_off(locations={"includeLocations": ["AllTrusted"]}), None),
        (turns_cae_off(servicePrincipalRiskLevels=["medium"]), None),
        (turns_cae_off(x={"y": 1}), None),
        (turns_cae_off() | {"state": "new"}, ()),
        # v1.0 does not show the control: session controls without it may hold it.
        (turns_cae_off() | {"sessionControls": {"signInFrequency": None}}, None),
    ],
)
def test_a_session_control_turns_it_off(one, expected):
    found = reached(body(), one).resources

    assert isinstance(found, Unknown) if expected is None else found == expected


def test_without_the_policies_it_is_unknown():
    assert isinstance(reach.cae_reach(About(principal()), Unknown("throttled")).resources, Unknown)


# --- which tokens it got --------------------------------------------------------------------------


def details(cae=None):
    rows = [{"key": "Azure AD App Authentication Library", "value": "MSAL"}]
    return json.dumps(rows if cae is None else [*rows, {"key": "Is CAE Token", "value": cae}])


def sign_in(at, cae="False", resource=MICROSOFT_GRAPH, result="0", who=AGENT):
    return {
        "TimeGenerated": at,
        "CreatedDateTime": at,
        "ServicePrincipalId": who,
        "ResultType": result,
        "ResourceIdentity": resource,
        "ResourceDisplayName": "x",
        "AuthenticationProcessingDetails": details(cae),
    }


def test_the_last_token_of_each_sort_is_read_from_the_log():
    engine = LogEngine()
    engine.insert(
        "AADServicePrincipalSignInLogs",
        [
            sign_in(NOON - 3 * HOUR),
            sign_in(NOON - 2 * HOUR),
            sign_in(NOON - 2 * HOUR),  # rows come twice
            sign_in(NOON - 1 * HOUR, "True"),
            sign_in(NOON - 1 * MINUTE, result="53003"),  # refused: no token
            sign_in(NOON - 4 * HOUR, None, VAULT.upper()),
            sign_in(NOON, who=OTHER),
        ],
    )
    answer = engine.query(reach.tokens_query([principal()]), now=NOON)
    names = tuple(name for name, _ in answer.columns)
    found = reach.tokens_from(
        Rows(names, tuple(tuple(row[name] for name in names) for row in answer.records()))
    )
    engine.close()

    assert [(t.issued_at, t.resource, t.cae) for t in found] == [
        (NOON - 4 * HOUR, VAULT, None),
        (NOON - 2 * HOUR, MICROSOFT_GRAPH, False),
        (NOON - 1 * HOUR, MICROSOFT_GRAPH, True),
    ]
    assert {t.principal for t in found} == {AGENT}


def test_only_object_ids_are_written_into_the_query_and_managed_identities_have_their_own_table():
    managed = principal(kind=Kind.MANAGED_IDENTITY)

    assert "\nAADManagedIdentitySignInLogs\n" in reach.tokens_query([managed])
    for wrong in ([], [principal(), managed], [principal(object_id='x"] | union SecretTable')]):
        with pytest.raises(ValueError, match=r"one table|not a GUID"):
            reach.tokens_query(wrong)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (details("True"), True),
        (details("false"), False),
        (details(), None),
        (details("maybe"), None),
        ("", None),
        (None, None),
        ("{", None),
        ('{"key": "Is CAE Token"}', None),
        ('["Is CAE Token"]', None),
    ],
)
def test_what_a_row_does_not_say_is_not_known(cell, expected):
    assert reach._is_cae(cell) is expected


def token(ago, cae=False, resource=MICROSOFT_GRAPH, who=AGENT):
    return Token(who, NOON - ago, resource, "x", cae)


def test_a_client_that_declared_cp1_is_known_by_its_tokens():
    assert reach.declared_cp1([token(HOUR), token(MINUTE, cae=True)]) is True
    assert reach.declared_cp1([token(HOUR, cae=True), token(MINUTE)]) is False
    for unknown in ([], [token(HOUR, resource=VAULT)], [token(HOUR, cae=None)], Unknown("throttled")):
        assert isinstance(reach.declared_cp1(unknown), Unknown)


# --- until when old tokens work -------------------------------------------------------------------

HELD = Reach((MICROSOFT_GRAPH,), "Graph ends them")
OFF = Reach((), "policy p1 turns it off")
UNCLEAR = Reach(Unknown("?"), "?")


def residual(tokens, kind=Kind.APPLICATION, held=HELD, seen=NOON + HOUR, *, event=True):
    return reach.residual_access(
        principal(kind=kind), held, tokens, blocked_from=NOON, seen_until=seen, is_critical_event=event
    )


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        # Complete log, nothing issued lately: nothing is left.
        ([], {}, timedelta(0)),
        ([token(2 * HOUR)], {}, timedelta(0)),
        # 90 minutes after the last ordinary token, to whatever resource.
        ([token(30 * MINUTE)], {}, HOUR),
        ([token(30 * MINUTE), token(10 * MINUTE, None, VAULT)], {}, 80 * MINUTE),
        # A CAE token for Graph is ended within 15 minutes, or dies before by itself.
        ([token(30 * MINUTE, cae=True)], {}, 15 * MINUTE),
        ([token(24 * HOUR - 5 * MINUTE, cae=True)], {}, 5 * MINUTE),
        # Not known which: the longer of the two.
        ([token(30 * MINUTE, cae=None)], {}, HOUR),
        ([token(5 * HOUR, cae=None)], {}, 15 * MINUTE),
        # CAE turned off, of unknown reach, on another resource, or not an event of CAE: the whole 24 hours.
        ([token(HOUR, cae=True)], {"held": OFF}, 23 * HOUR),
        ([token(HOUR, cae=True)], {"held": UNCLEAR}, 23 * HOUR),
        ([token(HOUR, cae=True, resource=VAULT)], {}, 23 * HOUR),
        ([token(HOUR, cae=True)], {"event": False}, 23 * HOUR),
        ([token(HOUR, cae=None)], {"kind": Kind.AGENT_IDENTITY, "held": UNCLEAR}, 23 * HOUR),
        ([token(HOUR)], {"kind": Kind.AGENT_IDENTITY, "held": UNCLEAR}, 30 * MINUTE),
        # The platform caches a managed identity's tokens.
        ([token(HOUR)], {"kind": Kind.MANAGED_IDENTITY, "held": OFF}, 23 * HOUR),
        # The log may lack the newest rows: a token issued at the last moment is counted.
        ([token(24 * HOUR)], {"seen": NOON - MINUTE}, 90 * MINUTE),
        ([], {"seen": NOON - MINUTE, "held": OFF}, 24 * HOUR),
        ([], {"seen": NOON - MINUTE, "kind": Kind.MANAGED_IDENTITY}, 24 * HOUR),
        (Unknown("throttled"), {}, 90 * MINUTE),
        (Unknown("throttled"), {"held": UNCLEAR}, 24 * HOUR),
        # Somebody else's tokens say nothing.
        ([token(MINUTE, who=OTHER)], {}, timedelta(0)),
    ],
)
def test_residual_access_ends(tokens, options, expected):
    found = residual(tokens, **options)

    assert found.until - NOON == expected
    assert bool(found.remaining) is bool(expected)
    assert all(one.why for one in found.remaining)


def test_a_token_issued_after_the_block_is_named_and_lives_its_own_life():
    late = token(-5 * MINUTE, cae=True)
    found = residual([late])

    assert found.issued_after == (late,)
    assert found.until == NOON + 5 * MINUTE + 24 * HOUR


TOKENS = st.lists(
    st.builds(
        token,
        st.integers(-60, 30 * 60).map(lambda minutes: minutes * MINUTE),
        st.sampled_from([True, False, None]),
        st.sampled_from([MICROSOFT_GRAPH, VAULT]),
    ),
    max_size=4,
)
CASES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(Kind),
        "held": st.sampled_from([HELD, OFF, UNCLEAR]),
        "seen": st.sampled_from([NOON - HOUR, NOON + HOUR]),
        "event": st.booleans(),
    }
)


@given(TOKENS, CASES)
def test_knowing_less_never_ends_residual_access_earlier(tokens, case):
    known = residual(tokens, **case).until
    blurred = [Token(t.principal, t.issued_at, t.resource, "x", None) for t in tokens if t.cae is False]
    sharp = [t for t in tokens if t.cae is False]

    assert residual(tokens, **case | {"seen": NOON - HOUR}).until >= known
    assert residual(tokens, **case | {"event": False}).until >= known
    assert residual(blurred, **case).until >= residual(sharp, **case).until
    assert known >= NOON
    # No ordinary token ever lives longer than this says, and none of any kind longer than a day after the last.
    alive = [t.issued_at + 90 * MINUTE for t in tokens if t.cae is not True]
    assert all(end <= max(known, NOON) for end in alive)
    assert known <= max([NOON, *(t.issued_at for t in tokens)]) + 24 * HOUR


# --- for real -------------------------------------------------------------------------------------


async def test_the_tokens_of_our_own_identity_are_found_in_the_tenants_log(app):
    """Our own client asks Entra over real sockets; its sign-in row comes through Log Analytics."""
    world, ours = app.process.world, app.estate.app
    await world.graph.own_claims()
    me = principal(object_id=ObjectId(ours.object_id), app_id=AppId(ours.app_id))
    policies = await gathering.current_policies(world)
    for _ in range(100):
        since, until = world.now() - HOUR, world.now() + MINUTE
        found = await gathering.recent_tokens([me], world, since, until)
        if not isinstance(found, Unknown) and any(t.resource == MICROSOFT_GRAPH for t in found):
            break
        await asyncio.sleep(0.1)
    asked_for_graph = [t for t in found if t.resource == MICROSOFT_GRAPH]
    now = world.now()
    held, cp1, residual_ = gathering.residual_access(
        me, found, policies, now, blocked_from=now, is_critical_event=True
    )

    assert [t.principal for t in asked_for_graph] == [ours.object_id] * len(asked_for_graph)
    assert asked_for_graph
    assert held.resources == (MICROSOFT_GRAPH,)
    assert cp1 is asked_for_graph[-1].cae
    # The log is not taken for complete so soon after: a token without a row is counted for its 90 minutes.
    assert residual_.until >= now + 90 * MINUTE


async def test_a_log_that_does_not_answer_makes_the_end_later(app):
    world = app.process.world
    app.estate.tenant.faults.add(r"POST .*/query", FaultKind.STATUS, status=403, times=None)
    absent = principal(kind=Kind.MANAGED_IDENTITY)
    now = world.now()
    found = await gathering.recent_tokens([absent], world, now - HOUR, now)
    _, cp1, residual_ = gathering.residual_access(
        absent, found, (), now, blocked_from=now, is_critical_event=True
    )

    assert isinstance(found, Unknown)
    assert isinstance(cp1, Unknown)
    assert residual_.until == now + 24 * HOUR
