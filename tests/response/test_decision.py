import json
from dataclasses import fields, replace
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON, OURSELVES, TENANT, evidence, finding, policy, principal
from hypothesis import given
from hypothesis import strategies as st

from clients.terms import Kind, Mark, NotAsked, Person, RiskLevel, TenantId, Unknown
from response.brake import Counts
from response.decision import Decision, Verdict, decide
from response.evidence import Armed, ChangeWindow, Evidence, NoSuchPrincipal, NotArmed
from response.finding import Finding, Source, Tier
from response.guardrails import GUARDRAILS, Guardrail, guard
from response.levers import CONFIRM_COMPROMISED, LEVERS
from response.policy import Disabling, Mode
from response.privilege import Privilege

MICROSOFT = TenantId("f8cdef31-a31e-4b4a-93e4-5f571e91255a")


def judge(f=None, e=None, p=None):
    f, e, p = f or finding(), e or evidence(), p or policy()
    return guard(decide(f, e, p, NOON), f, e, p)


def test_one_auto_finding_about_an_armed_application_contains():
    decision = judge()

    assert decision.verdict is Verdict.CONTAIN
    assert decision.lever == CONFIRM_COMPROMISED.id
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


@pytest.mark.parametrize(
    ("changes", "trips"),
    [
        ({"brake": Counts(3, 3, 0)}, True),
        ({"brake": Counts(0, 10, 0), "active_principals": 10_000}, True),
        ({"brake": Counts(0, 3, 3), "active_principals": 10_000}, True),
        ({"brake": Counts(0, 5, 0), "active_principals": 100}, True),
        ({"brake": Counts(0, 3, 0), "active_principals": Unknown("log unreadable")}, False),
        ({"brake": Unknown("store unreachable")}, False),
        ({"brake_tripped": "3 automatic containments in the last hour"}, False),
        ({"brake_tripped": Unknown("store unreachable")}, False),
        ({"owners": Unknown("403")}, False),
    ],
    ids=[
        "hour",
        "day",
        "owner",
        "share",
        "share unread",
        "unread",
        "tripped",
        "tripped unread",
        "owners unread",
    ],
)
def test_the_storm_brake_hands_over_to_a_person(changes, trips):
    decision = judge(e=evidence(**changes))

    assert decision.verdict is Verdict.ASK
    assert not decision.forbidden
    assert [veto.guardrail for veto in decision.vetoes] == ["storm-brake"]
    assert decision.vetoes[0].trips is trips


@pytest.mark.parametrize(
    ("counts", "active"),
    [(Counts(2, 2, 2), NotAsked("-")), (Counts(2, 9, 2), 200), (Counts(0, 4, 0), 100)],
)
def test_below_its_limits_the_storm_brake_says_nothing(counts, active):
    assert judge(e=evidence(brake=counts, active_principals=active)).vetoes == ()


def test_a_brake_that_has_tripped_moves_what_is_automatic_to_approve_and_no_person():
    tripped = evidence(brake_tripped="3 automatic containments in the last hour")

    assert judge(e=tripped).mode is Mode.APPROVE
    assert judge(finding(source=Source.ANALYST), tripped).mode is Mode.ENFORCE


def test_the_storm_brake_does_not_stop_a_person():
    assert (
        judge(finding(source=Source.ANALYST), evidence(brake=Counts(99, 99, 99))).verdict is Verdict.CONTAIN
    )


