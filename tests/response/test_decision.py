import json
from dataclasses import fields, replace
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON, OURSELVES, TENANT, evidence, finding, policy, principal
from hypothesis import given
from hypothesis import strategies as st

from clients.terms import Kind, NotAsked, RiskLevel, TenantId, Unknown
from response.decision import LEVER, Decision, Verdict, decide
from response.evidence import Armed, Evidence, NoSuchPrincipal, NotArmed
from response.finding import Finding, Source, Tier
from response.guardrails import GUARDRAILS, Guardrail, guard
from response.policy import Mode

MICROSOFT = TenantId("f8cdef31-a31e-4b4a-93e4-5f571e91255a")


def judge(f=None, e=None, p=None):
    f, e, p = f or finding(), e or evidence(), p or policy()
    return guard(decide(f, e, p, NOON), f, e, p)


def test_one_auto_finding_about_an_armed_application_contains():
    decision = judge()

    assert decision.verdict is Verdict.CONTAIN
    assert decision.lever == LEVER
    assert decision.vetoes == ()


def test_one_corroborated_finding_alone_is_only_watched():
    decision = judge(finding(tier=Tier.CORROBORATED), evidence(microsoft_risk=None))

    assert decision.verdict is Verdict.WATCH


def test_two_families_within_the_hour_contain():
    other = finding(rule_id="AG-07", family="probing", tier=Tier.CORROBORATED)

    decision = judge(finding(tier=Tier.CORROBORATED), evidence(earlier=(other,)))

    assert decision.verdict is Verdict.CONTAIN
    assert "AG-07" in decision.reasons[0]


@pytest.mark.parametrize(
    "other",
    [
        finding(rule_id="AG-04b", family="vault"),
        finding(rule_id="AG-07", family="probing", tier=Tier.CONTEXT),
        finding(rule_id="AG-07", family="probing", last_seen=NOON - timedelta(minutes=61)),
        finding(rule_id="", family="incident", source=Source.INCIDENT, tier=Tier.APPROVAL),
        finding(rule_id="", family="analyst", source=Source.ANALYST),
    ],
    ids=[
        "same family",
        "context only",
        "61 minutes ago",
        "an incident nobody vouched for",
        "a person's order",
    ],
)
def test_what_does_not_corroborate(other):
    decision = judge(finding(tier=Tier.CORROBORATED), evidence(earlier=(other,), microsoft_risk=None))

    assert decision.verdict is Verdict.WATCH


ONGOING = {"rule_id": "AG-10", "family": "origin", "tier": Tier.CORROBORATED}


def test_what_began_hours_ago_and_still_goes_on_asks_a_person():
    """A stolen credential waits an hour between the new origin and the rest: that must not be all it takes."""
    still = finding(**ONGOING)

    decision = judge(finding(tier=Tier.CORROBORATED), evidence(microsoft_risk=None, ongoing=(still,)))

    assert decision.verdict is Verdict.ASK
    assert "AG-10" in decision.reasons[0]


@pytest.mark.parametrize(
    "changes", [{"family": "vault"}, {"tier": Tier.CONTEXT}, {"last_seen": NOON - timedelta(minutes=61)}]
)
def test_what_would_not_corroborate_does_not_ask_either(changes):
    still = finding(**(ONGOING | changes))

    decision = judge(finding(tier=Tier.CORROBORATED), evidence(microsoft_risk=None, ongoing=(still,)))

    assert decision.verdict is Verdict.WATCH


def test_a_finding_of_any_size_fits_into_the_store():
    huge = finding(reason="r" * 10**6, ip_address="i" * 10**6, event_ids=("e" * 10**6,) * 1000)

    assert len(json.dumps(huge.to_body())) < 100_000
    assert Finding.from_body(huge.to_body()).key == huge.key


def test_a_rule_that_may_only_be_observed_corroborates_nothing():
    other = finding(rule_id="AG-07", family="probing")
    observed = policy(rule_modes={"AG-07": Mode.OBSERVE})

    decision = judge(
        finding(tier=Tier.CORROBORATED), evidence(earlier=(other,), microsoft_risk=None), observed
    )

    assert decision.verdict is Verdict.WATCH


