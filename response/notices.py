"""
What people are told about a containment, in words. Pure: ``telling.py`` and ``notifying.py`` send it.

Names, reasons and owners come from the tenant and are untrusted. Here they are made *plain*: one line, without
invisible characters, mentions or anything that a chat turns into a link. Each channel escapes for itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from clients.stores import Put, Write
from response.containment import Containment, FailureReason, State

if TYPE_CHECKING:
    from datetime import datetime, timedelta

OUTBOX: Final = "notify:"
BRAKE: Final = "storm-brake"
_NAMESPACE: Final = UUID("0d6f3d0c-6c0e-5b3e-8f5e-6b7f2f0f9a41")
_MOST_LINES: Final = 12
_LONGEST_LINE: Final = 300

HEADLINES: Final = {
    State.PROPOSED: "Observed only: the mode is observe, so nothing was touched",
    State.AWAITING_APPROVAL: "Waiting for a person: nothing was touched yet",
    State.CLAIMED: "About to be contained: the confirmation has not been accepted yet",
    State.PULLED: "Confirmed compromised was accepted by Graph; whether it blocks is being checked",
    State.CONFIRMED: "Risk reads high and an enabled policy covers it; no denied sign-in has been seen yet",
    State.PROVEN: "Blocked: the principal asked for a token and was refused",
    State.NOT_COVERED: "NOT blocked: risk reads high, and no enabled policy blocks this principal",
    State.FAILED: "Containment FAILED",
    State.VETOED: "Not contained: a guardrail refused",
    State.REJECTED: "Not contained: a person rejected it",
    State.EXPIRED: "Not contained: nobody decided in time",
    State.HALF_OPEN: "Released on probation",
    State.CLOSED: "Closed",
}
_CONFIRMING: Final = frozenset({"confirm-compromised", "confirm-agent-compromised", ""})
_OTHER_LEVER: Final = {
    State.CLAIMED: "About to be contained: the lever has not been pulled yet",
    State.PULLED: "The lever was accepted by Graph; whether it blocks is being checked",
    State.CONFIRMED: "The tenant reads as the lever should have left it; no denied sign-in has been seen yet",
    State.NOT_COVERED: "NOT blocked: the lever was accepted, and it does not block this principal",
}
_AFTER_A_LEVER: Final = {
    State.VETOED: "A guardrail refused; what was pulled before may stand, look in Entra",
    State.REJECTED: "A person rejected the proposed lever; what was pulled before may stand, look in Entra",
    State.EXPIRED: "Nobody decided in time about the proposed lever; what was pulled before may stand, look in Entra",
}
TOLD_BY_WEBHOOK: Final = frozenset(
    {
        State.AWAITING_APPROVAL,
        State.PULLED,
        State.CONFIRMED,
        State.PROVEN,
        State.NOT_COVERED,
        State.FAILED,
        State.EXPIRED,
        State.HALF_OPEN,
    }
)


def headline(c: Containment) -> str:
    """Say in one line where a containment stands, and never more than is known. No text of the tenant is in it."""
    if c.undoing:
        return "A person has ordered the containment to be undone; it is being taken back"
    if cover_unread(c):
        return "Risk reads high; whether a policy blocks it could not be read"
    if c.touched and c.state in _AFTER_A_LEVER:
        return _AFTER_A_LEVER[c.state]
    if c.state is State.AWAITING_APPROVAL and c.touched:
        return (
            "Waiting for a person: the principal is, or may be, confirmed compromised already; look in Entra"
        )
    said = _OTHER_LEVER.get(c.state) if c.lever not in _CONFIRMING else None
    further = "; a further lever waits for approval" if c.waits_for_people and c.next_lever else ""
    return f"{said or HEADLINES[c.state]}{further}"


def cover_unread(c: Containment) -> bool:
    """Whether the confirmation stands and nobody could read if an enabled policy makes a block of it."""
    return c.state is State.CONFIRMED and c.lever in _CONFIRMING and not c.armed_policies


def next_steps(c: Containment) -> tuple[str, ...]:
    """Say what a person has to do, or may do, now, with the route that does it."""
    order = f"POST /api/principals/{c.principal}/compromise (Containment.Execute)"
    match c.state:
        case State.AWAITING_APPROVAL:
            return _to_decide(c)
        case State.FAILED if c.next_lever:
            return (*_to_decide(c), _undo_route(c))
        case State.FAILED if c.failed_because is FailureReason.REFUSED:
            return (f"Nothing took effect. After the cause is mended, order it again: {order}",)
        case State.FAILED:
            return (
                "The principal may still act, and no further lever is proposed: stop it in Entra.",
                _undo_route(c),
            )
        case State.NOT_COVERED:
            cover = "Or cover it by an enabled policy that blocks on high risk (see Breaker)."
            return (*(_to_decide(c) if c.next_lever else ()), cover, _undo_route(c))
        case State.PULLED | State.CONFIRMED | State.PROVEN if not c.undoing:
            return (
                *(_to_decide(c) if c.next_lever else ("Nothing has to be done now.",)),
                _undo_route(c),
            )
        case State.EXPIRED | State.REJECTED:
            undo = (_undo_route(c),) if c.touched else ()
            return (f"Should it be contained after all, order it: {order}", *undo)
        case State.HALF_OPEN if c.probation_until:
            return (
                f"Nothing has to be done. Until {moment(c.probation_until)} one corroborated finding contains it again.",
            )
        case _:
            return ()


def _to_decide(c: Containment) -> tuple[str, ...]:
    look = ("Look at the principal in Entra first: a lever may have been pulled.",) if c.touched else ()
    if c.next_lever:
        look = (f"Lever {c.next_lever} is proposed beside what was pulled.",)
    if not c.proposed_lever:
        return (*look, "No lever that is switched on reaches this principal; a person stops it in Entra.")
    lever = c.proposed_lever
    given = len({one.by for one in c.approvals if one.decision == "approve" and one.lever == lever})
    missing = max(c.people_needed - given, 1)
    people = "one person" if missing == 1 else f"{missing} different people"
    by = f" Decide by {moment(c.decide_by)}." if c.decide_by else ""
    return (*look, f"{_decision(c)} Needed: {people}, none of them the requester.{by}")


def _decision(c: Containment) -> str:
    lever = c.proposed_lever
    return (
        f"Approve or reject {lever}: POST /api/containments/{c.id}/approval, decision approve or reject, lever {lever} "
        "(Containment.Approve)."
    )


def _undo_route(c: Containment) -> str:
    return f"To undo: POST /api/containments/{c.id}/undo with dismissAllRisk true (Containment.Execute)."


def moment(at: datetime) -> str:
    """Write a time for people."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def span(duration: timedelta) -> str:
    """Write a duration for people, in its largest unit that gives at least two."""
    seconds = max(int(duration.total_seconds()), 0)
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def plain(text: str, limit: int = _LONGEST_LINE) -> str:
    """
    Give untrusted text as one harmless line.

    Invisible characters go, addresses are broken as people break them (``example[.]com``), and so is what a chat
    may read as a mention, a link or a formula.
    """
    line = " ".join("".join(ch if ch.isprintable() else " " for ch in str(text)).split())
    line = re.sub(r"(?<=\w)\.(?=[^\W\d_])", "[.]", line)  # a dot before a letter; times and numbers stay
    for found, instead in (("://", "[:]//"), ("@", "(at)"), ("](", "] (")):
        line = line.replace(found, instead)
    line = re.sub(r"\{(?=\{)", "{ ", re.sub(r"[*~`]", "'", line))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


