"""
Prove a containment: what the tenant shows, not what it accepted.

pulled ─► confirmed (risk reads high, nothing is processing) ─► proven (a denial was seen in the sign-in log).
A principal that never asks for a token again stays confirmed: not yet tested, which is not proven.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError
from clients.stores import Conflict, Delete, Replace, Write
from clients.terms import AppId, Kind, ObjectId, ServicePrincipal, Unknown, object_id
from response import breaker, gathering
from response.containment import Containment, FailureReason, Proof, State
from response.evidence import Armed, NotArmed
from response.ledger import Draft, EntryKind, commit_with_entries
from response.levers import LEVERS
from response.opening import ACTOR, armed_in_words, load_readable, telling_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clients.logs import Rows
    from clients.stores import Store
    from clients.terms import Policy, Risk
    from response.world import World

log = logging.getLogger("agentbreaker.verification")
# Sign-in rows may take 20 minutes and more (facts); a principal that stays silent for a week is left as it is.
_WATCHED_FOR: Final = timedelta(days=7)
_PENDING: Final = frozenset({State.PULLED, State.CONFIRMED, State.NOT_COVERED})

# 53003: blocked by Conditional Access. ResultType is text. One row for each way of being refused, or the many
# refusals of one principal would crowd out those of another.
_DENIALS: Final = """
AADServicePrincipalSignInLogs
| where ResultType == "53003"
| join kind=inner pulled on ServicePrincipalId
| where CreatedDateTime >= PulledAt
| summarize arg_min(CreatedDateTime, Id) by ServicePrincipalId, ResultType, ConditionalAccessPolicies
| project ServicePrincipalId, CreatedDateTime, Id, ResultType, ConditionalAccessPolicies
"""


@dataclass(frozen=True, slots=True)
class Denial:
    """One refused token request, as the sign-in log shows it. ``policies`` are those that refused it."""

    principal: ObjectId
    at: datetime
    event_id: str
    error_code: str
    policies: frozenset[str]


async def verify_pending(world: World) -> list[Containment]:
    """
    Read the tenant back for every containment that is not proven yet; give those whose state changed.

    A question without an answer changes nothing and is asked again next time. Raises: StoreError.
    """
    pending = await _pending(world)
    if not pending:
        return []
    risks = await _risks([c for c, _ in pending if _waits_for_risk(c)], world)
    policies = await _policies(world)
    denials = await _denials([c for c, _ in pending], world)
    changed = []
    for containment, etag in pending:
        after = judged(containment, risks, policies, denials, world.now())
        if after is not containment and await _write(after, etag, world):
            changed.append(after)
    return changed


def judged(
    before: Containment,
    risks: dict[ObjectId, Risk] | Unknown,
    policies: tuple[Policy, ...] | Unknown,
    denials: Iterable[Denial],
    now: datetime,
) -> Containment:
    """
    Give the containment as the evidence makes it; the same object when nothing changed. Pure.

    ``risks`` holds those that were read; a principal that is not in it has none.
    """
    after = before
    if _waits_for_risk(before) and not isinstance(risks, Unknown):
        after = _read_back(before, risks.get(before.principal), policies, now)
    ours = set(after.armed_policies) | _blocking(policies)
    proof = next((proof for denial in denials if (proof := _proof(after, denial, ours)) is not None), None)
    if proof is not None:
        none = FailureReason.NONE
        return after.changed(now, state=State.PROVEN, proof=proof, failure="", failed_because=none)
    return after


def _waits_for_risk(c: Containment) -> bool:
    """Whether the risk has not read high yet; a late effect is seen even after we gave up waiting."""
    return c.state is State.PULLED or c.failed_because is FailureReason.NOT_HIGH or _parked_unknown(c)


def _parked_unknown(c: Containment) -> bool:
    """Whether a person was asked because nobody could tell if the confirmation arrived."""
    return c.state is State.AWAITING_APPROVAL and c.pull is not None


def _read_back(
    before: Containment, risk: Risk | None, policies: tuple[Policy, ...] | Unknown, now: datetime
) -> Containment:
    if risk is not None and risk.confirmed:
        armed = policies if isinstance(policies, Unknown) else breaker.armed(policies, _as_principal(before))
        return before.changed(
            now,
            state=State.NOT_COVERED if isinstance(armed, NotArmed) else State.CONFIRMED,
            confirmed_at=now,
            failure="",
            failed_because=FailureReason.NONE,
            armed=armed_in_words(armed),
            armed_policies=armed.policies if isinstance(armed, Armed) else (),
        )
    accepted = before.pull and before.pull.accepted_at
    lever = LEVERS[before.lever]
    if before.state is State.PULLED and accepted and now - accepted > lever.settles_within:
        minutes = int(lever.settles_within.total_seconds() // 60)
        why = (
            f"Graph accepted the confirmation, and {minutes} minutes later the risk still does not read high"
        )
        return before.changed(now, state=State.FAILED, failed_because=FailureReason.NOT_HIGH, failure=why)
    return before


def _blocking(policies: tuple[Policy, ...] | Unknown) -> set[str]:
    """Give the ids of enabled policies that block on high service principal risk, as they are now."""
    if isinstance(policies, Unknown):
        return set()
    return {p.id for p in policies if p.state == "enabled" and p.blocks and "high" in p.risk_levels}


def _proof(containment: Containment, denial: Denial, ours: set[str]) -> Proof | None:
    """
    Tell whether a denial proves this containment.

    Only a refusal after the pull that names one of the policies on high risk does. A refusal by some other
    policy (a location, say), one that names none, or a disabled principal proves nothing about our lever.
    """
    pulled = containment.pull.started_at if containment.pull else None
    if denial.principal != containment.principal or pulled is None or denial.at < pulled:
        return None
    named = sorted(denial.policies & ours)
    return Proof(denial.event_id, denial.at, denial.error_code, named[0]) if named else None


def _as_principal(containment: Containment) -> ServicePrincipal:
    return ServicePrincipal(
        containment.principal,
        AppId(containment.app_id),
        containment.principal_name,
        Kind(containment.kind),
        None,
        None,
    )


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
    undecided = c.state in _PENDING or c.failed_because is FailureReason.NOT_HIGH or _parked_unknown(c)
    return undecided and pulled is not None and now - pulled <= _WATCHED_FOR


async def _forget(key: str, etag: str, store: Store) -> None:
    try:
        await store.commit([Delete(key, etag)])
    except Conflict:  # another settle did the same
        log.debug("index entry was gone already")


async def _risks(waiting: Sequence[Containment], world: World) -> dict[ObjectId, Risk] | Unknown:
    """Read risks: one by one costs a tenant's second each, so from two on the list of all high risks is read."""
    try:
        if len(waiting) == 1:
            risk = await world.graph.risk(waiting[0].principal)
            return {risk.object_id: risk} if risk else {}
        return await world.graph.high_risks() if waiting else {}
    except ClientError as error:
        log.warning("risks could not be read back: %s", error)
        return Unknown(str(error))


