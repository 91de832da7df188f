"""What happens when the outside misbehaves: a clear error each, nothing lost, nothing done twice, never a traceback."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from desk_app import desk
from tenacity import wait_none

from clients import retry
from clients.stores import StoreUnreachable
from clients.terms import object_id
from detections.sweep import sweep_rules
from response import batches, flow
from response.finding import Finding, Source, Tier
from simtenant.faults import FaultKind

CONFIRM = r"POST .*/confirmCompromised"
READ = r"GET .*/servicePrincipals/"


@pytest.fixture
def no_waiting(monkeypatch):
    """Shorten the waits between tries; how often is tried stays."""
    monkeypatch.setattr(retry, "_AsAsked", wait_none)


async def settle(app, **changes):
    await flow.settle(replace(app.process.world, **changes))


async def state(app):
    (containment,) = await app.containments()
    return containment["state"]


async def test_a_connection_dropped_after_the_write_took_effect_is_looked_at_and_not_sent_again(app):
    app.estate.tenant.faults.add(CONFIRM, FaultKind.DROP_AFTER, times=1)

    answer = await app.compromise(app.rogue.object_id)
    for _ in range(3):
        await settle(app)

    assert answer.status in (200, 202)
    assert await state(app) == "confirmed"
    assert app.confirms(status=None) == 1
    kinds = await app.ledger_kinds()
    assert "pull_unknown" in kinds
    assert kinds.index("pull_started") < kinds.index("pull_unknown")


async def test_a_connection_dropped_before_the_write_is_sent_again_only_after_looking_long_enough(app):
    app.estate.tenant.faults.add(CONFIRM, FaultKind.DROP_BEFORE, times=1)

    answer = await app.compromise(app.rogue.object_id)
    await settle(app)
    assert (answer.status, await state(app), app.confirms(status=None)) == (202, "claimed", 1)

    later = app.process.world.now() + batches.SEND_AGAIN_AFTER + timedelta(seconds=1)
    await settle(app, now=lambda: later)
    await settle(app)

    assert app.confirms() == 1
    assert await state(app) in ("pulled", "confirmed")


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_5xx_to_the_confirmation_is_an_unknown_outcome(app, status):
    app.estate.tenant.faults.add(CONFIRM, FaultKind.STATUS, status=status, times=1)

    answer = await app.compromise(app.rogue.object_id)
    await settle(app)

    assert answer.status == 202
    assert await state(app) == "claimed"
    assert app.confirms(status=None) == 1


async def test_a_throttled_confirmation_is_sent_again_at_the_next_turn(app):
    app.estate.tenant.faults.add(CONFIRM, FaultKind.STATUS, status=429, times=2)

    answer = await app.compromise(app.rogue.object_id)

    assert answer.body["state"] == "pulled"
    assert (app.confirms(status=429), app.confirms()) == (2, 1)


async def test_a_refused_confirmation_fails_with_the_reason_and_may_be_tried_again(app):
    app.estate.tenant.faults.add(CONFIRM, FaultKind.STATUS, status=403, times=1)

    failed = await app.compromise(app.rogue.object_id)
    again = await app.compromise(app.rogue.object_id)

    assert (failed.status, failed.body["error"]["code"]) == (502, "containment_failed")
    assert "403" in failed.body["error"]["message"]
    assert again.body["state"] == "pulled"
    assert again.body["id"] == failed.body["error"]["details"]["containment"]["id"]


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_a_principal_that_cannot_be_read_is_never_contained(app, no_waiting, status):
    app.estate.tenant.faults.add(READ, FaultKind.STATUS, status=status, times=None)

    answer = await app.compromise(app.rogue.object_id)

    assert answer.status == 409
    assert "could not be read" in answer.body["error"]["message"]
    assert app.confirms(status=None) == 0


async def test_a_throttled_read_is_tried_again(app, no_waiting):
    app.estate.tenant.faults.add(READ, FaultKind.STATUS, status=429, times=2)

    assert (await app.compromise(app.rogue.object_id)).body["state"] == "pulled"


async def test_an_html_page_instead_of_json_is_an_error_and_no_traceback(app, no_waiting):
    app.estate.tenant.faults.add(READ, FaultKind.STATUS, status=502, html=True, times=None)

    answer = await app.compromise(app.rogue.object_id)

    assert answer.status == 409


async def test_unreadable_policies_make_an_automatic_finding_wait(tmp_path, quick_turns, no_waiting):
    async with desk(tmp_path) as app:
        app.estate.tenant.faults.add(
            r"GET .*/conditionalAccess/policies", FaultKind.STATUS, status=403, times=None
        )
        now = app.process.world.now()
        finding = Finding(
            Source.RULE,
            "AG-04",
            "vault",
            Tier.AUTO,
            object_id(app.rogue.object_id),
            now,
            now,
            "x",
            "agentbreaker",
        )

        opened = await flow.respond(finding, app.process.world)

        assert opened.containment.state == "awaiting_approval"
        assert "403" in " ".join(opened.containment.reasons)
        assert app.confirms(status=None) == 0


class Broken:
    """A store that fails at chosen methods."""

    def __init__(self, store, *methods, after=0):
        self._store, self._methods, self._left = store, methods, after

    def __getattr__(self, name):
        if name in self._methods:
            if self._left <= 0:
                return self._fail
            self._left -= 1
        return getattr(self._store, name)

    async def _fail(self, *_args, **_kwargs):
        raise StoreUnreachable("the disk is gone")


def with_store(app, *methods, after=0):
    world = app.process.world
    broken = Broken(world.store, *methods, after=after)
    app.process = replace(app.process, world=replace(world, store=broken))


@pytest.mark.parametrize("methods", [("get",), ("scan",), ("commit",), ("get", "scan", "commit")])
async def test_an_unreachable_store_pulls_nothing(app, methods):
    with_store(app, *methods)

    answer = await app.compromise(app.rogue.object_id)

    assert answer.status in (409, 503)
    assert app.confirms(status=None) == 0


@pytest.mark.parametrize("after", range(8))
async def test_a_store_that_dies_midway_never_leaves_a_lever_pulled_and_unrecorded(app, after):
    store = app.process.world.store
    with_store(app, "commit", after=after)

    await app.compromise(app.rogue.object_id)

    kinds = [record.body["kind"] for record in await store.scan("ledger:")]
    assert app.confirms(status=None) <= 1
    if app.confirms(status=None):
        assert "pull_started" in kinds


async def test_a_comment_that_cannot_be_written_is_recorded_and_told_later(app):
    rule = next(r for r in app.process.rules if r.id == "AG-04")
    incident = app.estate.sentinel.raise_incident(
        "x",
        principals=[app.rogue],
        rule_id=str(rule.sentinel_id),
        custom_details={"ServicePrincipalId": [app.rogue.object_id], "Confidence": ["high"]},
    )
    app.estate.tenant.faults.add(r"PUT .*/comments/", FaultKind.STATUS, status=503, times=1)

    answer = await app.incident(incident)
    assert answer.status == 200
    assert app.comments() == []
    await settle(app)

    assert len(app.comments()) == 1
    assert "comment_failed" in await app.ledger_kinds()


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_sentinel_that_does_not_answer_is_a_clear_error(app, no_waiting, status):
    incident = app.estate.sentinel.raise_incident("x", principals=[app.rogue])
    app.estate.tenant.faults.add(r"GET .*/incidents/", FaultKind.STATUS, status=status, times=None)

    answer = await app.incident(incident)

    assert answer.status in (502, 503)
    assert answer.body["error"]["code"] in ("permission_missing", "throttled", "service_unavailable")
    assert app.confirms(status=None) == 0


async def test_a_partial_or_throttled_log_answer_moves_no_watermark(app, no_waiting):
    world, rules = app.process.world, app.process.rules[:6]
    app.estate.logs.partial_next(len(rules))

    swept = await sweep_rules(rules, world)

    assert set(swept.failed) == {rule.id for rule in rules}
    assert await world.store.scan("watermark:") == []
    app.estate.logs.throttle_next(2)
    assert (await sweep_rules(rules, world)).failed == ()
    assert len(await world.store.scan("watermark:")) == len(rules)


async def test_one_broken_rule_stops_no_other(app):
    first, *others = app.process.rules[:6]
    broken = replace(first, query=first.query.replace("| project PrincipalId", "| nonsense PrincipalId"))

    swept = await sweep_rules([broken, *others], app.process.world)

    assert swept.failed == (first.id,)


async def test_no_ids_or_names_at_info(app, caplog):
    caplog.set_level(logging.INFO)
    await app.compromise(app.rogue.object_id)
    await settle(app)

    said = " ".join(
        record.getMessage()
        for record in caplog.records
        if record.name.startswith(("agentbreaker", "httpx", "azure", "msal"))
    )
    for secret in (app.rogue.object_id, app.rogue.display_name, app.rogue.app_id, app.estate.app.secret):
        assert secret not in said
