"""
Send what is in the outbox to the webhook: at least once, under an id that stays, by one sender at a time.

    notify:<containment>:<state>   what is to be said; written in the commit that changed the containment
    delivery:<id>                  how often it was tried, when it may be tried again, whether it arrived
    dead-letter:<id>               what could not be delivered in ``MOST_TRIES`` tries, for people to see and retry

The order is: claim (count the try and keep others away), send, write what became of it. A sender that dies after
sending leaves a claim that ends, and the message goes out once more under the same id.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError, Throttled
from clients.stores import Conflict, Delete, Insert, Put, Record, Replace, Write
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.notices import OUTBOX, brake_notice

if TYPE_CHECKING:
    from clients.webhook import WebhookClient
    from response.world import World

log = logging.getLogger("agentbreaker.notifying")
MOST_TRIES: Final = 8  # with the pauses below: given up after about an hour
DEAD: Final = "dead-letter:"
_DELIVERY: Final = "delivery:"
_FIRST_PAUSE: Final = timedelta(seconds=30)
_SENDER_DIED_AFTER: Final = timedelta(seconds=45)  # a send takes ten seconds at most
_AT_ONCE: Final = 25  # messages of one run: a chat takes about one a second, and settle has more to do
_GIVEN_UP_AFTER: Final = timedelta(hours=24)  # also for one that only waited: a busy receiver counts no tries
_RETRIED_AT_ONCE: Final = 20  # dead letters in one commit: three writes each, and their entries


async def notify(containment_id: str, world: World) -> None:
    """Send what is new about one containment. Raises: StoreError."""
    await _send_all(f"{OUTBOX}{containment_id}:", world)


async def notify_due(world: World) -> None:
    """Send everything whose time has come, ``_AT_ONCE`` messages at most. Raises: StoreError."""
    await _send_all(OUTBOX, world)


async def _send_all(prefix: str, world: World) -> None:
    """
    Send in order of keys, and stop at the first failure: levers and proofs must not wait for a receiver that is down.

    The one that failed waits longer and longer, so that the next run asks with another.
    """
    sent = 0
    for note in await world.store.scan(prefix):
        if sent == _AT_ONCE or (world.webhook is not None and world.webhook.rests(world.now())):
            return
        try:
            sent += await _send(note, world)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a notification is unreadable and left alone: %s", type(error).__name__)


async def _send(note: Record, world: World) -> bool:
    """Take one note as far as it goes now; whether a message was delivered."""
    if world.webhook is None:  # nobody is to be told
        await _quietly([Delete(note.key, note.etag)], world)
        return False
    if note.body["brake"]:
        await _raise_brake(note, world)
    key = f"{_DELIVERY}{note.body['id']}"
    before = await world.store.get(key)
    if before is not None and before.body["done"]:
        await _quietly([Delete(note.key, note.etag)], world)
        return False
    now = world.now()
    if before is not None and now < datetime.fromisoformat(before.body["not_before"]):
        return False
    tries = (int(before.body["tries"]) if before else 0) + 1
    claim = _delivery(tries, now + _SENDER_DIED_AFTER)
    try:
        etags = await world.store.commit(
            [Insert(key, claim) if before is None else Replace(key, claim, before.etag)]
        )
    except Conflict:  # another process sends it
        return False
    return await _send_claimed(note, Record(key, claim, etags[key]), world.webhook, world)


async def _send_claimed(note: Record, delivery: Record, webhook: WebhookClient, world: World) -> bool:
    try:
        await webhook.post(note.body["id"], tuple(note.body["lines"]), note.body["fields"], world.now())
    except ClientError as error:
        log.warning("a notification was not delivered (try %d): %s", delivery.body["tries"], error)
        await _failed(note, delivery, error, world)
        return False
    await _end(note, delivery, EntryKind.NOTIFIED, {}, [], world)
    return True


async def _failed(note: Record, delivery: Record, error: ClientError, world: World) -> None:
    """Try later, or give up. The error's text names no URL (``clients/webhook.py``)."""
    now, tries = world.now(), int(delivery.body["tries"])
    busy = isinstance(error, Throttled)
    if busy:  # the receiver lives and asks for patience
        tries -= 1
    old = now - datetime.fromisoformat(note.body["at"]) > _GIVEN_UP_AFTER
    if tries < MOST_TRIES and not old:
        pause = _FIRST_PAUSE * (2 ** max(tries - 1, 0))
        asked = error.retry_after if isinstance(error, Throttled) and error.retry_after else timedelta(0)
        later = _delivery(tries, now + max(pause, min(asked, _GIVEN_UP_AFTER)))
        await _quietly([Replace(delivery.key, later, delivery.etag)], world)
        return
    letter = {
        "note": {"key": note.key, "body": dict(note.body)},
        "died_at": now.isoformat(),
        "tries": tries,
        "why": str(error),
    }
    said: dict[str, object] = {"tries": tries, "why": str(error)}
    dead = Put(f"{DEAD}{note.body['id']}", letter)
    await _end(note, delivery, EntryKind.NOTIFICATION_DEAD, said, [dead], world)


