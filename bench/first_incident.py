"""How long the first incident takes after a start: a new app process each run, asked as soon as it listens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from bench.figures import Json, against, spread
from bench.place import ROOT, Agents, environment, open_estate
from simtenant.app_host import AppHost

if TYPE_CHECKING:
    from pathlib import Path

    from simtenant.estate import Estate

TARGET_SECONDS: Final = 2.0
# The tenant's ID Protection second, which the process before may have used up.
_SECOND_OVER: Final = 1.1


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds of one run: start until it listens, request until its answer, start until that answer."""

    listens: float
    answered: float
    whole: float


async def measure(runs: int, directory: Path) -> tuple[Json, Json]:
    """
    Start the app twice a run: on an empty store (the first start ever) and again on the store that left.

    On an empty store the policies have to be read first, which takes the tenant's second, so the confirmation
    waits for the next one; the wait is part of the figure. Gives the item, and how long our local host takes
    from start until it listens.
    """
    first: list[Started] = []
    again: list[Started] = []
    async with open_estate(directory, identity_protection_per_second=1.0) as estate:
        agents = Agents(estate)
        for run in range(runs):
            first.append(await _start(estate, agents, directory / f"run-{run}"))
            again.append(await _start(estate, agents, directory / f"run-{run}"))
    item: Json = {
        "unit": "s",
        "runs": runs,
        "target": {"startToAnswer": {"p50": TARGET_SECONDS}},
        "restart": _shown(again),
        "emptyStore": _shown(first),
    }
    item["ok"] = item["restart"]["startToAnswer"]["ok"] and item["emptyStore"]["startToAnswer"]["ok"]
    return item, spread([one.listens for one in (*first, *again)])


def _shown(started: list[Started]) -> Json:
    return {
        "startToAnswer": against([one.whole for one in started], p50=TARGET_SECONDS),
        "requestToAnswer": spread([one.answered for one in started]),
    }


async def _start(estate: Estate, agents: Agents, directory: Path) -> Started:
    settings = environment(estate, directory)
    incident = agents.incident(agents.new())
    if estate.tenant.throttle.accepted:
        await asyncio.sleep(_SECOND_OVER)
    began = time.perf_counter()
    async with AppHost(ROOT, directory, settings) as app, aiohttp.ClientSession() as http:
        asked = time.perf_counter()
        async with http.post(
            f"{app.base_url}/api/incidents",
            json=incident.playbook_body(),
            headers={"x-functions-key": app.keys["playbook"]},
        ) as response:
            answer = await response.json()
        answered = time.perf_counter()
    states = [result["state"] for result in answer.get("results", ())]
    if states != ["pulled"]:
        raise RuntimeError(f"the first incident was not contained: {answer}")
    return Started(asked - began, answered - asked, answered - began)
