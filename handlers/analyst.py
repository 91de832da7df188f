"""What people ask over HTTP: contain a principal, read containments and dossiers, pull the kill switch."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from clients.stores import Conflict, Delete, Insert, Replace, Store, Write
from clients.terms import ObjectId, ServicePrincipal, Unknown, object_id
from handlers.auth import Role, caller, require
from handlers.http import Problem, Request, Response, json_body
from handlers.models import CompromiseBody, ContainmentView, Judgement, KillSwitchBody, parsed
from response import flow, gathering
from response.containment import Containment, NoSuchContainment, State, UnreadableContainment
from response.evidence import NoSuchPrincipal
from response.finding import Finding, Source, Tier
from response.ledger import Draft, EntryKind, commit_with_entries
from response.levers import LEVERS
from response.opening import armed_in_words, load, read

if TYPE_CHECKING:
    from handlers.process import Process


async def compromise(request: Request, process: Process) -> Response:
    """
    ``POST /api/principals/{principalId}/compromise``: contain this principal now.

    200 when the lever was pulled (or was already), 202 while it waits, 409 when a guardrail refuses.
    """
    who = caller(request, process.settings)
    require(who, Role.EXECUTE)
    principal = _object_id(request.route.get("principalId", ""))
    order = parsed(CompromiseBody, json_body(request))
    if order.lever and order.lever not in LEVERS:
        raise Problem(400, "unknown_lever", f"There is no lever {order.lever[:60]!r}.", levers=sorted(LEVERS))
    if order.ends_after_minutes is not None and not order.dismiss_all_risk:
        raise Problem(
            400,
            "dismiss_all_risk_needed",
            "A containment with an end is undone by itself, which dismisses all risk of the principal, also what Microsoft "
            "had detected. Say dismissAllRisk: true if that is agreed.",
        )
    now = process.world.now()
    finding = Finding(
        source=Source.ANALYST,
        rule_id="",
        family="analyst",
        tier=Tier.AUTO,
        principal=principal,
        first_seen=now,
        last_seen=now,
        reason=order.reason,
        raised_by=who.object_id,
    )
    evidence, decision = await flow.judge(finding, process.world, order.lever)
    if isinstance(evidence.principal, NoSuchPrincipal):
        raise _no_such_principal(evidence.principal)
    if order.dry_run:
        body = {"dryRun": True, "breaker": armed_in_words(evidence.armed), **Judgement.of(decision).shown()}
        return Response(200, body)
    ends = None if order.ends_after_minutes is None else now + timedelta(minutes=order.ends_after_minutes)
    opened = await flow.act(finding, evidence, decision, process.world, ends_at=ends)
    containment = opened.containment
    if containment is None:
        raise Problem(409, "not_contained", "; ".join(decision.reasons), **Judgement.of(decision).shown())
    view = ContainmentView.of(containment).shown()
    vetoes = Judgement.of(opened.decision).vetoes
    if vetoes:
        raise Problem(409, "vetoed", "A guardrail refused: " + "; ".join(vetoes), containment=view)
    if containment.state is State.FAILED and not containment.next_lever:
        raise Problem(502, "containment_failed", said_of(containment), containment=view)
    if not_taken := _not_taken(order, containment):
        raise Problem(409, "order_not_taken", not_taken, containment=view)
    waits = containment.waits_for_people or containment.state in (State.CLAIMED, State.PROPOSED)
    return Response(202 if waits else 200, view | {"message": said_of(containment)})


def _not_taken(order: CompromiseBody, c: Containment) -> str:
    """Say what of an order the containment that it joined could not take; empty when it took all."""
    if order.lever and order.lever not in {c.lever, c.next_lever, *c.standing}:
        return (
            f"The principal has an open containment (state {c.state}, lever {c.lever or 'none'}) that cannot take"
            f" {order.lever} now: {said_of(c)} Order it again once that is over, or undo the containment first."
        )
    if order.ends_after_minutes is not None and c.undo_at is None:
        return (
            f"The principal has an open containment already (state {c.state}), and an end is set only when one is begun:"
            " take it back with undo when it is time."
        )
    return ""


def said_of(c: Containment) -> str:
    """Say in a sentence how far a containment has come and what happens next."""
    if c.undoing:
        return "The undo is recorded, and not accepted by Graph yet; the settle timer goes on with it."
    if c.next_lever and c.waits_for_people:
        return f"{c.next_lever} is proposed; {c.people_needed} other people with Containment.Approve decide."
    match c.state:
        case State.PROPOSED:
            return "The mode is observe: nothing was touched. AGENTBREAKER_MODE=approve or enforce lets a person act."
        case State.AWAITING_APPROVAL:
            touched = (
                "An earlier confirmation may stand (see reasons)" if c.touched else "Nothing was touched"
            )
            return f"{touched}; a person with Containment.Approve decides: " + "; ".join(c.reasons)
        case State.CLAIMED:
            return "Recorded, and not accepted by Graph yet; the settle timer goes on with it."
        case State.REJECTED:
            return "Rejected: nothing is pulled."
        case State.HALF_OPEN:
            return (
                f"Taken back, on probation until {c.probation_until:%Y-%m-%d %H:%M} UTC: one corroborated finding contains again."
                if c.probation_until
                else "Taken back, on probation."
            )
        case State.FAILED:
            return f"The containment failed: {c.failure}"
        case State.PULLED:
            return "Graph accepted the confirmation. That is no block yet: read this containment again for proof."
        case _:
            return "There was an open containment of this principal; this order has joined it."


async def containments(request: Request, process: Process) -> Response:
    """``GET /api/containments[?state=&principalId=&since=]`` and ``GET /api/containments/{id}``."""
    require(caller(request, process.settings), Role.READ)
    wanted = request.route.get("id")
    if wanted:
        try:
            found, _ = await load(process.world.store, wanted[:100])
        except NoSuchContainment as error:
            raise Problem(404, "containment_not_found", "There is no containment with this id.") from error
        return Response(200, ContainmentView.of(found).shown())
    state, principal, since = _filters(request)
    readable, unreadable = await _all(process.world.store)
    kept = [
        c
        for c in readable
        if (state is None or c.state is state)
        and (principal is None or c.principal == principal)
        and (since is None or c.opened_at >= since)
    ]
    kept.sort(key=lambda c: c.opened_at, reverse=True)
    return Response(200, {"value": [ContainmentView.of(c).shown() for c in kept], "unreadable": unreadable})


async def _all(store: Store) -> tuple[list[Containment], list[str]]:
    """Give all containments, and the ids of those whose record nobody can read: left out, and named."""
    readable, unreadable = [], []
    for record in await store.scan("containment:"):
        try:
            readable.append(read(record))
        except UnreadableContainment as error:
            unreadable.append(error.containment_id)
    return readable, sorted(unreadable)


def _filters(request: Request) -> tuple[State | None, ObjectId | None, datetime | None]:
    unknown = sorted(set(request.query) - {"state", "principalId", "since", "code"})
    if unknown:
        raise Problem(
            400,
            "unknown_filter",
            f"Unknown query parameter: {', '.join(unknown)[:200]}.",
            known=["state", "principalId", "since"],
        )
    state, principal, since = (request.query.get(name) for name in ("state", "principalId", "since"))
    if state is not None and state not in set(State):
        raise Problem(
            400, "unknown_state", f"There is no state {state[:60]!r}.", states=[str(s) for s in State]
        )
    moment = None
    if since is not None:
        try:
            moment = datetime.fromisoformat(since.replace(" ", "+"))  # a bare + in a query means a blank
        except ValueError as error:
            raise Problem(400, "not_a_time", "since is no ISO 8601 time.") from error
        if moment.tzinfo is None:
            raise Problem(400, "not_a_time", "since needs a time zone, such as 2026-11-24T10:00:00Z.")
    return State(state) if state else None, _object_id(principal) if principal else None, moment


async def principal(request: Request, process: Process) -> Response:
    """``GET /api/principals/{principalId}``: the dossier of one principal; what could not be read says so."""
    require(caller(request, process.settings), Role.READ)
    world, wanted = process.world, _object_id(request.route.get("principalId", ""))
    found = await gathering.find_principal(wanted, world)
    if isinstance(found, NoSuchPrincipal):
        raise _no_such_principal(found)
    policies = await gathering.answered(gathering.current_policies(world))
    findings = await world.store.scan(f"finding:{wanted}:")
    readable, unreadable = await _all(world.store)
    containments_of = [c for c in readable if c.principal == wanted]
    body: dict[str, Any] = {
        "principal": _shown(found),
        "breaker": armed_in_words(gathering.armed_for(found, policies)),
        "protected": None
        if process.world.policy.protected is None
        else wanted in process.world.policy.protected,
        "findings": [record.body for record in findings],
        "containments": [
            ContainmentView.of(c).shown() for c in sorted(containments_of, key=lambda c: c.opened_at)
        ],
        "unreadable": unreadable,  # containments of anybody: whose, their records do not say
        "residualAccess": _residual(containments_of, world.now()),
    }
    return Response(200, body)


def _shown(found: ServicePrincipal | Unknown) -> dict[str, Any]:
    if isinstance(found, Unknown):
        return {"unknown": found.why}
    words = asdict(found)
    return {
        "objectId": words["object_id"],
        "appId": words["app_id"],
        "displayName": words["display_name"],
        "kind": words["kind"],
        "ownerTenant": words["owner_tenant"],
        "accountEnabled": words["account_enabled"],
    }


def _residual(containments_of: list[Containment], now: datetime) -> dict[str, Any]:
    standing = [c for c in containments_of if c.is_open and c.touched]
    ends = [c.residual_until for c in standing if c.residual_until]
    if not standing:
        return {"until": None, "meaning": "No lever stands, so access is not limited."}
    if not ends:
        return {"until": None, "meaning": "A lever was pulled and does not block it: access goes on."}
    over = max(ends) <= now
    meaning = (
        "Every token issued before the block has expired."
        if over
        else "Tokens issued before the block may work until then; Graph tokens of clients with continuous access evaluation end earlier."
    )
    details = [line for c in standing for line in c.residual]
    return {"until": max(ends), "meaning": meaning, "details": details}


async def killswitch(request: Request, process: Process) -> Response:
    """
    ``PUT /api/killswitch``: stop every lever at once, or let them work again.

    Letting them work also releases the storm brake, where it has tripped: both wait for a person to say so.
    """
    who = caller(request, process.settings)
    require(who, Role.APPROVE)
    order = parsed(KillSwitchBody, json_body(request))
    world = process.world
    body = {
        "stopped": order.stopped,
        "reason": order.reason,
        "by": who.object_id,
        "at": world.now().isoformat(),
    }

    async def build() -> tuple[list[Write], list[Draft]]:
        record = await world.store.get(gathering.KILL_SWITCH)
        write: Write = (
            Insert(gathering.KILL_SWITCH, body)
            if record is None
            else Replace(gathering.KILL_SWITCH, body, record.etag)
        )
        writes: list[Write] = [write]
        drafts = [Draft(EntryKind.KILL_SWITCH, who.object_id, "", "", dict(body))]
        tripped = None if order.stopped else await world.store.get(gathering.BRAKE_TRIPPED)
        if tripped is not None:
            writes.append(Delete(tripped.key, tripped.etag))
            drafts.append(Draft(EntryKind.BRAKE_RELEASED, who.object_id, "", "", {"reason": order.reason}))
        return writes, drafts

    for _ in range(10):
        try:
            await commit_with_entries(world.store, build)
        except Conflict:  # two people at once: the later order stands
            continue
        return Response(200, body)
    raise Problem(409, "conflict", "Others are changing the kill switch at this moment. Try again.")


def _object_id(text: str) -> ObjectId:
    try:
        return object_id(text)
    except ValueError as error:
        raise Problem(
            400, "not_an_object_id", "principalId must be the object id (a GUID) of a service principal."
        ) from error


def _no_such_principal(found: NoSuchPrincipal) -> Problem:
    message = "There is no service principal with this object id in the tenant."
    return Problem(404, "principal_not_found", f"{message} {found.hint}".strip())
