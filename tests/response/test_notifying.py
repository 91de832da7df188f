"""The webhook over real sockets: what is sent, when it is sent again, and what becomes of it when nobody takes it."""

import asyncio
import logging
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from desk_app import desk, identity
from receiver import SECRET, Receiver

from clients import webhook
from clients.stores import StoreUnreachable
from clients.terms import object_id
from handlers.process import build
from response import flow, ledger, notices, notifying, telling
from response.containment import State
from response.finding import Finding, Source, Tier
from response.opening import load, telling_note
from settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def receiver():
    async with Receiver() as opened:
        yield opened


@pytest.fixture
async def told(tmp_path, quick_turns, receiver):
    """An app that tells the receiver."""
    async with desk(tmp_path, WEBHOOK_URL=receiver.url, WEBHOOK_SECRET=SECRET) as opened:
        yield opened


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


def later(world, **span):
    return replace(world, now=lambda: world.now() + timedelta(**span))


async def test_acceptance_is_told_signed_and_is_not_called_contained(told, receiver):
    await flow.respond(finding(told), told.process.world)

    (got,) = receiver.got
    assert got.signed
    assert got.body["agentbreaker"]["event"] == "pulled"
    assert "being checked" in got.body["text"]
    assert "contained" not in got.body["text"].lower().replace("containment", "")
    assert "/undo" in got.body["text"]
    assert "notified" in await told.ledger_kinds()
    assert await told.process.world.store.scan("notify:") == []


async def test_each_state_is_told_once_with_an_id_of_its_own(told, receiver):
    await flow.respond(finding(told), told.process.world)
    for _ in range(3):
        await flow.settle(told.process.world)

    assert receiver.events() == ["pulled", "confirmed"]
    assert len({got.id for got in receiver.got}) == 2


async def test_a_finding_that_joins_is_no_news_for_the_webhook(told, receiver):
    await flow.respond(finding(told), told.process.world)

    await flow.respond(finding(told, rule_id="AG-05", family="volume"), told.process.world)
    await telling.retold(told.process.world)

    assert receiver.events() == ["pulled"]
    assert await told.process.world.store.scan("notify:") == []


async def test_nothing_configured_nothing_sent_and_nothing_kept(app):
    await flow.respond(finding(app), app.process.world)

    assert await app.process.world.store.scan("notify:") == []
    assert await app.process.world.store.scan("delivery:") == []


async def test_a_failed_send_is_tried_again_after_a_pause_under_the_same_id(told, receiver):
    receiver.answers = [500, 200]
    world = told.process.world
    await flow.respond(finding(told), world)
    assert len(receiver.got) == 1

    await telling.retold(later(world, seconds=5))
    assert len(receiver.got) == 1  # too soon

    await telling.retold(later(world, seconds=40))
    assert len(receiver.got) == 2
    assert len({got.id for got in receiver.got}) == 1
    assert await world.store.scan("notify:") == []


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410, 500, 503])
async def test_only_a_2xx_counts_and_redirects_are_not_followed(told, receiver, status):
    receiver.answers, receiver.headers = [status], {"Location": "/elsewhere"}

    await flow.respond(finding(told), told.process.world)

    assert receiver.followed == 0
    assert len(await told.process.world.store.scan("notify:")) == 1


async def test_a_receiver_that_never_answers_is_left_after_its_time(told, receiver, monkeypatch):
    monkeypatch.setattr(webhook, "WITHIN", timedelta(milliseconds=200))
    receiver.answers = [None]

    opened = await flow.respond(finding(told), told.process.world)

    assert opened.containment.state is State.PULLED
    assert len(await told.process.world.store.scan("notify:")) == 1


async def test_while_the_receiver_is_down_a_run_asks_it_once(told, receiver):
    receiver.answers = [500]
    world = told.process.world
    for number in range(3):
        await flow.respond(finding(told, told.estate.tenant.add_application(f"agent-{number}")), world)
    asked = len(receiver.got)
    assert asked == 1  # the second and third found it resting

    await telling.retold(later(world, minutes=5))

    assert len(receiver.got) == asked + 1


