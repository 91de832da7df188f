"""
``POST /api/signals``: another system (threat intelligence, a fraud engine) says what it thinks of a principal.

Its word becomes a finding of family ``external``. Who may speak for a source is in the settings, by object id; how
often, too. A signal is judged like any other finding: guardrails hold, and one alone contains only where the source
is configured so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from clients.stores import Conflict, Insert, Record, Replace, StoreError, Write
from clients.terms import ObjectId, is_guid, object_id
from handlers.auth import Caller, Role, caller, require
from handlers.http import Problem, Request, Response, json_body
from handlers.models import Judgement, SignalAnswer, SignalBody, SignalConfidence, parsed
from response import flow, gathering, rates
from response.evidence import NoSuchPrincipal
from response.finding import EXTERNAL, Finding, Source, Tier
from response.ledger import Draft, EntryKind, commit_with_entries
from response.opening import load

if TYPE_CHECKING:
    from handlers.process import Process
    from response.containment import Containment
    from response.world import World
    from settings import SignalSource

log = logging.getLogger("agentbreaker.signals")
# Longer than a finding takes with its lever (20 s) and its telling; after that its run is taken for dead.
_RUN_DIED_AFTER: Final = timedelta(seconds=60)
_WATCH: Final = 0.1  # seconds between looks at a run of the same event; the store is ours
_LOOKS: Final = 300


@dataclass(frozen=True, slots=True)
class _Run:
    """The record of an event that this call is to carry out."""

    record: Record
    finding: Finding


async def signals(request: Request, process: Process) -> Response:
    """
    Judge a signal. 200 with the judgement, whatever it is; the same ``eventId`` again adds nothing.

    404 no such principal, 403 the caller is not that source's, 409 the event was used for something else,
    429 the source's minute is full.
    """
    who = caller(request, process.settings)
    require(who, Role.SIGNAL_SUBMIT)
    sent = parsed(SignalBody, json_body(request))
    source = _source(sent, who, process)
    if not is_guid(sent.principal_id):
        raise Problem(
            400, "not_an_object_id", "principalId must be the object id (a GUID) of a service principal."
        )
    world = process.world
    wait = await rates.admit(source.name, source.per_minute, world.store, world.now())
    if wait is not None:
        raise Problem(
            429,
            "rate_limited",
            f"This source may send {source.per_minute} signals a minute. Nothing was done; send it again later.",
            retryAfterSeconds=math.ceil(wait.total_seconds()),
        )
    principal = object_id(sent.principal_id)
    found = await gathering.find_principal(principal, world)
    if isinstance(found, NoSuchPrincipal):
        message = "There is no service principal with this object id in the tenant."
        raise Problem(404, "principal_not_found", f"{message} {found.hint}".strip())
    answer = await _once(sent, source, principal, who, world)
    return Response(200, answer.shown())


def _source(sent: SignalBody, who: Caller, process: Process) -> SignalSource:
    """Give the source that the caller may speak for. Which sources exist is nobody else's affair."""
    source = process.settings.signal_sources.get(sent.source)
    if source is None or source.caller != who.object_id:
        raise Problem(
            403,
            "source_not_allowed",
            "This caller may not send signals of this source (AGENTBREAKER_SIGNAL_SOURCES).",
        )
    return source


async def _once(
    sent: SignalBody, source: SignalSource, principal: ObjectId, who: Caller, world: World
) -> SignalAnswer:
    """Carry the event out, or wait for the call that does and give its answer."""
    event = sent.event_id or uuid4().hex
    key = f"signal:{source.name}:{hashlib.sha256(event.encode()).hexdigest()[:32]}"
    for _ in range(_LOOKS):
        record = await world.store.get(key)
        if record is not None and record.body["content"] != _content(sent):
            raise Problem(409, "event_reused", "This eventId was used for another signal. Nothing was done.")
        if record is not None and record.body["answer"] is not None:
            return await _again(event, sent, record.body["answer"], world)
        run = await _take(key, record, sent, source, principal, who, world)
        if run is not None:
            return await _carry_out(event, sent, run, world)
        await asyncio.sleep(_WATCH)
    raise Problem(
        503, "signal_in_progress", "The same event is being handled by another call. Send it again later."
    )


