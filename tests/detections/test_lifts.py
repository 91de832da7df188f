"""A prompt attack, then a deviation: through sweep, flow and store, in whichever order the logs arrive."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from memory import Clock, Event, Workspace, rule

from clients.stores import StoreUnreachable
from detections import sweep
from detections.sweep import sweep_rules
from response import flow
from response.finding import Tier

ATTACK = rule(
    id="AG-25",
    family="prompt",
    tier=Tier.CONTEXT,
    lifts=("AG-01",),
    query="let windowStart = ago(25m);\nlet windowEnd = now();\nAttacks",
)
DEVIATION = rule(
    id="AG-01",
    family="reach",
    tier=Tier.CORROBORATED,
    query="let windowStart = ago(25m);\nlet windowEnd = now();\nReach",
)


def place(app: Any, attack_seen: float, deviation_seen: float) -> tuple[Workspace, Any]:
    now = app.process.world.now()

    def minute(number: float) -> Any:
        return now + timedelta(minutes=number)

    principal = app.rogue.object_id
    events = [
        Event(principal, minute(-8), minute(attack_seen), rule_text="Attacks"),
        Event(principal, minute(-5), minute(deviation_seen), rule_text="Reach"),
    ]
    workspace = Workspace(events, Clock(now))
    return workspace, replace(app.process.world, logs=workspace)


async def test_a_deviation_after_a_prompt_attack_is_contained(app: Any) -> None:
    _, world = place(app, -1, -1)

    await sweep_rules([ATTACK], world)
    await sweep_rules([DEVIATION], world)

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    assert "a prompt attack on it was reported 3 minutes before (AG-25)" in containment["reasons"]


async def test_both_in_one_sweep_are_contained_too(app: Any) -> None:
    _, world = place(app, -1, -1)

    await sweep_rules([ATTACK, DEVIATION], world)

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"


async def test_an_attack_that_is_seen_after_the_deviation_makes_it_be_judged_again_once(app: Any) -> None:
    workspace, world = place(app, 4, -1)

    await sweep_rules([ATTACK, DEVIATION], world)
    assert await app.containments() == []
    workspace.clock.now += timedelta(minutes=5)
    later = replace(world, now=lambda: workspace.clock.now)
    await sweep_rules([ATTACK, DEVIATION], later)

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    assert [found["ruleId"] for found in containment["findings"]] == ["AG-01"]
    before = await app.ledger_kinds()
    workspace.clock.now += timedelta(minutes=5)
    await sweep_rules([ATTACK, DEVIATION], later)
    assert await app.ledger_kinds() == before


async def test_a_deviation_alone_is_watched(app: Any) -> None:
    _, world = place(app, 999, -1)

    await sweep_rules([ATTACK, DEVIATION], world)

    assert await app.containments() == []


async def test_what_a_run_did_not_get_to_is_judged_by_the_next(app: Any, monkeypatch: Any) -> None:
    workspace, world = place(app, 4, -1)
    await sweep_rules([ATTACK, DEVIATION], world)
    workspace.clock.now += timedelta(minutes=5)
    later = replace(world, now=lambda: workspace.clock.now)
    good = sweep.flow.respond

    async def respond(finding: Any, there: Any) -> Any:
        if finding.rule_id == "AG-01":
            raise StoreUnreachable("store")  # the app is stopped between the two
        return await good(finding, there)

    monkeypatch.setattr(sweep.flow, "respond", respond)
    assert (await sweep_rules([ATTACK], later)).failed == ("AG-25",)
    monkeypatch.setattr(sweep.flow, "respond", good)

    await sweep_rules([ATTACK], later)

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"


async def test_another_prompt_does_not_contain_again_what_a_person_let_go(app: Any) -> None:
    """Anybody can send a prompt: it must not be what undoes a person's decision, hour after hour."""
    workspace, world = place(app, -1, -1)
    await sweep_rules([ATTACK], world)
    await sweep_rules([DEVIATION], world)
    await settled(app)
    app.estate.tenant.risk.dismiss([app.rogue.object_id])

    for hour in range(1, 4):
        workspace.clock.now += timedelta(hours=1)
        workspace.events.append(
            Event(app.rogue.object_id, workspace.clock.now, workspace.clock.now, rule_text="Attacks")
        )
        later = replace(world, now=lambda: workspace.clock.now)
        assert (await sweep_rules([ATTACK, DEVIATION], later)).failed == (), hour

    assert app.confirms() == 1
    assert len(await app.containments()) == 1