@pytest.mark.parametrize(
    ("level", "verdict"),
    [(RiskLevel.LOW, Verdict.WATCH), (RiskLevel.MEDIUM, Verdict.CONTAIN), (RiskLevel.HIGH, Verdict.CONTAIN)],
)
def test_microsofts_own_risk_corroborates_from_medium_on(level, verdict):
    assert judge(finding(tier=Tier.CORROBORATED), evidence(microsoft_risk=level)).verdict is verdict


ATTACK = {
    "rule_id": "AG-25",
    "family": "prompt",
    "tier": Tier.CONTEXT,
    "lifts": ("AG-01", "AG-04"),
    "first_seen": NOON - timedelta(minutes=20),
    "last_seen": NOON - timedelta(minutes=14),
}


def test_a_deviation_after_a_prompt_attack_is_enough_and_the_reason_says_so():
    decision = judge(
        finding(tier=Tier.CORROBORATED), evidence(earlier=(finding(**ATTACK),), microsoft_risk=None)
    )

    assert decision.verdict is Verdict.CONTAIN
    assert decision.reasons[0] == "a prompt attack on it was reported 12 minutes before (AG-25)"


def test_the_hour_after_a_prompt_attack_is_counted_from_what_happened_not_from_when_it_was_seen():
    attack = finding(**ATTACK)
    seen_late = decide(
        finding(tier=Tier.CORROBORATED), evidence(earlier=(attack,)), policy(), NOON + timedelta(hours=3)
    )

    assert seen_late.verdict is Verdict.CONTAIN


@pytest.mark.parametrize(
    ("deviation", "attack"),
    [
        ({"rule_id": "AG-07"}, {}),
        ({"first_seen": NOON - timedelta(minutes=21)}, {}),
        ({}, {"first_seen": NOON - timedelta(hours=2), "last_seen": NOON - timedelta(minutes=63)}),
        ({"tier": Tier.CONTEXT}, {}),
        ({"tier": Tier.APPROVAL}, {}),
        ({"doubts": ("two principals",)}, {}),
        ({}, {"source": Source.INCIDENT}),
        ({}, {"principal": OURSELVES}),
    ],
    ids=[
        "a rule it does not lift",
        "it began before the attack",
        "61 minutes after the attack",
        "a principal that is still learning",
        "a person decides",
        "a doubt about the claim",
        "no rule of ours",
        "an attack on another",
    ],
)
def test_what_a_prompt_attack_does_not_lift(deviation, attack):
    f = finding(**({"tier": Tier.CORROBORATED} | deviation))

    decision = judge(f, evidence(earlier=(finding(**(ATTACK | attack)),), microsoft_risk=None))

    assert decision.verdict is not Verdict.CONTAIN


def test_a_rule_that_may_only_be_observed_lifts_nothing():
    e = evidence(earlier=(finding(**ATTACK),), microsoft_risk=None)

    observed = judge(finding(tier=Tier.CORROBORATED), e, policy(rule_modes={"AG-25": Mode.OBSERVE}))

    assert observed.verdict is Verdict.WATCH


def test_a_finding_keeps_what_it_lifts_and_an_old_record_lifts_nothing():
    attack = finding(**ATTACK)
    body = attack.to_body()

    assert Finding.from_body(body) == attack
    del body["lifts"]
    assert Finding.from_body(body).lifts == ()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.APPLICATION])
def test_what_the_lever_does_not_reach_waits_for_a_person_with_the_reason(kind):
    decision = judge(e=evidence(principal=principal(kind=kind)))

    assert decision.verdict is Verdict.ASK
    assert decision.lever == ""
    assert decision.reasons[0]


def test_unreadable_policies_ask_and_missing_policies_still_label():
    assert judge(e=evidence(armed=Unknown("403"))).verdict is Verdict.ASK
    assert judge(e=evidence(armed=NotArmed("none", "one"))).verdict is Verdict.CONTAIN


def test_a_person_contains_without_corroboration_but_not_past_a_guardrail():
    order = finding(source=Source.ANALYST, rule_id="", family="analyst", raised_by=ANALYST)

    assert judge(order, evidence(armed=Unknown("403"))).verdict is Verdict.CONTAIN
    assert judge(order, p=policy(protected=frozenset({AGENT}))).forbidden


