"""``GET /api/health`` lives in function_app.py; here: is the app ready, and what is missing if not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.stores import StoreError
from clients.terms import Unknown
from handlers.auth import Role, caller, require
from handlers.http import Request, Response
from response import gathering, ledger
from response.levers import LEVERS, READ_PERMISSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detections.catalog import Rule
    from handlers.process import Process
    from response.world import World

_RECENT: Final = timedelta(days=1)


async def readiness(request: Request, process: Process) -> Response:
    """``GET /api/readiness``: every precondition, each true, false or null (not known) with the reason."""
    require(caller(request, process.settings), Role.READ)
    checks = [
        await _permissions(process.world),
        await _policies(process.world),
        await _kill_switch(process.world),
        await _ledger(process.world),
        _protected(process),
        *await _tables(process),
        *await _watermarks(process),
    ]
    ready = all(check["ok"] is True for check in checks)
    return Response(200, {"ready": ready, "mode": process.world.policy.mode, "checks": checks})


def _check(name: str, ok: bool | None, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


async def _permissions(world: World) -> dict[str, Any]:
    claims = await gathering.answered(world.graph.own_claims())
    if isinstance(claims, Unknown):
        return _check("graph permissions", None, claims.why)
    needed = {*READ_PERMISSIONS, *(lever.permission for lever in LEVERS.values())}
    missing = sorted(needed - claims[1])
    return _check(
        "graph permissions", not missing, f"missing: {', '.join(missing)}" if missing else "all granted"
    )


async def _policies(world: World) -> dict[str, Any]:
    policies = await gathering.answered(gathering.current_policies(world))
    if isinstance(policies, Unknown):
        return _check("armed policies", None, policies.why)
    armed = [p for p in policies if p.state == "enabled" and p.blocks and "high" in p.risk_levels]
    reporting = [
        p for p in policies if p.state == "enabledForReportingButNotEnforced" and "high" in p.risk_levels
    ]
    detail = f"{len(armed)} enabled, {len(reporting)} only reporting"
    if not armed:
        detail += ". No policy blocks on high service principal risk: confirming would block nothing"
    return _check("armed policies", bool(armed), detail)


async def _kill_switch(world: World) -> dict[str, Any]:
    stopped = await gathering.answered(gathering.kill_switch_stopped(world.store))
    if isinstance(stopped, Unknown):
        return _check("kill switch", None, stopped.why)
    return _check(
        "kill switch", not stopped, "stopped: no lever is pulled" if stopped else "levers may be pulled"
    )


async def _ledger(world: World) -> dict[str, Any]:
    try:
        result = await ledger.verify(world.store)
    except StoreError as error:
        return _check("ledger", None, str(error))
    if isinstance(result, ledger.Broken):
        return _check("ledger", False, f"broken at entry {result.number}: {result.why}")
    return _check("ledger", True, f"{result.entries} entries, chain intact")


def _protected(process: Process) -> dict[str, Any]:
    listed = process.world.policy.protected
    if listed is None:
        return _check(
            "protected list", False, "AGENTBREAKER_PROTECTED_PRINCIPALS is empty: nothing is contained"
        )
    return _check("protected list", True, f"{len(listed)} principals")


async def _tables(process: Process) -> list[dict[str, Any]]:
    """
    Ask whether each rule can see what it needs, one query a table.

    Tables a rule cannot do without must have had rows in the last day. Of tables that stand in for one another
    it is enough that one can be queried: some are empty for as long as all is well.
    """
    rules = process.rules
    tables = sorted({table for rule in rules for table in (*rule.required_tables, *rule.any_of_tables)})
    rows = dict(
        zip(tables, await asyncio.gather(*(_rows_in(table, process.world) for table in tables)), strict=True)
    )
    return [_sees(rule, rows) for rule in rules]


async def _rows_in(table: str, world: World) -> bool | Unknown:
    """Whether a table had rows in the last day."""
    now = world.now()
    answer = await gathering.answered(world.logs.query(f"{table}\n| take 1\n| count", now - _RECENT, now))
    return answer if isinstance(answer, Unknown) else bool(answer.rows and answer.rows[0][0])


def _sees(rule: Rule, rows: Mapping[str, bool | Unknown]) -> dict[str, Any]:
    name = f"tables of {rule.id}"
    unread = [(t, answer.why) for t in rule.required_tables if isinstance(answer := rows[t], Unknown)]
    if unread:
        return _check(name, None, "; ".join(f"{table}: {why}" for table, why in unread))
    if empty := [table for table in rule.required_tables if rows[table] is False]:
        return _check(
            name, False, f"no rows of the last day in {', '.join(empty)}. {rule.when_table_missing.strip()}"
        )
    if rule.any_of_tables and all(isinstance(rows[table], Unknown) for table in rule.any_of_tables):
        return _check(name, None, f"none of {', '.join(rule.any_of_tables)} could be queried")
    return _check(name, True, "its tables can be queried and have rows")


async def _watermarks(process: Process) -> list[dict[str, Any]]:
    checks = []
    for rule in process.rules:
        record = await gathering.answered(process.world.store.get(f"watermark:{rule.id}"))
        if isinstance(record, Unknown):
            checks.append(_check(f"rule {rule.id}", None, record.why))
        elif record is None:
            checks.append(_check(f"rule {rule.id}", False, "has not run yet"))
        else:
            checks.append(_check(f"rule {rule.id}", True, f"looked until {record.body['until']}"))
    return checks
