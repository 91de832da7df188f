"""What a hostile reading of the containment engine found; each test is one defect and was red when it was written."""

from dataclasses import replace
from datetime import timedelta

import pytest
from desk_app import ANALYST, desk, identity

from clients.stores import Put
from clients.terms import object_id
from response import approving, flow, gathering, undoing
from response.finding import AFTER_CONTAINMENT, Finding, Source, Tier
from response.policy import Mode
from simtenant.faults import FaultKind

SECOND = "cccccccc-0000-4000-8000-000000000004"
THIRD = "cccccccc-0000-4000-8000-000000000005"


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


def later(app, after, **changes):
    now = app.process.world.now
    return replace(app.process.world, now=lambda: now() + after, **changes)


async def settle(app, after=timedelta(0), times=1):
    for _ in range(times):
        await flow.settle(later(app, after))


async def approve(app, containment_id, *, by=SECOND, decision="approve", lever=None):
    return await app.call(
        "approval",
        route={"id": containment_id},
        body={
            "decision": decision,
            "reason": "looked at it",
            "lever": lever or await app.proposed(containment_id),
        },
        headers=identity("Containment.Approve", oid=by),
    )


async def order(app, lever, *, by=ANALYST, principal=None):
    return await app.call(
        "compromise",
        route={"principalId": (principal or app.rogue).object_id},
        body={"reason": "seen exfiltrating", "lever": lever},
        headers=identity("Containment.Execute", oid=by),
    )


async def undo(app, containment_id):
    return await app.call(
        "undo",
        route={"id": containment_id},
        body={"reason": "it was a migration", "dismissAllRisk": True},
        headers=identity("Containment.Execute"),
    )


async def contained(app):
    opened = await flow.respond(finding(app), app.process.world)
    await settle(app)
    return opened.containment.id


async def kill_switch(app, *, stopped):
    await app.process.world.store.commit([Put("killswitch", {"stopped": stopped, "reason": "exercise"})])


async def test_an_undo_that_was_not_sent_yet_never_releases_a_newer_containment(app):
    """An administrator dismisses in Entra before the ordered undo went out; the agent attacks again."""
    old = await contained(app)
    await undoing._order(old, ANALYST, "it was a migration", (), app.process.world)  # and the process dies
    app.estate.tenant.risk.dismiss([app.rogue.object_id])

    opened = await flow.respond(finding(app, rule_id="AG-07"), app.process.world)
    await settle(app, times=2)

    risk = app.estate.tenant.risk.get(app.rogue.object_id)
    (record,) = [c for c in await app.containments() if c["id"] == opened.containment.id]
    stands = str(risk.state) == "confirmedCompromised"
    assert stands or record["state"] == "half_open", f"it says {record['state']}, and nothing stands"


@pytest.mark.parametrize("before", ["proposed", "half_open"])
async def test_a_finding_that_asks_people_is_put_before_people_whatever_record_is_open(
    tmp_path, quick_turns, before
):
    """Observe, then approve, is how everybody starts; and probation in mode approve."""
    async with desk(tmp_path, mode="approve") as app:
        world = app.process.world
        if before == "proposed":
            observing = replace(world, policy=replace(world.policy, mode=Mode.OBSERVE))
            opened = await flow.respond(finding(app), observing)
        else:
            opened = await flow.respond(finding(app), world)
            await approve(app, opened.containment.id)
            await settle(app)
            await undo(app, opened.containment.id)
        assert (await app.containments())[0]["state"] == before

        await flow.respond(finding(app, rule_id="AG-07", family="probing"), world)

        assert [c["state"] for c in await app.containments() if c["state"] == "awaiting_approval"]
        assert await world.store.scan("deciding:")


