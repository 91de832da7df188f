"""What a second hostile reading of the containment engine found; each test is one defect and was red when it was written."""

from dataclasses import replace
from datetime import timedelta

import pytest
import test_proof
from desk_app import desk, identity
from test_review import SECOND, THIRD, approve, contained, finding, kill_switch, later, order, settle, undo

from clients.stores import Put
from detections import sweep
from response import flow, turns
from response.finding import Tier
from response.policy import Mode
from simtenant.faults import FaultKind


async def state(app):
    (one,) = await app.containments()
    return one["state"]


def risk(app):
    return str(app.estate.tenant.risk.get(app.rogue.object_id).state)


# --- after an undo --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule_id", ["AG-19", "AG-08"])
async def test_an_attack_that_goes_on_through_an_undo_is_judged_again(app, rule_id):
    """Windows of sweeps overlap, so what goes on stays one claim that is only prolonged."""
    rule = next(r for r in app.process.rules if r.id == rule_id)
    world = app.process.world
    now = world.now()
    first = finding(
        app, rule_id=rule_id, family=rule.family, first_seen=now - timedelta(minutes=10), last_seen=now
    )
    await sweep._take(first, rule, world)
    await settle(app)
    (record,) = await app.containments()
    await undo(app, record["id"])
    assert await state(app) == "half_open"

    after = later(app, timedelta(minutes=5))
    goes_on = replace(first, first_seen=now - timedelta(minutes=1), last_seen=after.now())
    await sweep._take(goes_on, rule, after)
    await settle(app, timedelta(minutes=5))

    assert await state(app) in ("pulled", "confirmed")
    assert risk(app) == "confirmedCompromised"


async def test_what_was_over_before_the_undo_is_not_judged_again(app):
    rule = next(r for r in app.process.rules if r.id == "AG-19")
    now = app.process.world.now()
    first = finding(
        app, rule_id="AG-19", family=rule.family, first_seen=now - timedelta(minutes=10), last_seen=now
    )
    await sweep._take(first, rule, app.process.world)
    await settle(app)
    (record,) = await app.containments()
    await undo(app, record["id"])

    for minutes in (5, 90):
        await sweep._take(
            replace(first, last_seen=now + timedelta(milliseconds=1)),
            rule,
            later(app, timedelta(minutes=minutes)),
        )

    assert await state(app) == "half_open"
    assert risk(app) == "dismissed"


async def test_what_was_seen_between_the_order_and_graphs_acceptance_still_counts(app, monkeypatch):
    containment_id = await contained(app)
    app.estate.tenant.faults.add(r"POST .*/dismiss", FaultKind.STATUS, times=None, status=429, retry_after=0)
    monkeypatch.setattr(flow, "PULL_WITHIN", timedelta(seconds=1))
    await undo(app, containment_id)
    rule = next(r for r in app.process.rules if r.id == "AG-19")
    seen = finding(app, rule_id="AG-19", family=rule.family)
    await sweep._take(seen, rule, app.process.world)
    app.estate.tenant.faults.clear()
    await settle(app, times=2)
    assert await state(app) == "half_open"

    again = later(app, timedelta(minutes=61))
    await sweep._take(replace(seen, last_seen=seen.last_seen + timedelta(seconds=1)), rule, again)
    await settle(app, timedelta(minutes=61))

    assert await state(app) in ("pulled", "confirmed")


async def test_a_lever_that_is_pulled_again_takes_away_what_is_there_then(tmp_path, quick_turns):
    async with desk(tmp_path, REMOVAL_LEVERS="true") as app:
        app.rogue.app_roles.update({"User.Read.All", "Mail.Read"})
        first = await order(app, "remove-app-roles")
        for person in (SECOND, THIRD):
            await approve(app, first.body["id"], by=person)
        await settle(app)
        assert app.rogue.app_roles == set()
        await undo(app, first.body["id"])
        await settle(app)
        assert {"User.Read.All", "Mail.Read"} <= app.rogue.app_roles
        app.rogue.app_roles.add("Files.Read.All")
        held = set(app.rogue.app_roles)

        again = await order(app, "remove-app-roles")
        for person in (SECOND, THIRD):
            await approve(app, again.body["id"], by=person)
        await settle(app)
        taken = set(app.rogue.app_roles)
        await undo(app, again.body["id"])
        await settle(app)

        assert taken == set()
        assert app.rogue.app_roles == held