async def _take(
    key: str,
    record: Record | None,
    sent: SignalBody,
    source: SignalSource,
    principal: ObjectId,
    who: Caller,
    world: World,
) -> _Run | None:
    """
    Claim the event; None while another call has it. The finding begins when the event was first heard of.

    A call that died left its record: who takes it over makes the same finding, under the same key.
    """
    now = world.now()
    if record is not None and now < datetime.fromisoformat(record.body["until"]):
        return None
    first_seen = now if record is None else datetime.fromisoformat(record.body["first_seen"])
    finding = _finding(sent, source, principal, who, first_seen, key)
    body = {
        "content": _content(sent),
        "first_seen": first_seen.isoformat(),
        "until": (now + _RUN_DIED_AFTER).isoformat(),
        "answer": None,
    }
    try:
        if record is None:
            await commit_with_entries(world.store, lambda: _received(key, body, finding, source))
        else:
            await world.store.commit([Replace(key, body, record.etag)])
    except Conflict:
        return None
    taken = await world.store.get(key)
    return None if taken is None or taken.body != body else _Run(taken, finding)


async def _received(
    key: str, body: dict[str, Any], finding: Finding, source: SignalSource
) -> tuple[list[Write], list[Draft]]:
    said: dict[str, object] = {
        "source": source.name,
        "confidence": finding.confidence,
        "tier": finding.tier,
        "expires_at": finding.expires_at and finding.expires_at.isoformat(),
    }
    draft = Draft(EntryKind.SIGNAL_RECEIVED, finding.raised_by, finding.principal, "", said)
    return [Insert(key, body)], [draft]


def _finding(
    sent: SignalBody, source: SignalSource, principal: ObjectId, who: Caller, first_seen: datetime, key: str
) -> Finding:
    return Finding(
        source=Source.SIGNAL,
        rule_id="",
        family=EXTERNAL,
        tier=_tier(sent.confidence, source),
        principal=principal,
        first_seen=first_seen,
        last_seen=first_seen,
        reason=f"{source.name}: {sent.reason}",
        raised_by=who.object_id,
        confidence=sent.confidence,
        event_ids=(key,),
        expires_at=first_seen + timedelta(minutes=sent.ttl_minutes),
    )


def _tier(confidence: SignalConfidence, source: SignalSource) -> Tier:
    """Weigh a signal: enough alone only when the source is sure, and configured to be believed."""
    if confidence == "low":
        return Tier.CONTEXT
    return Tier.AUTO if confidence == "high" and source.alone else Tier.CORROBORATED


async def _carry_out(event: str, sent: SignalBody, run: _Run, world: World) -> SignalAnswer:
    """Judge and act, then write the answer. A failure gives the event back, so that it can be sent again at once."""
    try:
        known = await _known(run.finding, world)
        if not known:
            opened = await flow.respond(run.finding, world)
            containment, decision = opened.containment, opened.decision
        else:  # the call before us died after it had recorded the finding; settle goes on with what it opened
            containment = await _open_one(run.finding.principal, world)
            _, decision = await flow.judge(run.finding, world)
    except Exception:
        await _write(run, world, until=world.now().isoformat())
        raise
    answer = {
        "containment": containment.id if containment else "",
        "judgement": Judgement.of(decision).shown(),
    }
    await _write(run, world, answer=answer)
    return _answer(event, sent, containment, answer["judgement"], repeated=known)


async def _known(finding: Finding, world: World) -> bool:
    """Whether this very event's finding is recorded. Two events of one microsecond have one key."""
    record = await world.store.get(finding.key)
    return record is not None and tuple(record.body["event_ids"]) == finding.event_ids


async def _open_one(principal: ObjectId, world: World) -> Containment | None:
    pointer = await world.store.get(f"open:{principal}")
    return None if pointer is None else (await load(world.store, pointer.body["containment"]))[0]


async def _write(run: _Run, world: World, **changes: Any) -> None:
    """Write what became of a run. One that cannot be written is taken over later, and finds its finding recorded."""
    try:
        await world.store.commit([Replace(run.record.key, dict(run.record.body) | changes, run.record.etag)])
    except StoreError as error:
        log.debug("what became of a signal could not be written: %s", type(error).__name__)


async def _again(event: str, sent: SignalBody, before: dict[str, Any], world: World) -> SignalAnswer:
    containment = (await load(world.store, before["containment"]))[0] if before["containment"] else None
    return _answer(event, sent, containment, before["judgement"], repeated=True)


def _answer(
    event: str, sent: SignalBody, containment: Containment | None, judgement: Any, *, repeated: bool
) -> SignalAnswer:
    return SignalAnswer(
        event_id=event,
        principal_id=sent.principal_id.lower(),
        containment_id=containment.id if containment else None,
        state=containment.state if containment else None,
        repeated=repeated,
        judgement=Judgement.model_validate(judgement),
    )


def _content(sent: SignalBody) -> str:
    """Tell two signals apart, whatever the order of their fields."""
    said = json.dumps(sent.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
