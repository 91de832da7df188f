"""
The story, told as it happens: an agent goes rogue, is detected, confirmed compromised, refused, proven, recorded.

Everything runs for real on this machine: the tenant's services in this process, the app (``function_app.py``)
in the local functions host beside it, the agents as clients of both. Only the tenant is simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from clients.stores import open_store
from detections import catalog
from response import ledger
from simtenant.agents import AgentCrew
from simtenant.app_host import AppHost
from simtenant.estate import Estate
from simtenant.screen import Screen, screen_for
from simtenant.stories import STORIES, Pace, Story
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from detections.catalog import Rule

ROOT: Final = Path(__file__).resolve().parent.parent
_ENDS_WITHIN: Final = 80.0  # seconds after set-up; the whole demo is to end within 90
# The story lasts half a minute: what runs hourly and daily stays out of it.
_SCHEDULES: Final = {
    "SWEEP_FAST_SCHEDULE": "2/5 * * * * *",
    "SWEEP_SCHEDULE": "*/5 * * * * *",
    "SWEEP_BASELINE_SCHEDULE": "0 0 0 1 1 *",
    "SWEEP_DORMANT_SCHEDULE": "0 0 0 1 1 *",
    "SETTLE_SCHEDULE": "*/2 * * * * *",
}
_SENTINEL_AFTER: Final = 8.0  # seconds into the story
_FINAL: Final = {"enforce": "proven", "observe": "proposed"}


class AppFailedError(RuntimeError):
    """The app answered a call of the demo with an error."""

    def __init__(self, method: str, path: str, answer: dict[str, Any], log: list[str]) -> None:
        error = answer.get("error", {})
        said = "\n".join(("The end of its log:", *log)) if log else "Its log is empty."
        super().__init__(
            f"the app answered {method} {path} with {error.get('code')}: {error.get('message')}\n{said}"
        )


@dataclass
class Report:
    """What ``--json`` prints. Durations are seconds; None where the thing never happened."""

    scenario: str
    mode: str
    principalId: str  # noqa: N815  # names of the published JSON
    detections: list[str] = field(default_factory=list)
    timeline: list[dict[str, str]] = field(default_factory=list)
    secondsRowVisibleToConfirmed: float | None = None  # noqa: N815
    secondsConfirmedToDenied: float | None = None  # noqa: N815
    outcome: str = "undecided"
    benignContained: int = 0  # noqa: N815
    confirmCalls: int = 0  # noqa: N815
    graphCalls: int = 0  # noqa: N815
    ledgerEntries: int = 0  # noqa: N815
    ledgerVerified: bool = False  # noqa: N815

    @property
    def good(self) -> bool:
        """Whether the demo showed what it promises."""
        wanted = "proven" if self.mode == "enforce" else "observed"
        untouched = self.mode == "enforce" or self.confirmCalls == 0
        return self.outcome == wanted and self.benignContained == 0 and self.ledgerVerified and untouched


class Demo:
    """One telling of one story."""

    def __init__(self, story: Story, mode: str, screen: Screen) -> None:
        self._story, self._mode, self._screen = story, mode, screen
        self._blocked_at: datetime | None = None
        self._told: set[str] = set()

    async def run(self, directory: Path) -> Report:
        """Tell the story; ends by itself. Raises: RuntimeError when the app does not start."""
        settings = TenantSettings(
            log_ingestion_delay=timedelta(seconds=2), risk_takes_effect_after=timedelta(seconds=2)
        )
        self._say("tenant", "building a tenant with 14 days of history")
        async with Estate(directory, settings=settings) as estate:
            self._estate = estate
            rogue = estate.population.rogue
            self._report = Report(self._story.name, self._mode, rogue.principal.object_id)
            rows = sum(estate.engine.count(table) for table in estate.engine.tables())
            self._say(
                "tenant",
                f"{len(estate.population.benign) + 1} principals, {rows:,} log rows, one enabled block policy",
            )
            self._story.prepare(estate.population)
            environment = estate.app_environment(mode=self._mode, **_SCHEDULES)
            async with AppHost(ROOT, directory, environment) as app, aiohttp.ClientSession() as http:
                self._say(
                    "app",
                    f"function_app.py is running in the local host on {app.base_url}, mode {self._mode}",
                )
                self._app, self._http = app, http
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ENDS_WITHIN):
                        await self._story_and_watch(rogue.name)
                await self._close()
        return self._report

    async def _story_and_watch(self, rogue: str) -> None:
        estate = self._estate
        crew = AgentCrew(
            estate.population,
            tenant=estate.tenant,
            base_url=estate.server.base_url,
            on_event=self._heard,
            compression=60,
        )
        async with crew:
            await asyncio.sleep(3)
            self._began = estate.tenant.clock.now()
            playing = asyncio.create_task(
                self._story.play(crew.agents[rogue], pace=Pace(patience=_ENDS_WITHIN))
            )
            sentinel = asyncio.create_task(self._sentinel_rule())
            watching = asyncio.create_task(self._watch())
            try:
                done, _ = await asyncio.wait({watching, sentinel}, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                for task in (playing, sentinel, watching):
                    task.cancel()
                await asyncio.gather(playing, sentinel, watching, return_exceptions=True)

    # --- what happens ----------------------------------------------------------------------------

    def _heard(self, at: datetime, principal: str, what: str, detail: str) -> None:
        """Take an event of an agent; only the rogue's are told, and of repeated ones only the first."""
        if principal != self._story.rogue:
            return
        if what == "blocked" and self._blocked_at is None:
            self._blocked_at = at
        if what in ("rogue", "blocked", "challenged", "gave up"):
            self._once(f"agent {what}", f"{principal}: {detail}")

    async def _sentinel_rule(self) -> None:
        """
        Play Sentinel: run the same rule over the workspace, raise an incident, let a playbook hand it over.

        In a real tenant that takes minutes longer than the app's own sweep, and so it comes later here as well:
        the incident joins what is open, and gets its comment.
        """
        await asyncio.sleep(_SENTINEL_AFTER)
        estate = self._estate
        rules = [rule for rule in catalog.load() if rule.id in self._story.rules]
        while True:
            await asyncio.sleep(2)
            for rule in rules:
                row = await asyncio.to_thread(self._result_of, rule)
                if row is None:
                    continue
                incident = estate.sentinel.raise_incident(
                    rule.name,
                    principals=[estate.population.rogue.principal],
                    rule_id=str(rule.sentinel_id),
                    custom_details={
                        "ServicePrincipalId": [row["PrincipalId"]],
                        "AppId": [row["AppId"]],
                        "DetectionId": [rule.id],
                        "Confidence": [row["Confidence"]],
                    },
                )
                self._once(
                    "incident", f"Sentinel raised incident {incident.number}; a playbook hands it to the app"
                )
                answer = await self._call("POST", "/api/incidents", incident.playbook_body())
                results = answer.get("results", [])
                state = results[0]["state"] if results else answer
                self._once(
                    "playbook", f"answered for the same principal: {state}; one containment, no second lever"
                )
                self._incident = incident
                return

    def _result_of(self, rule: Rule) -> dict[str, Any] | None:
        """Run a rule over the workspace as it is visible now; give its row about the rogue."""
        now = self._estate.tenant.clock.now()
        found = self._estate.engine.query(rule.query, now=now, visible_at=now)
        names = [name for name, _ in found.columns]
        rows = [dict(zip(names, row, strict=True)) for row in found.rows]
        return next((row for row in rows if row["PrincipalId"] == self._report.principalId), None)

    async def _watch(self) -> None:
        """Ask the app, as an analyst would, until the story is over."""
        wanted = _FINAL[self._mode]
        while True:
            await asyncio.sleep(0.4)
            listed = await self._call("GET", "/api/containments")
            for containment in listed.get("value", []):
                self._tell_state(containment)
            ours = [c for c in listed.get("value", []) if c["principalId"] == self._report.principalId]
            over = any(c["state"] == wanted for c in ours) and self._comment_says(wanted)
            if over:
                return

    def _comment_says(self, wanted: str) -> bool:
        """Whether the incident's comment has caught up with the state."""
        for incident in self._estate.sentinel.incidents.values():
            for comment in incident.comments.values():
                if f"State: {wanted}." in comment.message:
                    self._once("comment", f"incident {incident.number} carries one comment, state {wanted}")
                    return True
        return False

    def _tell_state(self, c: dict[str, Any]) -> None:
        name = f"{c['principalName']}"
        for found in c["findings"]:
            if found["ruleId"]:
                self._once(
                    f"detected {found['ruleId']}",
                    f"{name}: {found['reason']}",
                    key=f"{c['id']} {found['ruleId']}",
                )
        details = {
            "proposed": "observe: decided and recorded, nothing touched",
            "pulled": "confirmCompromised accepted by Graph; that is no block yet",
            "confirmed": "risk reads high; the policy covers it",
            "proven": "a refused sign-in was found in the log: the block bites",
        }
        # On a busy machine a state may come and go between two looks; what it left behind is told then.
        passed = [state for state in ("pulled", "confirmed") if c[f"{state}At"]]
        for state in dict.fromkeys((*passed, c["state"])):
            self._once(
                state,
                f"{name}: {details.get(state, '; '.join(c['reasons']))}",
                key=f"{c['id']} {state}",
            )

    # --- the end ---------------------------------------------------------------------------------

    async def _close(self) -> None:
        report, estate = self._report, self._estate
        listed = (await self._call("GET", "/api/containments")).get("value", [])
        ours = [c for c in listed if c["principalId"] == report.principalId]
        report.benignContained = sum(
            1
            for c in listed
            if c["principalId"] != report.principalId and (c["pulledAt"] or c["state"] == "proposed")
        )
        report.detections = sorted({f["ruleId"] for c in ours for f in c["findings"] if f["ruleId"]})
        states = [c["state"] for c in ours]
        report.outcome = (
            "observed"
            if self._mode == "observe" and states == ["proposed"]
            else (states or ["undetected"])[0]
        )
        confirms = [r for r in estate.tenant.requests if r.path.endswith("/confirmCompromised")]
        report.confirmCalls = len(confirms)
        report.graphCalls = sum(
            1
            for r in estate.tenant.requests
            if r.app_id == estate.app.app_id and "/v1.0/" in r.path and "workspaces" not in r.path
        )
        confirmed = next((r.at for r in confirms if r.status == 204), None)
        visible = self._first_row_visible()
        if confirmed and visible:
            report.secondsRowVisibleToConfirmed = round((confirmed - visible).total_seconds(), 2)
        if confirmed and self._blocked_at:
            report.secondsConfirmedToDenied = round((self._blocked_at - confirmed).total_seconds(), 2)
        store = open_store(
            f"sqlite:///{estate.directory / 'agentbreaker.db'}", estate.tenant.settings.tenant_id
        )
        try:
            checked = await ledger.verify(store)
        finally:
            await store.close()
        report.ledgerVerified = isinstance(checked, ledger.Verified)
        report.ledgerEntries = checked.entries if isinstance(checked, ledger.Verified) else 0
        self._say(
            "ledger",
            f"{report.ledgerEntries} entries, chain {'intact' if report.ledgerVerified else 'BROKEN'}",
        )

    def _first_row_visible(self) -> datetime | None:
        """When the first row of what the rogue did could be seen in the workspace."""
        table = "AZKVAuditLogs" if self._story.name == "vault" else "MicrosoftGraphActivityLogs"
        column = (
            "json_extract_string(Identity, '$.claim.oid')"
            if self._story.name == "vault"
            else "ServicePrincipalId"
        )
        with self._estate.engine.writing() as connection:
            found = connection.execute(
                f'SELECT min(_IngestedAt) FROM raw."{table}" WHERE {column} = ? AND TimeGenerated >= ?',  # noqa: S608  # our own names
                [self._report.principalId, self._began.replace(tzinfo=None)],
            ).fetchone()
        first = found[0] if found else None
        return None if first is None else first.replace(tzinfo=self._began.tzinfo)

    # --- saying ----------------------------------------------------------------------------------

    def _once(self, event: str, detail: str, *, key: str = "") -> None:
        if (key or event) not in self._told:
            self._told.add(key or event)
            self._say(event, detail)

    def _say(self, event: str, detail: str) -> None:
        at = self._estate.tenant.clock.now() if hasattr(self, "_estate") else datetime.now().astimezone()
        if hasattr(self, "_report"):
            self._report.timeline.append({"at": at.isoformat(), "event": event, "detail": detail})
        self._screen.line(at, event, detail)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        name = "playbook" if path == "/api/incidents" else "analyst"
        headers = {"x-functions-key": self._app.keys[name]}
        async with self._http.request(
            method, f"{self._app.base_url}{path}", json=body, headers=headers
        ) as answer:
            found: dict[str, Any] = await answer.json()
            if answer.status >= 400:
                raise AppFailedError(method, path, found, self._app.last_lines())
            return found


