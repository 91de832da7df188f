"""What guardrails refuse, to whom, and what they can never do."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON, OURSELVES, TENANT, evidence, finding, policy, principal
from hypothesis import given
from hypothesis import strategies as st
from test_decision import evidences, findings, policies

from clients.terms import Kind, Mark, NotAsked, RiskLevel, Unknown
from response.brake import Counts
from response.decision import Verdict, decide
from response.evidence import ChangeWindow, Evidence
from response.finding import Source, Tier
from response.guardrails import GUARDRAILS, Guardrail, guard
from response.levers import LEVERS
from response.policy import Disabling
from response.privilege import Privilege

ORDER = {"source": Source.ANALYST, "rule_id": "", "family": "analyst", "raised_by": ANALYST}
LONE = {"tier": Tier.CORROBORATED}
EVERY_LEVER = {"agent_risk": True, "disabling": Disabling.AUTOMATIC, "removal_levers": True}


def judge(f=None, e=None, p=None, *, without=()):
    f, e, p = f or finding(), e or evidence(), p or policy()
    asked = tuple(one for one in GUARDRAILS if one.name not in without)
    return guard(decide(f, e, p, NOON), f, e, p, asked)


def vetoes(decision):
    return [veto.guardrail for veto in decision.vetoes]


# --- one by one: the question without an answer --------------------------------------------------

UNANSWERED = {
    "own-identity": {"own_identities": Unknown("no token")},
    "microsoft-application": {"principal": principal(owner_tenant=None)},
    "protected-principal": {"mark": Unknown("HTTP 503")},
    "kill-switch": {"kill_switch_stopped": Unknown("store unreachable")},
    "ledger-intact": {"ledger_broken": Unknown("store unreachable")},
    "storm-brake": {"brake": Unknown("store unreachable")},
    "stale-evidence": {"at": Unknown("no clock")},
    "change-window": {"change_window": Unknown("log unreadable")},
    "self-evidence": {},
}


def test_every_guardrail_is_tried_without_an_answer():
    assert set(UNANSWERED) == {guardrail.name for guardrail in GUARDRAILS}


@pytest.mark.parametrize(
    "guardrail", [one for one in GUARDRAILS if one.name != "self-evidence"], ids=lambda one: one.name
)
def test_a_question_without_an_answer_is_a_veto_that_a_person_may_lift_later(guardrail):
    e = evidence(**UNANSWERED[guardrail.name])

    decision = judge(e=e)

    assert vetoes(decision) == [guardrail.name]
    assert decision.verdict is Verdict.ASK
    assert not decision.forbidden
    assert judge(e=e, without=[guardrail.name]).verdict is Verdict.CONTAIN


def test_what_else_was_seen_beside_refused_attempts_is_never_taken_for_granted():
    """No question is put for this guardrail alone: it stands on what was seen, and on when."""
    real = finding(rule_id="AG-10", family="origin", tier=Tier.CORROBORATED)
    failing = finding(tier=Tier.AUTO, only_failures=True)

    assert judge(failing, evidence(earlier=(real,))).verdict is Verdict.CONTAIN
    assert vetoes(judge(failing, evidence(earlier=Unknown("store unreachable")))) == ["self-evidence"]
    assert "self-evidence" in vetoes(judge(failing, evidence(earlier=(real,), at=Unknown("no clock"))))


@pytest.mark.parametrize("guardrail", GUARDRAILS, ids=lambda one: one.name)
def test_one_that_raises_counts_as_a_veto_and_the_others_are_asked_all_the_same(guardrail):
    def broken(*_):
        raise ZeroDivisionError

    asked = tuple(replace(one, check=broken) if one is guardrail else one for one in GUARDRAILS)
    f, e, p = finding(), evidence(kill_switch_stopped=True), policy()

    decision = guard(decide(f, e, p, NOON), f, e, p, asked)

    assert decision.verdict is Verdict.ASK
    assert set(vetoes(decision)) == {guardrail.name, "kill-switch"}
    assert not decision.forbidden  # a fault in our code is nothing certain about the principal


# --- who may pass --------------------------------------------------------------------------------

FORBIDDEN = {
    "own-identity": {"e": {"own_identities": frozenset({OURSELVES, AGENT})}},
    "microsoft-application": {
        "e": {"principal": principal(owner_tenant="f8cdef31-a31e-4b4a-93e4-5f571e91255a")}
    },
    "protected-principal": {"e": {"mark": Mark.PROTECTED}},
}


def test_the_guardrails_that_forbid_are_these():
    assert {guardrail.name for guardrail in GUARDRAILS if guardrail.forbids} == set(FORBIDDEN)


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("lever", ["", *LEVERS])
def test_what_is_forbidden_is_forbidden_to_persons_too_whatever_lever_they_name(name, lever):
    f, e, p = finding(**ORDER), evidence(**FORBIDDEN[name]["e"]), policy(**EVERY_LEVER)

    decision = guard(decide(f, e, p, NOON, lever), f, e, p)

    assert decision.forbidden
    assert decision.lever == ""
    assert decision.verdict is Verdict.ASK


def test_an_empty_setting_protects_everybody_from_everybody():
    assert judge(p=policy(protected=None)).forbidden
    assert judge(finding(**ORDER), p=policy(protected=None)).forbidden


@pytest.mark.parametrize(
    ("changes", "stops_a_person"),
    [
        ({"kill_switch_stopped": True}, True),
        ({"ledger_broken": "at entry 7"}, True),
        ({"mark": Unknown("HTTP 503")}, True),
        ({"brake": Counts(99, 99, 99)}, False),
        ({"brake_tripped": "three in an hour"}, False),
        ({"owners": Unknown("HTTP 403")}, False),
        ({"at": NOON + timedelta(days=2)}, False),
        ({"change_window": ChangeWindow(NOON + timedelta(days=1))}, False),
        ({"change_window": Unknown("log unreadable")}, False),
        ({"mark": Mark.APPROVAL}, False),
    ],
)
def test_what_stops_a_person_and_what_only_stops_the_machine(changes, stops_a_person):
    e = evidence(**changes)

    assert judge(e=e).verdict is Verdict.ASK
    assert judge(finding(**ORDER), e).verdict is (Verdict.ASK if stops_a_person else Verdict.CONTAIN)


def test_the_playbook_and_the_deployer_cannot_have_themselves_contained():
    assert judge(finding(source=Source.INCIDENT, raised_by=AGENT)).forbidden


def test_a_managed_identity_has_no_owning_tenant_and_is_no_application_of_microsofts():
    e = evidence(principal=principal(kind=Kind.MANAGED_IDENTITY, owner_tenant=None))

    assert vetoes(judge(e=e, p=policy(disabling=Disabling.AUTOMATIC))) == []


# --- the storm brake -----------------------------------------------------------------------------


def test_a_trip_says_which_setting_and_that_it_stays():
    reason = judge(e=evidence(brake=Counts(3, 3, 0))).vetoes[0].reason

    assert "AGENTBREAKER_AUTOMATIC_PER_HOUR" in reason
    assert "the mode is approve until a person releases the brake" in reason


@pytest.mark.parametrize(
    ("counts", "active", "reached"),
    [
        (Counts(0, 3, 0), 0, True),
        (Counts(0, 3, 0), 79, True),
        (Counts(0, 3, 0), 80, False),
        (Counts(0, 4, 0), 80, True),
        (Counts(0, 2, 0), 0, False),
        (Counts(0, 2, 0), Unknown("log unreadable"), False),
        (Counts(0, 3, 0), NotAsked("left out"), True),
    ],
)
def test_the_share_of_active_principals_decides_beyond_the_number_of_an_hour(counts, active, reached):
    decision = judge(e=evidence(brake=counts, active_principals=active))

    assert (decision.verdict is Verdict.ASK) is reached


def test_nothing_is_automatic_where_no_automatic_containment_is_allowed():
    assert judge(p=policy(automatic_per_hour=0)).verdict is Verdict.ASK
    assert judge(p=policy(automatic_per_owner=0)).verdict is Verdict.ASK
    assert judge(finding(**ORDER), p=policy(automatic_per_hour=0)).verdict is Verdict.CONTAIN


# --- age and failures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "verdict"), [(240, Verdict.CONTAIN), (241, Verdict.ASK), (-5, Verdict.CONTAIN)]
)
def test_evidence_is_stale_after_the_hours_that_the_setting_allows(minutes, verdict):
    old = finding(first_seen=NOON - timedelta(days=1), last_seen=NOON - timedelta(minutes=minutes))

    assert judge(old).verdict is verdict


def test_a_prompt_attack_lifts_no_refused_attempts():
    """An outsider can send a prompt and knock with the appId: together that is still an outsider."""
    attack = finding(
        rule_id="AG-25",
        family="prompt",
        tier=Tier.CONTEXT,
        lifts=("AG-04",),
        first_seen=NOON - timedelta(minutes=20),
        last_seen=NOON - timedelta(minutes=14),
    )
    e = evidence(earlier=(attack,), microsoft_risk=None)

    assert judge(finding(**LONE), e).verdict is Verdict.CONTAIN
    assert vetoes(judge(finding(**LONE, only_failures=True), e)) == ["self-evidence"]


def test_on_probation_refused_attempts_ask():
    e = evidence(microsoft_risk=None, on_probation=True, undone_at=NOON - timedelta(hours=1))

    assert judge(finding(**LONE), e).verdict is Verdict.CONTAIN
    assert vetoes(judge(finding(**LONE, only_failures=True), e)) == ["self-evidence"]


@given(
    st.lists(st.sampled_from(["probing", "reach", "volume", "credential", "external"]), max_size=4), findings
)
def test_refused_attempts_never_contain_however_many_of_them_there_are(families, f):
    failing = tuple(
        finding(rule_id=f"AG-{20 + n}", family=family, tier=Tier.CORROBORATED, only_failures=True)
        for n, family in enumerate(families)
    )
    f = replace(f, only_failures=True)

    decision = judge(f, evidence(earlier=failing, microsoft_risk=None))

    if f.source is not Source.ANALYST:
        assert decision.verdict is not Verdict.CONTAIN


# --- the sentences with "never", over every field ------------------------------------------------

FIELDS = [field.name for field in fields(Evidence)]
UNKNOWN = st.just(Unknown("?"))
SIGNS = [
    finding(rule_id="AG-10", family="origin", tier=Tier.CORROBORATED),
    finding(rule_id="AG-07", family="probing", tier=Tier.CORROBORATED, only_failures=True),
    finding(rule_id="AG-25", family="prompt", tier=Tier.CONTEXT, lifts=("AG-04",)),
    finding(rule_id="", family="external", tier=Tier.CORROBORATED, source=Source.SIGNAL, expires_at=NOON),
]
# A few things differ from a principal that would be contained: so that both sides of each edge are met often.
DIFFERS = {
    "principal": st.one_of(st.builds(principal, kind=st.sampled_from(list(Kind))), UNKNOWN),
    "armed": UNKNOWN,
    "own_identities": UNKNOWN,
    "microsoft_risk": st.sampled_from([None, RiskLevel.HIGH, Unknown("?")]),
    "earlier": st.one_of(
        st.sets(st.sampled_from(range(len(SIGNS)))).map(lambda i: tuple(SIGNS[n] for n in i)), UNKNOWN
    ),
    "kill_switch_stopped": st.sampled_from([True, Unknown("?")]),
    "ongoing": st.one_of(st.sampled_from(SIGNS).map(lambda sign: (sign,)), UNKNOWN),
    "at": st.sampled_from([NOON + timedelta(hours=5), Unknown("?")]),
    "mark": st.sampled_from([*Mark, NotAsked("-"), Unknown("?")]),
    "privilege": st.sampled_from([Privilege(0, ("x",)), NotAsked("-"), Unknown("?")]),
    "owners": st.sampled_from([NotAsked("-"), Unknown("?")]),
    "change_window": st.sampled_from([ChangeWindow(NOON), NotAsked("-"), Unknown("?")]),
    "undone_at": st.sampled_from([NOON, NOON - timedelta(hours=1), Unknown("?")]),
    "on_probation": st.sampled_from([True, Unknown("?")]),
    "brake": st.sampled_from([Counts(3, 3, 0), Counts(0, 4, 0), Unknown("?")]),
    "active_principals": st.sampled_from([60, 1000, Unknown("?")]),
    "brake_tripped": st.sampled_from(["three in an hour", Unknown("?")]),
    "ledger_broken": st.sampled_from(["at entry 7", Unknown("?")]),
}
NEAR = st.fixed_dictionaries({}, optional=DIFFERS).map(lambda changes: evidence(**changes))
evidences = st.one_of(NEAR, NEAR, evidences)


def test_the_evidence_that_is_tried_differs_in_every_field():
    assert set(DIFFERS) == set(FIELDS)


@given(
    findings,
    evidences,
    policies,
    st.sampled_from(["", *LEVERS]),
    st.sets(st.sampled_from(FIELDS), min_size=1),
)
def test_an_added_unknown_never_contains_whatever_lever_is_named(f, e, p, lever, names):
    p = replace(p, **EVERY_LEVER)
    poorer = replace(e, **dict.fromkeys(names, Unknown("not answered")))
    before = guard(decide(f, e, p, NOON, lever), f, e, p)
    after = guard(decide(f, poorer, p, NOON, lever), f, poorer, p)

    if before.verdict is not Verdict.CONTAIN:
        assert after.verdict is not Verdict.CONTAIN
    if after.verdict is Verdict.CONTAIN:
        assert after.lever == before.lever
        assert after.people >= before.people


@given(findings, evidences, policies, st.sampled_from(["", *LEVERS]))
def test_guardrails_only_take_away(f, e, p, lever):
    p = replace(p, **EVERY_LEVER)
    bare = decide(f, e, p, NOON, lever)
    guarded = guard(bare, f, e, p)

    assert guarded.lever in ("", bare.lever)
    assert guarded.people == bare.people
    assert guarded.mode is bare.mode
    assert guarded.wanted in (None, bare.verdict)
    assert (guarded.verdict is Verdict.CONTAIN) == (bare.verdict is Verdict.CONTAIN and not guarded.vetoes)


@given(findings, evidences, policies, st.sampled_from(GUARDRAILS))
def test_a_guardrail_more_never_frees_anything(f, e, p, guardrail: Guardrail):
    bare = decide(f, e, p, NOON)
    fewer = guard(bare, f, e, p, tuple(one for one in GUARDRAILS if one is not guardrail))
    all_of_them = guard(bare, f, e, p)

    assert set(fewer.vetoes) <= set(all_of_them.vetoes)
    if fewer.verdict is not Verdict.CONTAIN:
        assert all_of_them.verdict is not Verdict.CONTAIN


@given(findings, evidences, policies)
def test_nothing_is_contained_automatically_that_a_person_should_have_looked_at(f, e, p):
    decision = judge(f, e, p)

    if decision.verdict is Verdict.CONTAIN and decision.automatic:
        assert e.principal.owner_tenant == TENANT
        assert e.mark in (None, Mark.AUTO) or isinstance(e.mark, NotAsked)
        assert e.ledger_broken == "" == e.brake_tripped
        assert not isinstance(e.change_window, ChangeWindow | Unknown)
        assert not isinstance(e.owners, Unknown)
        assert e.undone_at is None or e.undone_at < f.last_seen
        assert f.expires_at is None or f.expires_at > NOON
        assert e.at - f.last_seen <= p.evidence_max_age
        assert e.brake.last_hour < p.automatic_per_hour


# --- what an undo, probation and an end change ---------------------------------------------------

UNDONE = {"undone_at": NOON - timedelta(minutes=10)}
OLDER = {"first_seen": NOON - timedelta(minutes=30), "last_seen": NOON - timedelta(minutes=20)}


@pytest.mark.parametrize(
    ("minutes", "verdict"), [(1, Verdict.CONTAIN), (0, Verdict.WATCH), (-1, Verdict.WATCH)]
)
def test_a_signal_that_is_enough_alone_is_enough_until_its_end(minutes, verdict):
    signal = {"source": Source.SIGNAL, "rule_id": "", "family": "external"}

    assert judge(finding(**signal, expires_at=NOON + timedelta(minutes=minutes))).verdict is verdict


def test_a_prompt_attack_from_before_an_undo_lifts_nothing():
    attack = finding(rule_id="AG-25", family="prompt", tier=Tier.CONTEXT, lifts=("AG-04",), **OLDER)
    seen = {"earlier": (attack,), "microsoft_risk": None}

    assert judge(finding(**LONE), evidence(**seen)).verdict is Verdict.CONTAIN
    assert judge(finding(**LONE), evidence(**seen, **UNDONE)).verdict is Verdict.WATCH


def test_a_success_from_before_an_undo_makes_nothing_of_refused_attempts():
    real = finding(rule_id="AG-10", family="origin", tier=Tier.CORROBORATED, **OLDER)
    failing = finding(only_failures=True)

    assert judge(failing, evidence(earlier=(real,))).verdict is Verdict.CONTAIN
    assert vetoes(judge(failing, evidence(earlier=(real,), **UNDONE))) == ["self-evidence"]


def test_probation_counts_only_where_it_is_known_when_it_was_taken_back():
    lone = finding(**LONE)

    assert judge(lone, evidence(microsoft_risk=None, on_probation=True, **UNDONE)).verdict is Verdict.CONTAIN
    assert (
        judge(lone, evidence(microsoft_risk=None, on_probation=True, undone_at=None)).verdict is Verdict.WATCH
    )
    assert (
        judge(lone, evidence(microsoft_risk=None, on_probation=Unknown("?"), **UNDONE)).verdict is Verdict.ASK
    )


def test_a_brake_of_which_it_is_not_known_whether_it_tripped_says_just_that():
    decision = judge(e=evidence(brake_tripped=Unknown("store unreachable")))

    assert decision.vetoes[0].reason == (
        "whether the storm brake has tripped could not be read: store unreachable"
    )


@pytest.mark.parametrize(
    ("lever", "p", "why"),
    [
        ("pull-the-plug", {}, "there is no such lever"),
        ("remove-grants", {}, "remove-grants is switched off (AGENTBREAKER_REMOVAL_LEVERS)"),
        (
            "confirm-agent-compromised",
            {"agent_risk": True},
            "does not bite on this kind of identity, application",
        ),
    ],
)
def test_a_lever_that_a_person_named_in_vain_asks_and_says_why(lever, p, why):
    decision = decide(finding(**ORDER), evidence(), policy(**p), NOON, lever)

    assert (decision.verdict, decision.lever) == (Verdict.ASK, "")
    assert why in decision.reasons[0]


def test_of_an_agent_user_the_agent_identity_behind_it_is_named():
    of = principal(kind=Kind.AGENT_USER, parent="aaaaaaaa-1111-4111-8111-111111111111")

    decision = judge(e=evidence(principal=of), p=policy(**EVERY_LEVER))

    assert decision.verdict is Verdict.ASK
    assert "aaaaaaaa-1111-4111-8111-111111111111" in decision.reasons[0]


@pytest.mark.parametrize(
    "unread",
    [
        {"earlier": Unknown("store unreachable"), "microsoft_risk": None},
        {"microsoft_risk": Unknown("HTTP 429")},
        {"microsoft_risk": NotAsked("left out")},
    ],
)
def test_one_sign_asks_where_it_could_not_be_checked_whether_another_agrees(unread):
    assert judge(finding(**LONE), evidence(**unread)).verdict is Verdict.ASK
