"""
Read the tenant back: a request that was accepted is not an effect.

pulled ─► confirmed (the tenant reads as the lever should make it) ─► proven (a denial was seen in the sign-in log).
A principal that never asks for a token again stays confirmed: not yet tested, which is not proven. What goes on after
the block had its time, or after the last old token must be dead, makes it failed; the next lever is then proposed, or
pulled where policy says so.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError
from clients.stores import Conflict, Delete, Replace, Write
from clients.terms import Kind, ObjectId, Unknown, object_id
from response import acting, breaker, gathering, measures, reach
from response.batches import Seen
from response.containment import (
    CONTAINED,
    Containment,
    ContainmentId,
    FailureReason,
    Proof,
    State,
)
from response.evidence import Armed, NotArmed
from response.following import with_next_lever
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.levers import CONFIRM_AGENT_COMPROMISED, DISABLE_PRINCIPAL, LEVERS, RISK_LEVERS
from response.opening import (
    BITES_WITHIN,
    armed_in_words,
    index_writes,
    load_readable,
    telling_note,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clients.logs import Rows
    from clients.stores import Store
    from clients.terms import Policy, Risk
    from response.world import World

log = logging.getLogger("agentbreaker.verification")
# Sign-in rows may take 20 minutes and more (facts); a principal that stays silent for a week is left as it is.
_WATCHED_FOR: Final = timedelta(days=7)
_PENDING: Final = frozenset({State.PULLED, State.CONFIRMED, State.NOT_COVERED})
_SUCCESS: Final = "0"
_BLOCKED: Final = "53003"  # by Conditional Access
_DISABLED: Final = "7000112"  # the application is disabled

# ResultType is text. One row for each way of being refused, or the many refusals of one principal would crowd out
# those of another; and the first sign-in that a block should have refused.
_SIGN_INS: Final = """
union isfuzzy=true AADServicePrincipalSignInLogs, AADManagedIdentitySignInLogs
| where ResultType in ("0", "53003", "7000112")
| extend ServicePrincipalId = tolower(ServicePrincipalId)
| join kind=inner pulled on ServicePrincipalId
| where CreatedDateTime >= PulledAt
| where ResultType != "0" or CreatedDateTime > BitesAt
| summarize arg_min(CreatedDateTime, Id) by ServicePrincipalId, ResultType, ConditionalAccessPolicies
| project ServicePrincipalId, CreatedDateTime, Id, ResultType, ConditionalAccessPolicies
"""
# What still worked on Graph after the last token from before the block must have been dead.
_OUTLIVED: Final = """
MicrosoftGraphActivityLogs
| where ResponseStatusCode between (200 .. 299)
| extend ServicePrincipalId = tolower(ServicePrincipalId)
| join kind=inner pulled on ServicePrincipalId
| where TimeGenerated > DeadAt
| summarize arg_min(TimeGenerated, RequestId) by ServicePrincipalId
| project ServicePrincipalId, CreatedDateTime = TimeGenerated, Id = RequestId, ResultType = "outlived", ConditionalAccessPolicies = ""
"""
_OUTLIVED_CODE: Final = "outlived"
_CLOCKS_DIFFER: Final = timedelta(minutes=5)
_ROWS_ARRIVE: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class SignIn:
    """
    One request as the log shows it: refused, or accepted where it should not have been.

    ``code`` is ResultType, or ``outlived`` for a Graph call with a token that must be dead. ``policies`` are those
    that refused it.
    """

    principal: ObjectId
    at: datetime
    event_id: str
    code: str
    policies: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What the tenant shows now. ``effects`` has only containments that were read; the same for ``risks``."""

    risks: Mapping[ObjectId, Risk] | Unknown
    effects: Mapping[ContainmentId, Seen]
    policies: tuple[Policy, ...] | Unknown
    sign_ins: Sequence[SignIn]