async def _policies(world: World) -> tuple[Policy, ...] | Unknown:
    try:
        return await gathering.current_policies(world)
    except ClientError as error:
        return Unknown(str(error))


async def _denials(pending: Sequence[Containment], world: World) -> list[Denial]:
    pulls = {c.principal: c.pull.started_at for c in pending if c.pull is not None}
    if not pulls:
        return []
    now = world.now()
    try:
        rows = await world.logs.query(denials_query(pulls), min(pulls.values()) - timedelta(minutes=5), now)
    except ClientError as error:
        log.warning("the sign-in log could not be read: %s", error)
        return []
    return denials_from(rows)


def denials_query(pulls: dict[ObjectId, datetime]) -> str:
    """Compose the query; only object ids that are GUIDs and times of ours are written into it."""
    rows = ", ".join(
        f'"{object_id(principal)}", datetime({at:%Y-%m-%dT%H:%M:%S.%fZ})' for principal, at in pulls.items()
    )
    return f"let pulled = datatable(ServicePrincipalId: string, PulledAt: datetime)[{rows}];{_DENIALS}"


def denials_from(rows: Rows) -> list[Denial]:
    """Parse the answer, oldest first. Raises: ValueError when columns are missing."""
    at = {
        name: rows.columns.index(name)
        for name in ("ServicePrincipalId", "CreatedDateTime", "Id", "ResultType")
    }
    listed = rows.columns.index("ConditionalAccessPolicies")
    denials = []
    for row in rows.rows:
        policies = _policies_in(row[listed])
        denials.append(
            Denial(
                principal=object_id(row[at["ServicePrincipalId"]]),
                at=row[at["CreatedDateTime"]],
                event_id=str(row[at["Id"]]),
                error_code=str(row[at["ResultType"]]),
                policies=frozenset(
                    str(p.get("id", "")).lower() for p in policies if p.get("result") == "failure"
                ),
            )
        )
    return sorted(denials, key=lambda denial: denial.at)


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


async def _write(after: Containment, etag: str, world: World) -> bool:
    """Commit a changed record; False when a finding joined meanwhile: the next settle judges the newer record."""

    async def build() -> tuple[list[Write], list[Draft]]:
        return [Replace(after.key, after.to_body(), etag), *telling_note(after, world.now())], [_draft(after)]

    try:
        await commit_with_entries(world.store, build)
    except Conflict:
        log.debug("a containment changed while it was verified")
        return False
    return True


def _draft(c: Containment) -> Draft:
    body: dict[str, object] = {"state": c.state, "armed": c.armed}
    if c.proof:
        body |= {"event": c.proof.event_id, "error_code": c.proof.error_code, "policy": c.proof.policy_id}
    if c.failure:
        body["failure"] = c.failure
    return Draft(kind=_KINDS[c.state], actor=ACTOR, subject=c.principal, containment_id=c.id, body=body)
