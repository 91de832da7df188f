"""
A containment: what was decided about one principal and how far it has come. The record and its changes, pure.

    proposed ─► (awaiting_approval) ─► claimed ─► pulled ─► confirmed ─► proven ─► half_open ─► closed
    aside: vetoed, rejected, expired, failed, not_covered

``opening.py`` writes the first state, ``pulling.py`` pulls levers, ``verification.py`` proves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NewType, Self
from uuid import uuid4

from clients.terms import ObjectId, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from response.finding import Finding

ContainmentId = NewType("ContainmentId", str)

# Lifetime of access tokens without continuous access evaluation is random, 60 to 90 minutes
# (entra-docs access-tokens.md): what was issued just before the block is dead after the longest.
TOKEN_LIFETIME: Final = timedelta(minutes=90)
_KEPT: Final = 50  # findings and incidents listed in one record; all are in the ledger


class State(StrEnum):
    """States of a containment (design: "States")."""

    PROPOSED = "proposed"
    AWAITING_APPROVAL = "awaiting_approval"
    CLAIMED = "claimed"
    PULLED = "pulled"
    CONFIRMED = "confirmed"
    PROVEN = "proven"
    NOT_COVERED = "not_covered"
    FAILED = "failed"
    VETOED = "vetoed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    HALF_OPEN = "half_open"
    CLOSED = "closed"


CONTAINED: Final = frozenset({State.PULLED, State.CONFIRMED, State.PROVEN, State.NOT_COVERED})
"""States in which Graph has accepted the lever and nothing has shown that it failed."""


class FailureReason(StrEnum):
    """Why a containment failed; empty when it did not."""

    NONE = ""
    REFUSED = "refused"
    NOT_HIGH = "not_high"
    ACTIVITY_AFTER = "activity_after"


class PullOutcome(StrEnum):
    """What is known about a lever that was or is being pulled."""

    STARTED = "started"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class NoSuchContainment(KeyError):
    """There is no containment with this id."""


class UnreadableContainment(ValueError):
    """A containment is there and this version of the app cannot read its record."""

    def __init__(self, containment_id: str) -> None:
        super().__init__(
            f"The record of containment {containment_id} cannot be read by this version of the app"
        )
        self.containment_id = containment_id


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull of a lever. ``started_at`` is written before the request leaves."""

    attempt: str
    started_at: datetime
    outcome: PullOutcome
    accepted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """A denial seen in the sign-in log: which row, when it happened, which policy it names."""

    event_id: str
    at: datetime
    error_code: str
    policy_id: str


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's decision about a containment that waits for people. ``lever`` is what they decided about."""

    by: str
    decision: str  # "approve" or "reject"
    reason: str
    at: datetime
    lever: str


@dataclass(frozen=True, slots=True)
class Pulled:
    """A lever that took effect: when, and what it needs to be undone. Kept in the order of pulling."""

    lever: str
    accepted_at: datetime
    snapshot: str = ""  # key of the record of what was taken away; empty for levers that take nothing
    undone_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Undo:
    """
    A person's order to take the levers back, and how far it has come.

    ``before`` is what was read when it was ordered: the state of the risk and what Microsoft itself had raised, in
    words; ``after`` what was read back. ``step`` is the request for the lever that is being taken back now, None while
    none is under way. ``failure`` not empty: it could not be done, and may be ordered again.
    """

    requested_by: str
    reason: str
    requested_at: datetime
    probation: timedelta
    before: tuple[str, ...] = ()
    step: Pull | None = None
    done_at: datetime | None = None
    after: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class IncidentRef:
    """A Sentinel incident that a containment answers."""

    name: str
    arm_id: str


