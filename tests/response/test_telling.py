"""The words of the incident comment and of notifications, for records in every state."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON
from hypothesis import given
from hypothesis import strategies as st

from response.containment import (
    Approval,
    Containment,
    ContainmentId,
    FailureReason,
    Pull,
    Pulled,
    PullOutcome,
    State,
    Undo,
)
from response.notices import next_steps, outbox, plain, span
from response.telling import compose

PROBATION = timedelta(hours=24)
LATER = NOON + timedelta(minutes=3)


def containment(**changes):
    record = Containment(
        id=ContainmentId("20261124T120000-abcdef01"),
        principal=AGENT,
        principal_name="invoice-reader",
        app_id="",
        kind="application",
        state=State.PULLED,
        mode="enforce",
        lever="confirm-compromised",
        automatic=True,
        requested_by="agentbreaker",
        opened_at=NOON,
        updated_at=NOON,
        reasons=("one finding of this sort is enough",),
        unchecked=(),
        vetoes=(),
        armed="armed",
        pull=Pull("a1", NOON, PullOutcome.ACCEPTED, NOON),
        residual_until=NOON + timedelta(minutes=90),
        armed_policies=("policy-1",),
    )
    return replace(record, **changes)


def waiting(**changes):
    untouched = {"state": State.AWAITING_APPROVAL, "pull": None, "residual_until": None}
    return containment(**(untouched | {"decide_by": NOON + timedelta(hours=4)} | changes))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("pulled", [True, False])
def test_only_a_seen_refusal_is_called_blocked(state, pulled):
    changes = {} if pulled else {"pull": None, "residual_until": None}

    head = compose(containment(state=state, **changes)).split("</b>")[0]

    assert ("Blocked" in head) is (state is State.PROVEN)


@pytest.mark.parametrize("state", [State.VETOED, State.REJECTED, State.EXPIRED])
def test_what_was_pulled_before_is_not_denied_when_a_further_lever_is_not(state):
    text = compose(containment(state=state))

    assert "Not contained" not in text
    assert "may stand" in text
    assert "/undo with" in text
    assert "Not contained" in compose(waiting(state=state))


def test_a_disabled_principal_is_not_said_to_lack_a_policy():
    c = containment(state=State.CONFIRMED, lever="disable-principal", armed_policies=())

    assert "could not be read" not in compose(c)
    assert "could not be read" in compose(replace(c, lever="confirm-compromised"))


def test_owners_are_named_and_escaped():
    text = compose(containment(owners=("Ada <script>", "Bob\u202e & Co")))

    assert "Ada &lt;script&gt;" in text
    assert "Bob &amp; Co" in text.replace("\u202e", "")
    assert "<script>" not in text


def test_more_owners_than_anybody_reads_are_counted():
    assert "and 5 more" in compose(containment(owners=tuple(f"owner {n}" for n in range(25))))


def test_who_approved_what_and_who_is_still_needed():
    given = Approval("ada", "approve", "seen <it>", NOON, "remove-credentials")
    c = waiting(lever="remove-credentials", people_needed=2, approvals=(given,))

    text = compose(c)

    assert "ada approved remove-credentials at 2026-11-24 12:00 UTC: seen &lt;it&gt;" in text
    assert f"POST /api/containments/{c.id}/approval" in text
    assert "Needed: one person, none of them the requester" in text
    assert "Decide by 2026-11-24 16:00 UTC" in text


def test_two_people_are_asked_for_while_nobody_has_decided():
    assert "2 different people" in " ".join(next_steps(waiting(people_needed=2)))


def test_the_same_person_twice_is_one_person():
    lever = "remove-grants"
    twice = tuple(Approval("ada", "approve", "yes", at, lever) for at in (NOON, LATER))

    assert "one person" in " ".join(next_steps(waiting(lever=lever, people_needed=2, approvals=twice)))


def test_an_approval_of_an_earlier_lever_is_none_of_the_next():
    earlier = (Approval("ada", "approve", "yes", NOON, "confirm-compromised"),)
    c = containment(next_lever="remove-grants", people_needed=2, approvals=earlier)

    assert "2 different people" in " ".join(next_steps(c))


def test_without_a_lever_nobody_is_sent_to_an_approval_that_could_do_nothing():
    steps = " ".join(next_steps(waiting(lever="")))

    assert "/approval" not in steps
    assert "No lever" in steps


@pytest.mark.parametrize(
    "state", [State.PULLED, State.CONFIRMED, State.PROVEN, State.NOT_COVERED, State.FAILED]
)
def test_the_next_lever_is_proposed_with_the_route_that_approves_it(state):
    c = containment(state=state, next_lever="disable-principal", decide_by=NOON + timedelta(hours=4))

    steps = " ".join(next_steps(c))

    assert "Lever disable-principal is proposed" in steps
    assert f"Approve or reject disable-principal: POST /api/containments/{c.id}/approval" in steps
    assert "Decide by 2026-11-24 16:00 UTC" in steps
    assert "waits for approval" in compose(c).split("</b>")[0]
    assert the_note(c).body["fields"]["waitsForPeople"] is True
    assert the_note(replace(c, next_lever="")).body["fields"]["waitsForPeople"] is False


def test_a_failure_without_a_next_lever_says_that_the_principal_may_still_act():
    failed = containment(state=State.FAILED, failed_because=FailureReason.NOT_HIGH)

    assert "may still act" in " ".join(next_steps(failed))


def test_times_to_contain_and_to_proof():
    c = containment(
        state=State.PROVEN,
        began_at=NOON,
        contained_at=NOON + timedelta(seconds=42),
        proven_at=NOON + timedelta(minutes=9),
    )

    text = compose(c)

    assert "Time to contain: 42 seconds" in text
    assert "Time to proof: 8 minutes" in text


def test_times_that_are_not_known_are_not_told():
    assert "Time to" not in compose(containment())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Waits for its turn"),
        ({"step": Pull("u1", LATER, PullOutcome.STARTED)}, "Under way"),
        ({"step": Pull("u1", LATER, PullOutcome.UNKNOWN)}, "not known yet"),
        ({"done_at": LATER}, "Done at 2026-11-24 12:03 UTC"),
        ({"failure": "refused <403>"}, "It failed: refused &lt;403&gt;"),
    ],
)
def test_an_undo_says_how_far_it_is_and_what_microsoft_had_raised(changes, said):
    undo = Undo(ANALYST, "false alarm", NOON, PROBATION, before=("Microsoft: leaked credentials",), **changes)

    text = compose(containment(undo=undo))

    assert said in text
    assert "Before it: Microsoft: leaked credentials" in text
    assert f"Ordered by {ANALYST}" in text


def test_an_undo_under_way_is_told_by_the_comment_and_not_by_the_webhook():
    ordered = containment(undo=Undo(ANALYST, "false alarm", NOON, PROBATION))

    assert "being taken back" in compose(ordered)
    assert outbox(ordered, NOON) == []


def test_after_the_undo_there_is_nothing_left_to_undo_and_probation_has_an_end():
    done = containment(
        state=State.HALF_OPEN,
        pulled_levers=(Pulled("confirm-compromised", NOON, undone_at=LATER),),
        probation_until=NOON + timedelta(hours=24),
        undo=Undo(ANALYST, "false alarm", NOON, PROBATION, done_at=LATER),
    )

    text = compose(done)

    assert "Nothing is left to undo" in text
    assert "On probation until 2026-11-25 12:00 UTC" in text
    assert "/undo with" not in text


def test_every_lever_that_took_effect_is_told_with_its_undo():
    both = (Pulled("confirm-compromised", NOON), Pulled("disable-principal", LATER))

    text = compose(containment(lever="disable-principal", pulled_levers=both))

    assert "Lever confirm-compromised took effect" in text
    assert "Lever disable-principal took effect" in text
    assert text.count("Beware:") == 2


def test_the_longest_record_fits_and_still_says_what_to_do():
    huge = waiting(
        owners=("&" * 5000,) * 50,
        reasons=("<" * 2000,) * 20,
        vetoes=(">" * 2000,) * 20,
        unchecked=("&" * 2000,) * 20,
    )

    text = compose(huge)

    assert len(text) <= 30_000
    assert "/approval" in text
    assert "items left out" in text


# --- the outbox ---


def the_note(c, now=NOON):
    (write,) = outbox(c, now)
    return write


@pytest.mark.parametrize(
    "state", [s for s in State if s not in ("proposed", "claimed", "vetoed", "rejected", "closed")]
)
def test_states_that_people_are_told_of_have_one_note(state):
    assert the_note(containment(state=state)).key == f"notify:20261124T120000-abcdef01:{state}"


@pytest.mark.parametrize("state", [State.PROPOSED, State.CLAIMED, State.VETOED, State.REJECTED, State.CLOSED])
def test_other_states_have_none(state):
    assert outbox(containment(state=state), NOON) == []


def test_a_state_entered_anew_is_news_and_a_change_within_it_is_not():
    first = the_note(waiting()).body["id"]

    assert the_note(waiting(reasons=("more",)), LATER).body["id"] == first
    assert the_note(waiting(claimed_at=LATER)).body["id"] != first
    assert the_note(waiting(next_lever="disable-principal")).body["id"] != first


def test_a_failed_undo_is_news():
    before = the_note(containment()).body["id"]
    failed = the_note(containment(undo=Undo(ANALYST, "false alarm", NOON, PROBATION, failure="refused")))

    assert failed.body["id"] != before
    assert "The undo failed: refused" in failed.body["lines"]


def test_residual_access_and_deadlines_are_there_for_programs():
    fields = the_note(containment()).body["fields"]

    assert fields["residualAccessUntil"] == (NOON + timedelta(minutes=90)).isoformat()
    assert fields["principalId"] == AGENT


# --- plain ---


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("see https://evil.example/x", "see https[:]//evil[.]example/x"),
        ("evil.example", "evil[.]example"),
        ("@channel", "(at)channel"),
        ("[x](y)", "[x] (y)"),
        ("{{DATE(x)}}", "{ {DATE(x)}}"),
        ("a\nb\u202e\u200bc", "a b c"),
        ("*bold* `code` ~gone~", "'bold' 'code' 'gone'"),
        ("took 3.5 s on 10.0.0.1", "took 3.5 s on 10.0.0.1"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_plain_text_is_harmless(given, made):
    assert plain(given) == made


@given(st.text(max_size=600))
def test_no_text_stays_dangerous(text):
    made = plain(text)

    for poison in ("://", "@", "](", "{{", "`", "\n"):
        assert poison not in made
    assert made.isprintable()
    assert re.search(r"\w\.[^\W\d_]", made) is None
    assert len(made) <= 300


@pytest.mark.parametrize(
    ("given", "said"),
    [(-5, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (200_000, "2 days")],
)
def test_durations_are_said_in_a_unit_people_use(given, said):
    assert span(timedelta(seconds=given)) == said