async def test_an_undo_never_enables_what_an_administrator_disabled_in_between(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        first = await order(app, "disable-principal")
        await approve(app, first.body["id"])
        await settle(app)
        await undo(app, first.body["id"])
        await settle(app)
        assert app.rogue.account_enabled
        app.rogue.account_enabled = False  # an administrator, during probation

        again = await order(app, "disable-principal")
        await approve(app, again.body["id"])
        await settle(app)
        await undo(app, again.body["id"])
        await settle(app, times=2)

        assert not app.rogue.account_enabled


# --- what nobody agreed to ------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [Tier.AUTO, Tier.APPROVAL])
async def test_an_end_that_somebody_set_never_releases_what_was_found_since(app, tier):
    await app.compromise(app.rogue.object_id, endsAfterMinutes=15, dismissAllRisk=True)
    await settle(app)
    found = later(app, timedelta(minutes=10))

    await flow.respond(finding(app, tier=tier, first_seen=found.now(), last_seen=found.now()), found)
    await settle(app, timedelta(minutes=16), times=2)

    (record,) = await app.containments()
    assert (record["state"], record["endsAt"], risk(app)) == ("confirmed", None, "confirmedCompromised")
    assert any("no longer ends by itself" in reason for reason in record["reasons"])


async def test_an_end_stays_when_only_something_worth_watching_is_found(app):
    await app.compromise(app.rogue.object_id, endsAfterMinutes=15, dismissAllRisk=True)
    await settle(app)

    await flow.respond(finding(app, tier=Tier.CONTEXT), app.process.world)
    await settle(app, timedelta(minutes=16), times=2)

    assert await state(app) == "half_open"


async def test_expiry_never_contains_for_a_rule_that_may_only_be_observed_by_then(tmp_path, quick_turns):
    async with desk(tmp_path, mode="approve", ON_EXPIRY="contain") as app:
        await flow.respond(finding(app), app.process.world)
        world = later(app, timedelta(hours=4, minutes=1))
        observing = replace(world, policy=replace(world.policy, rule_modes={"AG-04": Mode.OBSERVE}))

        for _ in range(2):
            await flow.settle(observing)

        assert (await state(app), app.confirms(status=None)) == ("expired", 0)


# --- the kill switch is the last thing that is read -----------------------------------------------


async def test_a_switch_thrown_while_a_snapshot_is_read_stops_the_removal(tmp_path, quick_turns):
    async with desk(tmp_path, REMOVAL_LEVERS="true") as app:
        app.rogue.app_roles.update({"User.Read.All", "Mail.Read"})
        asked = await order(app, "remove-app-roles")
        await approve(app, asked.body["id"], by=SECOND)
        graph = app.process.world.graph
        read = graph.app_role_assignments

        async def slow(principal):
            await kill_switch(app, stopped=True)
            return await read(principal)

        graph.app_role_assignments = slow
        await approve(app, asked.body["id"], by=THIRD)

        assert {"User.Read.All", "Mail.Read"} <= app.rogue.app_roles
        assert not [seen for seen in app.estate.tenant.requests if seen.method == "DELETE"]


async def test_a_switch_thrown_while_a_batch_waits_for_its_turn_stops_it(app, monkeypatch):
    sending = turns.Turn.sending

    async def later_turn(turn):
        await kill_switch(app, stopped=True)
        await sending(turn)

    monkeypatch.setattr(turns.Turn, "sending", later_turn)
    await flow.respond(finding(app), app.process.world)

    assert app.confirms(status=None) == 0


# --- proof ----------------------------------------------------------------------------------------


async def test_a_sign_in_after_the_block_counts_whatever_case_the_log_writes_ids_in(app):
    await test_proof.contained(app, ago=timedelta(minutes=13))
    at = app.process.world.now() - timedelta(minutes=2)
    row = {
        "TimeGenerated": at, "CreatedDateTime": at, "Id": "row-1", "ResultType": "0",
        "ServicePrincipalId": app.rogue.object_id.upper(), "ConditionalAccessPolicies": "",
    }  # fmt: skip
    app.estate.engine.insert("AADServicePrincipalSignInLogs", [row])

    await settle(app)

    assert await state(app) == "failed"


# --- one record that nobody can read --------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("alive:xyz", {}),
        ("untold:20200101T000000-aaaaaaaa", {"at": 5}),
        ("policies", {"read_at": "nonsense", "policies": [{"id": "x", "zzz": 1}]}),
        ("containment:20200101T000000-aaaaaaaa", {"id": "x"}),
    ],
)
async def test_one_record_that_nobody_can_read_stops_nobody_else(app, key, body):
    await app.process.world.store.commit([Put(key, body)])

    await contained(app)
    await settle(app, times=2)

    assert await state(app) == "confirmed"


