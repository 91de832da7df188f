"""Each timer runs the rules of its group and no other."""

import pytest
from desk_app import Fixed

from detections.catalog import SweepGroup
from handlers import edge

TIMERS = {
    "sweep_fast": SweepGroup.FAST,
    "sweep": SweepGroup.WINDOWED,
    "sweep_baseline": SweepGroup.BASELINE,
}


@pytest.mark.parametrize(("timer", "group"), TIMERS.items())
async def test_a_timer_runs_the_rules_of_its_group(app, timer, group):
    await edge.tick(timer, Fixed(app.process))

    records = await app.process.world.store.scan("watermark:")
    looked = {record.key.removeprefix("watermark:") for record in records}
    assert looked == {rule.id for rule in app.process.rules if rule.sweep is group}


async def test_every_rule_belongs_to_a_timer(app):
    assert {rule.sweep for rule in app.process.rules} <= set(TIMERS.values())