@dataclass(frozen=True, slots=True)
class FindingRef:
    """What the record keeps of a finding."""

    source: str
    rule_id: str
    reason: str
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class Containment:
    """The record. ``principal_name`` and finding reasons may carry text from the tenant: untrusted."""

    id: ContainmentId
    principal: ObjectId
    principal_name: str
    app_id: str
    kind: str
    state: State
    mode: str
    lever: str
    automatic: bool
    requested_by: str
    opened_at: datetime
    updated_at: datetime
    reasons: tuple[str, ...]
    unchecked: tuple[str, ...]
    vetoes: tuple[str, ...]
    armed: str
    findings: tuple[FindingRef, ...] = ()
    incidents: tuple[IncidentRef, ...] = ()
    is_open: bool = True
    claimed_at: datetime | None = None
    pull: Pull | None = None
    confirmed_at: datetime | None = None
    proof: Proof | None = None
    failure: str = ""
    failed_because: FailureReason = FailureReason.NONE
    residual_until: datetime | None = None
    armed_policies: tuple[str, ...] = field(default=())
    people_needed: int = 1
    approvals: tuple[Approval, ...] = ()
    decide_by: datetime | None = None  # what waits for people expires then
    asked_at: datetime | None = None  # since when it waits; what people said before was about something else
    askers: tuple[str, ...] = ()  # everybody who ordered anything about it: none of them may approve
    next_lever: str = ""  # a further lever that people decide about
    next_requested_by: str = ""
    pulled_levers: tuple[Pulled, ...] = ()
    undo: Undo | None = None
    probation_until: datetime | None = None
    undo_at: datetime | None = None  # a containment with an end takes itself back then
    owners: tuple[
        str, ...
    ] = ()  # names of owners and sponsors, untrusted; told to whoever reads the incident
    began_at: datetime | None = None  # when what the first finding is about began, by the log's clock
    contained_at: datetime | None = None  # when Graph accepted the first lever
    proven_at: datetime | None = None
    residual: tuple[str, ...] = ()  # which old tokens may still work until when, in words
    trace: str = ""  # traceparent of the run that opened it, where telemetry was on; names nothing and nobody
    would_contain: bool = False  # nothing but the mode or the storm brake stood in its way

    @property
    def key(self) -> str:
        """Key in the store."""
        return f"containment:{self.id}"

    @property
    def pulling(self) -> bool:
        """Whether a request is, or may be, under way."""
        return self.state is State.CLAIMED and self.pull is not None

    @property
    def touched(self) -> bool:
        """Whether Graph has accepted the lever once, or may have: nothing may say "nothing was touched" then."""
        pulled = self.pull is not None and self.pull.outcome is not PullOutcome.REFUSED
        return pulled or self.to_undo is not None

    def changed(self, now: datetime, **changes: Any) -> Self:
        """Give the record with changes and the time of change."""
        return replace(self, updated_at=max(now, self.updated_at + timedelta(microseconds=1)), **changes)

    def put_before_people(self, now: datetime, by: str, within: timedelta, **changes: Any) -> Self:
        """Give the record as ``by`` asks people about it: what they said before does not count for this."""
        askers = self.askers if by in self.askers else (*self.askers, by)[-_KEPT:]
        return self.changed(now, decide_by=now + within, asked_at=now, askers=askers, **changes)

    @property
    def fresh_approvals(self) -> tuple[Approval, ...]:
        """What people have said about the lever in question since they were asked about it."""
        return tuple(
            one
            for one in self.approvals
            if one.lever == self.proposed_lever and (self.asked_at is None or one.at >= self.asked_at)
        )

    def joined_by(self, finding: Finding, now: datetime) -> Self:
        """Give the record with one more finding, and its incident if it has one."""
        incidents = self.incidents
        if finding.incident_name and all(ref.name != finding.incident_name for ref in incidents):
            incidents = (*incidents, IncidentRef(finding.incident_name, finding.incident_arm_id))[-_KEPT:]
        return self.changed(
            now, findings=(*self.findings, finding_ref(finding))[-_KEPT:], incidents=incidents
        )

    def to_body(self) -> dict[str, Any]:
        """Give the record as JSON for the store."""
        body = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}
        # Written only where there is one: a version before it refuses names it does not know.
        if not self.trace:
            del body["trace"]
        return body

    @property
    def undoing(self) -> bool:
        """Whether a person has ordered the levers to be taken back and that is not done yet."""
        return self.undo is not None and self.undo.done_at is None and not self.undo.failure

    @property
    def standing(self) -> tuple[str, ...]:
        """Ids of the levers that took effect and were not taken back, in the order of pulling."""
        return tuple(pulled.lever for pulled in self.pulled_levers if pulled.undone_at is None)

    @property
    def to_undo(self) -> Pulled | None:
        """The lever to take back next: of those that took effect and still stand, the one pulled last."""
        return next((pulled for pulled in reversed(self.pulled_levers) if pulled.undone_at is None), None)

    @property
    def waits_for_people(self) -> bool:
        """Whether somebody may approve or reject: it waits, or a further lever is proposed."""
        further = self.next_lever != "" and self.is_open and self.state in CONTAINED | {State.FAILED}
        return self.state is State.AWAITING_APPROVAL or further

    @property
    def asked_by(self) -> str:
        """Who asked for what people decide about; the same person cannot approve it."""
        return self.next_requested_by if self.next_lever else self.requested_by

    @property
    def proposed_lever(self) -> str:
        """The lever that people decide about."""
        return self.next_lever or self.lever

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """
        Read back what ``to_body`` wrote; fields added since are at their defaults in older records.

        Raises: KeyError, TypeError or ValueError for anything else.
        """
        pull, proof, undo = body["pull"], body["proof"], body.get("undo")
        return cls(
            **{
                **body,
                "principal": object_id(body["principal"]),
                "state": State(body["state"]),
                "failed_because": FailureReason(body["failed_because"]),
                **{
                    name: _time(body[name])
                    for name in ("opened_at", "updated_at", "claimed_at", "confirmed_at", "residual_until")
                },
                **{name: _time(body.get(name)) for name in _LATER_TIMES},
                **{name: tuple(body[name]) for name in ("reasons", "unchecked", "vetoes", "armed_policies")},
                "owners": tuple(body.get("owners", ())),
                "residual": tuple(body.get("residual", ())),
                "askers": tuple(body.get("askers", ())),
                "approvals": tuple(
                    Approval(**{**one, "at": _moment(one["at"])}) for one in body.get("approvals", ())
                ),
                "pulled_levers": tuple(
                    Pulled(
                        **{
                            **one,
                            "accepted_at": _moment(one["accepted_at"]),
                            "undone_at": _time(one["undone_at"]),
                        }
                    )
                    for one in body.get("pulled_levers", ())
                ),
                "undo": undo and _undo_from(undo),
                "findings": tuple(
                    FindingRef(
                        **{
                            **ref,
                            "first_seen": _time(ref["first_seen"]),
                            "last_seen": _time(ref["last_seen"]),
                        }
                    )
                    for ref in body["findings"]
                ),
                "incidents": tuple(IncidentRef(**ref) for ref in body["incidents"]),
                "pull": pull and _pull_from(pull),
                "proof": proof and Proof(**{**proof, "at": _moment(proof["at"])}),
            }
        )


