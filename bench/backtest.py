"""
How long a back-test takes: 14 days of a benign population, replayed over its last two days.

The population is the simulated tenant's, with as many copies as make at least half a million rows; its history is
exported as a customer would export it (one file a table, ``_IngestedAt`` among the columns) and the command itself runs
over it, in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from bench.place import ROOT
from simtenant.history import DAYS, write_history
from simtenant.population import build_population
from simtenant.tenant import PrincipalKind, Tenant, TenantSettings
from workbench.engine import LogEngine

if TYPE_CHECKING:
    from pathlib import Path

    from bench.figures import Json
    from simtenant.population import Population

TARGET_SECONDS: Final = 300.0
LEAST_ROWS: Final = 500_000
UNTIL: Final = datetime(
    2026, 11, 24, 15, tzinfo=UTC
)  # a Tuesday; history is drawn from a seed, so any would do
_REPLAYED: Final = timedelta(days=2)
_MOST_COPIES: Final = 12


async def measure(directory: Path, *, least_rows: int = LEAST_ROWS, replayed: timedelta = _REPLAYED) -> Json:
    """Export the history and replay its last days once. Gives seconds, peak memory, findings and who was contained."""
    logs = directory / "logs"
    logs.mkdir()
    rows, population = await asyncio.to_thread(export, logs, least_rows)
    tenant = directory / "tenant.json"
    tenant.write_text(json.dumps(_described(population)))
    inventory = directory / "inventory.json"
    inventory.write_text(json.dumps([dict(row) for row in population.watchlist]))
    out = directory / "findings.json"
    command = (
        *(sys.executable, "-m", "workbench", "backtest", "--logs", str(logs), "--tenant", str(tenant)),
        *("--inventory", str(inventory)),
        *("--from", (UNTIL - replayed).isoformat(), "--to", UNTIL.isoformat(), "--step", "5m"),
        *("--json", str(out), "--html", str(directory / "report.html")),
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=sys.stderr)
    code = await process.wait()
    seconds = time.monotonic() - began
    if not out.is_file():
        raise RuntimeError(f"the back-test ended with {code} and wrote nothing")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # What other work on the machine takes away is in the seconds and not in these.
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    findings = json.loads(out.read_text())
    benign = {member.principal.object_id for member in population.benign}
    flagged = {finding["principalId"] for finding in findings}
    contained = {f["principalId"] for f in findings if f["verdict"] == "contain"} & benign
    return {
        "unit": "s",
        "runs": 1,
        "target": {"seconds": TARGET_SECONDS, "benignContained": 0},
        "seconds": round(seconds, 1),
        "ratioToTarget": round(seconds / TARGET_SECONDS, 3),
        "cpuSeconds": round(worked, 1),
        "rows": rows,
        "days": DAYS,
        "principals": len(benign) + 1,
        # ru_maxrss of children is the largest of all children so far: only a new maximum is surely this one's.
        "peakMegabytes": round(after.ru_maxrss / 1024) if after.ru_maxrss > before.ru_maxrss else None,
        "findings": len(findings),
        "findingsByRule": dict(sorted(Counter(finding["detection"] for finding in findings).items())),
        "benignFlagged": len(flagged & benign),
        "benignContained": len(contained),
        "exitCode": code,
        "ok": code == 0 and seconds <= TARGET_SECONDS and not contained,
    }


def export(folder: Path, least_rows: int) -> tuple[int, Population]:
    """Write a history of at least so many rows as Parquet, one file a table; give the rows and who made them."""
    for scale in range(1, _MOST_COPIES + 1):
        tenant = Tenant(TenantSettings(seed=1))
        population = build_population(tenant, scale=scale)
        engine = LogEngine()
        try:
            history = write_history(tenant, population, engine, until=UNTIL)
            rows = sum(history.rows.values())
            if rows < least_rows and scale < _MOST_COPIES:
                continue
            with engine.writing() as connection:
                for table in history.rows:
                    connection.execute(f"COPY raw.\"{table}\" TO '{folder / table}.parquet'")
            return rows, population
        finally:
            engine.close()
    raise AssertionError("the last scale returns")


def _described(population: Population) -> Json:
    """Say of the principals what a customer's tenant.json would."""
    home = "aaaaaaaa-0000-4000-8000-000000000001"
    return {
        "tenantId": home,
        "principals": [
            {
                "objectId": member.principal.object_id,
                "appId": member.principal.app_id,
                "name": member.name,
                "kind": str(member.principal.kind),
                "ownerTenant": member.principal.app_owner_organization_id
                if member.principal.kind is PrincipalKind.MULTITENANT_APPLICATION
                else home,
                "declaredResources": sorted({str(activity.api) for activity in member.profile.activities}),
                "grantedRoles": sorted(member.principal.app_roles),
                "protected": False,
                "enabled": True,
            }
            for member in population
        ],
    }
