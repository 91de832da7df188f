"""What a told story left in the workspace, as rows; and the platform's part of a log alert: cut by window, then ask."""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from clients.telemetry import azure
from response import turns
from simtenant.observed import observed, tell
from workbench.engine import LogEngine

ROOT = Path(__file__).resolve().parents[2]
ALERTS = yaml.safe_load((ROOT / "infra" / "monitoring" / "alerts.yaml").read_text())
TABLES = ("AgentbreakerAudit_CL", "AppMetrics", "AppDependencies", "AppTraces")
_UNITS = {"M": "minutes", "H": "hours", "D": "days"}


def story():
    """Tell the story; give (rows by table, when it ended). Also calls that are refused, and the kill switch, at its end."""

    async def told():
        with tempfile.TemporaryDirectory() as directory:
            async with observed(Path(directory)) as seen:
                await tell(seen)
                calm = rows(seen)
                for _ in range(5):
                    await seen.call(
                        "killswitch", roles=("Containment.Read",), stopped=True, reason="no right to"
                    )
                await seen.call("killswitch", stopped=True, reason="an exercise")
                await seen.ship()
                return calm, rows(seen), seen.now

    def rows(seen):
        return {table: seen.engine.query(table, now=seen.now).records() for table in TABLES}

    with pytest.MonkeyPatch.context() as patched:
        for name, value in azure.ENVIRONMENT.items():
            patched.setenv(name, value)
        patched.setattr(turns, "INTERVAL", timedelta(milliseconds=100))  # not what these tests are about
        return asyncio.run(told())


def duration(text):
    """PT5M, PT4H, P1D: what the alerts use."""
    return timedelta(**{_UNITS[text[-1]]: int(text.removeprefix("PT").removeprefix("P")[:-1])})


def ask(query, rows, now, window=None):
    """Run a query on rows, of the window only where there is one."""
    engine = LogEngine()
    try:
        for table, each in rows.items():
            if table not in query:
                continue
            kept = [row for row in each if window is None or now - window < row["TimeGenerated"] <= now]
            if kept:
                engine.insert(table, [{k: v for k, v in row.items() if v is not None} for row in kept])
        return engine.query(query, now=now).records()
    finally:
        engine.close()


def fires(name, rows, now):
    """Whether the alert fires, and the rows it shows."""
    (alert,) = [alert for alert in ALERTS if alert["name"] == name]
    found = ask(alert["query"], rows, now, duration(alert["window"]))
    return found if len(found) > alert["threshold"] else []
