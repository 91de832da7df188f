"""Approve, reject, undo: what people decide, over the API, against a running tenant."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from desk_app import ANALYST, desk, identity

from clients.stores import Put
from clients.terms import object_id
from response import approving, flow, ledger
from response.finding import Finding, Source, Tier
from response.policy import Mode
from simtenant.faults import FaultKind
from simtenant.risk import RiskLevel

SECOND = "cccccccc-0000-4000-8000-000000000004"
THIRD = "cccccccc-0000-4000-8000-000000000005"


@pytest.fixture
async def careful(tmp_path, quick_turns):
    """An app that asks for every automatic containment."""
    async with desk(tmp_path, mode="approve") as opened:
        yield opened


def finding(app, principal=None, **changes):
    now = app.process.world.now()
    values = {
        "source": Source.RULE,
        "rule_id": "AG-04",
        "family": "reach",
        "tier": Tier.AUTO,
        "principal": object_id((principal or app.rogue).object_id),
        "first_seen": now,
        "last_seen": now,
        "reason": "first Key Vault use",
        "raised_by": "agentbreaker",
    }
    return Finding(**(values | changes))


async def waiting(app, **changes):
    opened = await flow.respond(finding(app, **changes), app.process.world)
    assert opened.containment.state == "awaiting_approval"
    return opened.containment.id


async def approve(app, containment_id, *, by=ANALYST, decision="approve", role="Containment.Approve"):
    return await app.call(
        "approval",
        route={"id": containment_id},
        body={"decision": decision, "reason": "looked at it", "lever": await app.proposed(containment_id)},
        headers=identity(role, oid=by),
    )


async def undo(app, containment_id, **body):
    return await app.call(
        "undo",
        route={"id": containment_id},
        body={"reason": "it was a migration", **body},
        headers=identity("Containment.Execute"),
    )


async def settle(app, after=timedelta(0), times=1):
    now = app.process.world.now
    for _ in range(times):
        await flow.settle(replace(app.process.world, now=lambda: now() + after))


async def contained(app):
    opened = await flow.respond(finding(app), app.process.world)
    await settle(app)
    assert (await app.containments())[0]["state"] == "confirmed"
    return opened.containment.id


def dismissals(app):
    return [seen for seen in app.estate.tenant.requests if seen.path.endswith("/dismiss")]


# --- approvals ----------------------------------------------------------------------------------


async def test_what_a_person_approves_is_pulled_and_recorded(careful):
    containment = await waiting(careful)
    assert careful.confirms(status=None) == 0

    answer = await approve(careful, containment)

    assert (answer.status, answer.body["state"]) == (200, "pulled")
    assert answer.body["approvals"][0]["by"] == ANALYST
    assert careful.confirms() == 1
    assert "approved" in await careful.ledger_kinds()
    assert await careful.process.world.store.scan("deciding:") == []


async def test_what_a_person_rejects_is_never_pulled_and_frees_its_principal(careful):
    containment = await waiting(careful)

    answer = await approve(careful, containment, decision="reject")
    await settle(careful, times=2)

    assert (answer.status, answer.body["state"]) == (200, "rejected")
    assert careful.confirms(status=None) == 0
    assert (await approve(careful, containment, by=SECOND)).body["error"]["code"] == "not_waiting"
    again = await waiting(careful, rule_id="AG-07", family="probing")
    assert again != containment


async def test_nobody_approves_what_they_asked_for(tmp_path, quick_turns):
    async with desk(tmp_path, AUTOMATIC_PER_HOUR="3", DISABLE_PRINCIPAL="approval") as app:
        order = await app.compromise(app.rogue.object_id, lever="disable-principal")
        assert (order.status, order.body["state"]) == (202, "awaiting_approval")

        own = await approve(app, order.body["id"])
        other = await approve(app, order.body["id"], by=SECOND)

        assert (own.status, own.body["error"]["code"]) == (409, "own_request")
        assert (other.status, other.body["state"]) == (200, "pulled")
        assert app.rogue.account_enabled is False


async def test_a_removal_lever_wants_two_different_people(tmp_path, quick_turns):
    async with desk(tmp_path, REMOVAL_LEVERS="true") as app:
        order = await app.compromise(app.rogue.object_id, lever="remove-app-roles")
        first = await approve(app, order.body["id"], by=SECOND)
        same = await approve(app, order.body["id"], by=SECOND)
        assert (first.status, first.body["state"], same.status) == (202, "awaiting_approval", 202)
        assert len(same.body["approvals"]) == 1

        second = await approve(app, order.body["id"], by=THIRD)

        assert (second.status, second.body["state"]) == (200, "pulled")
        assert not app.rogue.app_roles


async def test_of_approve_and_reject_at_once_one_wins_and_the_other_is_told(careful):
    containment = await waiting(careful)

    answers = await asyncio.gather(
        approve(careful, containment, by=SECOND), approve(careful, containment, by=THIRD, decision="reject")
    )

    assert sorted(answer.status for answer in answers) == [200, 409]
    (record,) = await careful.containments()
    assert record["state"] in ("pulled", "rejected")
    assert careful.confirms(status=None) == (1 if record["state"] == "pulled" else 0)


async def test_ten_approvals_of_one_person_pull_once(careful):
    containment = await waiting(careful)

    answers = await asyncio.gather(*(approve(careful, containment) for _ in range(10)))

    assert {answer.status for answer in answers} <= {200, 202}
    assert careful.confirms(status=None) == 1
    assert (await careful.ledger_kinds()).count("approved") == 1


async def test_a_guardrail_stands_whoever_approves(careful):
    containment = await waiting(careful)
    await careful.process.world.store.commit([Put("killswitch", {"stopped": True, "reason": "storm"})])

    answer = await approve(careful, containment)

    assert (answer.status, answer.body["error"]["code"]) == (409, "vetoed")
    assert "kill" in answer.body["error"]["message"]
    assert careful.confirms(status=None) == 0


async def test_approving_in_observe_touches_nothing(careful):
    containment = await waiting(careful)
    world = careful.process.world
    observing = replace(world, policy=replace(world.policy, mode=Mode.OBSERVE))

    with pytest.raises(approving.CannotDecide, match="observe"):
        await approving.decide_about(containment, SECOND, "approve", "because", observing)

    assert careful.confirms(status=None) == 0


async def test_what_nobody_decides_expires_and_is_not_pulled(careful):
    containment = await waiting(careful)

    await settle(careful, timedelta(hours=3, minutes=59))
    assert (await careful.containments())[0]["state"] == "awaiting_approval"
    await settle(careful, timedelta(hours=4, minutes=1))

    assert (await careful.containments())[0]["state"] == "expired"
    assert careful.confirms(status=None) == 0
    late = await approve(careful, containment)
    assert late.body["error"]["code"] == "not_waiting"


async def test_expiry_contains_only_where_policy_says_so_and_only_the_mode_stood_in_the_way(
    tmp_path, quick_turns
):
    async with desk(tmp_path, mode="approve", ON_EXPIRY="contain") as app:
        await waiting(app)
        asked = app.estate.tenant.add_application("asked-agent")
        await waiting(app, principal=asked, tier=Tier.APPROVAL)

        # the finding is as old as the wait, so the evidence gathered at expiry is of then
        await settle(app, timedelta(hours=4, minutes=1))

        states = {c["principalId"]: c["state"] for c in await app.containments()}
        assert states[app.rogue.object_id] in ("pulled", "confirmed")
        assert states[asked.object_id] == "expired"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"decision": "maybe", "reason": "hmm"}, 400),
        ({"decision": "approve"}, 400),
        ({"decision": "approve", "reason": "x" * 3000}, 400),
        ([], 400),
    ],
)
async def test_a_decision_of_the_wrong_shape_is_refused(careful, body, status):
    containment = await waiting(careful)

    answer = await careful.call("approval", route={"id": containment}, body=body)

    assert answer.status == status
    assert careful.confirms(status=None) == 0


async def test_roles_and_ids_are_checked(careful):
    containment = await waiting(careful)

    assert (await approve(careful, containment, role="Containment.Execute")).status == 403
    assert (await approve(careful, "20260101T000000-ffffffff")).status == 404
    assert (await undo(careful, "../../ledger-head")).status == 404


# --- undo ---------------------------------------------------------------------------------------


async def test_undo_asks_for_an_explicit_yes_and_says_what_microsoft_had_found(app):
    app.estate.tenant.risk.detect(app.rogue.object_id, RiskLevel.HIGH, "leakedCredentials")
    containment = await contained(app)

    answer = await undo(app, containment)

    assert (answer.status, answer.body["error"]["code"]) == (409, "dismiss_all_risk_needed")
    assert any("leakedCredentials" in said for said in answer.body["error"]["details"]["wouldDismiss"])
    assert dismissals(app) == []


async def test_without_the_right_to_detections_an_undo_does_not_ask_for_them(app):
    app.estate.app.app_roles.discard("IdentityRiskEvent.Read.All")
    containment = await contained(app)
    app.estate.tenant.requests.clear()

    answer = await undo(app, containment)

    shown = answer.body["error"]["details"]["wouldDismiss"]
    assert any("IdentityRiskEvent.Read.All is not granted" in said for said in shown)
    assert [one for one in app.estate.tenant.requests if one.status in {401, 403}] == []


async def test_undo_dismisses_compares_and_puts_on_probation(app):
    containment = await contained(app)

    answer = await undo(app, containment, dismissAllRisk=True)
    await settle(app)

    assert (answer.status, answer.body["state"]) == (200, "half_open")
    assert len(dismissals(app)) == 1
    (record,) = await app.containments()
    assert any("confirmedCompromised" in said for said in record["undo"]["before"])
    assert "dismissed" in record["undo"]["after"]
    assert await app.process.world.store.get(f"undone:{app.rogue.object_id}") is not None
    assert isinstance(await ledger.verify(app.process.world.store), ledger.Verified)


async def test_probation_ends_and_gives_the_principal_free(app):
    containment = await contained(app)
    await undo(app, containment, dismissAllRisk=True)

    await settle(app, timedelta(hours=24, minutes=1), times=2)

    (record,) = await app.containments()
    assert record["state"] == "closed"
    assert await app.process.world.store.get(f"open:{app.rogue.object_id}") is None
    assert await app.process.world.store.scan("probation:") == []


async def test_a_dropped_answer_to_an_undo_is_looked_at_and_not_sent_again(app):
    containment = await contained(app)
    app.estate.tenant.faults.add(r"POST .*/dismiss", FaultKind.DROP_AFTER, times=1)

    answer = await undo(app, containment, dismissAllRisk=True)
    await settle(app, times=2)

    assert answer.status in (200, 202)
    assert (await app.containments())[0]["state"] == "half_open"
    assert len(dismissals(app)) == 1


async def test_a_throttled_undo_waits_and_is_done(app):
    containment = await contained(app)
    app.estate.tenant.faults.add(r"POST .*/dismiss", FaultKind.STATUS, times=1, status=429)

    await undo(app, containment, dismissAllRisk=True)
    await settle(app, times=2)

    assert (await app.containments())[0]["state"] == "half_open"


async def test_many_undos_at_once_share_one_call(app, monkeypatch):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(8)]
    for agent in agents:
        assert (await app.compromise(agent.object_id)).status == 200
    await settle(app)
    ids = [c["id"] for c in await app.containments()]

    answers = await asyncio.gather(*(undo(app, one, dismissAllRisk=True) for one in ids))

    assert {answer.body["state"] for answer in answers} == {"half_open"}
    assert len(dismissals(app)) <= 4


async def test_nothing_that_was_not_touched_can_be_undone(careful):
    containment = await waiting(careful)

    answer = await undo(careful, containment, dismissAllRisk=True)

    assert (answer.status, answer.body["error"]["code"]) == (409, "nothing_to_undo")


async def test_a_containment_with_an_end_takes_itself_back(app):
    refused = await app.compromise(app.rogue.object_id, endsAfterMinutes=30)
    assert (refused.status, refused.body["error"]["code"]) == (400, "dismiss_all_risk_needed")
    order = await app.compromise(app.rogue.object_id, endsAfterMinutes=30, dismissAllRisk=True)
    assert order.body["endsAt"] is not None

    await settle(app)
    assert (await app.containments())[0]["state"] == "confirmed"
    await settle(app, timedelta(minutes=31), times=2)

    assert (await app.containments())[0]["state"] == "half_open"
    assert len(dismissals(app)) == 1


async def test_disabling_is_undone_by_enabling_again(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        order = await app.compromise(app.rogue.object_id, lever="disable-principal")
        await approve(app, order.body["id"], by=SECOND)
        await settle(app)
        assert (await app.containments())[0]["state"] == "confirmed"

        answer = await undo(app, order.body["id"])

        assert (answer.status, answer.body["state"]) == (200, "half_open")
        assert app.rogue.account_enabled is True
        assert dismissals(app) == []


async def test_two_levers_are_taken_back_the_last_one_first(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        first = await app.compromise(app.rogue.object_id)
        await settle(app)
        further = await app.compromise(app.rogue.object_id, lever="disable-principal")
        assert (further.body["id"], further.body["nextLever"]) == (first.body["id"], "disable-principal")
        await approve(app, first.body["id"], by=SECOND)
        await settle(app)

        answer = await undo(app, first.body["id"], dismissAllRisk=True)

        assert answer.body["state"] == "half_open"
        assert app.rogue.account_enabled is True
        assert len(dismissals(app)) == 1
        assert [one["lever"] for one in answer.body["pulledLevers"]] == [
            "confirm-compromised",
            "disable-principal",
        ]


async def test_removed_app_roles_come_back_exactly(tmp_path, quick_turns):
    async with desk(tmp_path, REMOVAL_LEVERS="true") as app:
        app.rogue.app_roles.add("Directory.ReadWrite.All")  # which nobody else holds
        before = set(app.rogue.app_roles)
        order = await app.compromise(app.rogue.object_id, lever="remove-app-roles")
        for person in (SECOND, THIRD):
            await approve(app, order.body["id"], by=person)
        assert not app.rogue.app_roles

        answer = await undo(app, order.body["id"])

        assert answer.body["state"] == "half_open"
        assert set(app.rogue.app_roles) == before
