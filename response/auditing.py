"""
Ship the ledger to the workspace: each entry becomes a row of ``AgentbreakerAudit_CL``, oldest first.

    audit-shipped   {"number"}: entries up to this one were accepted

The mark moves only past what the service said it took. After an answer that never came, or when two processes ship
at once, rows come twice, with the same ``EventId``; the service itself removes no duplicates
(``docs/ledger.md`` says how a query does).
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from clients import audit
from clients.errors import BadRequest
from clients.stores import Conflict, CorruptRecord, Insert, Replace
from response import ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from clients.audit import AuditClient
    from clients.stores import Record
    from response.world import World

log = logging.getLogger("agentbreaker.auditing")
SHIPPED: Final = "audit-shipped"
UNREADABLE: Final = "unreadable"
_PAGE: Final = 500
_A_RUN: Final = 5_000  # entries; ``settle`` comes every 30 s and must come to an end
_WITHIN: Final = timedelta(seconds=20)
_LARGEST_FIELD: Final = (
    60_000  # the service cuts a field at 64 KB without a word, which would be no JSON any more
)

Row = dict[str, Any]


async def ship(world: World) -> int:
    """
    Send what the audit table has not got yet; give how many entries were accepted. Without a table: nothing.

    Ends after 5,000 entries or 20 seconds, whichever is first; the next run goes on.
    Raises: ClientError when the service did not take a call, StoreError; what was accepted before stays marked.
    """
    if world.audit is None:
        return 0
    began, sent = world.now(), 0
    number, etag = await _mark(world)
    while sent < _A_RUN:
        page = await ledger.records_after(world.store, number, _PAGE)
        for rows in _calls([row_of(record) for record in page]):
            async for accepted in _deliver(rows, world.audit):
                number = accepted[-1]["Number"]
                try:
                    etag = await _move(world, number, etag)
                except Conflict:
                    log.info("another process ships the ledger")
                    return sent
                sent += len(accepted)
                if world.now() - began > _WITHIN:
                    return sent
        if len(page) < _PAGE:
            break
    return sent


def row_of(record: Record) -> Row:
    """Make the table's row of a stored entry; of one that cannot be read a row that says so."""
    try:
        entry = ledger.Entry.from_record(record)
    except CorruptRecord:
        number = int(record.key.rpartition(":")[2])
        body = {"found": json.dumps(record.body)[: _LARGEST_FIELD // 4]}
        return _row(f"{UNREADABLE}-{number}", number, UNREADABLE, body)
    at = entry.at.isoformat()
    return _row(entry.id, entry.number, entry.kind, _fitting(entry.body)) | {
        # The service may replace a TimeGenerated that it finds too old, as after a long outage.
        "TimeGenerated": at,
        "RecordedAt": at,
        "Actor": _clean(entry.actor),
        "Subject": _clean(entry.subject),
        "ContainmentId": _clean(entry.containment_id),
        "PreviousHash": entry.previous_hash,
        "Hash": entry.hash,
    }


def _row(event_id: str, number: int, kind: str, body: Any) -> Row:
    return {"EventId": event_id, "Number": number, "Kind": kind, "Body": _clean(body)}


def _fitting(body: Any) -> Any:
    text = json.dumps(body)
    if len(text) <= _LARGEST_FIELD:
        return body
    return {"cut": True, "characters": len(text), "beginning": text[: _LARGEST_FIELD // 4]}


def _clean(value: Any) -> Any:
    """Replace halves of surrogate pairs, which JSON can carry and UTF-8 cannot: one row must not stop all."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def _calls(rows: Sequence[Row]) -> list[list[Row]]:
    """Group rows so that each group fits into one call."""
    calls: list[list[Row]] = []
    room = 0
    for row in rows:
        need = audit.size(row)
        if need > room:
            calls.append([])
            room = audit.MAX_CALL
        calls[-1].append(row)
        room -= need
    return calls


async def _deliver(rows: list[Row], client: AuditClient) -> AsyncIterator[list[Row]]:
    """
    Send rows, in order, and give those of each call that was accepted.

    What the service refuses as it is (400, 413) is halved until the row stands alone; that one goes without its body.
    """
    waiting = [rows]
    while waiting:
        batch = waiting.pop()
        try:
            await client.upload(batch)
        except BadRequest as error:
            if error.status not in (400, 413):
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
                continue
            await client.upload([{**batch[0], "Body": {"refused": f"HTTP {error.status}"}}])
        yield batch


async def _mark(world: World) -> tuple[int, str]:
    """Give the number shipped last and the mark's etag. Raises: CorruptRecord, because a wrong mark hides entries."""
    record = await world.store.get(SHIPPED)
    if record is None:
        return 0, ""
    number = record.body.get("number")
    if type(number) is not int or number < 0 or number > await ledger.last_number(world.store):
        raise CorruptRecord(f"{SHIPPED} names no entry of the ledger")
    return number, record.etag


async def _move(world: World, number: int, etag: str) -> str:
    body = {"number": number}
    write = Replace(SHIPPED, body, etag) if etag else Insert(SHIPPED, body)
    return (await world.store.commit([write]))[SHIPPED]
