"""Signals of other systems: who may send them, what they weigh, and that saying it again adds nothing."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import AGENT, NOON, policy
from builders import evidence as evidence_of
from builders import finding as finding_of
from desk_app import Fixed, desk, identity

from clients.stores import StoreUnreachable
from clients.terms import object_id
from handlers import edge, signals
from handlers.http import Request
from handlers.process import build
from response import flow, rates
from response.decision import Verdict, corroborates, decide
from response.finding import EXTERNAL, Finding, Source, Tier
from settings import Settings

INTEL = "eeeeeeee-0000-4000-8000-00000000000a"
FRAUD = "eeeeeeee-0000-4000-8000-00000000000b"
SOURCES = f"intel={INTEL}:corroborated:50,fraud={FRAUD}:alone:50,slow={INTEL}:corroborated:3"


@pytest.fixture
async def app(tmp_path, quick_turns):
    async with desk(tmp_path, SIGNAL_SOURCES=SOURCES) as opened:
        yield opened


def body(app, **changes):
    said = {
        "source": "intel",
        "principalId": app.rogue.object_id,
        "confidence": "high",
        "reason": "its secret is for sale",
        "ttlMinutes": 60,
    }
    return said | changes


async def send(app, oid=INTEL, **changes):
    return await app.call("signals", body=body(app, **changes), headers=identity("Signal.Submit", oid=oid))


def of_a_rule(app, **changes):
    now = app.process.world.now()
    values = {
        "source": Source.RULE,
        "rule_id": "AG-01",
        "family": "reach",
        "tier": Tier.CORROBORATED,
        "principal": object_id(app.rogue.object_id),
        "first_seen": now,
        "last_seen": now,
        "reason": "a new audience",
        "raised_by": "agentbreaker",
    }
    return Finding(**(values | changes))


# --- what it weighs ---


async def test_one_signal_alone_is_watched_and_recorded(app):
    answer = await send(app)

    assert answer.status == 200
    assert (answer.body["containmentId"], answer.body["state"], answer.body["repeated"]) == (
        None,
        None,
        False,
    )
    assert answer.body["judgement"]["verdict"] == "watch"
    assert app.confirms(status=None) == 0
    assert "signal_received" in await app.ledger_kinds()
    (finding,) = await app.process.world.store.scan(f"finding:{app.rogue.object_id}:")
    assert finding.body["reason"] == "intel: its secret is for sale"
    assert finding.body["family"] == "external"


async def test_a_signal_and_a_finding_of_a_rule_contain(app):
    await flow.respond(of_a_rule(app), app.process.world)
    assert app.confirms(status=None) == 0

    answer = await send(app, confidence="medium")

    assert answer.body["state"] == "pulled"
    assert app.confirms() == 1


async def test_two_signals_never_agree_with_each_other(app):
    await send(app)
    await app.call(
        "signals",
        body=body(app, source="fraud", confidence="medium"),
        headers=identity("Signal.Submit", oid=FRAUD),
    )
    answer = await send(app, eventId="another")

    assert answer.body["judgement"]["verdict"] == "watch"
    assert app.confirms(status=None) == 0


def test_two_signals_never_corroborate_whatever_they_are_worth():
    one = finding_of(source=Source.SIGNAL, rule_id="", family=EXTERNAL, tier=Tier.CORROBORATED)
    for tier in Tier:
        other = replace(one, tier=tier, first_seen=NOON)
        assert not corroborates(other, one, policy(), NOON)
        judged = decide(one, evidence_of(earlier=(other,)), policy(), NOON)
        assert judged.verdict is not Verdict.CONTAIN


async def test_a_source_that_is_believed_alone_contains_when_it_is_sure(app):
    answer = await send(app, oid=FRAUD, source="fraud")

    assert answer.body["state"] == "pulled"
    assert app.confirms() == 1


@pytest.mark.parametrize("confidence", ["low", "medium"])
async def test_a_source_that_is_believed_alone_must_be_sure(app, confidence):
    answer = await send(app, oid=FRAUD, source="fraud", confidence=confidence)

    assert answer.body["judgement"]["verdict"] == "watch"
    assert app.confirms(status=None) == 0


async def test_low_confidence_is_context_even_beside_a_finding(app):
    await flow.respond(of_a_rule(app), app.process.world)

    answer = await send(app, confidence="low")

    assert answer.body["judgement"]["verdict"] == "watch"
    assert app.confirms(status=None) == 0


async def test_guardrails_hold_for_signals_too(tmp_path, quick_turns):
    async with desk(tmp_path, SIGNAL_SOURCES=SOURCES, PROTECTED_PRINCIPALS=str(AGENT)) as app:
        app.process = replace(
            app.process,
            world=replace(
                app.process.world,
                policy=replace(app.process.world.policy, protected=frozenset({app.rogue.object_id})),
            ),
        )

        answer = await send(app, oid=FRAUD, source="fraud")

        assert answer.body["state"] == "vetoed"
        assert app.confirms(status=None) == 0


async def test_a_signal_about_its_own_sender_is_refused_by_the_guardrail(app):
    app.process = replace(
        app.process,
        settings=replace(
            app.process.settings,
            signal_sources={
                "fraud": replace(app.process.settings.signal_sources["fraud"], caller=app.rogue.object_id)
            },
        ),
    )

    answer = await send(app, oid=app.rogue.object_id, source="fraud")

    assert answer.body["state"] == "vetoed"
    assert app.confirms(status=None) == 0


async def test_the_finding_carries_its_end(app):
    await send(app, ttlMinutes=5)

    (record,) = await app.process.world.store.scan(f"finding:{app.rogue.object_id}:")
    finding = Finding.from_body(record.body)
    assert finding.expires_at - finding.first_seen == timedelta(minutes=5)


# --- who may ---


@pytest.mark.parametrize(
    ("oid", "source"),
    [
        (INTEL, "fraud"),  # another's source
        (FRAUD, "intel"),
        (INTEL, "nobody"),
        ("dddddddd-0000-4000-8000-00000000000d", "intel"),
    ],
)
async def test_only_the_configured_caller_speaks_for_a_source(app, oid, source):
    answer = await send(app, oid=oid, source=source)

    assert (answer.status, answer.body["error"]["code"]) == (403, "source_not_allowed")
    assert len(app.estate.tenant.requests) == 0
    assert await app.ledger_kinds() == []


async def test_without_configured_sources_nobody_is_heard(tmp_path, quick_turns):
    async with desk(tmp_path) as app:
        answer = await send(app)

        assert (answer.status, answer.body["error"]["code"]) == (403, "source_not_allowed")


# --- bad input ---


async def test_an_unknown_principal_is_404_and_may_be_sent_again(app):
    event = {"eventId": "e-1", "principalId": "99999999-9999-4999-8999-999999999999"}

    answers = [await send(app, **event) for _ in range(2)]

    assert [(a.status, a.body["error"]["code"]) for a in answers] == [(404, "principal_not_found")] * 2
    assert await app.process.world.store.scan("signal:") == []


async def test_the_object_id_of_an_application_is_recognised(app):
    answer = await send(app, principalId=app.rogue.application_object_id)

    assert answer.status == 404
    assert "app registration" in answer.body["error"]["message"]
    assert app.rogue.object_id in answer.body["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
async def test_what_is_no_json_is_refused(app, raw):
    answer = await app.call("signals", raw=raw, headers=identity("Signal.Submit", oid=INTEL))

    assert (answer.status, answer.body["error"]["code"]) == (400, "not_json")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ttlMinutes": 4}, "ttlMinutes"),
        ({"ttlMinutes": 1441}, "ttlMinutes"),
        ({"ttlMinutes": "60"}, "ttlMinutes"),
        ({"ttlMinutes": True}, "ttlMinutes"),
        ({"ttlMinutes": 1e400}, "ttlMinutes"),
        ({"reason": "x" * 1001}, "reason"),
        ({"reason": ""}, "reason"),
        ({"confidence": "certain"}, "confidence"),
        ({"confidence": None}, "confidence"),
        ({"eventId": ""}, "eventId"),
        ({"eventId": "x" * 201}, "eventId"),
        ({"source": 7}, "source"),
        ({"tier": "auto"}, "tier"),
        ({"principalId": "x" * 37}, "principalId"),
    ],
)
async def test_each_fault_of_the_body_is_named(app, changes, field):
    answer = await send(app, **changes)

    assert (answer.status, answer.body["error"]["code"]) == (400, "wrong_shape")
    assert [fault["field"] for fault in answer.body["error"]["details"]["faults"]] == [field]
    assert len(app.estate.tenant.requests) == 0


async def test_a_principal_that_is_no_guid_is_refused_before_it_costs_anything(app):
    answer = await send(app, principalId="invoice-reader")

    assert (answer.status, answer.body["error"]["code"]) == (400, "not_an_object_id")
    assert await app.process.world.store.scan("rate:") == []


@pytest.mark.parametrize("event", ["/\\#?%", "é" * 200, "\u0000\u202e", "a b"])
async def test_any_text_may_be_an_event_id(app, event):
    first, again = await send(app, eventId=event), await send(app, eventId=event)

    assert (first.status, again.status) == (200, 200)
    assert again.body["repeated"] is True


# --- redelivery ---


async def test_the_same_event_ten_times_at_once_adds_one_finding_and_one_containment(app):
    answers = await asyncio.gather(*(send(app, oid=FRAUD, source="fraud", eventId="e-1") for _ in range(10)))

    assert [a.status for a in answers] == [200] * 10
    assert {a.body["state"] for a in answers} == {"pulled"}
    assert len({a.body["containmentId"] for a in answers}) == 1
    assert [a.body["repeated"] for a in answers].count(False) == 1
    assert app.confirms(status=None) == 1
    kinds = await app.ledger_kinds()
    assert (kinds.count("finding_recorded"), kinds.count("joined"), kinds.count("signal_received")) == (
        1,
        0,
        1,
    )


async def test_redelivery_over_two_processes_adds_nothing(app):
    other = await build(Settings.from_env(app.estate.app_environment(SIGNAL_SOURCES=SOURCES)))
    try:
        request = Request(
            "POST",
            headers=identity("Signal.Submit", oid=FRAUD),
            body=json.dumps(body(app, source="fraud", eventId="e-1")).encode(),
        )
        processes = [Fixed(app.process), Fixed(other)] * 4

        answers = await asyncio.gather(*(edge.answer("signals", request, each) for each in processes))

        assert {a.body["state"] for a in answers} == {"pulled"}
        assert (await app.ledger_kinds()).count("finding_recorded") == 1
        assert app.confirms(status=None) == 1
    finally:
        await other.close()


async def test_the_same_event_id_with_other_content_is_refused(app):
    await send(app, eventId="e-1")

    answer = await send(app, eventId="e-1", confidence="low")

    assert (answer.status, answer.body["error"]["code"]) == (409, "event_reused")


async def test_two_sources_may_use_the_same_event_id(app):
    await send(app, eventId="e-1")

    answer = await send(app, oid=FRAUD, source="fraud", eventId="e-1")

    assert answer.body["repeated"] is False


async def test_without_an_event_id_each_signal_is_one_of_its_own(app):
    answers = [await send(app) for _ in range(2)]

    assert [a.body["repeated"] for a in answers] == [False, False]
    assert len({a.body["eventId"] for a in answers}) == 2
    assert len(await app.process.world.store.scan(f"finding:{app.rogue.object_id}:")) == 2


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_call_that_died_is_taken_over_and_its_finding_is_recorded_once(app, monkeypatch, recorded):
    respond = flow.respond

    async def dying(finding, world):
        if recorded:
            await respond(finding, world)
        raise Died

    monkeypatch.setattr(flow, "respond", dying)
    with pytest.raises(Died):
        await send(app, oid=FRAUD, source="fraud", eventId="e-1")
    monkeypatch.undo()
    world = app.process.world
    app.process = replace(app.process, world=replace(world, now=lambda: world.now() + timedelta(seconds=61)))

    answer = await send(app, oid=FRAUD, source="fraud", eventId="e-1")

    assert answer.body["state"] == "pulled"
    assert answer.body["repeated"] is recorded
    kinds = await app.ledger_kinds()
    assert (kinds.count("finding_recorded"), kinds.count("joined")) == (1, 0)
    assert app.confirms(status=None) == 1


async def test_a_call_that_failed_gives_the_event_back(app, monkeypatch):
    async def away(*_args):
        raise StoreUnreachable("away")

    monkeypatch.setattr(flow, "respond", away)
    failed = await send(app, oid=FRAUD, source="fraud", eventId="e-1")
    monkeypatch.undo()

    answer = await send(app, oid=FRAUD, source="fraud", eventId="e-1")

    assert (failed.status, failed.body["error"]["code"]) == (503, "store_unavailable")
    assert answer.body["state"] == "pulled"


async def test_an_event_that_another_call_holds_for_too_long_is_told_to_come_again(app, monkeypatch):
    async def dying(*_args):
        raise Died

    monkeypatch.setattr(flow, "respond", dying)
    with pytest.raises(Died):
        await send(app, eventId="e-1")
    monkeypatch.undo()
    monkeypatch.setattr(signals, "_LOOKS", 2)

    answer = await send(app, eventId="e-1")

    assert (answer.status, answer.body["error"]["code"]) == (503, "signal_in_progress")


# --- how often ---


async def test_a_source_is_heard_so_often_a_minute_and_then_told_when_to_come_again(app):
    answers = [await send(app, source="slow") for _ in range(5)]

    assert [a.status for a in answers] == [200, 200, 200, 429, 429]
    error = answers[3].body["error"]
    assert error["code"] == "rate_limited"
    assert 1 <= error["details"]["retryAfterSeconds"] <= 60
    assert answers[3].headers["Retry-After"] == str(error["details"]["retryAfterSeconds"])
    assert len(await app.process.world.store.scan(f"finding:{app.rogue.object_id}:")) == 3


async def test_one_source_does_not_use_up_anothers_minute(app):
    for _ in range(4):
        await send(app, source="slow")

    assert (await send(app, source="intel")).status == 200


async def test_the_minute_is_shared_by_processes_and_racing_calls(app):
    store, now = app.process.world.store, app.process.world.now()
    other = await build(Settings.from_env(app.estate.app_environment(SIGNAL_SOURCES=SOURCES)))
    try:
        stores = [store, other.world.store] * 10
        waits = await asyncio.gather(*(rates.admit("x", 7, each, now) for each in stores))
    finally:
        await other.close()

    assert waits.count(None) == 7


async def test_the_minute_slides(app):
    store = app.process.world.store
    for second in (0, 20, 40):
        assert await rates.admit("x", 3, store, NOON + timedelta(seconds=second)) is None

    wait = await rates.admit("x", 3, store, NOON + timedelta(seconds=50))
    assert wait == timedelta(seconds=10)
    assert await rates.admit("x", 3, store, NOON + timedelta(seconds=60)) is None
    assert await rates.admit("x", 3, store, NOON + timedelta(seconds=61)) is not None


async def test_a_clock_that_ran_wild_shuts_no_source_out(app):
    store = app.process.world.store
    for _ in range(3):
        await rates.admit("x", 3, store, NOON + timedelta(days=1))

    assert await rates.admit("x", 3, store, NOON) is None


async def test_an_unreadable_store_hears_nobody(app, monkeypatch):
    async def away(*_args):
        raise StoreUnreachable("away")

    monkeypatch.setattr(app.process.world.store, "get", away)

    answer = await send(app, oid=FRAUD, source="fraud")

    assert (answer.status, answer.body["error"]["code"]) == (503, "store_unavailable")
    assert len(app.estate.tenant.requests) == 0