@pytest.mark.parametrize("status", [204, 403])
async def test_undo_never_enables_what_somebody_else_had_disabled(tmp_path, quick_turns, status):
    """Graph accepts disabling what is disabled; a refused pull took no effect at all."""
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        app.rogue.account_enabled = False  # an administrator was faster
        asked = await order(app, "disable-principal")
        if status != 204:
            app.estate.tenant.faults.add(r"PATCH .*/servicePrincipals/.*", FaultKind.STATUS, status=status)
        await approve(app, asked.body["id"])
        await settle(app)

        await undo(app, asked.body["id"])
        await settle(app)

        assert app.rogue.account_enabled is False


@pytest.mark.parametrize("ended", ["refused", "parked"])
async def test_undo_restores_a_removal_that_stopped_half_way(tmp_path, quick_turns, ended):
    async with desk(tmp_path, REMOVAL_LEVERS="true") as app:
        app.rogue.app_roles.update({"User.Read.All", "Mail.Read", "Files.Read.All"})
        before = set(app.rogue.app_roles)
        if ended == "refused":
            containment = await contained(app)  # another lever stands
            await order(app, "remove-app-roles")
        else:
            containment = (await order(app, "remove-app-roles")).body["id"]
        removal = r"DELETE .*/appRoleAssignments/.*"
        app.estate.tenant.faults.add(removal, FaultKind.LATENCY)  # the first one goes through
        status = 403 if ended == "refused" else 429
        app.estate.tenant.faults.add(removal, FaultKind.STATUS, times=None, status=status)
        await approve(app, containment, by=SECOND)
        await approving.decide_about(containment, THIRD, "approve", "looked", app.process.world)
        await settle(app)
        assert set(app.rogue.app_roles) != before
        app.estate.tenant.faults.clear()
        if ended == "parked":
            await kill_switch(app, stopped=True)
            await settle(app)

        await undo(app, containment)
        await settle(app)

        assert set(app.rogue.app_roles) == before


async def test_a_lever_that_still_stands_can_be_undone_after_the_risk_was_dismissed_in_entra(
    tmp_path, quick_turns
):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        first = await contained(app)
        await order(app, "disable-principal")
        await approve(app, first)
        await settle(app)
        assert app.rogue.account_enabled is False
        app.estate.tenant.risk.dismiss([app.rogue.object_id])
        newer = await flow.respond(finding(app, rule_id="AG-07"), app.process.world)

        await undo(app, newer.containment.id)
        await undo(app, first)
        await settle(app)

        assert app.rogue.account_enabled is True


@pytest.mark.parametrize("veto", ["storm brake", "marked as protected", "a change is announced"])
async def test_automatic_disabling_asks_the_guardrails_of_now(tmp_path, quick_turns, veto):
    async with desk(tmp_path, armed=False, DISABLE_PRINCIPAL="automatic") as app:
        await flow.respond(finding(app), app.process.world)
        store, now = app.process.world.store, app.process.world.now()
        if veto == "storm brake":
            await store.commit([Put(gathering.BRAKE_TRIPPED, {"why": "3 in the last hour"})])
        elif veto == "marked as protected":
            app.rogue.security_attributes = {"Agentbreaker": {"Containment": "protected"}}
        else:
            window = {
                "principal": app.rogue.object_id,
                "opens": (now - timedelta(hours=1)).isoformat(),
                "closes": (now + timedelta(hours=1)).isoformat(),
            }
            await store.commit([Put(gathering.WINDOWS, {"at": now.isoformat(), "windows": [window]})])

        await settle(app, times=3)

        assert app.rogue.account_enabled is True


@pytest.mark.parametrize("detour", ["a second order", "a lever proposed by agentbreaker"])
async def test_whoever_asked_first_never_approves(tmp_path, quick_turns, detour):
    async with desk(tmp_path, armed=False, REMOVAL_LEVERS="true", DISABLE_PRINCIPAL="approval") as app:
        if detour == "a second order":
            asked = await order(app, "remove-app-roles", by=ANALYST)
            await approve(app, asked.body["id"], by=SECOND)
            await order(app, "remove-app-roles", by=SECOND)
        else:
            asked = await app.compromise(app.rogue.object_id)  # by the analyst; no policy covers it
            await settle(app)

        await approve(app, asked.body["id"], by=ANALYST)
        await settle(app)

        assert app.rogue.app_roles, "two people in all: one asked, the other approved and asked again"
        assert app.rogue.account_enabled is True, "one person in all"