@pytest.mark.parametrize(
    ("name", "e", "p"),
    [
        ("own-identity", evidence(own_identities=frozenset({AGENT})), policy()),
        ("own-identity", evidence(own_identities=Unknown("no token")), policy()),
        (
            "microsoft-application",
            evidence(principal=principal(owner_tenant=MICROSOFT, kind=Kind.MICROSOFT)),
            policy(),
        ),
        ("microsoft-application", evidence(principal=principal(owner_tenant=None)), policy()),
        ("microsoft-application", evidence(principal=Unknown("403")), policy()),
        ("protected-principal", evidence(), policy(protected=frozenset({AGENT}))),
        ("protected-principal", evidence(), policy(protected=None)),
        ("kill-switch", evidence(kill_switch_stopped=True), policy()),
        ("kill-switch", evidence(kill_switch_stopped=Unknown("store unreachable")), policy()),
    ],
)
def test_each_guardrail_takes_the_lever_away_and_what_cannot_be_read_counts_as_a_veto(name, e, p):
    decision = judge(e=e, p=p)

    assert name in [veto.guardrail for veto in decision.vetoes]
    assert decision.verdict is Verdict.ASK


@pytest.mark.parametrize(
    ("e", "p", "forbidden"),
    [
        (evidence(own_identities=frozenset({AGENT})), policy(), True),
        (evidence(own_identities=Unknown("no token")), policy(), False),
        (evidence(principal=principal(owner_tenant=MICROSOFT, kind=Kind.MICROSOFT)), policy(), True),
        (evidence(principal=Unknown("503")), policy(), False),
        (evidence(), policy(protected=frozenset({AGENT})), True),
        (evidence(), policy(protected=None), True),
        (evidence(kill_switch_stopped=True), policy(), False),
    ],
)
def test_a_certain_veto_closes_and_an_unanswered_or_lifted_one_waits_for_a_person(e, p, forbidden):
    assert judge(e=e, p=p).forbidden is forbidden


def test_the_caller_cannot_contain_itself():
    assert judge(finding(source=Source.ANALYST, raised_by=AGENT)).forbidden


@pytest.mark.parametrize("count", [3, 4, Unknown("store unreachable")])
def test_the_storm_brake_hands_over_to_a_person(count):
    decision = judge(e=evidence(automatic_last_hour=count))

    assert decision.verdict is Verdict.ASK
    assert not decision.forbidden
    assert [veto.guardrail for veto in decision.vetoes] == ["storm-brake"]


def test_the_storm_brake_does_not_stop_a_person():
    assert judge(finding(source=Source.ANALYST), evidence(automatic_last_hour=99)).verdict is Verdict.CONTAIN


def test_all_guardrails_are_asked_and_all_vetoes_are_kept():
    decision = judge(
        e=evidence(own_identities=frozenset({AGENT}), kill_switch_stopped=True, automatic_last_hour=9),
        p=policy(protected=frozenset({AGENT})),
    )

    assert {veto.guardrail for veto in decision.vetoes} == {
        "own-identity",
        "kill-switch",
        "storm-brake",
        "protected-principal",
    }


def test_a_guardrail_that_raises_counts_as_a_veto():
    def broken(*_):
        raise ZeroDivisionError

    f, e, p = finding(), evidence(), policy()

    decision = guard(decide(f, e, p, NOON), f, e, p, (Guardrail("broken", forbids=True, check=broken),))

    assert decision.verdict is Verdict.ASK
    assert "ZeroDivisionError" in decision.vetoes[0].reason


@pytest.mark.parametrize(
    ("mode", "rule_mode", "effective"),
    [
        ("enforce", "observe", "observe"),
        ("observe", "enforce", "observe"),
        ("approve", "enforce", "approve"),
        ("enforce", "approve", "approve"),
    ],
)
def test_the_more_careful_of_rule_and_global_mode_wins(mode, rule_mode, effective):
    assert judge(p=policy(mode=Mode(mode), rule_modes={"AG-04": Mode(rule_mode)})).mode == effective


# --- the sentences with "never" ------------------------------------------------------------------

