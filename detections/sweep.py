"""
Run rules over their windows and hand what they find to the flow.

A watermark moves only after a complete answer whose findings were all taken: a failed or partial query, or
a store that cannot record, leaves it where it was, and the next sweep looks again. Looking again finds the
same things again; what is known already adds nothing (``news.py``). Two runs of one rule may meet, an old one that
hangs and a new one: both find the same things, and a watermark never goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients import telemetry
from clients.errors import ClientError, Partial
from clients.stores import Conflict, CorruptRecord, Insert, Replace, StoreError
from clients.telemetry.words import (
    PARTIALS,
    QUERY_TIME,
    REJECTED_ROWS,
    RULE_SWEEPS,
    SWEEPS,
    WATERMARK_AGE,
    SpanName,
)
from clients.terms import object_id
from detections.catalog import SweepGroup
from detections.news import Extended, Known, News, weigh
from detections.runner import (
    AnswerError,
    DetectionRow,
    Window,
    bind_window,
    newest_window,
    next_windows,
    parse_rows,
)
from response import flow, gathering
from response.containment import CONTAINED, Containment, FailureReason, State
from response.decision import Verdict, lifts
from response.finding import AFTER_CONTAINMENT, TEXT_LIMIT, Finding, Source, Tier
from response.ledger import ACTOR
from response.opening import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clients.logs import Rows
    from clients.stores import Record, Write
    from detections.catalog import Rule
    from response.world import World

log = logging.getLogger("agentbreaker.sweep")
_JUDGED_AGAIN_AFTER: Final = timedelta(hours=1)
# After this long a rule leaves the rest of what it missed to the next run: the timer waits for its slowest rule, and
# the platform ends a run after ten minutes (host.json) with everything else in the process.
_PATIENCE: Final = {
    SweepGroup.FAST: timedelta(seconds=40),
    SweepGroup.WINDOWED: timedelta(minutes=4),
    SweepGroup.BASELINE: timedelta(minutes=5),
}
# What is caught up from longer ago may have been dealt with since: a rule that was away for a month, for example.
_MISSED_FOR: Final = timedelta(days=1)
_RACES: Final = 20  # against other runs of the same rule; there is rarely one


class FindingsError(Exception):
    """Some findings of a window could not be judged. The others were; the window is looked at again."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: new findings, rules that failed, rows that were no findings."""

    findings: int
    rejected: int
    failed: tuple[str, ...]


async def sweep_rules(rules: Sequence[Rule], world: World, group: SweepGroup | None = None) -> Swept:
    """Run every rule of a group (None: all) over what it has not looked at yet. One broken rule stops no other."""
    chosen = [rule for rule in rules if group is None or rule.sweep is group]
    swept = await asyncio.gather(*(_sweep_rule(rule, world) for rule in chosen))
    failed = tuple(rule_id for s in swept for rule_id in s.failed)
    for rule, its in zip(chosen, swept, strict=True):
        telemetry.measure(RULE_SWEEPS, rule=rule.id, outcome="failed" if its.failed else "ok")
        if its.rejected:
            telemetry.measure(REJECTED_ROWS, its.rejected, rule=rule.id)
    telemetry.measure(SWEEPS, group=group or "all", outcome="failed" if failed else "ok")
    return Swept(
        findings=sum(s.findings for s in swept),
        rejected=sum(s.rejected for s in swept),
        failed=failed,
    )


async def _sweep_rule(rule: Rule, world: World) -> Swept:
    found = rejected = 0
    missed: Partial | FindingsError | None = None
    watermark: datetime | None = None
    try:
        now, watermark = world.now(), await _watermark(rule, world)
        windows, newest = next_windows(watermark, now, rule), newest_window(rule, now)
        # What a standstill left is caught up over several runs, and a clock that was ahead left a watermark that is yet
        # to come. Neither may hide what happens now; the watermark tells what is still to be looked at.
        behind = watermark is not None and (watermark > now or bool(windows and windows[-1].end < now))
        if behind:
            try:
                found, rejected = await _look(rule, newest, world)
            except (Partial, FindingsError) as error:
                missed = error
        for window in windows:
            if world.now() - now > _PATIENCE[rule.sweep]:
                log.warning("rule %s is slow: what is left of what it missed is for the next run", rule.id)
                break
            try:
                new, bad = await _look(rule, window, world)
            except (Partial, FindingsError):
                # Something about this window: it is tried again, and meanwhile must not hide what happens now.
                if not behind and window.end < now:
                    await _look(rule, newest, world)
                raise
            found, rejected = found + new, rejected + bad
            await _move_watermark(rule, window.end, world)
            watermark = window.end
    except (ClientError, StoreError, AnswerError, FindingsError) as error:
        log.warning("rule %s did not finish, its watermark stays: %s", rule.id, error)
        return Swept(found, rejected, (rule.id,))
    except Exception:  # the edge of one rule: recorded here, so that it stops no other
        log.exception("rule %s failed, its watermark stays", rule.id)
        return Swept(found, rejected, (rule.id,))
    finally:
        if watermark is not None:
            telemetry.measure(
                WATERMARK_AGE, (world.now() - watermark).total_seconds(), rule=rule.id, group=rule.sweep
            )
    if missed is not None:
        log.warning("rule %s did not see what happens now: %s", rule.id, missed)
        return Swept(found, rejected, (rule.id,))
    return Swept(found, rejected, ())