_LATER_TIMES: Final = (
    "decide_by",
    "asked_at",
    "probation_until",
    "undo_at",
    "began_at",
    "contained_at",
    "proven_at",
)


def _pull_from(body: Mapping[str, Any]) -> Pull:
    return Pull(
        body["attempt"],
        _moment(body["started_at"]),
        PullOutcome(body["outcome"]),
        _time(body["accepted_at"]),
    )


def _undo_from(body: Mapping[str, Any]) -> Undo:
    return Undo(
        **{
            **body,
            "requested_at": _moment(body["requested_at"]),
            "probation": timedelta(seconds=float(body["probation"])),
            "before": tuple(body["before"]),
            "step": body["step"] and _pull_from(body["step"]),
            "done_at": _time(body["done_at"]),
        }
    )


def new_id(now: datetime) -> ContainmentId:
    """Make an id that people can read aloud and that sorts by time."""
    return ContainmentId(f"{now:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}")


def finding_ref(finding: Finding) -> FindingRef:
    """Give what the record keeps of a finding."""
    return FindingRef(
        str(finding.source), finding.rule_id, finding.reason[:200], finding.first_seen, finding.last_seen
    )


def _plain(value: Any) -> Any:
    """Turn a field into JSON: times as ISO text, records as objects, tuples as lists."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def _time(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