# --- the outbox -----------------------------------------------------------------------------------


def outbox(c: Containment, now: datetime) -> list[Write]:
    """
    Give the write that puts a notification about the containment's state into the outbox, if there is one.

    It belongs into the commit that changes the containment. Writing it again while the state stays the same (a
    finding joins) changes nothing: its id is the same, and what was delivered once is not sent again.
    """
    if c.state not in TOLD_BY_WEBHOOK or c.undoing:
        return []
    brake = next((veto for veto in c.vetoes if veto.startswith(f"{BRAKE}:")), "")
    body = {
        "id": _id(c),
        "event": str(c.state),
        "at": now.isoformat(),
        "principal": c.principal,
        "containment": c.id,
        "lines": list(_lines(c, now)),
        "fields": _fields(c, now),
        "brake": brake if c.state is State.AWAITING_APPROVAL else "",
    }
    return [Put(f"{OUTBOX}{c.id}:{c.state}", body)]


def brake_notice(at: datetime, why: str) -> tuple[str, dict[str, Any]]:
    """Give key and body of the notification that the storm brake has tripped: one an hour, however many it parks."""
    hour = f"{at:%Y%m%dT%H}"
    notice = str(uuid5(_NAMESPACE, f"{BRAKE}:{hour}"))
    lines = (
        "Agentbreaker: the STORM BRAKE has tripped; further automatic containments wait for a person",
        plain(why),
        "See what waits: GET /api/containments?state=awaiting_approval (Containment.Read).",
    )
    body = {
        "id": notice,
        "event": BRAKE,
        "at": at.isoformat(),
        "principal": "",
        "containment": "",
        "lines": list(lines),
        "fields": {"version": 1, "id": notice, "event": BRAKE, "at": at.isoformat(), "reason": plain(why)},
        "brake": "",
    }
    return f"{OUTBOX}{BRAKE}:{hour}", body