async def _watermark(rule: Rule, world: World) -> datetime | None:
    record = await world.store.get(f"watermark:{rule.id}")
    return None if record is None else datetime.fromisoformat(record.body["until"])


async def _move_watermark(rule: Rule, until: datetime, world: World) -> None:
    """Say how far the rule has looked; what another run has said and is further stays. Raises: StoreError."""
    key, body = f"watermark:{rule.id}", {"until": until.isoformat()}
    for _ in range(_RACES):
        record = await world.store.get(key)
        if record is not None and datetime.fromisoformat(record.body["until"]) >= until:
            return
        write: Write = Insert(key, body) if record is None else Replace(key, body, record.etag)
        try:
            await world.store.commit([write])
        except Conflict:  # another run of this rule moved it meanwhile: perhaps further
            continue
        return
    raise Conflict(key)


async def _look(rule: Rule, window: Window, world: World) -> tuple[int, int]:
    """
    Judge one window. Returns how many findings were new and how many rows were none.

    A finding that cannot be judged does not keep those after it from being judged.
    Raises: ClientError and AnswerError for the query, StoreError and FindingsError for the findings.
    """
    answer = await _asked(rule, window, world)
    new = rejected = failed = 0
    for item in parse_rows(rule, answer.columns, answer.rows):
        if not isinstance(item, DetectionRow):
            rejected += 1
            log.error("rule %s gave a row that is no finding, and nobody is judged for it", rule.id)
            continue
        finding = _doubted_if_late(finding_of(rule, item), world.now() - window.end)
        try:
            new += await _take(finding, rule, world)
        except StoreError as error:
            if not isinstance(error, CorruptRecord):
                raise  # the store is what all findings need
            failed += 1  # one record, of one principal
            log.warning("a finding of rule %s could not be judged: a record is corrupt", rule.id)
        except Exception:  # the edge of one finding: recorded here, and the window is looked at again
            failed += 1
            log.exception("a finding of rule %s could not be judged", rule.id)
    if failed:
        raise FindingsError(f"{failed} findings could not be judged")
    return new, rejected


async def _asked(rule: Rule, window: Window, world: World) -> Rows:
    """Run the rule's query over a window. Raises: ClientError."""
    query = bind_window(rule.query, window.start, window.end)
    began, outcome = time.perf_counter(), "failed"
    try:
        with telemetry.span(SpanName.RULE_QUERY, rule=rule.id):
            # Rules that have time leave one of the workspace's queries to those that have none.
            async with contextlib.nullcontext() if rule.sweep is SweepGroup.FAST else world.background:
                answer = await world.logs.query(query, window.start - rule.lookback, window.end)
        outcome = "complete"
    except Partial:
        outcome = "partial"
        telemetry.measure(PARTIALS, rule=rule.id)
        raise
    finally:
        telemetry.measure(QUERY_TIME, time.perf_counter() - began, rule=rule.id, outcome=outcome)
    return answer


def finding_of(rule: Rule, row: DetectionRow) -> Finding:
    """Give what a row of a rule's answer claims."""
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
        lifts=rule.lifts,
        only_failures=rule.only_failures,
    )


def _doubted_if_late(finding: Finding, late: timedelta) -> Finding:
    """Leave to a person what would act by itself on something that was missed for long."""
    if late <= _MISSED_FOR or finding.tier is not Tier.AUTO:
        return finding
    hours = int(late.total_seconds()) // 3600
    return replace(finding, doubts=(*finding.doubts, f"it was missed, and is found {hours} hours late"))


async def _take(finding: Finding, rule: Rule, world: World) -> int:
    """Judge a finding if it is news. Returns how many were judged as news, 0 or 1."""
    news = await _unless_known(finding, rule.quiet_for, world)
    if news is not None:
        await flow.respond(news.finding, world)
        if news.before is not None and rule.quiet_for:
            await _remember(news.finding, news.before, world)
    if finding.lifts:
        await _judge_lifted(finding, world, just_judged=news is not None)
    return 0 if news is None else 1


