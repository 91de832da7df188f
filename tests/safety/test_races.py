"""Two processes on one store, and what dies or comes late in between."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from desk_app import desk

from clients.stores import Put
from clients.terms import object_id
from handlers.process import build
from response import batches, flow, gathering, ledger, opening, pulling, telling
from response.containment import State
from response.finding import Finding, Source, Tier
from response.opening import AFTER_CONTAINMENT, load, open_or_join
from response.policy import Mode
from settings import Settings
from simtenant.faults import FaultKind


def finding(app, principal=None, **changes):
    now = app.process.world.now()
    values = {
        "source": Source.RULE,
        "rule_id": "AG-04",
        "family": "vault",
        "tier": Tier.AUTO,
        "principal": object_id((principal or app.rogue).object_id),
        "first_seen": now,
        "last_seen": now,
        "reason": "first Key Vault use",
        "raised_by": "agentbreaker",
    }
    return Finding(**(values | changes))


@pytest.fixture
async def second(app):
    """Another process on the same store and tenant."""
    process = await build(Settings.from_env(app.estate.app_environment()))
    yield process
    await process.close()


async def test_two_processes_with_the_same_finding_pull_one_lever(app, second):
    worlds = [app.process.world, second.world] * 5

    opened = await asyncio.gather(*(flow.respond(finding(app), world) for world in worlds))

    assert len({o.containment.id for o in opened}) == 1
    assert {o.containment.state for o in opened} == {State.PULLED}
    assert app.confirms(status=None) == 1
    assert isinstance(await ledger.verify(app.process.world.store), ledger.Verified)


async def test_the_storm_brake_holds_over_processes_and_races(app, second):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(10)]
    worlds = [app.process.world, second.world] * 5

    opened = await asyncio.gather(
        *(flow.respond(finding(app, a), w) for a, w in zip(agents, worlds, strict=True))
    )

    states = [o.containment.state for o in opened]
    assert states.count(State.PULLED) == 3  # AGENTBREAKER_AUTOMATIC_PER_HOUR
    assert states.count(State.AWAITING_APPROVAL) == 7
    assert len(app.estate.tenant.risk.all()) == 3


async def test_a_process_that_died_after_pull_started_is_looked_at_and_nothing_is_sent_twice(app, second):
    """The request went out and took effect; the process never wrote so."""
    dead = Dying(app.process.world.graph)
    with pytest.raises(Died):
        await flow.respond(finding(app), replace(app.process.world, graph=dead))
    (before,) = await app.containments()
    assert before["state"] == "claimed"

    later = second.world.now() + timedelta(seconds=20)
    await flow.settle(replace(second.world, now=lambda: later))
    await flow.settle(replace(second.world, now=lambda: later))

    (after,) = await app.containments()
    assert after["state"] == "confirmed"
    assert app.confirms(status=None) == 1


class Died(BaseException):
    """The process is gone."""


class Dying:
    """A Graph client whose process dies right after its confirmation took effect."""

    def __init__(self, graph):
        self._graph = graph

    def __getattr__(self, name):
        return getattr(self._graph, name)

    async def confirm_compromised(self, principals):
        await self._graph.confirm_compromised(principals)
        raise Died


async def test_a_comment_whose_writer_died_is_told_by_the_next_settle(app, monkeypatch):
    rule = next(r for r in app.process.rules if r.id == "AG-04")
    incident = app.estate.sentinel.raise_incident(
        "x",
        principals=[app.rogue],
        rule_id=str(rule.sentinel_id),
        custom_details={"ServicePrincipalId": [app.rogue.object_id], "Confidence": ["high"]},
    )

    async def died(*_args):
        raise Died

    world = app.process.world
    monkeypatch.setattr(world.sentinel, "put_comment", died)
    with pytest.raises(Died):
        await app.incident(incident)
    monkeypatch.undo()
    assert app.comments() == []

    await telling.retold(world)
    assert app.comments() == []  # its writer may still be at it
    await telling.retold(replace(world, now=lambda: world.now() + timedelta(minutes=1)))

    assert len(app.comments()) == 1
    assert await world.store.scan("untold:") == []


def after_containment(app, *, minutes):
    later = app.process.world.now() + timedelta(minutes=minutes)
    return finding(
        app,
        rule_id="AG-30c",
        family=AFTER_CONTAINMENT,
        last_seen=later,
        reason=f"signed in {minutes} minutes after",
    )


async def test_activity_that_a_block_had_no_time_to_end_only_joins(app):
    opened = await flow.respond(finding(app), app.process.world)

    await flow.respond(after_containment(app, minutes=9), app.process.world)

    containment, _ = await load(app.process.world.store, opened.containment.id)
    assert containment.state is State.PULLED
    assert len(containment.findings) == 2


async def test_activity_after_containment_while_the_outcome_is_unknown_leaks_no_claim(app):
    app.estate.tenant.faults.add(r"POST .*/confirmCompromised", FaultKind.DROP_BEFORE, times=1)
    await flow.respond(finding(app), app.process.world)

    await flow.respond(after_containment(app, minutes=12), app.process.world)
    later = app.process.world.now() + timedelta(seconds=61)
    world = replace(app.process.world, now=lambda: later)
    await flow.settle(world)
    await flow.settle(world)

    assert (await app.containments())[0]["state"] in ("pulled", "confirmed")
    assert await app.process.world.store.scan("claimed:") == []


async def test_activity_after_containment_makes_it_failed_and_says_so(app):
    opened = await flow.respond(finding(app), app.process.world)

    await flow.respond(after_containment(app, minutes=12), app.process.world)

    containment, _ = await load(app.process.world.store, opened.containment.id)
    assert containment.state is State.FAILED
    assert "12 minutes" in containment.failure
    assert app.confirms(status=None) == 1


async def test_the_family_of_the_rule_is_the_one_that_fails_containments(app):
    assert next(rule for rule in app.process.rules if rule.id == "AG-30c").family == AFTER_CONTAINMENT


async def test_a_person_may_try_again_what_failed_and_nobody_else(app):
    await flow.respond(finding(app), app.process.world)
    await flow.respond(after_containment(app, minutes=12), app.process.world)

    automatic = await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)
    assert automatic.containment.state is State.FAILED
    assert app.confirms(status=None) == 1

    answer = await app.compromise(app.rogue.object_id)
    assert answer.body["state"] == "pulled"
    assert app.confirms(status=None) == 2


async def test_an_order_that_a_guardrail_refuses_is_refused_even_when_a_containment_is_open(
    tmp_path, quick_turns
):
    async with desk(tmp_path, mode="approve") as app:
        await flow.respond(finding(app), app.process.world)
        await app.call("killswitch", body={"stopped": True, "reason": "exercise"})

        answer = await app.compromise(app.rogue.object_id)

        assert (answer.status, answer.body["error"]["code"]) == (409, "vetoed")
        assert app.confirms(status=None) == 0


async def test_a_finding_that_joins_while_the_lever_is_pulled_is_not_lost(app, monkeypatch):
    graph = app.process.world.graph
    real, on_the_way = graph.confirm_compromised, asyncio.Event()

    async def slow(principals):
        on_the_way.set()
        while len((await app.containments())[0]["findings"]) == 1:
            await asyncio.sleep(0.01)
        return await real(principals)

    monkeypatch.setattr(graph, "confirm_compromised", slow)
    first = asyncio.create_task(flow.respond(finding(app), app.process.world))
    await on_the_way.wait()
    joined = await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)
    await first

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    assert {f["ruleId"] for f in containment["findings"]} == {"AG-04", "AG-07"}
    assert joined.containment.id == containment["id"]
    assert app.confirms(status=None) == 1


async def test_in_observe_a_later_finding_in_enforce_goes_on_with_what_was_only_proposed(app, second):
    watching = replace(second.world, policy=replace(second.world.policy, mode=Mode.OBSERVE))
    proposed = await flow.respond(finding(app), watching)

    pulled = await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)

    assert proposed.containment.state is State.PROPOSED
    assert pulled.containment.id == proposed.containment.id
    assert pulled.containment.state is State.PULLED


async def test_two_signs_found_at_the_same_time_by_runs_that_miss_each_other_contain(app, second):
    signs = [
        finding(app, rule_id="AG-04", family="vault", tier=Tier.CORROBORATED),
        finding(app, rule_id="AG-07", family="probing", tier=Tier.CORROBORATED),
    ]

    await asyncio.gather(
        *(flow.respond(f, w) for f, w in zip(signs, (app.process.world, second.world), strict=True))
    )

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    assert app.confirms(status=None) == 1


async def test_the_kill_switch_stops_a_batch_that_is_being_halved(app, monkeypatch):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(4)]
    world = app.process.world
    for agent in agents:
        order = finding(app, agent, source=Source.ANALYST, family="analyst", rule_id="")
        evidence, decision = await flow.judge(order, world)
        await open_or_join(order, decision, evidence, world, world.now())
    del app.estate.tenant.principals[agents[3].object_id]
    real = world.graph.confirm_compromised

    async def then_stopped(principals):
        await world.store.commit([Put(gathering.KILL_SWITCH, {"stopped": True})])
        return await real(principals)

    monkeypatch.setattr(world.graph, "confirm_compromised", then_stopped)
    await flow.settle(world)

    assert app.confirms() == 0
    assert app.confirms(status=None) == 1
    assert {c["state"] for c in await app.containments()} == {"awaiting_approval"}


async def test_a_claim_is_not_pulled_under_settings_that_would_not_claim_it(app):
    world = app.process.world
    evidence, decision = await flow.judge(finding(app), world)
    await open_or_join(finding(app), decision, evidence, world, world.now())

    restarted = replace(world.policy, protected=frozenset({app.rogue.object_id}))
    await flow.settle(replace(world, policy=restarted))

    assert (await app.containments())[0]["state"] == "awaiting_approval"
    assert app.confirms(status=None) == 0


async def test_after_somebody_dismissed_the_risk_in_entra_a_new_finding_contains_again(app):
    first = await flow.respond(finding(app), app.process.world)
    await flow.settle(app.process.world)
    app.estate.tenant.risk.dismiss([app.rogue.object_id])

    second = await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)

    assert second.containment.id != first.containment.id
    assert second.containment.state is State.PULLED
    states = {c["id"]: c["state"] for c in await app.containments()}
    assert states[first.containment.id] == "closed"


async def test_an_unknown_outcome_that_nobody_can_look_up_ends_with_a_person(app):
    app.estate.tenant.faults.add(r"POST .*/confirmCompromised", FaultKind.DROP_BEFORE, times=1)
    await flow.respond(finding(app), app.process.world)
    app.estate.tenant.faults.add(r"GET .*/riskyServicePrincipals/", FaultKind.STATUS, status=403, times=None)

    later = app.process.world.now() + timedelta(minutes=31)
    await flow.settle(replace(app.process.world, now=lambda: later))

    (containment,) = await app.containments()
    assert containment["state"] == "awaiting_approval"
    assert "not known" in containment["reasons"][-1]
    assert app.confirms(status=None) == 1


async def test_a_risk_that_could_not_be_read_is_not_called_failed(app):
    await flow.respond(finding(app), app.process.world)
    app.estate.tenant.faults.add(r"GET .*/riskyServicePrincipals", FaultKind.STATUS, status=403, times=None)

    later = app.process.world.now() + timedelta(minutes=20)
    await flow.settle(replace(app.process.world, now=lambda: later))

    assert (await app.containments())[0]["state"] == "pulled"


async def test_what_was_proposed_a_week_ago_and_is_claimed_today_is_verified(app, second):
    ago = second.world.now() - timedelta(days=8)
    watching = replace(second.world, policy=replace(second.world.policy, mode=Mode.OBSERVE), now=lambda: ago)
    await flow.respond(finding(app), watching)

    await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)
    await flow.settle(app.process.world)

    assert (await app.containments())[0]["state"] == "confirmed"


async def test_one_unreadable_record_does_not_stop_settle(app):
    await app.process.world.store.commit(
        [Put("claimed:gone", {"principal": "x"}), Put("verify:gone", {"principal": "x"})]
    )
    await flow.respond(finding(app), app.process.world)

    await flow.settle(app.process.world)

    assert (await app.containments())[0]["state"] == "confirmed"


async def test_a_confirmation_that_is_heard_of_late_is_the_truth_about_the_principal(app, monkeypatch):
    """Its record was parked while the answer was under way: it may not go on saying that nothing was touched."""
    world = app.process.world
    real, accepted_by_graph, gate = world.graph.confirm_compromised, asyncio.Event(), asyncio.Event()

    async def slow(principals):
        accepted = await real(principals)
        accepted_by_graph.set()
        await gate.wait()
        return accepted

    monkeypatch.setattr(world.graph, "confirm_compromised", slow)
    sending = asyncio.create_task(flow.respond(finding(app), world))
    await accepted_by_graph.wait()
    (claimed,) = await batches.all_waiting(pulling.PULL, world)
    await pulling.PULL._park([claimed[0]], "a person stopped it", world)
    assert (await app.containments())[0]["state"] == "awaiting_approval"

    gate.set()
    await sending

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    assert app.confirms(status=None) == 1


async def test_an_older_comment_that_lands_late_is_written_over_again(app, monkeypatch):
    rule = next(r for r in app.process.rules if r.id == "AG-04")
    incident = app.estate.sentinel.raise_incident(
        "x",
        principals=[app.rogue],
        rule_id=str(rule.sentinel_id),
        custom_details={"ServicePrincipalId": [app.rogue.object_id], "Confidence": ["high"]},
    )
    world = app.process.world
    real, begun, gate = world.sentinel.put_comment, asyncio.Event(), asyncio.Event()

    async def first_is_slow(*arguments):
        if not begun.is_set():
            begun.set()
            await gate.wait()
        return await real(*arguments)

    monkeypatch.setattr(world.sentinel, "put_comment", first_is_slow)
    delivery = asyncio.create_task(app.incident(incident))
    await begun.wait()
    await flow.settle(world)
    gate.set()
    await delivery
    await flow.settle(world)

    assert (await app.containments())[0]["state"] == "confirmed"
    assert "State: confirmed." in app.comments()[0].message


async def test_a_pull_nobody_could_look_up_keeps_saying_so_is_never_sent_again_by_itself_and_is_read_back(
    app,
):
    app.estate.tenant.faults.add(r"POST .*/confirmCompromised", FaultKind.DROP_AFTER, times=1)
    unreadable = app.estate.tenant.faults.add(
        r"GET .*/riskyServicePrincipals/", FaultKind.STATUS, status=403, times=None
    )
    await flow.respond(finding(app), app.process.world)
    later = app.process.world.now() + timedelta(minutes=31)
    world = replace(app.process.world, now=lambda: later)
    await flow.settle(world)
    (parked, _) = await load(world.store, (await app.containments())[0]["id"])

    assert parked.state is State.AWAITING_APPROVAL
    assert "may be, confirmed compromised already" in telling.compose(parked)
    assert "Nothing to undo" not in telling.compose(parked)
    again = await flow.respond(finding(app, rule_id="AG-07", family="probing"), world)
    assert again.containment.state is State.AWAITING_APPROVAL
    assert app.confirms(status=None) == 1

    app.estate.tenant.faults.clear()
    assert unreadable.hits
    await flow.settle(world)

    assert (await app.containments())[0]["state"] == "confirmed"


async def test_a_containment_that_was_just_pulled_is_not_closed_by_the_dismissal_of_before(app):
    await flow.respond(finding(app), app.process.world)
    await flow.settle(app.process.world)
    app.estate.tenant.risk.dismiss([app.rogue.object_id])
    app.estate.tenant.settings.risk_takes_effect_after = timedelta(minutes=5)

    for rule, family in (("AG-07", "probing"), ("AG-08", "volume"), ("AG-18", "control")):
        await flow.respond(finding(app, rule_id=rule, family=family), app.process.world)

    assert sorted(c["state"] for c in await app.containments()) == ["closed", "pulled"]
    assert app.confirms(status=None) == 2


async def test_a_failed_containment_whose_risk_was_dismissed_is_contained_anew(app):
    await flow.respond(finding(app), app.process.world)
    await flow.settle(app.process.world)
    await flow.respond(after_containment(app, minutes=12), app.process.world)
    app.estate.tenant.risk.dismiss([app.rogue.object_id])

    await flow.respond(finding(app, rule_id="AG-07", family="probing"), app.process.world)

    assert sorted(c["state"] for c in await app.containments()) == ["closed", "pulled"]


async def test_a_second_order_that_the_kill_switch_parks_does_not_forget_the_first_pull(app):
    await flow.respond(finding(app), app.process.world)
    await flow.respond(after_containment(app, minutes=12), app.process.world)
    order = finding(app, source=Source.ANALYST, family="analyst", rule_id="")
    world = app.process.world
    evidence, decision = await flow.judge(order, world)
    await open_or_join(order, decision, evidence, world, world.now())
    await app.call("killswitch", body={"stopped": True, "reason": "exercise"})
    await flow.settle(world)

    (parked, _) = await load(world.store, (await app.containments())[0]["id"])
    assert parked.state is State.AWAITING_APPROVAL
    assert "Nothing to undo" not in telling.compose(parked)
    assert parked.proof is None


async def test_a_claim_is_not_pulled_when_its_rule_may_only_observe_now(app):
    world = app.process.world
    evidence, decision = await flow.judge(finding(app), world)
    await open_or_join(finding(app), decision, evidence, world, world.now())

    await flow.settle(replace(world, policy=replace(world.policy, rule_modes={"AG-04": Mode.OBSERVE})))

    assert (await app.containments())[0]["state"] == "awaiting_approval"
    assert app.confirms(status=None) == 0


async def test_many_orders_share_one_failed_reading_of_the_policies(app):
    app.estate.tenant.faults.add(
        r"GET .*/conditionalAccess/policies", FaultKind.STATUS, status=403, times=None
    )

    answers = await asyncio.gather(*(app.compromise(app.rogue.object_id) for _ in range(6)))

    assert {answer.status for answer in answers} == {200}
    reads = [s for s in app.estate.tenant.requests if s.path.endswith("/conditionalAccess/policies")]
    assert len(reads) == 1


async def test_records_of_one_containment_never_go_back_in_time(app):
    opened = await flow.respond(finding(app), app.process.world)
    ago = app.process.world.now() - timedelta(minutes=5)

    joined = await flow.respond(
        finding(app, rule_id="AG-07", family="probing"), replace(app.process.world, now=lambda: ago)
    )

    assert joined.containment.updated_at > opened.containment.updated_at


async def test_findings_that_arrive_together_share_a_call(app):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(20)]
    world = app.process.world
    wide = replace(world, policy=replace(world.policy, automatic_per_hour=1000, automatic_per_day=1000))

    opened = await asyncio.gather(*(flow.respond(finding(app, agent), wide) for agent in agents))

    assert {o.containment.state for o in opened} == {State.PULLED}
    assert app.confirms(status=None) <= 3


async def test_a_finding_alone_does_not_wait_for_others(app, monkeypatch):
    monkeypatch.setattr(batches, "_GATHER_LOOK", 3600)

    opened = await flow.respond(finding(app), app.process.world)

    assert opened.containment.state is State.PULLED


async def test_automatic_claims_of_one_process_do_not_race_for_the_storm_brake(app, monkeypatch):
    """Each lost race reads and judges the record anew; a hundred at once lost thousands of them."""
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(30)]
    world = app.process.world
    wide = replace(world, policy=replace(world.policy, automatic_per_hour=1000, automatic_per_day=1000))
    judged = [(finding(app, agent), *await flow.judge(finding(app, agent), wide)) for agent in agents]
    real, tries = opening._try, []

    async def counted(*arguments):
        tries.append(1)
        return await real(*arguments)

    monkeypatch.setattr(opening, "_try", counted)
    opened = await asyncio.gather(
        *(open_or_join(f, decision, evidence, wide, wide.now()) for f, evidence, decision in judged)
    )

    assert {o.containment.state for o in opened} == {State.CLAIMED}
    assert len((await wide.store.get(gathering.BRAKE)).body["times"]) == 30
    assert len(tries) == 30
