"""
What ``enforce`` would have done with each finding of a replay: the real judgement, with a memory instead of a store.

``response.decision.decide`` and ``response.guardrails.guard`` judge; ``detections.news.weigh`` says what is news, as in
the sweep. What the app keeps in its store (findings known, containments open, times of the storm brake) is kept
here, and what it asks Graph comes from ``tenant.json``. Nothing here knows a log row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from clients.terms import Kind, NotAsked, RiskLevel, Unknown
from detections.news import Extended, Known, News, weigh
from detections.sweep import finding_of
from response import brake
from response.decision import Decision, Verdict, corroborates, decide, lifts
from response.evidence import Armed, Evidence, NotArmed
from response.finding import AFTER_CONTAINMENT, CORROBORATION_WINDOW, TEXT_LIMIT, Tier
from response.guardrails import guard
from response.levers import CONFIRM_COMPROMISED
from response.policy import Mode, ResponsePolicy
from workbench.tenant import AUTOMATIC_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clients.terms import ObjectId, ServicePrincipal
    from detections.catalog import Rule
    from detections.runner import DetectionRow, Window
    from response.finding import Finding
    from workbench.tenant import TenantFile

_JUDGED_AGAIN_AFTER: Final = timedelta(hours=1)  # as the sweep does with what goes on
_BOLDER: Final = (Verdict.WATCH, Verdict.ASK, Verdict.CONTAIN)
_ASSUMED: Final = "assumed"


class Standing(StrEnum):
    """How a principal stands in the replay, of what the app would have written."""

    WAITING = "waiting"  # a person was asked; whatever comes joins, and may still contain
    CONTAINED = "contained"  # stays so: nobody in a replay dismisses the risk


@dataclass(slots=True)
class Told:
    """One finding as it is told: once, with the boldest verdict that it led to. Text may come from the tenant."""

    detection: str
    principal_id: str
    principal_name: str
    app_id: str
    time: datetime
    last_seen: datetime
    window_start: datetime
    window_end: datetime
    severity: str
    tier: str
    confidence: str
    resource: str
    verdict: str
    reasons: list[str]
    event_ids: list[str]
    contains: bool = False
    """Whether this finding is what would have pulled the lever."""

    def public(self) -> dict[str, Any]:
        """Give the finding as the report file has it."""
        return {
            "detection": self.detection,
            "principalId": self.principal_id,
            "time": _iso(self.time),
            "windowStart": _iso(self.window_start),
            "windowEnd": _iso(self.window_end),
            "severity": self.severity,
            "tier": self.tier,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "eventIds": self.event_ids,
        }

    def to_body(self) -> dict[str, Any]:
        """Give all of it as JSON, for resuming."""
        return {
            name: _iso(value) if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Told:
        """Read back what ``to_body`` wrote."""
        moments = ("time", "last_seen", "window_start", "window_end")
        return cls(**{**body, **{name: datetime.fromisoformat(body[name]) for name in moments}})


@dataclass(slots=True)
class _Open:
    """A containment of the replay: since when, and how it stands."""

    standing: Standing
    since: datetime


@dataclass(slots=True)
class Judge:
    """
    Takes findings in the order in which they would have been found, and remembers.

    ``risk`` tells what Microsoft's own detections said of a principal at a moment, None when nothing. ``active`` counts
    the principals that signed in in the 24 hours before a moment; Unknown where the logs do not tell.
    """

    rules: Mapping[str, Rule]
    tenant: TenantFile | None
    risk: Callable[[ObjectId, datetime], RiskLevel | None]
    active: Callable[[datetime], int | Unknown]
    told: list[Told] = field(default_factory=list)
    _known: dict[str, list[Known]] = field(default_factory=dict)
    _place: dict[str, int] = field(default_factory=dict)
    _open: dict[str, _Open] = field(default_factory=dict)
    _brake: list[datetime] = field(default_factory=list)

    def take(self, rule: Rule, row: DetectionRow, window: Window) -> None:
        """Judge one row of a rule's answer if it is news; ``window.end`` is the moment of judgement."""
        finding = finding_of(rule, row)
        now = window.end
        match weigh(finding, self._known.get(finding.principal, ()), rule.quiet_for):
            case News(finding=news, before=before):
                # What a sign lifts is judged by its own time, and not by that of what it goes on from.
                if before is not None and not before.names(finding.resource[:TEXT_LIMIT]):
                    news = finding if self._lifted(finding, now) else news
                self._tell_of(rule, news, row, window)
                if before is not None and news is not finding and rule.quiet_for:
                    self._remember(self._judged(news).remembering(before))
            case Extended() as extended:
                self._go_on(rule, extended, row, window)
            case None:
                pass
        if finding.lifts:
            self._judge_lifted(finding, now)

    def forget(self, before: datetime) -> None:
        """Drop from memory what no window can meet again, so that memory stays bounded."""
        spans = (max(rule.quiet_for, rule.window + rule.late_arrival) for rule in self.rules.values())
        longest = max(spans, default=timedelta(0))
        limit = before - max(longest, _JUDGED_AGAIN_AFTER, CORROBORATION_WINDOW) - timedelta(days=1)
        for principal, known in list(self._known.items()):
            kept = [each for each in known if max(each.said_until, each.judged_at) >= limit]
            if kept:
                self._known[principal] = kept
            else:
                del self._known[principal]
        alive = {each.finding.key for known in self._known.values() for each in known}
        self._place = {key: place for key, place in self._place.items() if key in alive}

    def contained(self) -> dict[str, datetime]:
        """Give the principals that would have been contained, and when."""
        return {id_: one.since for id_, one in self._open.items() if one.standing is Standing.CONTAINED}

    def _go_on(self, rule: Rule, extended: Extended, row: DetectionRow, window: Window) -> None:
        """As ``sweep._unless_known``: what goes on is judged again, is news after a sign, or its end moves."""
        finding, now = finding_of(rule, row), window.end
        known = self._judged(extended.known.finding)
        if self._may_count_now(extended, known.judged_at, now):
            told = self.told[self._place[known.finding.key]]
            told.last_seen = max(told.last_seen, extended.finding.last_seen)
            self._respond(extended.finding, told, now)
            if rule.quiet_for:
                self._remember(self._judged(extended.finding).remembering(known))
        elif not known.names(finding.resource[:TEXT_LIMIT]) and self._lifted(finding, now):
            self._tell_of(rule, finding, row, window)
        else:
            self._remember(extended.known)
            told = self.told[self._place[known.finding.key]]
            told.last_seen = max(told.last_seen, extended.known.finding.last_seen)

    def _tell_of(self, rule: Rule, news: Finding, row: DetectionRow, window: Window) -> None:
        told = _told(rule, news, row, window)
        self.told.append(told)
        self._place[news.key] = len(self.told) - 1
        self._respond(news, told, window.end)

    def _judged(self, finding: Finding) -> Known:
        return next(one for one in self._known[finding.principal] if one.finding.key == finding.key)

    def _may_count_now(self, extended: Extended, judged: datetime, now: datetime) -> bool:
        """As ``sweep._may_count_now``."""
        again = now - judged >= _JUDGED_AGAIN_AFTER
        one = self._open.get(extended.finding.principal)
        if one is None:
            tiers = extended.finding.tier, extended.known.finding.tier
            return again and (tiers == (Tier.APPROVAL, Tier.CORROBORATED) or not extended.quiet)
        if one.standing is Standing.WAITING:
            return again
        return extended.finding.family == AFTER_CONTAINMENT

    def _lifted(self, finding: Finding, now: datetime) -> bool:
        """As ``sweep._lifted``."""
        return any(lifts(sign, finding, self._policy()) for sign in self._earlier(finding, now))

    def _judge_lifted(self, sign: Finding, now: datetime) -> None:
        """As ``sweep._judge_lifted``: what came after the sign and was judged without it."""
        known = self._known.get(sign.principal, [])
        signs = [each for each in known if each.finding.rule_id == sign.rule_id]
        for each in [one for one in known if one.finding.rule_id in sign.lifts]:
            if each.verdict not in ("", Verdict.WATCH):
                continue  # what asked for more is a person's to decide
            after = (s for s in signs if lifts(s.finding, each.finding, self._policy()))
            if any(each.judged_at <= s.judged_at for s in after):
                self._respond(each.finding, self.told[self._place[each.finding.key]], now)

    def _respond(self, finding: Finding, told: Told, now: datetime) -> None:
        """Judge, and keep what the app would have written."""
        policy = self._policy()
        evidence = self._evidence(finding, now)
        decision = guard(decide(finding, evidence, policy, now), finding, evidence, policy)
        one = self._open.get(finding.principal)
        reasons = [*decision.reasons, *map(str, decision.vetoes)]
        contains = decision.verdict is Verdict.CONTAIN and bool(decision.lever)
        if one is not None and one.standing is Standing.CONTAINED:
            reasons.append(f"contained already, at {_iso(one.since)}: this finding joins that containment")
        elif contains:
            self._open[finding.principal] = _Open(Standing.CONTAINED, now)
            self._brake = [moment for moment in self._brake if now - moment < brake.DAY] + [now]
            told.contains = True
        elif decision.verdict is not Verdict.WATCH and not decision.forbidden and one is None:
            self._open[finding.principal] = _Open(Standing.WAITING, now)
        self._tell(told, decision, reasons, now)
        self._remember(Known(finding, now, verdict=str(decision.verdict)))

    def _tell(self, told: Told, decision: Decision, reasons: Sequence[str], now: datetime) -> None:
        if not told.verdict:
            told.verdict = str(decision.verdict)
            told.reasons += [reason for reason in reasons if reason]
        elif _BOLDER.index(decision.verdict) > _BOLDER.index(Verdict(told.verdict)):
            told.verdict = str(decision.verdict)
            told.reasons += [f"judged again at {_iso(now)}:", *reasons]

    def _remember(self, known: Known) -> None:
        mine = self._known.setdefault(known.finding.principal, [])
        mine[:] = [each for each in mine if each.finding.key != known.finding.key] + [known]

    def _policy(self) -> ResponsePolicy:
        return ResponsePolicy(
            mode=Mode.ENFORCE,
            rule_modes={},
            protected=frozenset() if self.tenant is None else self.tenant.protected,
            automatic_per_hour=AUTOMATIC_PER_HOUR if self.tenant is None else self.tenant.automatic_per_hour,
        )

    def _evidence(self, finding: Finding, now: datetime) -> Evidence:
        principal, armed = self._principal(finding.principal)
        earlier = self._earlier(finding, now)
        counts = brake.count([brake.Automatic(moment, ()) for moment in self._brake], (), now)
        share = brake.asks_for_share(counts, self._policy())
        return Evidence(
            principal=principal,
            armed=armed,
            own_identities=frozenset(),
            microsoft_risk=self._microsoft_risk(finding, principal, earlier, now),
            earlier=earlier,
            kill_switch_stopped=False,
            ongoing=self._ongoing(finding, now),
            at=now,
            mark=NotAsked("a back-test reads no directory; tenant.json says who is protected"),
            privilege=NotAsked("a back-test reads no directory"),
            owners=NotAsked("a back-test reads no directory"),
            change_window=NotAsked("announced changes are of now, not of then"),
            undone_at=None,
            on_probation=False,
            brake=counts,
            active_principals=self.active(now) if share else NotAsked("not needed for so few"),
            # The limits are kept; a person is taken to release the brake each time it trips.
            brake_tripped="",
            ledger_broken="",
        )

    def _principal(self, id_: ObjectId) -> tuple[ServicePrincipal | Unknown, Armed | NotArmed | Unknown]:
        if self.tenant is None:
            unknown = Unknown("no tenant.json was given, so nothing is known of it")
            return unknown, unknown
        listed = self.tenant.principals.get(id_)
        if listed is None:
            unknown = Unknown("it is not in tenant.json")
            return unknown, unknown
        if listed.principal.kind is not Kind.APPLICATION:
            return listed.principal, NotArmed("Conditional Access does not reach its kind", "disabling it")
        if listed.armed is False:
            return listed.principal, NotArmed("tenant.json says so", "an enabled policy that includes it")
        return listed.principal, Armed((_ASSUMED,))

    def _earlier(self, finding: Finding, now: datetime) -> tuple[Finding, ...]:
        """As ``gathering.earlier_findings``."""
        return tuple(
            other.finding
            for other in self._known.get(finding.principal, ())
            if other.finding.key != finding.key
            and (
                now - other.finding.last_seen <= CORROBORATION_WINDOW
                or (
                    finding.rule_id in other.finding.lifts
                    and finding.first_seen - other.finding.last_seen <= CORROBORATION_WINDOW
                )
            )
        )

    def _ongoing(self, finding: Finding, now: datetime) -> tuple[Finding, ...]:
        """As ``gathering.ongoing_findings``."""
        return tuple(
            replace(other.finding, last_seen=until)
            for other in self._known.get(finding.principal, ())
            if other.finding.key != finding.key
            and (until := other.repeated_until) is not None
            and now - until <= CORROBORATION_WINDOW < now - other.finding.last_seen
        )

    def _microsoft_risk(
        self,
        finding: Finding,
        principal: ServicePrincipal | Unknown,
        earlier: tuple[Finding, ...],
        now: datetime,
    ) -> RiskLevel | NotAsked | None:
        """As ``gathering._microsoft_risk``: asked only where one finding is not enough and no other agrees."""
        policy = self._policy()
        if finding.tier is not Tier.CORROBORATED:
            return NotAsked("not needed for this finding")
        if isinstance(principal, Unknown) or principal.kind not in CONFIRM_COMPROMISED.bites_on:
            return NotAsked("no lever here reaches this kind of identity")
        if any(corroborates(o, finding, policy, now) or lifts(o, finding, policy) for o in earlier):
            return NotAsked("another finding agrees already")
        return self.risk(finding.principal, now)

    def to_body(self) -> dict[str, Any]:
        """Give the memory as JSON, for resuming."""
        return {
            "told": [told.to_body() for told in self.told],
            "known": [each.to_body() for known in self._known.values() for each in known],
            "place": self._place,
            "open": {id_: [one.standing, _iso(one.since)] for id_, one in self._open.items()},
            "brake": [_iso(moment) for moment in self._brake],
        }

    def restore(self, body: Mapping[str, Any]) -> None:
        """Take up the memory that ``to_body`` wrote. Raises: KeyError, TypeError, ValueError."""
        self.told = [Told.from_body(told) for told in body["told"]]
        self._known = {}
        for each in body["known"]:
            known = Known.from_body(each)
            self._known.setdefault(known.finding.principal, []).append(known)
        self._place = dict(body["place"])
        self._open = {
            id_: _Open(Standing(standing), datetime.fromisoformat(since))
            for id_, (standing, since) in body["open"].items()
        }
        self._brake = [datetime.fromisoformat(moment) for moment in body["brake"]]


def _told(rule: Rule, finding: Finding, row: DetectionRow, window: Window) -> Told:
    return Told(
        detection=rule.id,
        principal_id=finding.principal,
        principal_name=row.principal_name,
        app_id=row.app_id,
        time=finding.first_seen,
        last_seen=finding.last_seen,
        window_start=window.start,
        window_end=window.end,
        severity=str(rule.severity),
        tier=str(finding.tier),
        confidence=finding.confidence,
        resource=finding.resource,
        verdict="",
        reasons=[finding.reason],
        event_ids=list(finding.event_ids),
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
