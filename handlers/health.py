"""``GET /api/health`` lives in function_app.py; here: is the app ready, and what is missing if not."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import BadRequest
from clients.stores import StoreError
from clients.terms import Unknown
from detections.catalog import SweepGroup
from detections.dormant import SIGN_IN_REPORT_PERMISSION
from handlers import preflight
from handlers.auth import Role, caller, require
from handlers.http import Request, Response
from response import gathering, integrity, ledger, notifying
from response.levers import CONFIRM_AGENT_COMPROMISED, LEVERS, READ_PERMISSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clients.logs import Rows
    from clients.terms import Policy
    from detections.catalog import Rule
    from handlers.process import Process
    from response.world import World

_RECENT: Final = timedelta(days=1)
_BASELINE: Final = re.compile(r"\bAgent\w+_CL\b")
# A daily summary is written in the night after its day, an hourly one an hour later; then some for the logs to arrive.
_BASELINE_AGE: Final = {"AgentGraphHourly_CL": timedelta(hours=6)}
_DAILY_AGE: Final = timedelta(days=3)
# Three missed runs of the timer as it is set by default, and some for the run itself.
_BEHIND: Final = {
    SweepGroup.FAST: timedelta(minutes=10),
    SweepGroup.WINDOWED: timedelta(minutes=30),
    SweepGroup.BASELINE: timedelta(hours=4),
}
# Alerts and risks: nobody writes there on an ordinary day.
_EMPTY_WHILE_WELL: Final = frozenset(
    {
        "AADAgentRiskEvents",
        "AADRiskyAgents",
        "AADRiskyServicePrincipals",
        "AADServicePrincipalRiskEvents",
        "CopilotActivity",
        "MicrosoftPurviewInformationProtection",
        "SecurityAlert",
    }
)
_ANSWER_WITHIN: Final = timedelta(seconds=45)
_CLOCKS_DIFFER: Final = timedelta(minutes=5)


async def readiness(request: Request, process: Process) -> Response:
    """``GET /api/readiness``: every precondition, each true, false or null (not known) with the reason."""
    require(caller(request, process.settings), Role.READ)
    workspace, others, tables, baselines = await asyncio.gather(
        _workspace(process.world),
        asyncio.gather(preflight.licence(process.world), preflight.settings_agree(process)),
        _tables(process),
        _baselines(process),
    )
    checks = [
        await _permissions(process),
        *await _policies(process.world),
        *(_check(each.name, each.ok, each.detail) for each in others),
        await _kill_switch(process.world),
        await _storm_brake(process.world),
        await _ledger(process.world),
        _protected(process),
        _rules_off(process),
        await _notifications(process),
        *workspace,
        *tables,
        *baselines,
        *await _watermarks(process),
    ]
    ready = all(found["ok"] is True or preflight.may_stay_unknown(found) for found in checks)
    return Response(200, {"ready": ready, "mode": process.world.policy.mode, "checks": checks})


def _check(name: str, ok: bool | None, detail: str) -> dict[str, Any]:
    """Give one line of readiness: true, false, or null where it is not known."""
    return {"name": name, "ok": ok, "detail": detail}


async def _permissions(process: Process) -> dict[str, Any]:
    claims = await gathering.answered(process.world.graph.own_claims())
    if isinstance(claims, Unknown):
        return _check("graph permissions", None, claims.why)
    switched_on = [LEVERS[name] for name in sorted(process.world.policy.levers)]
    needed = {*READ_PERMISSIONS, *(right for lever in switched_on for right in lever.permissions)}
    if process.settings.sign_in_activity_report:
        needed.add(SIGN_IN_REPORT_PERMISSION)
    missing = sorted(needed - claims[1])
    detail = f"missing: {', '.join(missing)}. {preflight.GRANT}" if missing else "all granted"
    return _check("graph permissions", not missing, detail)


async def _policies(world: World) -> list[dict[str, Any]]:
    """Whether anything blocks what a risk lever marks: for service principals, and for agents where that lever is on."""
    for_agents = CONFIRM_AGENT_COMPROMISED.id in world.policy.levers
    names = ("armed policies", "armed policies for agents") if for_agents else ("armed policies",)
    policies = await gathering.answered(gathering.current_policies(world))
    if isinstance(policies, Unknown):
        return [_check(name, None, policies.why) for name in names]
    on_high_risk = (
        ("service principal", [p for p in policies if "high" in p.risk_levels]),
        ("agent", [p for p in policies if "high" in p.agent_risk_levels]),
    )
    return [_armed(name, *each) for name, each in zip(names, on_high_risk, strict=False)]


def _armed(name: str, whose: str, on_high_risk: Sequence[Policy]) -> dict[str, Any]:
    armed = [p for p in on_high_risk if p.state == "enabled" and p.blocks]
    reporting = [p for p in on_high_risk if p.state == "enabledForReportingButNotEnforced"]
    detail = f"{len(armed)} enabled, {len(reporting)} only reporting"
    if not armed:
        detail += f". No policy blocks on high {whose} risk: confirming would block nothing. {preflight.ARM}"
    return _check(name, bool(armed), detail)


async def _kill_switch(world: World) -> dict[str, Any]:
    stopped = await gathering.answered(gathering.kill_switch_stopped(world.store))
    if isinstance(stopped, Unknown):
        return _check("kill switch", None, stopped.why)
    return _check(
        "kill switch", not stopped, "stopped: no lever is pulled" if stopped else "levers may be pulled"
    )


async def _storm_brake(world: World) -> dict[str, Any]:
    tripped = await gathering.answered(gathering.reason_in(gathering.BRAKE_TRIPPED, world.store))
    if isinstance(tripped, Unknown):
        return _check("storm brake", None, tripped.why)
    detail = (
        f"tripped: {tripped}. Everything waits for a person; PUT /api/killswitch stopped=false releases it"
    )
    return _check("storm brake", not tripped, detail if tripped else "not tripped")


async def _ledger(world: World) -> dict[str, Any]:
    try:
        result = await integrity.recorded_break(world.store) or await integrity.verify_tail(world.store)
    except StoreError as error:
        return _check("ledger", None, str(error))
    if isinstance(result, ledger.Broken):
        return _check("ledger", False, f"broken at entry {result.number}: {result.why}")
    return _check("ledger", True, f"{result.entries} entries, chain intact")


def _protected(process: Process) -> dict[str, Any]:
    listed = process.world.policy.protected
    if listed is None:
        return _check(
            "protected list",
            False,
            "AGENTBREAKER_PROTECTED_PRINCIPALS is empty: nothing is contained. Write object ids, or the word none",
        )
    return _check("protected list", True, f"{len(listed)} principals")


def _rules_off(process: Process) -> dict[str, Any]:
    off = process.settings.rules_off
    if unknown := sorted(off - {rule.id for rule in process.rules}):
        return _check("rules", False, f"AGENTBREAKER_RULES_OFF names no rule of ours: {', '.join(unknown)}")
    detail = f"{len(process.swept)} are swept"
    return _check("rules", True, f"{detail}; switched off: {', '.join(sorted(off))}" if off else detail)


async def _notifications(process: Process) -> dict[str, Any]:
    letters = await gathering.answered(notifying.dead_letters(process.world))
    if isinstance(letters, Unknown):
        return _check("notifications", None, letters.why)
    if letters:
        detail = f"{len(letters)} could not be delivered to the webhook: GET /api/notifications"
        return _check("notifications", False, detail)
    configured = process.world.webhook is not None
    return _check("notifications", True, "none is undelivered" if configured else "no webhook is configured")


async def _workspace(world: World) -> list[dict[str, Any]]:
    """Say whether the workspace answers this identity, and whether its clock and ours agree."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()), world.background:
            found = await preflight.workspace(world)
    except TimeoutError:
        silent = f"no answer within {_ANSWER_WITHIN.seconds} seconds"
        found = [preflight.Found("workspace", None, silent), preflight.Found("clocks", None, silent)]
    return [_check(each.name, each.ok, each.detail) for each in found]