async def verify_pending(world: World) -> list[Containment]:
    """
    Read the tenant back for every containment that is not proven yet; give those whose state changed.

    A question without an answer changes nothing and is asked again next time. Raises: StoreError.
    """
    pending = await _pending(world)
    if not pending:
        return []
    containments = [c for c, _ in pending]
    waiting = [c for c in containments if _waits_for_effect(c)]
    seen = ReadBack(
        risks=await _risks([c for c in waiting if c.lever in RISK_LEVERS], world),
        effects=await _effects([c for c in waiting if c.lever not in RISK_LEVERS], world),
        policies=await _policies(world),
        sign_ins=await _sign_ins(containments, world),
    )
    verdicts = [(before, judged(before, seen, world.now()), etag) for before, etag in pending]
    fresh = [after for before, after, _ in verdicts if before.state is not after.state is State.CONFIRMED]
    residual = await _with_residual(fresh, seen.policies, world)
    changed = []
    for before, verdict, etag in verdicts:
        after = residual.get(verdict.id, verdict)
        written = await _write(after, etag, world) if after is not before else None
        if written is not None:
            measures.verified(before, after)
            changed.append(written)
    return changed


def judged(before: Containment, seen: ReadBack, now: datetime) -> Containment:
    """Give the containment as the evidence makes it; the same object when nothing changed. Pure."""
    after = _read_back(before, seen, now) if _waits_for_effect(before) else before
    if failed := _did_not_bite(after, seen.sign_ins, now):
        return failed
    ours = set(after.armed_policies) | _blocking(seen.policies)
    watched = _PENDING | {State.FAILED, State.AWAITING_APPROVAL}
    if after.state not in watched or after.undoing:
        return after
    proof = next((proof for one in seen.sign_ins if (proof := _proof(after, one, ours)) is not None), None)
    if proof is not None and after.state is not State.PROVEN:
        none = FailureReason.NONE
        return after.changed(
            now, state=State.PROVEN, proof=proof, proven_at=now, failure="", failed_because=none
        )
    return after


def _waits_for_effect(c: Containment) -> bool:
    """Whether the effect has not been read yet; a late one is seen even after we gave up waiting."""
    return c.state is State.PULLED or _may_come_late(c) or _parked_unknown(c)


def _may_come_late(c: Containment) -> bool:
    return c.state is State.FAILED and c.failed_because is FailureReason.NOT_HIGH and not c.undoing


def _parked_unknown(c: Containment) -> bool:
    """Whether a person was asked because nobody could tell if the lever took effect."""
    return c.state is State.AWAITING_APPROVAL and c.pull is not None


