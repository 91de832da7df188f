"""What guardrails refuse, to whom, and what they can never do."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON, OURSELVES, TENANT, evidence, finding, policy, principal
from hypothesis import given
from hypothesis import strategies as st
from test_decision import evidences, findings, policies

from clients.terms import Kind, Mark, NotAsked, Unknown
from response.brake import Counts
from response.decision import Verdict, decide
from response.evidence import ChangeWindow, Evidence
from response.finding import Source, Tier
from response.guardrails import GUARDRAILS, Guardrail, guard
from response.levers import LEVERS
from response.policy import Disabling

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