async def _tables(process: Process) -> list[dict[str, Any]]:
    """
    Ask whether each rule can see what it needs, one query a table.

    Tables a rule cannot do without must have had rows in the last day, and of tables that stand in for one another one.
    What a workspace does not have and nobody misses is switched off with ``AGENTBREAKER_RULES_OFF``.
    """
    rules = process.swept
    tables = sorted({table for rule in rules for table in (*rule.required_tables, *rule.any_of_tables)})
    answers, plans = await asyncio.gather(
        asyncio.gather(*(_rows_in(table, process.world) for table in tables)), preflight.plans(process)
    )
    rows = dict(zip(tables, answers, strict=True))
    return [_sees(rule, rows, plans) for rule in rules]


async def _asked(kql: str, start: datetime, end: datetime, world: World) -> Rows | Unknown:
    """Ask the logs, behind what sweeps ask already and no longer than a caller of HTTP waits."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()), world.background:
            return await gathering.answered(_query(kql, start, end, world))
    except TimeoutError:
        return Unknown(f"no answer within {_ANSWER_WITHIN.seconds} seconds")


async def _query(kql: str, start: datetime, end: datetime, world: World) -> Rows | Unknown:
    try:
        return await world.logs.query(kql, start, end)
    except BadRequest as error:
        # Our queries here name one table and nothing else that could be wrong.
        return Unknown(f"{error}. {preflight.NO_TABLE}")


async def _rows_in(table: str, world: World) -> bool | Unknown:
    """Whether a table had rows in the last day."""
    now = world.now()
    answer = await _asked(f"{table}\n| take 1\n| count", now - _RECENT, now, world)
    return answer if isinstance(answer, Unknown) else bool(answer.rows and answer.rows[0][0])


def _sees(rule: Rule, rows: Mapping[str, bool | Unknown], plans: Mapping[str, str]) -> dict[str, Any]:
    name = f"tables of {rule.id}"
    if elsewhere := [table for table in rule.required_tables if table in plans]:
        which = ", ".join(f"{table} is on plan {plans[table]}" for table in elsewhere)
        return _check(name, False, f"{which}: no rule can read it there. Put it on plan Analytics")
    unread = [(t, answer.why) for t in rule.required_tables if isinstance(answer := rows[t], Unknown)]
    if unread:
        why = "; ".join(f"{table}: {why}" for table, why in unread)
        return _check(
            name, None, f"{why}. Where the table is not in the workspace: {rule.when_table_missing.strip()}"
        )
    if empty := [table for table in rule.required_tables if rows[table] is False]:
        return _check(
            name, False, f"no rows of the last day in {', '.join(empty)}. {rule.when_table_missing.strip()}"
        )
    return _of_any(rule, rows, plans)


def _of_any(rule: Rule, rows: Mapping[str, bool | Unknown], plans: Mapping[str, str]) -> dict[str, Any]:
    """Judge tables that stand in for one another: one with rows is enough, or one that is empty while all is well."""
    name, tables = f"tables of {rule.id}", rule.any_of_tables
    if not tables or any(rows[table] is True for table in tables):
        return _check(name, True, "its tables can be queried and have rows")
    if quiet := [table for table in tables if rows[table] is False and table in _EMPTY_WHILE_WELL]:
        return _check(
            name, True, f"{', '.join(quiet)} can be queried, and had no rows yesterday, as is usual"
        )
    said = [
        f"{table}: {f'on plan {plans[table]}' if table in plans else answer.why}"
        if isinstance(answer := rows[table], Unknown)
        else f"{table}: no rows of the last day"
        for table in tables
    ]
    detail = f"of {', '.join(tables)} none has rows. {'; '.join(said)}. {rule.when_table_missing.strip()}"
    return _check(name, False if any(rows[table] is False for table in tables) else None, detail)


async def _baselines(process: Process) -> list[dict[str, Any]]:
    """Ask of each baseline table that a rule reads how new its newest summary is. Without it everybody is learning."""
    readers: dict[str, list[str]] = {}
    for rule in process.swept:
        for table in sorted(set(_BASELINE.findall(rule.query))):
            readers.setdefault(table, []).append(rule.id)
    tables = sorted(readers)
    checks = await asyncio.gather(*(_baseline(table, readers[table], process.world) for table in tables))
    return list(checks)


async def _baseline(table: str, readers: Sequence[str], world: World) -> dict[str, Any]:
    name, now = f"baseline {table}", world.now()
    allowed = _BASELINE_AGE.get(table, _DAILY_AGE)
    lost = f"{', '.join(readers)} know nobody's past and at most add context"
    # TimeGenerated is when a summary was written: a day's is written after it, so the span reaches every newer bin.
    answer = await _asked(f"{table}\n| summarize Newest = max(BinStart)", now - allowed, now, world)
    if isinstance(answer, Unknown):
        return _check(name, None, f"{answer.why}. If the table does not exist, {lost}")
    newest = answer.rows[0][0] if answer.rows else None
    if not isinstance(newest, datetime) or now - newest > allowed:
        return _check(name, False, f"no summary of the last {_span(allowed)}: {lost}")
    return _check(name, True, f"newest summary is of {newest:%Y-%m-%d %H:%M}, read by {', '.join(readers)}")


async def _watermarks(process: Process) -> list[dict[str, Any]]:
    return [await _watermark(rule, process.world) for rule in process.swept]


async def _watermark(rule: Rule, world: World) -> dict[str, Any]:
    """Say how far a rule has looked, and whether that is as far as its timer should have brought it."""
    name = f"rule {rule.id}"
    record = await gathering.answered(world.store.get(f"watermark:{rule.id}"))
    if isinstance(record, Unknown):
        return _check(name, None, record.why)
    if record is None:
        return _check(name, False, "has not run yet")
    try:
        until = datetime.fromisoformat(record.body["until"])
        age = world.now() - until
    except (KeyError, TypeError, ValueError) as error:
        return _check(name, None, f"its watermark is unreadable ({type(error).__name__})")
    if age < -_CLOCKS_DIFFER:
        return _check(
            name,
            False,
            f"looked until {until.isoformat()}, which is yet to come: until then it sees what is new, and nothing is caught up",
        )
    detail = f"looked until {until.isoformat()}, {_span(max(age, timedelta(0)))} ago"
    if age > _BEHIND[rule.sweep]:
        return _check(name, False, f"{detail}; its timer ({rule.sweep}) should have brought it further")
    return _check(name, True, detail)


def _span(span: timedelta) -> str:
    """Say a duration in its largest unit."""
    minutes = int(span.total_seconds()) // 60
    for size, unit in ((24 * 60, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{minutes} minutes"