def _read_back(before: Containment, seen: ReadBack, now: datetime) -> Containment:
    if _took_effect(before, seen):
        return _confirmed(before, seen.policies, now)
    accepted = before.pull.accepted_at if before.pull else None
    lever = LEVERS[before.lever]
    unread = isinstance(seen.risks, Unknown) if before.lever in RISK_LEVERS else before.id not in seen.effects
    overdue = accepted is not None and now - accepted > lever.settles_within
    if before.state is State.PULLED and overdue and not unread:
        minutes = int(lever.settles_within.total_seconds() // 60)
        what = (
            "the risk still does not read high" if before.lever in RISK_LEVERS else "it still reads as before"
        )
        why = f"Graph accepted {before.lever}, and {minutes} minutes later {what}"
        return before.changed(now, state=State.FAILED, failed_because=FailureReason.NOT_HIGH, failure=why)
    return before


def _took_effect(c: Containment, seen: ReadBack) -> bool:
    if c.lever in RISK_LEVERS:
        risk = None if isinstance(seen.risks, Unknown) else seen.risks.get(c.principal)
        return risk is not None and risk.confirmed
    return seen.effects.get(c.id) is Seen.DONE


def _confirmed(before: Containment, policies: tuple[Policy, ...] | Unknown, now: datetime) -> Containment:
    """Give the record once its effect was read. Whether a policy covers it matters for the risk levers only."""
    read: dict[str, object] = {
        "confirmed_at": now,
        "failure": "",
        "failed_because": FailureReason.NONE,
        "decide_by": None,
    }
    if before.lever not in RISK_LEVERS:
        return before.changed(now, state=State.CONFIRMED, **read)
    armed = (
        policies if isinstance(policies, Unknown) else breaker.armed(policies, acting.as_principal(before))
    )
    covered = not isinstance(armed, NotArmed)
    if not covered:  # nothing is blocked, so no token is the last one
        read |= {"residual_until": None, "residual": ()}
    return before.changed(
        now,
        state=State.CONFIRMED if covered else State.NOT_COVERED,
        armed=armed_in_words(armed),
        armed_policies=armed.policies if isinstance(armed, Armed) else (),
        **read,
    )


def _did_not_bite(c: Containment, sign_ins: Sequence[SignIn], now: datetime) -> Containment | None:
    """
    Give the record as failed when something went on that should have ended; None when nothing did.

    Where no policy covers the principal that is known already. A removal lever ends permissions or credentials, not
    sign-ins that need neither, so a sign-in alone says nothing against it.
    """
    if c.state not in CONTAINED - {State.NOT_COVERED} or c.lever not in (*RISK_LEVERS, DISABLE_PRINCIPAL.id):
        return None
    pulled = c.pull.accepted_at if c.pull else None
    for one in sign_ins:
        if one.principal != c.principal or pulled is None:
            continue
        if one.code == _SUCCESS and one.at > pulled + BITES_WITHIN:
            minutes = int((one.at - pulled).total_seconds() // 60)
            why = f"sign-in {one.event_id} succeeded {minutes} minutes after the lever was accepted"
        elif one.code == _OUTLIVED_CODE and c.residual_until and one.at > c.residual_until + _CLOCKS_DIFFER:
            why = f"Graph call {one.event_id} succeeded after the last token from before the block had to be dead"
        else:
            continue
        return c.changed(
            now,
            state=State.FAILED,
            failed_because=FailureReason.ACTIVITY_AFTER,
            failure=why[:500],
            residual_until=None,
            residual=(),
        )
    return None


def _blocking(policies: tuple[Policy, ...] | Unknown) -> set[str]:
    """Give the ids of enabled policies that block on high risk, of principals or of agents, as they are now."""
    if isinstance(policies, Unknown):
        return set()
    return {
        p.id
        for p in policies
        if p.state == "enabled" and p.blocks and "high" in p.risk_levels | p.agent_risk_levels
    }


def _proof(containment: Containment, denial: SignIn, ours: set[str]) -> Proof | None:
    """
    Tell whether a denial proves this containment.

    Only a refusal after the pull that names one of the policies on high risk does; of a disabled principal, the
    refusal that says so. A refusal by some other policy (a location, say), or one that names none, proves nothing
    about our lever.
    """
    pulled = containment.pull.started_at if containment.pull else None
    if denial.principal != containment.principal or pulled is None or denial.at < pulled:
        return None
    if denial.code == _DISABLED and DISABLE_PRINCIPAL.id in containment.standing:
        return Proof(denial.event_id, denial.at, denial.code, "")
    named = sorted(denial.policies & ours)
    if denial.code != _BLOCKED or not named or containment.lever not in RISK_LEVERS:
        return None
    return Proof(denial.event_id, denial.at, denial.code, named[0])


# --- asking -------------------------------------------------------------------------------------


async def _pending(world: World) -> list[tuple[Containment, str]]:
    found = []
    for record in await world.store.scan("verify:"):
        loaded = await load_readable(world.store, record.key.removeprefix("verify:"))
        if loaded is None:
            continue
        containment, etag = loaded
        if _to_be_watched(containment, world.now()):
            found.append((containment, etag))
        elif containment.state is not State.CLAIMED:  # claimed again: it comes back here once it is pulled
            await _forget(record.key, record.etag, world.store)
    return found


def _to_be_watched(c: Containment, now: datetime) -> bool:
    pulled = (c.pull.accepted_at or c.pull.started_at) if c.pull else None
    undecided = c.state in _PENDING or _may_come_late(c) or _parked_unknown(c)
    # What is proven is watched until the last old token is dead, and some for the rows to arrive.
    proven = (
        c.state is State.PROVEN and c.residual_until is not None and now < c.residual_until + _ROWS_ARRIVE
    )
    return (undecided or proven) and pulled is not None and now - pulled <= _WATCHED_FOR


async def _with_residual(
    confirmed: Sequence[Containment], policies: tuple[Policy, ...] | Unknown, world: World
) -> dict[ContainmentId, Containment]:
    """
    Say until when tokens from before the block may work, and at what, once the block is known to stand.

    One log query for each of the two tables of sign-ins, however many containments: a storm confirms a hundred at
    once. What the log does not tell makes the end later, never earlier.
    """
    found: dict[ContainmentId, Containment] = {}
    now = world.now()
    for managed in (False, True):
        those = [c for c in confirmed if (acting.as_principal(c).kind is Kind.MANAGED_IDENTITY) is managed]
        if not those:
            continue
        blocked = [c.confirmed_at or now for c in those]
        tokens = await gathering.recent_tokens(
            [acting.as_principal(c) for c in those], world, min(blocked) - reach.LOOK_BACK, max(now, *blocked)
        )
        found |= {c.id: _residual(c, tokens, policies, now) for c in those}
    return found


def _residual(
    c: Containment,
    tokens: tuple[reach.Token, ...] | Unknown,
    policies: tuple[Policy, ...] | Unknown,
    now: datetime,
) -> Containment:
    _, _, residual = gathering.residual_access(
        acting.as_principal(c),
        tokens,
        policies,
        now,
        blocked_from=c.confirmed_at or now,
        is_critical_event=c.lever in (*RISK_LEVERS, DISABLE_PRINCIPAL.id),
    )
    words = tuple(
        f"{one.resource or 'any resource'} until {one.until:%Y-%m-%d %H:%M} UTC: {one.why}"[:300]
        for one in residual.remaining[-10:]
    )
    latest = max(residual.until, c.residual_until or residual.until)
    return replace(c, residual_until=latest, residual=words)


async def _forget(key: str, etag: str, store: Store) -> None:
    try:
        await store.commit([Delete(key, etag)])
    except Conflict:  # another settle did the same
        log.debug("index entry was gone already")


async def _risks(waiting: Sequence[Containment], world: World) -> dict[ObjectId, Risk] | Unknown:
    """Read risks: one by one costs a tenant's second each, so from two on the list of all high risks is read."""
    found: dict[ObjectId, Risk] = {}
    graph = world.graph
    try:
        for lever in RISK_LEVERS:
            principals = [c.principal for c in waiting if c.lever == lever]
            agents = lever == CONFIRM_AGENT_COMPROMISED.id
            if len(principals) == 1:
                (only,) = principals
                risk = await gathering.risk_behind(lever, only, world)
                found |= {risk.object_id: risk} if risk else {}
            elif principals:
                found |= await (graph.high_agent_risks() if agents else graph.high_risks())
    except ClientError as error:
        log.warning("risks could not be read back: %s", error)
        return Unknown(str(error))
    return found


async def _effects(waiting: Sequence[Containment], world: World) -> dict[ContainmentId, Seen]:
    """Look at what the other levers made of their principals; one that cannot be read is left out."""
    found = {}
    for c in waiting:
        try:
            found[c.id] = await acting.ACTIONS[c.lever].pulled(c, world)
        except ClientError as error:
            log.warning("the effect of a lever could not be read back: %s", type(error).__name__)
    return found


async def _policies(world: World) -> tuple[Policy, ...] | Unknown:
    try:
        return await gathering.current_policies(world)
    except ClientError as error:
        return Unknown(str(error))


async def _sign_ins(pending: Sequence[Containment], world: World) -> list[SignIn]:
    """Read refusals and what should have been refused, oldest first; a log that cannot be read gives none."""
    pulled = [c for c in pending if c.pull is not None]
    if not pulled:
        return []
    now = world.now()
    since = min(c.pull.started_at for c in pulled if c.pull) - timedelta(minutes=5)
    found: list[SignIn] = []
    outlived = [c for c in pulled if c.residual_until and now > c.residual_until]
    for about, query in ((pulled, _SIGN_INS), (outlived, _OUTLIVED)):
        if not about:
            continue
        try:
            found += sign_ins_from(await world.logs.query(f"{pulls_as_table(about)}{query}", since, now))
        except ClientError as error:
            log.warning("the log could not be read for proof: %s", error)
    return sorted(found, key=lambda one: one.at)


def pulls_as_table(pulled: Iterable[Containment]) -> str:
    """Compose the table the queries join; only object ids that are GUIDs and times of ours are written into it."""
    rows = []
    for c in pulled:
        if c.pull is None:
            continue
        bites = (c.pull.accepted_at or c.pull.started_at) + BITES_WITHIN
        dead = (c.residual_until or bites) + _CLOCKS_DIFFER
        times = ", ".join(f"datetime({at:%Y-%m-%dT%H:%M:%S.%fZ})" for at in (c.pull.started_at, bites, dead))
        rows.append(f'"{object_id(c.principal)}", {times}')
    columns = "ServicePrincipalId: string, PulledAt: datetime, BitesAt: datetime, DeadAt: datetime"
    return f"let pulled = datatable({columns})[{', '.join(rows)}];"


def sign_ins_from(rows: Rows) -> list[SignIn]:
    """Parse an answer. Raises: ValueError when columns are missing."""
    names = ("ServicePrincipalId", "CreatedDateTime", "Id", "ResultType", "ConditionalAccessPolicies")
    principal, at, event, code, listed = (rows.columns.index(name) for name in names)
    return [
        SignIn(
            principal=object_id(row[principal]),
            at=row[at],
            event_id=str(row[event]),
            code=str(row[code]),
            policies=frozenset(
                str(p.get("id", "")).lower()
                for p in _policies_in(row[listed])
                if p.get("result") == "failure"
            ),
        )
        for row in rows.rows
    ]


def _policies_in(cell: object) -> list[dict[str, Any]]:
    """Parse ``ConditionalAccessPolicies``: JSON text, or empty. Unreadable text names no policies."""
    try:
        parsed = json.loads(str(cell)) if cell else []
    except ValueError:
        return []
    return [item for item in parsed if isinstance(item, dict)] if isinstance(parsed, list) else []


# --- writing ------------------------------------------------------------------------------------

_KINDS: Final = {
    State.CONFIRMED: EntryKind.CONFIRMED,
    State.NOT_COVERED: EntryKind.NOT_COVERED,
    State.PROVEN: EntryKind.PROVEN,
    State.FAILED: EntryKind.FAILED,
}


async def _write(after: Containment, etag: str, world: World) -> Containment | None:
    """
    Commit a changed record, with what follows a failure; give it as it is then.

    None when a finding joined meanwhile: the next settle judges the newer record.
    """
    further = with_next_lever(after, world.policy, world.now())

    async def build() -> tuple[list[Write], list[Draft]]:
        writes: list[Write] = [
            Replace(further.key, further.to_body(), etag),
            *await index_writes(further, world.store),
            *telling_note(further, world.now()),
        ]
        drafts = [_draft(after)]
        if further is not after:
            body = {"state": further.state, "lever": further.next_lever}
            drafts.append(Draft(EntryKind.LEVER_PROPOSED, ACTOR, further.principal, further.id, body))
        return writes, drafts

    try:
        await commit_with_entries(world.store, build)
    except Conflict:
        log.debug("a containment changed while it was verified")
        return None
    return further


def _draft(c: Containment) -> Draft:
    body: dict[str, object] = {"state": c.state, "armed": c.armed}
    if c.proof:
        body |= {"event": c.proof.event_id, "error_code": c.proof.error_code, "policy": c.proof.policy_id}
    if c.failure:
        body["failure"] = c.failure
    return Draft(kind=_KINDS[c.state], actor=ACTOR, subject=c.principal, containment_id=c.id, body=body)
