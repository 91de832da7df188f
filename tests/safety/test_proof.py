"""Proof and its absence: what a sign-in after the lever says, and what comes next when the lever did not bite."""

from dataclasses import replace
from datetime import timedelta

import pytest
from desk_app import desk

from clients.stores import Replace
from clients.terms import object_id
from response import flow
from response.finding import Finding, Source, Tier
from response.opening import load

SECOND = "cccccccc-0000-4000-8000-000000000004"


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


async def settle(app, after=timedelta(0)):
    now = app.process.world.now
    await flow.settle(replace(app.process.world, now=lambda: now() + after))


def sign_in(app, principal, *, code="0", ago=timedelta(0), policies=""):
    """Write a row as Entra would, of a sign-in some time ago."""
    at = app.process.world.now() - ago
    app.estate.engine.insert(
        "AADServicePrincipalSignInLogs",
        [
            {
                "TimeGenerated": at,
                "CreatedDateTime": at,
                "Id": f"sign-in-{code}-{ago}",
                "ServicePrincipalId": principal.object_id,
                "ResultType": code,
                "ConditionalAccessPolicies": policies,
            }
        ],
    )


async def contained(app, *, ago=timedelta(0)):
    """Contain the rogue agent; ``ago``: as if that had been so long ago, since the tenant's log knows no future."""
    opened = await flow.respond(finding(app), app.process.world)
    await settle(app)
    store = app.process.world.store
    c, etag = await load(store, opened.containment.id)
    pull = replace(c.pull, started_at=c.pull.started_at - ago, accepted_at=c.pull.accepted_at - ago)
    await store.commit([Replace(c.key, replace(c, pull=pull).to_body(), etag)])
    return c.id


async def record(app, containment_id):
    return (await load(app.process.world.store, containment_id))[0]


async def test_an_agent_that_never_asks_again_is_confirmed_and_not_tested(app):
    containment = await contained(app)

    await settle(app, timedelta(minutes=20))

    c = await record(app, containment)
    assert (c.state, c.proof) == ("confirmed", None)
    (view,) = await app.containments()
    assert view["tested"] is False
    assert view["residualAccess"]


async def test_a_sign_in_that_succeeds_after_the_block_had_its_time_is_a_failure(app):
    containment = await contained(app, ago=timedelta(minutes=13))
    sign_in(app, app.rogue, ago=timedelta(minutes=2))

    await settle(app)

    c = await record(app, containment)
    assert c.state == "failed"
    assert "11 minutes after" in c.failure


async def test_a_sign_in_while_the_block_takes_its_time_is_none(app):
    containment = await contained(app, ago=timedelta(minutes=13))
    sign_in(app, app.rogue, ago=timedelta(minutes=4))

    await settle(app)

    assert (await record(app, containment)).state == "confirmed"


async def test_the_sign_in_of_another_principal_fails_nobody(app):
    containment = await contained(app, ago=timedelta(minutes=13))
    other = app.estate.tenant.add_application("another-agent")
    sign_in(app, other, ago=timedelta(minutes=2))

    await settle(app)

    assert (await record(app, containment)).state == "confirmed"


async def test_a_refusal_of_a_disabled_principal_proves_nothing_about_risk(app):
    containment = await contained(app, ago=timedelta(minutes=3))
    sign_in(app, app.rogue, code="7000112", ago=timedelta(minutes=1))

    await settle(app)

    assert (await record(app, containment)).state == "confirmed"


async def test_what_did_not_bite_proposes_the_next_lever_and_waits_for_a_person(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="approval") as app:
        containment = await contained(app, ago=timedelta(minutes=13))
        sign_in(app, app.rogue, ago=timedelta(minutes=2))
        await settle(app)

        c = await record(app, containment)
        assert (c.state, c.next_lever, c.lever) == ("failed", "disable-principal", "confirm-compromised")
        assert app.rogue.account_enabled

        done = await flow.approve_or_reject(containment, SECOND, "approve", "stop it", app.process.world)

        assert (done.state, done.lever) == ("pulled", "disable-principal")
        assert not app.rogue.account_enabled
        await settle(app)
        assert (await record(app, containment)).state == "confirmed"
        sign_in(app, app.rogue, code="7000112")
        await settle(app)
        assert (await record(app, containment)).state == "proven"


async def test_where_policy_allows_the_next_lever_is_pulled_once(tmp_path, quick_turns):
    async with desk(tmp_path, DISABLE_PRINCIPAL="automatic", armed=False) as app:
        containment = (await flow.respond(finding(app), app.process.world)).containment.id
        for _ in range(3):
            await settle(app)

        c = await record(app, containment)
        assert [one.lever for one in c.pulled_levers] == ["confirm-compromised", "disable-principal"]
        assert c.state == "confirmed"
        assert not app.rogue.account_enabled
        patches = [seen for seen in app.estate.tenant.requests if seen.method == "PATCH"]
        assert len(patches) == 1


@pytest.mark.parametrize("mode", ["approve", "observe"])
async def test_outside_enforce_no_next_lever_is_pulled_by_itself(tmp_path, quick_turns, mode):
    async with desk(tmp_path, DISABLE_PRINCIPAL="automatic", armed=False) as app:
        world = app.process.world
        opened = await flow.respond(finding(app), world)
        containment = opened.containment.id
        careful = replace(world, policy=replace(world.policy, mode=type(world.policy.mode)(mode)))
        for _ in range(3):
            await flow.settle(careful)

        assert app.rogue.account_enabled
        assert (await record(app, containment)).state in ("not_covered", "pulled", "awaiting_approval")


async def test_an_agent_identity_is_confirmed_through_its_own_door(tmp_path, quick_turns):
    async with desk(tmp_path, AGENT_RISK="true") as app:
        blueprint = app.estate.tenant.add_agent_blueprint("blueprint")
        agent = app.estate.tenant.add_agent_identity("agent", blueprint=blueprint)

        opened = await flow.respond(finding(app, agent), app.process.world)
        await settle(app)

        c = await record(app, opened.containment.id)
        assert (c.lever, c.kind) == ("confirm-agent-compromised", "agent_identity")
        assert c.state in ("confirmed", "not_covered", "pulled")
        assert app.estate.tenant.risk.get(agent.object_id).state == "confirmedCompromised"
        paths = [
            seen.path for seen in app.estate.tenant.requests if seen.path.endswith("/confirmCompromised")
        ]
        assert paths == ["/beta/identityProtection/riskyAgents/confirmCompromised"]


async def test_the_storm_brake_trips_stays_tripped_and_is_released_by_a_person(app):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(5)]
    for agent in agents:
        await flow.respond(finding(app, agent), app.process.world)
    states = [c["state"] for c in await app.containments()]
    assert (states.count("pulled"), states.count("awaiting_approval")) == (3, 2)
    assert "brake_tripped" in await app.ledger_kinds()

    late = app.estate.tenant.add_application("late-agent")
    now = app.process.world.now
    later = replace(app.process.world, now=lambda: now() + timedelta(hours=2))
    opened = await flow.respond(replace(finding(app, late), last_seen=later.now()), later)
    assert opened.containment.state == "awaiting_approval"
    assert opened.decision.mode == "approve"

    await app.call("killswitch", body={"stopped": False, "reason": "the storm is over"})

    assert await app.process.world.store.get("brake:tripped") is None
    assert "brake_released" in await app.ledger_kinds()