async def test_a_receiver_that_asks_for_patience_is_given_it_and_it_costs_no_try(told, receiver):
    receiver.answers, receiver.headers = [429, 200], {"Retry-After": "300"}
    world = told.process.world
    await flow.respond(finding(told), world)

    await telling.retold(later(world, seconds=200))
    assert len(receiver.got) == 1
    (delivery,) = await world.store.scan("delivery:")
    assert delivery.body["tries"] == 0

    await telling.retold(later(world, seconds=310))
    assert len(receiver.got) == 2


async def died_letter(app, receiver):
    """Let one notification fail in all its tries."""
    receiver.answers = [500]
    world = app.process.world
    await flow.respond(finding(app), world)
    for hours in range(1, notifying.MOST_TRIES):
        await telling.retold(later(world, hours=hours))
    assert len(receiver.got) == notifying.MOST_TRIES


async def test_after_its_last_try_it_is_a_dead_letter_that_people_see(told, receiver):
    await died_letter(told, receiver)

    await telling.retold(later(told.process.world, hours=12))
    assert len(receiver.got) == notifying.MOST_TRIES
    assert "notification_dead" in await told.ledger_kinds()
    answer = await told.call("notifications")
    (letter,) = answer.body["value"]
    assert (letter["event"], letter["tries"]) == ("pulled", notifying.MOST_TRIES)
    assert "HTTP 500" in letter["why"]
    assert "T0P-S3CRET" not in answer.text()
    (check,) = [c for c in (await told.call("readiness")).body["checks"] if c["name"] == "notifications"]
    assert check["ok"] is False


async def test_a_person_sends_dead_letters_again_under_their_ids(told, receiver):
    await died_letter(told, receiver)
    receiver.answers = [200]

    answer = await told.call("retry_notifications", body={})
    assert (answer.status, answer.body) == (202, {"retried": 1})
    await telling.retold(later(told.process.world, hours=9))

    assert len({got.id for got in receiver.got}) == 1
    assert len(receiver.got) == notifying.MOST_TRIES + 1
    assert (await told.call("notifications")).body["value"] == []
    assert await told.process.world.store.scan("notify:") == []
    kinds = await told.ledger_kinds()
    assert kinds[-2:] == ["notification_retried", "notified"]
    assert isinstance(await ledger.verify(told.process.world.store), ledger.Verified)


@pytest.mark.parametrize(
    ("name", "role"), [("notifications", "Containment.Execute"), ("retry_notifications", "Containment.Read")]
)
async def test_reading_and_retrying_are_different_rights(told, name, role):
    answer = await told.call(name, headers=identity(role))

    assert (answer.status, answer.body["error"]["code"]) == (403, "missing_role")


class Died(BaseException):
    """The process is gone."""


async def test_a_sender_that_died_before_it_could_mark_sends_again_with_the_same_id(
    told, receiver, monkeypatch
):
    world = told.process.world

    async def died(*_args):
        raise Died

    monkeypatch.setattr(notifying, "_end", died)
    with pytest.raises(Died):
        await flow.respond(finding(told), world)
    monkeypatch.undo()
    assert len(receiver.got) == 1

    await telling.retold(later(world, seconds=30))
    assert len(receiver.got) == 1  # the claim of the dead still stands
    await telling.retold(later(world, seconds=50))

    assert len(receiver.got) == 2
    assert len({got.id for got in receiver.got}) == 1
    assert await world.store.scan("notify:") == []


