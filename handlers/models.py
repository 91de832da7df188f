"""What callers send and what they are sent, as pydantic models; the OpenAPI document is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from handlers.http import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from response.containment import Containment
    from response.decision import Decision

M = TypeVar("M", bound=BaseModel)
Reason = Annotated[str, Field(min_length=3, max_length=2000, description="Why, in words for the record.")]


def parsed(model: type[M], body: Any) -> M:
    """Check a body against a model. Raises: Problem 400 with every fault at once."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = [
            {"field": ".".join(str(part) for part in fault["loc"]) or "(body)", "problem": fault["msg"]}
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise Problem(
            400, "wrong_shape", "The body does not have the documented shape.", faults=faults
        ) from None


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class IncidentObject(BaseModel):
    """The incident in a playbook's body: only its ARM id is used, everything else is read again from Sentinel."""

    id: Annotated[str, Field(min_length=1, max_length=2000)]


class IncidentBody(BaseModel):
    """What the playbook sends: its trigger body. A pointer, not proof."""

    object: IncidentObject


class CompromiseBody(_Sent):
    """Order to contain a principal."""

    reason: Reason
    lever: Annotated[
        str, Field(description="Id of a lever; left out, the one for this kind of identity is chosen.")
    ] = ""
    dry_run: Annotated[StrictBool, Field(alias="dryRun", description="Judge, and touch nothing.")] = False
    ends_after_minutes: Annotated[
        int | None,
        Field(alias="endsAfterMinutes", ge=15, le=43200, description="Take it back by itself after so long."),
    ] = None
    dismiss_all_risk: Annotated[
        StrictBool,
        Field(alias="dismissAllRisk", description="Agreed: the end dismisses all risk, Microsoft's own too."),
    ] = False


class ApprovalBody(_Sent):
    """One person's decision about a containment that waits."""

    decision: Literal["approve", "reject"]
    reason: Reason
    lever: Annotated[
        str,
        Field(
            max_length=60,
            description="Which lever is approved, as the containment showed it (nextLever, else lever). Needed to approve.",
        ),
    ] = ""


class UndoBody(_Sent):
    """Order to take a containment back."""

    reason: Reason
    dismiss_all_risk: Annotated[
        StrictBool,
        Field(
            alias="dismissAllRisk",
            description="Must be true where a risk lever is taken back: dismiss removes all risk, Microsoft's own too.",
        ),
    ] = False


class KillSwitchBody(_Sent):
    """Stop all levers, or let them work again."""

    stopped: StrictBool
    reason: Reason


SignalConfidence = Literal["low", "medium", "high"]


class SignalBody(_Sent):
    """What another system says about a principal."""

    source: Annotated[str, Field(min_length=2, max_length=31, description="Its name in the app's settings.")]
    principal_id: Annotated[
        str, Field(alias="principalId", max_length=36, description="Object id of the service principal.")
    ]
    confidence: Annotated[
        SignalConfidence, Field(description="low adds to the dossier only; high may be enough alone.")
    ]
    reason: Annotated[str, Field(min_length=3, max_length=1000, description="Why, in words for the record.")]
    ttl_minutes: Annotated[
        int,
        Field(
            alias="ttlMinutes", ge=5, le=1440, strict=True, description="How long it holds, from its arrival."
        ),
    ]
    event_id: Annotated[
        str | None,
        Field(
            alias="eventId",
            min_length=1,
            max_length=200,
            description="The source's own id of this event. Sent again with it, a signal adds nothing.",
        ),
    ] = None


