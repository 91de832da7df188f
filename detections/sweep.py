"""
Run rules over their windows and hand what they find to the flow.

A watermark moves only after a complete answer whose findings were all taken: a failed or partial query, or
a store that cannot record, leaves it where it was, and the next sweep looks again. Looking again finds the
same things again; a finding that is known already, by principal, rule and overlapping time, adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients.errors import ClientError
from clients.stores import Put, StoreError
from clients.terms import object_id
from detections.runner import AnswerError, DetectionRow, Window, bind_window, next_windows, parse_rows
from response import flow
from response.containment import CONTAINED, FailureReason, State
from response.finding import BOLDNESS, Finding, Source
from response.opening import ACTOR, AFTER_CONTAINMENT, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detections.catalog import Rule
    from response.world import World

log = logging.getLogger("agentbreaker.sweep")
_JUDGED_AGAIN_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: new findings, rules that failed, rows that were no findings."""

    findings: int
    rejected: int
    failed: tuple[str, ...]


async def sweep_rules(rules: Sequence[Rule], world: World) -> Swept:
    """Run every rule over what it has not looked at yet. One broken rule stops no other."""
    swept = await asyncio.gather(*(_sweep_rule(rule, world) for rule in rules))
    return Swept(
        findings=sum(s.findings for s in swept),
        rejected=sum(s.rejected for s in swept),
        failed=tuple(rule_id for s in swept for rule_id in s.failed),
    )


async def _sweep_rule(rule: Rule, world: World) -> Swept:
    found = rejected = 0
    try:
        record = await world.store.get(f"watermark:{rule.id}")
        watermark = None if record is None else datetime.fromisoformat(record.body["until"])
        for window in next_windows(watermark, world.now(), rule):
            new, bad = await _look(rule, window, world)
            found, rejected = found + new, rejected + bad
            await world.store.commit([Put(f"watermark:{rule.id}", {"until": window.end.isoformat()})])
    except (ClientError, StoreError, AnswerError) as error:
        log.warning("rule %s did not finish, its watermark stays: %s", rule.id, error)
        return Swept(found, rejected, (rule.id,))
    except Exception:  # the edge of one rule: recorded here, so that it stops no other
        log.exception("rule %s failed, its watermark stays", rule.id)
        return Swept(found, rejected, (rule.id,))
    return Swept(found, rejected, ())


async def _look(rule: Rule, window: Window, world: World) -> tuple[int, int]:
    """Judge one window. Returns how many findings were new and how many rows were none."""
    query = bind_window(rule.query, window.start, window.end)
    answer = await world.logs.query(query, window.start - rule.lookback, window.end)
    new = rejected = 0
    for item in parse_rows(rule, answer.columns, answer.rows):
        if not isinstance(item, DetectionRow):
            rejected += 1
            log.warning("rule %s gave a row that is no finding", rule.id)
            continue
        finding = await _unless_known(_finding(rule, item), world)
        if finding is not None:
            await flow.respond(finding, world)
            new += 1
    return new, rejected


def _finding(rule: Rule, row: DetectionRow) -> Finding:
    return Finding(
        source=Source.RULE,
        rule_id=rule.id,
        family=rule.family,
        tier=rule.tier_of(row.confidence),
        principal=object_id(str(row.principal_id)),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        reason=row.reason or rule.name,
        raised_by=ACTOR,
        confidence=str(row.confidence),
        count=row.count,
        ip_address=row.ip_address,
        resource=row.resource,
        event_ids=row.event_ids[:20],
    )


async def _unless_known(finding: Finding, world: World) -> Finding | None:
    """
    Give the finding if it is news, under the name of what is known and overlaps it.

    News is what nobody knows yet; what weighs more than it did; what goes on after a block should have ended
    it; and, once an hour, what goes on while nothing contains the principal: a veto or a refusal of then
    may not hold any more. Anything else only moves the end of what is known.
    """
    for record in await world.store.scan(f"finding:{finding.principal}:{finding.rule_id}:"):
        known = Finding.from_body(record.body)
        if known.first_seen > finding.last_seen or finding.first_seen > known.last_seen:
            continue
        same = replace(
            finding, first_seen=known.first_seen, last_seen=max(known.last_seen, finding.last_seen)
        )
        if BOLDNESS.index(finding.tier) > BOLDNESS.index(known.tier):
            return same
        if finding.last_seen <= known.last_seen:
            return None
        judged = datetime.fromisoformat(record.body["judged_at"])
        if await _may_count_now(finding, judged, world):
            return same
        await world.store.commit([Put(record.key, {**record.body, "last_seen": same.last_seen.isoformat()})])
        return None
    return finding


async def _may_count_now(finding: Finding, judged: datetime, world: World) -> bool:
    """Whether activity that goes on may lead to something other than when it was judged."""
    pointer = await world.store.get(f"open:{finding.principal}")
    if pointer is None:
        return world.now() - judged >= _JUDGED_AGAIN_AFTER
    containment, _ = await load(world.store, pointer.body["containment"])
    refused = containment.failed_because is FailureReason.REFUSED
    if refused or containment.state in (State.PROPOSED, State.AWAITING_APPROVAL):
        return world.now() - judged >= _JUDGED_AGAIN_AFTER
    return finding.family == AFTER_CONTAINMENT and containment.state in CONTAINED