SENDER = """
import asyncio, sys
from datetime import UTC, datetime
from types import SimpleNamespace
import httpx
from clients.stores import open_store
from clients.webhook import WebhookClient
from response import notifying

async def main(place, tenant, url, secret):
    async with httpx.AsyncClient() as http:
        world = SimpleNamespace(
            store=open_store(place, tenant, None),
            webhook=WebhookClient(url, secret, http),
            now=lambda: datetime.now(UTC),
        )
        await notifying.notify_due(world)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_killed_while_it_sends_leaves_the_message_to_another(told, receiver):
    """SIGKILL after the receiver has the message, and before the sender hears so."""
    world, settings = told.process.world, told.process.settings
    await flow.respond(finding(told), replace(world, webhook=None))
    containment, _ = await load(world.store, (await told.containments())[0]["id"])
    await world.store.commit(telling_note(containment, world.now()))
    receiver.answers = [None, 200]
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SENDER, settings.store, settings.tenant_id, receiver.url, SECRET, cwd=ROOT
    )
    while not receiver.got:
        assert sender.returncode is None, "the sender ended before it had sent"
        await asyncio.sleep(0.02)
    sender.send_signal(signal.SIGKILL)
    assert await sender.wait() == -signal.SIGKILL

    await telling.retold(later(world, seconds=30))
    assert len(receiver.got) == 1  # its claim still stands
    await telling.retold(later(world, seconds=60))

    assert len(receiver.got) == 2
    assert len({got.id for got in receiver.got}) == 1
    assert await world.store.scan("notify:") == []


async def test_two_processes_send_each_message_once(told, receiver):
    other = await build(
        Settings.from_env(told.estate.app_environment(WEBHOOK_URL=receiver.url, WEBHOOK_SECRET=SECRET))
    )
    try:
        world = told.process.world
        silent = replace(world, webhook=None)
        await flow.respond(finding(told), silent)
        containment, _ = await load(world.store, (await told.containments())[0]["id"])
        await world.store.commit(telling_note(containment, world.now()))

        await asyncio.gather(*(telling.retold(w) for w in [world, other.world] * 4))

        assert receiver.events() == ["pulled"]
    finally:
        await other.close()


async def test_a_storm_brake_that_trips_is_told_once_however_many_it_parks(told, receiver):
    agents = [told.estate.tenant.add_application(f"agent-{n}") for n in range(7)]

    for agent in agents:
        await flow.respond(finding(told, agent), told.process.world)
    await telling.retold(told.process.world)
    await telling.retold(told.process.world)

    events = receiver.events()
    assert events.count("storm-brake") == 1
    assert events.count("awaiting_approval") == 4
    assert events.count("pulled") == 3
    assert "STORM BRAKE" in next(g.body["text"] for g in receiver.got if "STORM" in g.body["text"])


async def test_what_waits_says_who_must_do_what(told, receiver):
    async with desk_in_approve(told, receiver) as app:
        await flow.respond(finding(app), app.process.world)

    (got,) = receiver.got
    assert got.body["agentbreaker"]["event"] == "awaiting_approval"
    assert f"/api/containments/{got.body['agentbreaker']['containmentId']}/approval" in got.body["text"]


def desk_in_approve(told, receiver):
    return desk(
        told.estate.directory / "other", mode="approve", WEBHOOK_URL=receiver.url, WEBHOOK_SECRET=SECRET
    )


async def test_text_of_the_tenant_mentions_nobody_and_links_nowhere(told, receiver):
    told.rogue.display_name = "<!channel> @here <https://evil.example|click> [x](http://evil.example)\u202e"

    await flow.respond(finding(told), told.process.world)

    text = receiver.got[0].body["text"]
    for poison in ("<", ">", "@", "://", "evil.example", "](", "\u202e"):
        assert poison not in text.replace("&lt;", "").replace("&gt;", "")
    assert "evil[.]example" in text


async def test_the_url_and_names_are_in_no_log_and_in_no_ledger_entry(told, receiver, caplog):
    caplog.set_level(logging.INFO)
    told.rogue.display_name = "name-of-the-agent"
    receiver.answers = [500, None]

    await flow.respond(finding(told), told.process.world)
    broken = replace(
        told.process.world,
        webhook=webhook.WebhookClient("http://127.0.0.1:1/hook/T0P-S3CRET", SECRET, told.process._closing[1]),
    )
    await telling.retold(later(broken, minutes=2))

    entries = [str(record.body) for record in await told.process.world.store.scan("ledger:")]
    assert "not delivered" in caplog.text
    for secret in ("T0P-S3CRET", "/hook/", SECRET):
        assert secret not in caplog.text
        assert not any(secret in entry for entry in entries)
    assert "name-of-the-agent" not in caplog.text


async def test_an_unreadable_store_sends_nothing(told, receiver):
    class Unreadable:
        def __init__(self, store):
            self._store = store

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def get(self, key):
            if key.startswith("delivery:"):
                raise StoreUnreachable("away")
            return await self._store.get(key)

    world = told.process.world
    await flow.respond(finding(told), replace(world, webhook=None))
    containment, _ = await load(world.store, (await told.containments())[0]["id"])
    await world.store.commit(telling_note(containment, world.now()))

    with pytest.raises(StoreUnreachable):
        await telling.retold(replace(world, store=Unreadable(world.store)))

    assert receiver.got == []


def test_every_state_has_a_headline():
    assert set(notices.HEADLINES) == set(State)
