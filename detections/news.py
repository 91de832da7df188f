"""
Whether a finding is news. No I/O, no clock: the sweep asks before it acts, the back-test asks with its own memory.

Windows overlap and rows come late and twice, so a rule says the same thing many times. One claim is one record:
the same principal, rule and overlapping time. A rule with ``quiet_for`` says that something is *new* for a principal,
and says so again until its daily baseline knows it: there the same resource stays one claim for that long, and
repeating it makes it no fresher, because what was new was new once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from response.finding import AFTER_CONTAINMENT, BOLDNESS, TEXT_LIMIT, Finding, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ALSO_LIMIT: Final = (
    20  # resources one claim remembers besides its own; one more is a claim of its own, later
)


@dataclass(frozen=True, slots=True)
class Known:
    """
    A claim that has been judged.

    ``finding`` is as it was judged, its end moved by what went on. ``also`` are further resources that the same claim
    was made about while it went on, ``repeated_until`` is when it was last said again without being fresher for it.
    ``verdict`` is what the judgement said; empty where nobody wrote it down.
    """

    finding: Finding
    judged_at: datetime
    also: tuple[str, ...] = ()
    repeated_until: datetime | None = None
    verdict: str = ""

    @property
    def said_until(self) -> datetime:
        """When the claim was last made, fresh or not."""
        return max(self.finding.last_seen, self.repeated_until or self.finding.last_seen)

    def names(self, resource: str) -> bool:
        """Whether the claim is about this resource, given in at most ``TEXT_LIMIT`` characters."""
        return resource in (self.finding.resource[:TEXT_LIMIT], *self.also)

    def to_body(self) -> dict[str, Any]:
        """Give the record as the store holds it."""
        body = self.finding.to_body() | {"judged_at": self.judged_at.isoformat()}
        if self.also:
            body["also"] = list(self.also)
        if self.repeated_until is not None:
            body["repeated_until"] = self.repeated_until.isoformat()
        if self.verdict:
            body["verdict"] = self.verdict
        return body

    def remembering(self, before: Known) -> Known:
        """Give the claim with the resources it had before it was judged anew, and until when it was said."""
        also = (before.finding.resource[:TEXT_LIMIT], *before.also)
        own = self.finding.resource[:TEXT_LIMIT]
        return replace(
            self,
            also=tuple(dict.fromkeys(each for each in (*self.also, *also) if each != own))[:_ALSO_LIMIT],
            repeated_until=max(self.said_until, before.said_until),
        )

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Known:
        """Read a ``finding:`` record. Raises: KeyError, TypeError or ValueError when it is something else."""
        repeated = body.get("repeated_until")
        return cls(
            finding=Finding.from_body(body),
            judged_at=datetime.fromisoformat(body["judged_at"]),
            also=tuple(map(str, body.get("also", ()))),
            repeated_until=None if repeated is None else datetime.fromisoformat(repeated),
            verdict=str(body.get("verdict", "")),
        )


@dataclass(frozen=True, slots=True)
class News:
    """
    To be judged: nobody knows it yet, or it weighs more than what is known.

    ``finding`` carries the beginning of what is known, so that it is judged under the name of the same record.
    ``before`` is what that record said until now; None where there was none.
    """

    finding: Finding
    before: Known | None = None


@dataclass(frozen=True, slots=True)
class Extended:
    """
    Known, and it goes on.

    ``known`` is the record as it should be now, ``finding`` what to judge if judging again is called for; only who
    sees containments can tell that (``sweep._may_count_now``). ``quiet`` is true for a rule with ``quiet_for``: then
    there is nothing to judge again unless a containment waits.
    """

    finding: Finding
    known: Known
    quiet: bool


def weigh(finding: Finding, known: Iterable[Known], quiet_for: timedelta) -> News | Extended | None:
    """
    Compare a finding with what is known of its principal and rule. None: it adds nothing.

    ``known`` may hold claims of other principals and rules; they are left out here. Of several claims that match, the
    one about the same resource is compared (where resources count), else the boldest, of those the latest.
    """
    quiet, resource = _may_be_quiet(finding, quiet_for), finding.resource[:TEXT_LIMIT]
    same = [each for each in known if _is_same(finding, each, quiet_for)]
    if not same:
        return News(finding)

    def matches(each: Known) -> tuple[bool, int, datetime]:
        return quiet and each.names(resource), _boldness(each.finding), each.finding.last_seen

    best = max(same, key=matches)
    until = max(best.finding.last_seen, finding.last_seen)
    again = replace(finding, first_seen=best.finding.first_seen, last_seen=until)
    if _boldness(finding) > _boldness(best.finding):
        return News(again, best)
    if quiet and best.names(resource):
        if finding.last_seen <= best.said_until:
            return None
        return Extended(again, replace(best, repeated_until=finding.last_seen), quiet=True)
    also = (*best.also, resource)[:_ALSO_LIMIT] if quiet else best.also
    if finding.last_seen <= best.finding.last_seen and also == best.also:
        return None
    went_on = replace(best, finding=replace(best.finding, last_seen=until), also=also)
    return Extended(again, went_on, quiet=quiet)


def _boldness(finding: Finding) -> int:
    """How much a finding can lead to. One with doubts about the claim itself asks a person, whatever its tier."""
    weight = BOLDNESS.index(finding.tier)
    return min(weight, BOLDNESS.index(Tier.APPROVAL)) if finding.doubts else weight


def _is_same(finding: Finding, known: Known, quiet_for: timedelta) -> bool:
    judged = known.finding
    if (judged.principal, judged.rule_id) != (finding.principal, finding.rule_id):
        return False
    if judged.first_seen <= finding.last_seen and finding.first_seen <= judged.last_seen:
        return True
    return (
        _may_be_quiet(finding, quiet_for)
        and known.names(finding.resource[:TEXT_LIMIT])
        and finding.first_seen <= known.said_until + quiet_for
        and finding.last_seen >= judged.first_seen - quiet_for
    )


def _may_be_quiet(finding: Finding, quiet_for: timedelta) -> bool:
    """Whether saying it again may be quiet: never where it says that a block does not hold."""
    return quiet_for > timedelta(0) and finding.family != AFTER_CONTAINMENT
