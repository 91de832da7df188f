"""A finding: a claim that a principal did something at some time. Not proof."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from clients.terms import ObjectId, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

CORROBORATION_WINDOW: Final = timedelta(minutes=60)
TEXT_LIMIT: Final = 2000  # characters kept of any text that came from a tenant
_IDS_KEPT, _ID_LIMIT = 100, 500
AFTER_CONTAINMENT: Final = "after-containment"
"""Family of rules that report activity a block should have ended."""
EXTERNAL: Final = "external"
"""Family of signals that other systems send (``POST /api/signals``)."""


class Source(StrEnum):
    """Who makes the claim."""

    RULE = "rule"
    INCIDENT = "incident"
    ANALYST = "analyst"
    SIGNAL = "signal"


class Tier(StrEnum):
    """How much one finding is worth (design: "Tiers")."""

    AUTO = "auto"
    CORROBORATED = "corroborated"
    APPROVAL = "approval"
    CONTEXT = "context"


BOLDNESS: Final = (Tier.CONTEXT, Tier.APPROVAL, Tier.CORROBORATED, Tier.AUTO)
"""Tiers from the one that weighs least on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One claim about one principal.

    ``reason``, ``ip_address`` and ``resource`` may carry text from the tenant: shown escaped, never executed.
    ``incident_name`` is the GUID of the Sentinel incident, where one is the source. ``doubts`` are facts about
    the claim itself that ask for a person ("two principals in one incident"). ``lifts`` are ids of rules whose
    findings weigh more after this one (``decision.lifted_by``). ``expires_at`` ends what a signal weighs.
    """

    source: Source
    rule_id: str
    family: str
    tier: Tier
    principal: ObjectId
    first_seen: datetime
    last_seen: datetime
    reason: str
    raised_by: str
    confidence: str = ""
    count: int | None = None
    ip_address: str = ""
    resource: str = ""
    event_ids: tuple[str, ...] = ()
    incident_name: str = ""
    incident_arm_id: str = ""
    doubts: tuple[str, ...] = field(default=())
    lifts: tuple[str, ...] = ()
    expires_at: datetime | None = None
    only_failures: bool = False
    """All it rests on are refused attempts, which anybody can make who knows the victim's appId."""

    @property
    def key(self) -> str:
        """Stable name of this claim: the same principal, rule and beginning is the same claim."""
        moment = self.first_seen.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return f"finding:{self.principal}:{self.rule_id or self.source}:{moment}"

    def to_body(self) -> dict[str, Any]:
        """Give the finding as JSON for the store."""
        body = asdict(self)
        body["first_seen"], body["last_seen"] = self.first_seen.isoformat(), self.last_seen.isoformat()
        body["expires_at"] = self.expires_at and self.expires_at.isoformat()
        for name in ("reason", "resource", "ip_address"):
            body[name] = body[name][:TEXT_LIMIT]
        # A record that no store takes would be tried for ever, and hold up what its rule finds of others.
        body["event_ids"] = [each[:_ID_LIMIT] for each in self.event_ids[:_IDS_KEPT]]
        body["doubts"] = list(self.doubts)
        body["lifts"] = list(self.lifts)
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Finding:
        """Read back what ``to_body`` wrote. Raises: KeyError or ValueError when it is something else."""
        return cls(
            source=Source(body["source"]),
            rule_id=str(body["rule_id"]),
            family=str(body["family"]),
            tier=Tier(body["tier"]),
            principal=object_id(body["principal"]),
            first_seen=datetime.fromisoformat(body["first_seen"]),
            last_seen=datetime.fromisoformat(body["last_seen"]),
            reason=str(body["reason"]),
            raised_by=str(body["raised_by"]),
            confidence=str(body["confidence"]),
            count=body["count"],
            ip_address=str(body["ip_address"]),
            resource=str(body["resource"]),
            event_ids=tuple(body["event_ids"]),
            incident_name=str(body["incident_name"]),
            incident_arm_id=str(body["incident_arm_id"]),
            doubts=tuple(body["doubts"]),
            lifts=tuple(map(str, body.get("lifts", ()))),  # records of before the field have none
            only_failures=bool(body.get("only_failures", False)),
            expires_at=datetime.fromisoformat(ends) if (ends := body.get("expires_at")) else None,
        )