unknowns = st.sampled_from([f.name for f in fields(Evidence)])
tiers = st.sampled_from(list(Tier))
others = st.lists(
    st.one_of(
        st.builds(finding, family=st.sampled_from(["vault", "probing", "directory"]), tier=tiers),
        st.builds(
            finding,
            rule_id=st.just("AG-25"),
            family=st.just("prompt"),
            tier=tiers,
            lifts=st.sampled_from([(), ("AG-04",), ("AG-07",)]),
            first_seen=st.integers(0, 90).map(lambda ago: NOON - timedelta(minutes=90 + ago)),
            last_seen=st.integers(0, 90).map(lambda ago: NOON - timedelta(minutes=ago)),
        ),
    ),
    max_size=3,
).map(tuple)
evidences = st.builds(
    Evidence,
    principal=st.one_of(
        st.builds(
            principal,
            kind=st.sampled_from(list(Kind)),
            owner_tenant=st.sampled_from([TENANT, MICROSOFT, None]),
        ),
        st.just(NoSuchPrincipal()),
        st.just(Unknown("?")),
    ),
    armed=st.sampled_from([Armed(("p",)), NotArmed("no", "yes"), Unknown("?")]),
    own_identities=st.sampled_from([frozenset({OURSELVES}), frozenset({AGENT}), Unknown("?")]),
    microsoft_risk=st.sampled_from(
        [None, RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH, Unknown("?"), NotAsked("-")]
    ),
    earlier=st.one_of(others, st.just(Unknown("?"))),
    automatic_last_hour=st.one_of(st.integers(0, 9), st.just(Unknown("?"))),
    kill_switch_stopped=st.sampled_from([True, False, Unknown("?")]),
)
findings = st.builds(
    finding,
    tier=tiers,
    source=st.sampled_from(list(Source)),
    doubts=st.sampled_from([(), ("two principals",)]),
)
policies = st.builds(
    policy,
    mode=st.sampled_from(list(Mode)),
    protected=st.sampled_from([None, frozenset(), frozenset({AGENT})]),
)


@given(findings, evidences, policies, st.sets(unknowns, min_size=1))
def test_an_added_unknown_never_turns_ask_or_watch_into_contain(f, e, p, names):
    before = judge(f, e, p)
    after = judge(f, replace(e, **dict.fromkeys(names, Unknown("not answered"))), p)

    if before.verdict is not Verdict.CONTAIN:
        assert after.verdict is not Verdict.CONTAIN


@given(findings, evidences, policies, st.sampled_from(["AG-04", "AG-07"]))
def test_unknown_earlier_findings_never_contain_by_what_would_lift(f, e, p, lifted):
    """Without an answer about earlier findings the judgement is at most as bold as if there were no such sign."""
    sign = finding(**(ATTACK | {"lifts": (lifted,)}))
    unread = judge(f, replace(e, earlier=Unknown("store unreachable")), p)
    without = judge(f, replace(e, earlier=()), p)
    with_sign = judge(f, replace(e, earlier=(sign,)), p)

    if with_sign.verdict is Verdict.CONTAIN and without.verdict is not Verdict.CONTAIN:
        assert unread.verdict is not Verdict.CONTAIN
    assert not any("was reported" in reason for reason in unread.reasons)


@given(findings, evidences, policies)
def test_guardrails_never_add_a_lever_and_never_make_a_verdict_bolder(f, e, p):
    bare = decide(f, e, p, NOON)
    guarded = guard(bare, f, e, p)

    assert guarded.lever in ("", bare.lever)
    assert guarded.verdict is bare.verdict or guarded.verdict is Verdict.ASK
    assert guarded.reasons == bare.reasons
    if guarded.vetoes:
        assert guarded.verdict is not Verdict.CONTAIN


@given(findings, evidences, policies)
def test_what_is_ours_microsofts_protected_or_unknown_is_never_contained(f, e, p):
    decision = judge(f, e, p)

    if decision.verdict is Verdict.CONTAIN:
        assert e.principal.kind is Kind.APPLICATION
        assert e.principal.owner_tenant == TENANT
        assert AGENT not in e.own_identities
        assert p.protected == frozenset()
        assert e.kill_switch_stopped is False


@given(findings, evidences, policies)
def test_every_unanswered_question_is_named(f, e, p):
    asked = [
        name
        for name in (field.name for field in fields(Evidence))
        if isinstance(getattr(e, name), Unknown | NotAsked)
    ]

    assert len(decide(f, e, p, NOON).unchecked) == len(asked)


def test_the_table_of_guardrails_is_the_documented_one():
    assert [g.name for g in GUARDRAILS] == [
        "own-identity",
        "microsoft-application",
        "protected-principal",
        "kill-switch",
        "storm-brake",
    ]
    assert isinstance(judge(), Decision)