async def test_something_else_after_the_attack_is_not_hidden_by_what_went_on_before_it(app: Any) -> None:
    now = app.process.world.now()

    def minute(number: float) -> Any:
        return now + timedelta(minutes=number)

    principal = app.rogue.object_id
    usual = [Event(principal, minute(n), minute(n), "graph", "Reach") for n in (-20, -1)]
    workspace = Workspace(usual, Clock(now))
    world = replace(app.process.world, logs=workspace)
    quiet = replace(DEVIATION, quiet_for=timedelta(hours=26))
    await sweep_rules([quiet], world)
    workspace.events += [
        Event(principal, minute(-6), minute(-1), rule_text="Attacks"),
        Event(principal, minute(-3), minute(-3), "vault", "Reach"),
    ]
    workspace.clock.now = minute(1)
    later = replace(world, now=lambda: workspace.clock.now)

    await sweep_rules([ATTACK], later)
    assert await app.containments() == []
    await sweep_rules([quiet], later)

    (containment,) = await app.containments()
    assert containment["state"] == "pulled"
    before = await app.ledger_kinds()
    workspace.clock.now = minute(6)
    await sweep_rules([quiet], later)
    assert await app.ledger_kinds() == before


async def settled(app: Any) -> None:
    for _ in range(3):
        await flow.settle(app.process.world)


async def test_a_novelty_that_outlives_its_containment_is_judged_again(app: Any) -> None:
    """Somebody dismissed the risk, and the stolen credential is used on: its origin is not new any more."""
    now = app.process.world.now()
    workspace = Workspace([Event(app.rogue.object_id, now, now, "TH", "Reach")], Clock(now))
    world = replace(app.process.world, logs=workspace, now=lambda: workspace.clock.now)
    quiet = replace(DEVIATION, quiet_for=timedelta(hours=26), tier=Tier.AUTO)
    await sweep_rules([quiet], world)
    await settled(app)
    app.estate.tenant.risk.dismiss([app.rogue.object_id])

    for _ in range(12):
        workspace.clock.now += timedelta(minutes=10)
        at = workspace.clock.now
        workspace.events.append(Event(app.rogue.object_id, at, at, "TH", "Reach"))
        assert (await sweep_rules([quiet], world)).failed == ()

    assert sorted(c["state"] for c in await app.containments()) == ["closed", "pulled"]
    assert app.confirms() == 2


async def test_a_novelty_that_goes_on_turns_a_later_sign_into_a_question(app: Any) -> None:
    now = app.process.world.now()
    origin = replace(DEVIATION, id="AG-10", family="origin", quiet_for=timedelta(hours=26))
    workspace = Workspace([Event(app.rogue.object_id, now, now, "TH", "Reach")], Clock(now))
    world = replace(app.process.world, logs=workspace, now=lambda: workspace.clock.now)
    await sweep_rules([origin], world)
    for _ in range(9):
        workspace.clock.now += timedelta(minutes=10)
        at = workspace.clock.now
        workspace.events.append(Event(app.rogue.object_id, at, at, "TH", "Reach"))
        await sweep_rules([origin], world)
    assert await app.containments() == []
    volume = replace(DEVIATION, id="AG-06", family="volume")

    await sweep_rules([volume], world)

    (containment,) = await app.containments()
    assert containment["state"] == "awaiting_approval"
    assert any("AG-10" in reason for reason in containment["reasons"])