async def test_expiry_never_contains_by_itself_on_evidence_that_could_not_be_read(tmp_path, quick_turns):
    async with desk(tmp_path, mode="approve", ON_EXPIRY="contain") as app:
        await flow.respond(finding(app), app.process.world)
        app.estate.tenant.faults.add(
            r"GET .*/conditionalAccess/policies.*", FaultKind.STATUS, times=None, status=503
        )

        await settle(app, timedelta(hours=4, minutes=1))

        assert app.confirms(status=None) == 0
        assert (await app.containments())[0]["state"] == "expired"


async def test_what_was_undone_never_becomes_confirmed_by_reading_the_tenant(app):
    opened = await flow.respond(finding(app), app.process.world)
    app.estate.tenant.faults.add(r"GET .*/riskyServicePrincipals/.*", FaultKind.STATUS, times=1, status=404)
    await settle(app, timedelta(minutes=16))
    assert (await app.containments())[0]["state"] == "failed"
    assert (await undo(app, opened.containment.id)).body["state"] == "half_open"

    app.estate.tenant.risk.confirm([app.rogue.object_id])  # an administrator's own; ours was taken back
    await settle(app, timedelta(minutes=17), times=2)

    assert (await app.containments())[0]["state"] == "half_open"


async def test_what_was_parked_after_an_approval_can_be_approved_again_by_the_same_person(
    tmp_path, quick_turns
):
    """Or a team of two, one of whom asked, can never contain it."""
    async with desk(tmp_path, mode="approve") as app:
        opened = await flow.respond(finding(app), app.process.world)
        await approving.decide_about(opened.containment.id, SECOND, "approve", "looked", app.process.world)
        await kill_switch(app, stopped=True)
        await settle(app)
        assert (await app.containments())[0]["state"] == "awaiting_approval"
        await kill_switch(app, stopped=False)

        answer = await approve(app, opened.containment.id, by=SECOND)

        assert (answer.status, answer.body["state"]) == (200, "pulled")


async def test_a_block_that_a_rule_saw_fail_proposes_the_next_lever(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        await contained(app)
        seen = app.process.world.now() + timedelta(minutes=15)
        after = finding(
            app,
            rule_id="AG-30c",
            family=AFTER_CONTAINMENT,
            tier=Tier.CONTEXT,
            first_seen=seen,
            last_seen=seen,
        )

        opened = await flow.respond(after, later(app, timedelta(minutes=16)))
        assert opened.containment.state == "failed"
        await settle(app, timedelta(minutes=17), times=2)

        (record,) = await app.containments()
        assert record["nextLever"] == "disable-principal"


@pytest.mark.parametrize("case", ["no policy covers it", "managed identity"])
async def test_access_is_never_said_to_end_earlier_than_it_does(tmp_path, quick_turns, case):
    async with desk(tmp_path, armed=False, DISABLE_PRINCIPAL="approval") as app:
        if case == "no policy covers it":
            principal = app.rogue
            await contained(app)
            assert (await app.containments())[0]["state"] == "not_covered"
        else:
            principal = app.estate.tenant.add_managed_identity("vm-agent")
            asked = await order(app, "disable-principal", principal=principal)
            await approve(app, asked.body["id"])
            await settle(app)

        answer = await app.call("principal", route={"principalId": principal.object_id})

        until = answer.body["residualAccess"]["until"]
        if case == "no policy covers it":
            assert until is None  # nothing was blocked, so no token is the last one
        else:  # the platform caches the tokens of a managed identity for up to 24 hours (response/reach.py)
            assert until - app.process.world.now() > timedelta(hours=23)