async def _told(scenario: str, mode: str, *, as_json: bool) -> int:
    with (
        screen_for(as_json=as_json) as screen,
        tempfile.TemporaryDirectory(prefix="agentbreaker-demo-") as directory,
    ):
        demo = Demo(STORIES[scenario], mode, screen)
        try:
            report = await demo.run(Path(directory))
        except (RuntimeError, OSError) as error:
            screen.end(good=False, summary=[str(error)])
            return 1
        screen.end(report.good, _summary(report))
    if as_json:
        json.dump(asdict(report), sys.stdout, indent=2)
        print()
    return 0 if report.good else 1


def _summary(report: Report) -> list[str]:
    if report.good and report.mode == "enforce":
        return [
            (
                f"Proven: the rogue agent was refused {report.secondsConfirmedToDenied} s after it was confirmed, "
                f"{report.secondsRowVisibleToConfirmed} s after its first log row could be seen."
            ),
            (
                f"{report.confirmCalls} confirm call, {report.graphCalls} Graph calls in all, no benign agent touched, "
                f"{report.ledgerEntries} ledger entries verified."
            ),
        ]
    if report.good:
        return ["Observed: the rogue agent was detected and recorded, nothing was touched."]
    return [
        f"NOT as it should be: outcome {report.outcome}, {report.benignContained} benign agents contained."
    ]


def main(scenario: str, mode: str, *, as_json: bool) -> int:
    """Tell a story; 0 only if the rogue agent was blocked and proven (observe: seen) and no benign one touched."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return asyncio.run(_told(scenario, mode, as_json=as_json))
