"""A prompt attack, then a deviation: through sweep, flow and store, in whichever order the logs arrive."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from memory import Clock, Event, Workspace, rule

from clients.stores import StoreUnreachable
from detections import sweep
from detections.sweep import sweep_rules
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