def test_all_guardrails_are_asked_and_all_vetoes_are_kept():
    decision = judge(
        e=evidence(own_identities=frozenset({AGENT}), kill_switch_stopped=True, brake=Counts(9, 9, 9)),
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
    kill_switch_stopped=st.sampled_from([True, False, Unknown("?")]),
    at=st.sampled_from([NOON, NOON + timedelta(hours=9), Unknown("?")]),
    mark=st.sampled_from([None, *Mark, Unknown("?"), NotAsked("-")]),
    privilege=st.sampled_from([Privilege(0, ("x",)), Privilege(2, ()), Unknown("?"), NotAsked("-")]),
    owners=st.sampled_from([(), (Person("o", "Ada"),), Unknown("?"), NotAsked("-")]),
    change_window=st.sampled_from([None, ChangeWindow(NOON), Unknown("?"), NotAsked("-")]),
    undone_at=st.sampled_from([None, NOON, NOON - timedelta(hours=2), Unknown("?")]),
    on_probation=st.sampled_from([True, False, Unknown("?")]),
    brake=st.one_of(
        st.builds(Counts, st.integers(0, 4), st.integers(0, 12), st.integers(0, 4)), st.just(Unknown("?"))
    ),
    active_principals=st.sampled_from([0, 100, 10_000, Unknown("?"), NotAsked("-")]),
    brake_tripped=st.sampled_from(["", "three in an hour", Unknown("?")]),
    ledger_broken=st.sampled_from(["", "at entry 7", Unknown("?")]),
)
findings = st.builds(
    finding,
    tier=tiers,
    source=st.sampled_from(list(Source)),
    doubts=st.sampled_from([(), ("two principals",)]),
    only_failures=st.booleans(),
    expires_at=st.sampled_from([None, NOON - timedelta(minutes=1), NOON + timedelta(minutes=1)]),
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
        "ledger-intact",
        "storm-brake",
        "stale-evidence",
        "change-window",
        "self-evidence",
    ]
    assert isinstance(judge(), Decision)


# --- what evidence changes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"mark": Mark.APPROVAL}, Verdict.ASK),
        ({"mark": Mark.AUTO}, Verdict.CONTAIN),
        ({"mark": NotAsked("the permission is not granted")}, Verdict.CONTAIN),
        ({"mark": Unknown("HTTP 503")}, Verdict.ASK),
        ({"change_window": ChangeWindow(NOON + timedelta(hours=1))}, Verdict.ASK),
        ({"change_window": Unknown("log unreadable")}, Verdict.ASK),
        ({"undone_at": NOON}, Verdict.WATCH),
        ({"undone_at": NOON - timedelta(hours=1)}, Verdict.CONTAIN),
        ({"undone_at": Unknown("store unreachable")}, Verdict.ASK),
        ({"ledger_broken": "at entry 7"}, Verdict.ASK),
        ({"ledger_broken": Unknown("store unreachable")}, Verdict.ASK),
        ({"at": NOON + timedelta(hours=5)}, Verdict.ASK),
    ],
)
def test_what_evidence_makes_of_a_finding_that_is_enough(changes, verdict):
    assert judge(e=evidence(**changes)).verdict is verdict


def test_a_mark_protects_even_from_a_person():
    protected = evidence(mark=Mark.PROTECTED)

    assert judge(e=protected).forbidden
    assert judge(finding(source=Source.ANALYST), protected).forbidden


def test_a_person_may_act_in_a_change_window_on_old_evidence_and_after_an_undo():
    e = evidence(
        change_window=ChangeWindow(NOON), undone_at=NOON + timedelta(hours=1), at=NOON + timedelta(days=1)
    )

    assert judge(finding(source=Source.ANALYST), e).verdict is Verdict.CONTAIN


def test_on_probation_one_corroborated_finding_contains_and_one_older_than_the_undo_does_not():
    lone = finding(tier=Tier.CORROBORATED)
    on_probation = {"microsoft_risk": None, "on_probation": True}

    assert judge(lone, evidence(microsoft_risk=None)).verdict is Verdict.WATCH
    assert (
        judge(lone, evidence(**on_probation, undone_at=NOON - timedelta(hours=1))).verdict is Verdict.CONTAIN
    )
    assert judge(lone, evidence(**on_probation, undone_at=NOON)).verdict is Verdict.WATCH


def test_a_lone_sign_on_what_could_take_over_the_tenant_asks():
    lone = finding(tier=Tier.CORROBORATED)

    assert judge(lone, evidence(microsoft_risk=None, privilege=Privilege(0, ("x",)))).verdict is Verdict.ASK
    assert judge(lone, evidence(microsoft_risk=None, privilege=Unknown("403"))).verdict is Verdict.ASK


def test_failures_alone_never_contain_and_two_of_them_are_no_two_signs():
    failing = finding(tier=Tier.CORROBORATED, only_failures=True)
    other = finding(rule_id="AG-07", family="probing", tier=Tier.CORROBORATED, only_failures=True)
    real = finding(rule_id="AG-10", family="origin", tier=Tier.CORROBORATED)

    assert judge(finding(only_failures=True)).verdict is Verdict.ASK
    assert judge(failing, evidence(earlier=(other,), microsoft_risk=None)).verdict is Verdict.WATCH
    assert judge(failing, evidence(earlier=(real,))).verdict is Verdict.CONTAIN


