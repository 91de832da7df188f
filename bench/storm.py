"""Many orders at once: how many confirmations they share, and when the last principal is confirmed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bench.app import AppProcess
from bench.figures import Json, spread
from bench.place import Agents, environment, open_estate

if TYPE_CHECKING:
    from pathlib import Path

# The same number that tests/handlers/test_analyst.py asserts.
MOST_CONFIRM_CALLS: Final = 5
_SECOND_OVER: Final = 1.1
_PACE: Final = 1.05  # seconds between ID Protection calls, response/turns.py


async def measure(runs: int, orders: int, directory: Path) -> Json:
    """Give ``orders`` orders at once about as many principals, with the tenant's second as it is."""
    calls: list[float] = []
    seconds: list[float] = []
    answered: list[float] = []
    refused = 0
    async with open_estate(directory, identity_protection_per_second=1.0) as estate:
        agents, requests = Agents(estate), estate.tenant.requests
        async with AppProcess(directory, environment(estate, directory / "state"), paced=True) as app:
            for run in range(runs + 1):
                principals = [agents.new().object_id for _ in range(orders if run else 1)]
                await app.ask("policies", stale=False)
                await asyncio.sleep(_SECOND_OVER)
                requests.clear()
                answer = await app.ask("orders", principals=principals)
                if answer["states"] != {"200 pulled": len(principals)}:
                    raise RuntimeError(f"not every order was carried out: {answer['states']}")
                if not run:
                    continue  # the first opens connections
                confirms = [seen for seen in requests if seen.path.endswith("/confirmCompromised")]
                accepted = [seen for seen in confirms if seen.status == 204]
                calls.append(len(confirms))
                refused += len(confirms) - len(accepted)
                seconds.append(max(seen.at.timestamp() for seen in accepted) - answer["began"])
                answered.append(answer["ended"] - answer["began"])
    one_by_one = orders * _PACE
    found = spread(calls, digits=0)
    return {
        "unit": "confirm calls; s",
        "runs": runs,
        "orders": orders,
        "target": {"confirmCalls": {"max": MOST_CONFIRM_CALLS}, "secondsToLastAccepted": None},
        "confirmCalls": found,
        "confirmCallsRefused": refused,
        "secondsToLastAccepted": spread(seconds),
        "secondsToLastAnswer": spread(answered),
        "ratioToOneCallAnOrder": {
            "confirmCalls": round(found["p50"] / orders, 3),
            "seconds": round(spread(seconds)["p50"] / one_by_one, 3),
        },
        "ok": found["max"] <= MOST_CONFIRM_CALLS,
    }