async def _remember(judged: Finding, before: Known, world: World) -> None:
    """Keep which resources the claim was about before it was judged anew: they are known still."""
    record = await world.store.get(judged.key)
    if record is None:
        return
    body = Known.from_body(record.body).remembering(before).to_body()
    try:
        await world.store.commit([Replace(record.key, {**record.body, **body}, record.etag)])
    except (
        Conflict
    ):  # another run judged it meanwhile; the worst is that a known resource is judged once more
        log.debug("%s was changed meanwhile", record.key)


async def _unless_known(finding: Finding, quiet_for: timedelta, world: World) -> News | None:
    """
    Give the finding if it is news, under the name of what is known and overlaps it.

    News is what nobody knows yet; what weighs more than it did; what goes on after a block should have ended
    it; and, once an hour, what goes on while nothing contains the principal: a veto or a refusal of then
    may not hold any more. Anything else only moves the end of what is known.
    """
    records = await _known(finding, world)
    match weigh(finding, (known for known, _ in records), quiet_for):
        case None:
            return None
        case News(before=before) as news:
            other = before is not None and not before.names(finding.resource[:TEXT_LIMIT])
            return News(finding) if other and await _lifted(finding, world) else news
        case Extended() as extended:
            known, record = next(
                pair for pair in records if pair[0].finding.key == extended.known.finding.key
            )
            if await _may_count_now(extended, known.judged_at, world):
                return News(extended.finding, known)
            if not known.names(finding.resource[:TEXT_LIMIT]) and await _lifted(finding, world):
                return News(
                    finding
                )  # something else than what went on before the sign, under a name of its own
            body = {**record.body, **extended.known.to_body()}
            try:
                await world.store.commit([Replace(record.key, body, record.etag)])
            except Conflict:  # another run has just judged or extended it; this one comes by again
                log.debug("%s was changed meanwhile", record.key)
            return None


async def _known(finding: Finding, world: World) -> list[tuple[Known, Record]]:
    """Read what is known of the principal and rule. A record nobody can read hides nothing: it is left out."""
    found = []
    for record in await world.store.scan(f"finding:{finding.principal}:{finding.rule_id}:"):
        try:
            found.append((Known.from_body(record.body), record))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a known finding is unreadable: %s", type(error).__name__)
    return found


async def _may_count_now(extended: Extended, judged: datetime, world: World) -> bool:
    """Whether activity that goes on may lead to something other than when it was judged."""
    finding, again = extended.finding, world.now() - judged >= _JUDGED_AGAIN_AFTER
    pointer = await world.store.get(f"open:{finding.principal}")
    if pointer is None:
        # Of one sign alone nobody was told; of one that is a person's to judge somebody has to be.
        asks = finding.tier is Tier.APPROVAL and extended.known.finding.tier is Tier.CORROBORATED
        return again and (asks or not extended.quiet)
    containment, _ = await load(world.store, pointer.body["containment"])
    refused = containment.failed_because is FailureReason.REFUSED
    if refused or containment.state in (State.PROPOSED, State.AWAITING_APPROVAL):
        return again
    if finding.family == AFTER_CONTAINMENT and containment.state in CONTAINED:
        return True
    if containment.state is State.HALF_OPEN:
        # Whoever took it back has judged what was before. What goes on after that is judged at once, then every hour.
        ordered = containment.undo.requested_at if containment.undo else None
        return finding.last_seen > ordered and (again or judged < ordered) if ordered else again
    return again and _outlives(finding, containment)


def _outlives(finding: Finding, containment: Containment) -> bool:
    """Whether it goes on for longer than any token lives that was issued before the block: perhaps that was undone."""
    until = containment.residual_until
    return until is not None and finding.last_seen > until


async def _lifted(finding: Finding, world: World) -> bool:
    """Whether a sign known by now lifts the finding by its own time. What cannot be read lifts nothing."""
    earlier = await gathering.answered(gathering.earlier_findings(finding, world.store, world.now()))
    return isinstance(earlier, tuple) and any(lifts(sign, finding, world.policy) for sign in earlier)


async def _judge_lifted(sign: Finding, world: World, *, just_judged: bool) -> None:
    """
    Judge again what came after a sign that lifts it and was judged without it.

    Tables are not equally late: what an agent did after a prompt attack is often seen before the attack is. Right
    after the sign was judged everything it lifts is; when it is only found again, what an earlier run did not get to.
    What asked for more than to be watched is left alone: whoever can send another prompt must not be able to
    contain again what a person has let go.
    """
    signs = [known for known, _ in await _known(sign, world)]
    for rule_id in sign.lifts:
        for known, _ in await _known(replace(sign, rule_id=rule_id), world):
            if known.verdict not in ("", Verdict.WATCH):
                continue
            after = (s for s in signs if lifts(s.finding, known.finding, world.policy))
            if any(just_judged or known.judged_at < s.judged_at for s in after):
                await flow.respond(known.finding, world)