def _id(c: Containment) -> str:
    """Make an id that changes when the state is entered anew, and not when a finding joins."""
    claimed = c.claimed_at.isoformat() if c.claimed_at else ""
    undo = c.undo.requested_at.isoformat() if c.undo else ""
    what = (c.id, c.state, c.lever, c.next_lever, claimed, c.pull.attempt if c.pull else "", undo)
    return str(uuid5(_NAMESPACE, "|".join((*what, c.failed_because))))


def _lines(c: Containment, now: datetime) -> tuple[str, ...]:
    name = f" ({plain(c.principal_name, 100)})" if c.principal_name else ""
    lines = [
        f"Agentbreaker: {headline(c)}",
        f"Principal {c.principal}{name}, containment {c.id}, at {moment(now)}.",
    ]
    if c.owners:
        lines.append("Owners and sponsors: " + ", ".join(plain(owner, 60) for owner in c.owners[:5]))
    if c.failure:
        lines.append(f"Failure: {plain(c.failure)}")
    if c.undo and c.undo.failure:
        lines.append(f"The undo failed: {plain(c.undo.failure)}")
    lines += [plain(reason) for reason in c.reasons[-3:]]
    lines += [f"Refused by {plain(veto)}" for veto in c.vetoes[:3]]
    if c.residual_until and c.touched:
        lines.append(f"Tokens issued before may work until {moment(c.residual_until)}.")
    return (*lines[: _MOST_LINES - 4], *next_steps(c)[:4])


def _fields(c: Containment, now: datetime) -> dict[str, Any]:
    """Give the same for programs. ``version`` grows when a field changes its meaning."""
    return {
        "version": 1,
        "id": _id(c),
        "event": str(c.state),
        "at": now.isoformat(),
        "containmentId": c.id,
        "principalId": c.principal,
        "lever": c.lever,
        "nextLever": c.next_lever,
        "waitsForPeople": c.waits_for_people,
        "automatic": c.automatic,
        "decideBy": c.decide_by and c.decide_by.isoformat(),
        "residualAccessUntil": c.residual_until and c.residual_until.isoformat(),
        "probationUntil": c.probation_until and c.probation_until.isoformat(),
    }