async def test_an_unreadable_containment_is_named_and_not_called_absent(app):
    await contained(app)
    broken = "20200101T000000-aaaaaaaa"
    await app.process.world.store.commit(
        [Put(f"containment:{broken}", {"id": broken, "from": "a newer version"})]
    )

    listed = await app.call("containments")
    one = await app.call("containments", route={"id": broken})
    undone = await undo(app, broken)

    assert (listed.status, len(listed.body["value"]), listed.body["unreadable"]) == (200, 1, [broken])
    for answer in (one, undone):
        assert (answer.status, answer.body["error"]["code"]) == (503, "record_unreadable"), answer.body
        assert broken in answer.body["error"]["message"]


# --- what was agreed to, and what was ordered -----------------------------------------------------


async def test_an_approval_is_never_of_another_lever_than_the_one_that_was_seen(tmp_path, quick_turns):
    async with desk(tmp_path, mode="approve", DISABLE_PRINCIPAL="approval") as app:
        opened = await flow.respond(finding(app), app.process.world)
        seen = await app.proposed(opened.containment.id)
        await order(app, "disable-principal")

        answer = await approve(app, opened.containment.id, lever=seen)

        assert (answer.status, answer.body["error"]["code"]) == (409, "changed")
        assert app.rogue.account_enabled
        assert (await approve(app, opened.containment.id)).status == 200
        assert not app.rogue.account_enabled


async def test_an_approval_names_its_lever(app):
    answer = await app.call(
        "approval",
        route={"id": "20200101T000000-aaaaaaaa"},
        body={"decision": "approve", "reason": "looked at it"},
        headers=identity("Containment.Approve", oid=SECOND),
    )

    assert (answer.status, answer.body["error"]["code"]) == (400, "lever_needed")


async def test_a_lever_that_nobody_has_to_approve_is_pulled_beside_what_stands_and_both_are_taken_back(
    tmp_path, quick_turns
):
    async with desk(tmp_path, DISABLE_PRINCIPAL="automatic") as app:
        containment_id = await contained(app)

        answer = await order(app, "disable-principal")
        await settle(app, times=2)

        assert answer.status == 200
        assert (app.rogue.account_enabled, risk(app)) == (False, "confirmedCompromised")
        await undo(app, containment_id)
        await settle(app, times=2)
        assert (app.rogue.account_enabled, risk(app)) == (True, "dismissed")


async def test_an_order_that_an_open_containment_cannot_take_is_not_called_joined(
    tmp_path, quick_turns, monkeypatch
):
    monkeypatch.setattr(flow, "PULL_WITHIN", timedelta(milliseconds=200))
    async with desk(tmp_path, DISABLE_PRINCIPAL="automatic") as app:
        app.estate.tenant.faults.add(
            r"POST .*/confirmComp", FaultKind.STATUS, times=None, status=429, retry_after=0
        )
        await flow.respond(finding(app), app.process.world)
        assert await state(app) == "claimed"

        answer = await order(app, "disable-principal")

        assert (answer.status, answer.body["error"]["code"]) == (409, "order_not_taken")
        assert "disable-principal" in answer.body["error"]["message"]
        assert app.rogue.account_enabled


async def test_an_end_for_what_stands_already_is_not_silently_left_out(app):
    await contained(app)

    answer = await app.compromise(app.rogue.object_id, endsAfterMinutes=15, dismissAllRisk=True)

    assert (answer.status, answer.body["error"]["code"]) == (409, "order_not_taken")
