"""The app on Azure's table store: the same flow as on SQLite, over Microsoft's emulator."""

import asyncio
import uuid

import pytest
from desk_app import desk

from response import flow, ledger


@pytest.fixture
async def app(tmp_path, azurite, quick_turns):
    async with desk(tmp_path, STORE=f"{azurite}/t{uuid.uuid4().hex}") as opened:
        yield opened


async def test_ten_deliveries_at_once_lead_to_one_containment_one_comment_and_a_whole_ledger(app):
    rule = next(r for r in app.process.rules if r.id == "AG-04")
    details = {"ServicePrincipalId": [app.rogue.object_id], "Confidence": ["high"]}
    incident = app.estate.sentinel.raise_incident(
        "x", principals=[app.rogue], rule_id=str(rule.sentinel_id), custom_details=details
    )

    answers = await asyncio.gather(*(app.incident(incident) for _ in range(10)))
    await flow.settle(app.process.world)

    assert {answer.status for answer in answers} == {200}
    (containment,) = await app.containments()
    assert containment["state"] == "confirmed"
    assert app.confirms(status=None) == 1
    assert len(app.comments()) == 1
    assert isinstance(await ledger.verify(app.process.world.store), ledger.Verified)


async def test_a_storm_is_taken_whole(app):
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(30)]

    answers = await asyncio.gather(*(app.compromise(agent.object_id) for agent in agents))
    states = {answer.body.get("state") for answer in answers}
    for _ in range(5):
        await flow.settle(app.process.world)

    assert states <= {"pulled", "confirmed", "claimed"}
    assert {c["state"] for c in await app.containments()} <= {"pulled", "confirmed"}
    assert len(await app.containments()) == 30