def test_a_signal_corroborates_until_it_expires_and_never_another_signal():
    def signal(**changes):
        external = {"source": Source.SIGNAL, "rule_id": "", "family": "external", "tier": Tier.CORROBORATED}
        return finding(**(external | changes))

    lone = finding(tier=Tier.CORROBORATED)
    alive, over = (signal(expires_at=NOON + timedelta(minutes=by)) for by in (1, -1))

    assert judge(lone, evidence(earlier=(alive,))).verdict is Verdict.CONTAIN
    assert judge(lone, evidence(earlier=(over,), microsoft_risk=None)).verdict is Verdict.WATCH
    assert judge(signal(), evidence(earlier=(alive,), microsoft_risk=None)).verdict is Verdict.WATCH


# --- levers --------------------------------------------------------------------------------------


def test_the_lever_follows_the_kind_of_identity_and_what_is_switched_on():
    agent = evidence(principal=principal(kind=Kind.AGENT_IDENTITY))
    managed = evidence(principal=principal(kind=Kind.MANAGED_IDENTITY))

    assert judge(e=agent, p=policy(agent_risk=True)).lever == "confirm-agent-compromised"
    asked = judge(e=managed, p=policy(disabling=Disabling.APPROVAL))
    assert (asked.verdict, asked.lever, asked.people) == (Verdict.ASK, "disable-principal", 1)
    pulled = judge(e=managed, p=policy(disabling=Disabling.AUTOMATIC))
    assert (pulled.verdict, pulled.lever, pulled.people) == (Verdict.CONTAIN, "disable-principal", 0)
    assert "AGENTBREAKER_DISABLE_PRINCIPAL" in judge(e=managed).reasons[0]


@pytest.mark.parametrize("lever", ["remove-credentials", "remove-app-roles", "remove-grants"])
def test_what_takes_away_for_good_always_wants_two_people(lever):
    order, everything = (
        finding(source=Source.ANALYST),
        policy(removal_levers=True, disabling=Disabling.AUTOMATIC),
    )

    decision = decide(order, evidence(), everything, NOON, lever)

    assert (decision.lever, decision.people) == (lever, 2)
    assert decide(order, evidence(), policy(), NOON, lever).lever == ""


@given(findings, evidences, policies, st.sampled_from(["", *LEVERS]))
def test_no_lever_is_proposed_that_does_not_bite_or_is_switched_off(f, e, p, ordered):
    decision = decide(f, e, p, NOON, ordered)

    if decision.lever:
        assert e.principal.kind in LEVERS[decision.lever].bites_on
        assert decision.lever in p.levers


GUARDED = {
    "own-identity": {"e": {"own_identities": frozenset({AGENT})}},
    "microsoft-application": {"e": {"principal": principal(owner_tenant=MICROSOFT)}},
    "protected-principal": {"p": {"protected": frozenset({AGENT})}},
    "kill-switch": {"e": {"kill_switch_stopped": True}},
    "ledger-intact": {"e": {"ledger_broken": "at entry 7"}},
    "storm-brake": {"e": {"brake": Counts(3, 3, 0)}},
    "stale-evidence": {"e": {"at": NOON + timedelta(hours=5)}},
    "change-window": {"e": {"change_window": ChangeWindow(NOON)}},
    "self-evidence": {"f": {"only_failures": True}},
}


@pytest.mark.parametrize("guardrail", GUARDRAILS, ids=lambda guardrail: guardrail.name)
def test_each_guardrail_is_all_that_stands_between_its_case_and_a_lever(guardrail):
    """With it removed the lever would be pulled: so nothing else does its work, and it does it."""
    case = GUARDED[guardrail.name]
    f, e, p = finding(**case.get("f", {})), evidence(**case.get("e", {})), policy(**case.get("p", {}))
    others = tuple(one for one in GUARDRAILS if one is not guardrail)

    assert judge(f, e, p).verdict is Verdict.ASK
    assert guard(decide(f, e, p, NOON), f, e, p, others).verdict is Verdict.CONTAIN