class _Shown(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    def shown(self) -> dict[str, Any]:
        """Give the JSON that callers see."""
        return self.model_dump(mode="json", by_alias=True)


class Judgement(_Shown):
    """A verdict with its reasons."""

    verdict: str
    mode: str
    reasons: list[str]
    unchecked: list[str]
    vetoes: list[str]

    @classmethod
    def of(cls, decision: Decision) -> Judgement:
        """Show a decision."""
        return cls(
            verdict=decision.verdict,
            mode=decision.mode,
            reasons=list(decision.reasons),
            unchecked=list(decision.unchecked),
            vetoes=[str(veto) for veto in decision.vetoes],
        )


class ContainmentView(_Shown):
    """A containment as the API shows it."""

    id: str
    principal_id: Annotated[str, Field(alias="principalId")]
    principal_name: Annotated[str, Field(alias="principalName", description="Untrusted text.")]
    app_id: Annotated[str, Field(alias="appId")]
    kind: str
    state: str
    mode: str
    lever: str
    automatic: bool
    requested_by: Annotated[str, Field(alias="requestedBy")]
    opened_at: Annotated[datetime, Field(alias="openedAt")]
    updated_at: Annotated[datetime, Field(alias="updatedAt")]
    pulled_at: Annotated[datetime | None, Field(alias="pulledAt")]
    confirmed_at: Annotated[datetime | None, Field(alias="confirmedAt")]
    residual_access_until: Annotated[datetime | None, Field(alias="residualAccessUntil")]
    residual_access: Annotated[
        list[str], Field(alias="residualAccess", description="Which old tokens may work until when.")
    ]
    breaker: str
    reasons: list[str]
    unchecked: list[str]
    vetoes: list[str]
    findings: list[dict[str, Any]]
    incidents: list[str]
    proof: dict[str, Any] | None
    failure: str
    tested: Annotated[
        bool, Field(description="Whether a refused sign-in was seen since the lever was pulled.")
    ]
    next_lever: Annotated[
        str, Field(alias="nextLever", description="A further lever that people decide about.")
    ]
    approvals: list[dict[str, Any]]
    people_needed: Annotated[int, Field(alias="peopleNeeded")]
    decide_by: Annotated[datetime | None, Field(alias="decideBy")]
    pulled_levers: Annotated[list[dict[str, Any]], Field(alias="pulledLevers")]
    undo: dict[str, Any] | None
    probation_until: Annotated[datetime | None, Field(alias="probationUntil")]
    ends_at: Annotated[datetime | None, Field(alias="endsAt")]
    owners: Annotated[list[str], Field(description="Owners and sponsors. Untrusted text.")]
    seconds_to_contain: Annotated[
        float | None,
        Field(
            alias="secondsToContain",
            description="From the first event of the first finding to Graph's acceptance.",
        ),
    ]
    seconds_to_proof: Annotated[
        float | None,
        Field(alias="secondsToProof", description="From Graph's acceptance to the refused sign-in."),
    ]

    @classmethod
    def of(cls, c: Containment) -> ContainmentView:
        """Show a containment."""
        return cls(
            id=c.id,
            principal_id=c.principal,
            principal_name=c.principal_name,
            app_id=c.app_id,
            kind=c.kind,
            state=c.state,
            mode=c.mode,
            lever=c.lever,
            automatic=c.automatic,
            requested_by=c.requested_by,
            opened_at=c.opened_at,
            updated_at=c.updated_at,
            pulled_at=c.pull.accepted_at if c.pull else None,
            confirmed_at=c.confirmed_at,
            residual_access_until=c.residual_until,
            residual_access=list(c.residual),
            breaker=c.armed,
            reasons=list(c.reasons),
            unchecked=list(c.unchecked),
            vetoes=list(c.vetoes),
            findings=[
                {
                    "ruleId": f.rule_id,
                    "source": f.source,
                    "reason": f.reason,
                    "firstSeen": f.first_seen,
                    "lastSeen": f.last_seen,
                }
                for f in c.findings
            ],
            incidents=[incident.name for incident in c.incidents],
            proof=None
            if c.proof is None
            else {
                "eventId": c.proof.event_id,
                "at": c.proof.at,
                "errorCode": c.proof.error_code,
                "policyId": c.proof.policy_id,
            },
            failure=c.failure,
            tested=c.proof is not None,
            next_lever=c.next_lever,
            approvals=[
                {
                    "by": one.by,
                    "decision": one.decision,
                    "reason": one.reason,
                    "at": one.at,
                    "lever": one.lever,
                }
                for one in c.approvals
            ],
            people_needed=c.people_needed,
            decide_by=c.decide_by,
            pulled_levers=[
                {"lever": one.lever, "acceptedAt": one.accepted_at, "undoneAt": one.undone_at}
                for one in c.pulled_levers
            ],
            undo=None
            if c.undo is None
            else {
                "requestedBy": c.undo.requested_by,
                "requestedAt": c.undo.requested_at,
                "reason": c.undo.reason,
                "before": list(c.undo.before),
                "doneAt": c.undo.done_at,
                "after": c.undo.after,
                "failure": c.undo.failure,
            },
            probation_until=c.probation_until,
            ends_at=c.undo_at,
            owners=list(c.owners),
            seconds_to_contain=_seconds(c.began_at, c.contained_at),
            seconds_to_proof=_seconds(c.contained_at, c.proof.at if c.proof else None),
        )


def _seconds(began: datetime | None, ended: datetime | None) -> float | None:
    return None if began is None or ended is None else round((ended - began).total_seconds(), 3)


class IncidentResult(_Shown):
    """What an incident led to, for one principal."""

    principal_id: Annotated[str, Field(alias="principalId")]
    containment_id: Annotated[str | None, Field(alias="containmentId")]
    state: str | None
    repeated: bool
    judgement: Judgement


class SignalAnswer(_Shown):
    """What a signal led to."""

    event_id: Annotated[str, Field(alias="eventId", description="As sent, or made here.")]
    principal_id: Annotated[str, Field(alias="principalId")]
    containment_id: Annotated[str | None, Field(alias="containmentId")]
    state: str | None
    repeated: Annotated[bool, Field(description="This event had been handled before; nothing was added.")]
    judgement: Judgement


class IncidentAnswer(_Shown):
    """What an incident led to."""

    incident: str
    outcome: str
    results: list[IncidentResult]
    not_used: Annotated[
        list[str], Field(alias="notUsed", description="Ids in the incident that name no service principal.")
    ]


class DeadLetter(_Shown):
    """A notification that the webhook did not take in all its tries."""

    id: Annotated[str, Field(description="The same in every try (X-Agentbreaker-Id).")]
    event: Annotated[str, Field(description="A state of a containment, or storm-brake.")]
    containment_id: Annotated[str, Field(alias="containmentId", description="Empty for storm-brake.")]
    happened_at: Annotated[datetime, Field(alias="happenedAt")]
    died_at: Annotated[datetime, Field(alias="diedAt")]
    tries: int
    why: str
    lines: Annotated[list[str], Field(description="What was to be said. Plain text.")]

    @classmethod
    def of(cls, letter: Mapping[str, Any]) -> DeadLetter:
        """Show a stored dead letter. Raises: KeyError for anything else."""
        said = letter["note"]["body"]
        return cls(
            id=said["id"],
            event=said["event"],
            containment_id=said["containment"],
            happened_at=said["fields"]["at"],
            died_at=letter["died_at"],
            tries=letter["tries"],
            why=letter["why"],
            lines=said["lines"],
        )


class DeadLetters(_Shown):
    """All dead letters."""

    value: list[DeadLetter]


class Retried(_Shown):
    """How many dead letters went back into the outbox."""

    retried: int
