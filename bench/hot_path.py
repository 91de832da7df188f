"""
From the incident handler's entry until the confirmation arrives at Graph: our own time, and the Graph calls.

Own time is wall-clock time minus the time in which the simulated services were working on at least one of
the incident's requests. Serialising, sockets and waiting for the other process count as ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.app import AppProcess
from bench.figures import Json, Span, against, covered, spread
from bench.place import WIDE, Agents, environment, open_estate
from simtenant.risk import RiskLevel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from simtenant.faults import SeenRequest

P50_MS: Final = 100.0
P95_MS: Final = 250.0
MOST_GRAPH_CALLS: Final = 4
MOST_PACED_BEFORE: Final = 1
_WARM_UP: Final = 3
_STEPS_BEFORE: Final = ("read", "evidence", "open", "pull")


@dataclass(frozen=True, slots=True)
class Run:
    """One incident: when its handler was entered, its steps, what the tenant saw, when the confirmation arrived."""

    began: float
    steps: Sequence[tuple[str, Span]]
    requests: Sequence[SeenRequest]
    confirm: SeenRequest

    @classmethod
    def of(cls, answer: Json, requests: Iterable[SeenRequest]) -> Run:
        """Read what the app and the tenant say. Raises: RuntimeError when nothing was confirmed."""
        seen = sorted(requests, key=lambda one: one.at)
        confirms = [one for one in seen if one.path.endswith("/confirmCompromised") and one.status == 204]
        if answer["status"] != 200 or len(confirms) != 1:
            raise RuntimeError(f"expected one accepted confirmation, found {len(confirms)}: {answer}")
        steps = [(step, Span(began, ended)) for step, began, ended in answer["steps"]]
        return cls(answer["began"], steps, seen, confirms[0])

    @property
    def sent(self) -> float:
        """When the confirmation arrived at the tenant."""
        return _worked_on(self.confirm).began

    @property
    def before(self) -> Sequence[SeenRequest]:
        """The requests that had begun when the confirmation arrived, without it."""
        return [one for one in self.requests if one is not self.confirm and _worked_on(one).began < self.sent]

    @property
    def wall(self) -> Span:
        """Handler entry until the confirmation arrived."""
        return Span(self.began, self.sent)

    def own(self, within: Span) -> float:
        """Seconds of a stretch in which no simulated service worked for us."""
        return within.seconds - covered(map(_worked_on, self.requests), within)

    def own_by_step(self) -> Mapping[str, float]:
        """Own seconds of each step up to the confirmation; ``record`` and ``tell`` come after it."""
        found = dict.fromkeys((*_STEPS_BEFORE, "record", "tell"), 0.0)
        for step, span in self.steps:
            if step == "tell":
                found["tell"] += self.own(span)
                continue
            found[step] += self.own(span.clipped(self.wall))
            if step == "pull":
                found["record"] += self.own(Span(self.sent, span.ended))
        found["rest"] = self.own(self.wall) - sum(found[step] for step in _STEPS_BEFORE)
        return found

    def graph_calls(self) -> list[str]:
        """Graph calls until the confirmation was accepted, in order, ids replaced by names."""
        return [
            f"{one.method} {one.template}"
            for one in (*self.before, self.confirm)
            if one.path.startswith(("/v1.0/", "/beta/"))
        ]


def _worked_on(seen: SeenRequest) -> Span:
    ended = seen.at.timestamp()
    return Span(ended - seen.seconds, ended)


def _is_paced(call: str) -> bool:
    """Tell whether a call counts against the tenant's ID Protection and Conditional Access second."""
    return "/identityProtection/" in call or "/conditionalAccess/" in call


async def measure(incidents: int, directory: Path) -> tuple[Json, Json]:
    """Handle incidents one after another in a warm process. Gives the items ``hotPath`` and ``graphCalls``."""
    async with open_estate(directory, identity_protection_per_second=WIDE) as estate:
        agents, requests = Agents(estate), estate.tenant.requests

        async with AppProcess(directory, environment(estate, directory / "state"), paced=False) as app:

            async def one(*, stale: bool, confidence: str = "high") -> Run:
                principal = agents.new()
                if confidence != "high":  # Microsoft's own detection is the second sign that it needs
                    estate.tenant.risk.detect(principal.object_id, RiskLevel.MEDIUM, "suspiciousSignIns")
                incident = agents.incident(principal, confidence=confidence)
                await app.ask("policies", stale=stale)
                requests.clear()
                answer = await app.ask("incident", body=incident.playbook_body())
                return Run.of(answer, requests)

            for _ in range(_WARM_UP):
                await one(stale=True)
            warm = [await one(stale=False) for _ in range(incidents)]
            cold = [await one(stale=True) for _ in range(incidents)]
            second_sign = {
                "corroboratedWarm": [await one(stale=False, confidence="medium")],
                "corroboratedCold": [await one(stale=True, confidence="medium")],
            }
            instances = await app.ask("instances")
    return _times(warm, cold), _calls({"warm": warm, "cold": cold}, second_sign, instances)


def _times(warm: Sequence[Run], cold: Sequence[Run]) -> Json:
    item: Json = {
        "unit": "ms",
        "runs": len(warm),
        "target": {"own": {"p50": P50_MS, "p95": P95_MS}},
        "policiesFresh": _case(warm),
        "policiesStale": _case(cold),
    }
    item["ok"] = item["policiesFresh"]["own"]["ok"] and item["policiesStale"]["own"]["ok"]
    return item


def _case(runs: Sequence[Run]) -> Json:
    steps = [run.own_by_step() for run in runs]
    return {
        "own": against([1000 * run.own(run.wall) for run in runs], p50=P50_MS, p95=P95_MS, digits=1),
        "wall": spread([1000 * run.wall.seconds for run in runs], digits=1),
        "services": spread([1000 * (run.wall.seconds - run.own(run.wall)) for run in runs], digits=1),
        "ownByStep": {step: spread([1000 * one[step] for one in steps], digits=1) for step in steps[0]},
    }


def _calls(
    hot: Mapping[str, Sequence[Run]], beside: Mapping[str, Sequence[Run]], instances: Mapping[str, int]
) -> Json:
    item: Json = {
        "unit": "calls",
        "runs": sum(map(len, hot.values())),
        "target": {"calls": MOST_GRAPH_CALLS, "pacedBeforeConfirm": MOST_PACED_BEFORE, "clientsOfAKind": 1},
        **{name: _counted(runs) for name, runs in hot.items()},
        "notOnTheHotPath": {name: _counted(runs) for name, runs in beside.items()},
        "clientInstances": dict(instances),
    }
    one_each = all(count == 1 for count in instances.values())
    item["ok"] = one_each and all(item[name]["ok"] for name in hot)
    return item


def _counted(runs: Sequence[Run]) -> Json:
    """Give the most calls of any run, and the calls of the run that made them."""
    most = max((run.graph_calls() for run in runs), key=len)
    paced = max(sum(map(_is_paced, run.graph_calls()[:-1])) for run in runs)
    return {
        "calls": len(most),
        "pacedBeforeConfirm": paced,
        "ok": len(most) <= MOST_GRAPH_CALLS and paced <= MOST_PACED_BEFORE,
        "which": most,
    }