async def _end(
    note: Record,
    delivery: Record,
    kind: EntryKind,
    said: dict[str, object],
    further: list[Write],
    world: World,
) -> None:
    """
    Write that a notification is done with, and the entry that says how.

    A finding may have joined meanwhile and written the note anew: then it stays, and goes at the next look, because
    its delivery is done.
    """
    done = _delivery(int(delivery.body["tries"]), world.now(), done=True)
    said = {"notification": note.body["id"], "event": note.body["event"], **said}
    draft = Draft(kind, ACTOR, note.body["principal"], note.body["containment"], said)

    async def build() -> tuple[list[Write], list[Draft]]:
        current = await world.store.get(note.key)
        same = current is not None and current.body["id"] == note.body["id"]
        gone: list[Write] = [Delete(note.key, current.etag)] if current is not None and same else []
        return [Replace(delivery.key, done, delivery.etag), *gone, *further], [draft]

    for _ in range(5):
        try:
            await commit_with_entries(world.store, build)
        except Conflict as conflict:
            if conflict.key == delivery.key:  # our claim had ended, and another has sent it as well
                return
        else:
            return
    log.warning("a notification is done with and could not be marked; it will be looked at again")


async def _raise_brake(note: Record, world: World) -> None:
    """Put into the outbox that the storm brake has tripped, before what it parked can leave it."""
    key, body = brake_notice(datetime.fromisoformat(note.body["at"]), note.body["brake"])
    await _quietly([Insert(key, body)], world)


async def _quietly(writes: list[Write], world: World) -> None:
    try:
        await world.store.commit(writes)
    except Conflict:  # somebody else has taken it further
        log.debug("another sender was first")


def _delivery(tries: int, not_before: datetime, *, done: bool = False) -> dict[str, Any]:
    return {"tries": tries, "not_before": not_before.isoformat(), "done": done}


# --- dead letters -----------------------------------------------------------------------------------


async def dead_letters(world: World) -> list[Record]:
    """Give what could not be delivered. Raises: StoreError."""
    return await world.store.scan(DEAD)


async def retry_dead(actor: str, world: World) -> int:
    """
    Put every dead letter back into the outbox, with all its tries; ``settle`` sends them. Gives how many.

    Raises: StoreError; Conflict when another did the same at this moment.
    """
    letters = await dead_letters(world)
    for at in range(0, len(letters), _RETRIED_AT_ONCE):
        await _retry(letters[at : at + _RETRIED_AT_ONCE], actor, world)
    return len(letters)


async def _retry(letters: list[Record], actor: str, world: World) -> None:
    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = []
        drafts = []
        for letter in letters:
            note = letter.body["note"]
            body = note["body"] | {"at": world.now().isoformat()}
            fresh = _delivery(0, world.now())
            # A key of its own: the same state may have died twice, and its newest news may wait under the usual key.
            writes += [
                Delete(letter.key, letter.etag),
                Put(f"{note['key'].removesuffix(':' + body['id'])}:{body['id']}", body),
                Put(f"{_DELIVERY}{body['id']}", fresh),
            ]
            said: dict[str, object] = {"notification": body["id"], "event": body["event"]}
            drafts.append(
                Draft(EntryKind.NOTIFICATION_RETRIED, actor, body["principal"], body["containment"], said)
            )
        return writes, drafts

    await commit_with_entries(world.store, build)
