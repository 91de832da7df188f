"""
A storm over several processes: incidents about many principals at once, one store, one quota, another tool in it.

    python -m bench storm [--json] [--undo] [--store azurite] [--quick]

Beside it, in the same run, the naive way: one call a principal, tried again on 429. And the take-over: how long it
takes until others have done what a killed process had under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from bench.app import NOT_FOR_THE_APP, AppProcess
from bench.azurite import azurite
from bench.other_tool import OtherTool
from bench.place import Agents, environment, open_estate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from bench.figures import Json
    from simtenant.faults import SeenRequest
    from simtenant.tenant import Principal

MOST_CALLS: Final = 5
MOST_SECONDS: Final = 8.0
LEAST_RATIO: Final = 15.0
MOST_TAKE_OVER_SECONDS: Final = 15.0
_QUICK_SHARE: Final = 10  # of the principals, one in so many goes the naive way in a quick run
_SECOND_OVER: Final = 1.1
# Seconds, tried in turn: on a busy machine the others come too late to share a batch, or before the one that is to die.
_HEAD_STARTS: Final = (0.15, 0.05, 0.4) * 4
Where = Literal["before", "after"]
_DONE: Final = {False: ("pulled", "confirmed"), True: ("half_open",)}


@dataclass(frozen=True, slots=True)
class Size:
    """How much at once, from how many processes, on which store, pulled or taken back."""

    principals: int = 100
    processes: int = 3
    store: str = "sqlite"
    undo: bool = False
    per_second: float = 1.0
    paced: bool = True


class Place:
    """The tenant, the other tool, and processes of the app on one store; an async context manager."""

    def __init__(self, size: Size, directory: Path) -> None:
        self.size, self._directory = size, directory
        self._stack = AsyncExitStack()
        self.apps: list[AppProcess] = []
        self._environment: dict[str, str] = {}

    @property
    def store(self) -> str:
        """URL of the store that all processes share."""
        return self._environment["AGENTBREAKER_STORE"]

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        self.estate = await enter(
            open_estate(self._directory, identity_protection_per_second=self.size.per_second)
        )
        self.agents, self.requests = Agents(self.estate), self.estate.tenant.requests
        store = {}
        if self.size.store == "azurite":
            store["STORE"] = f"{await enter(azurite(self._directory))}/storm"
        self._environment = environment(self.estate, self._directory / "state", **store)
        try:
            await asyncio.gather(*(self.start() for _ in range(self.size.processes)))
            self.other = await enter(OtherTool(self.estate))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self) -> AppProcess:
        """Start one more process of the app, warm: it has answered an incident."""
        directory = self._directory / f"app-{len(self.apps)}-{time.monotonic_ns()}"
        directory.mkdir()
        app = AppProcess(directory, self._environment, paced=self.size.paced)
        await self._stack.enter_async_context(app)
        self.apps.append(app)
        (became,) = (await app.ask("incidents", bodies=[self._body(self.agents.new())]))["became"]
        if became["state"] not in _DONE[False]:
            raise RuntimeError(f"the first incident was not handled: {became}")
        return app

    def new(self, how_many: int) -> list[Principal]:
        """Register principals that nothing is known about."""
        return [self.agents.new() for _ in range(how_many)]

    def _body(self, principal: Principal) -> dict[str, Any]:
        return dict(self.agents.incident(principal).playbook_body())

    async def quiet(self) -> None:
        """Make the reading of the policies young, let the tenant's second pass, forget the requests so far."""
        await self.apps[0].ask("policies", stale=False)
        await asyncio.sleep(_SECOND_OVER)
        self.requests.clear()
        self.other.counted()

    async def contain(self, principals: Sequence[Principal], apps: Sequence[AppProcess]) -> list[Json]:
        """Raise an incident for each principal and hand them over, all at once, in equal parts."""
        bodies = [self._body(principal) for principal in principals]
        return await asyncio.gather(
            *(app.ask("incidents", bodies=bodies[at :: len(apps)]) for at, app in enumerate(apps))
        )

    async def take_back(self, containments: Sequence[str], apps: Sequence[AppProcess]) -> list[Json]:
        """Undo containments, all at once, in equal parts."""
        return await asyncio.gather(
            *(app.ask("undos", containments=containments[at :: len(apps)]) for at, app in enumerate(apps))
        )

    async def naive(self, principals: Sequence[Principal], apps: Sequence[AppProcess]) -> list[Json]:
        """Let the same processes go the naive way about each principal, all at once."""
        ids = [principal.object_id for principal in principals]
        return await asyncio.gather(
            *(
                app.ask("naive", principals=ids[at :: len(apps)], undo=self.size.undo)
                for at, app in enumerate(apps)
            )
        )

    def calls(self, *, undo: bool) -> list[SeenRequest]:
        """Give the calls that confirm, or dismiss, which the tenant has seen."""
        end = "/dismiss" if undo else "/confirmCompromised"
        return [seen for seen in self.requests if seen.path.endswith(end)]


def lost(principals: Iterable[Principal], calls: Iterable[SeenRequest]) -> list[str]:
    """Give the principals on which no call took effect."""
    changed = {one for seen in calls for one in seen.changed}
    return [principal.object_id for principal in principals if principal.object_id not in changed]


def doubled(calls: Iterable[SeenRequest]) -> list[str]:
    """Give the principals that were named again after a call about them had taken effect, whatever the answer."""
    changed: set[str] = set()
    again: set[str] = set()
    for seen in calls:
        again |= changed & set(seen.named)
        changed |= set(seen.changed)
    return sorted(again)


def accepted_at(calls: Iterable[SeenRequest]) -> float:
    """Give when the last call that took effect was answered (seconds since 1970)."""
    return max((seen.at.timestamp() for seen in calls if seen.changed), default=0.0)


async def storm(place: Place) -> Json:
    """Measure one storm of incidents, or of undos of what was contained before."""
    size = place.size
    principals = place.new(size.principals)
    await place.quiet()
    answers = await place.contain(principals, place.apps)
    if size.undo:
        containments = [became["containmentId"] for answer in answers for became in answer["became"]]
        await place.quiet()
        answers = await place.take_back(containments, place.apps)
    other = place.other.counted()
    calls = place.calls(undo=size.undo)
    became = [one for answer in answers for one in answer["became"]]
    began = min(answer["began"] for answer in answers)
    return {
        "confirmCalls": len(calls),
        "confirmCallsRefused": sum(not seen.changed for seen in calls),
        "principalsACall": [len(seen.named) for seen in calls],
        "secondsOfCalls": [round(seen.at.timestamp() - began, 2) for seen in calls],
        "lastConfirmedSeconds": round(accepted_at(calls) - began, 2),
        "lastAnswerSeconds": round(max(answer["ended"] for answer in answers) - began, 2),
        "states": dict(Counter(str(one["state"]) for one in became)),
        "lost": len(lost(principals, calls)),
        "doublePulled": len(doubled(calls)),
        "otherTool": other,
    }


async def naive(place: Place, how_many: int) -> Json:
    """Measure the naive way with the same processes, quota and other tool."""
    principals = place.new(how_many)
    if place.size.undo:
        await place.contain(principals, place.apps)
    await place.quiet()
    answers = await place.naive(principals, place.apps)
    calls = place.calls(undo=place.size.undo)
    began = min(answer["began"] for answer in answers)
    return {
        "principals": how_many,
        "calls": len(calls),
        "callsRefused": sum(not seen.changed for seen in calls),
        "lastConfirmedSeconds": round(accepted_at(calls) - began, 2),
        "lost": len(lost(principals, calls)),
        "otherTool": place.other.counted(),
    }


async def taken_over(place: Place, where: Where, how_many: int) -> Json:
    """
    Kill the process that holds the turn, before its request goes out or after it took effect.

    It is given its part a little before the others, so that it has the turn first and some of theirs in its batch.
    Seconds run from the kill until the last principal of that batch was confirmed by others, or, where it had
    been, until the last of their callers was answered.
    """
    undo = place.size.undo
    order: Any = place.take_back if undo else place.contain
    for head_start in _HEAD_STARTS:
        dies, *live = place.apps
        principals = place.new(how_many)
        items: Sequence[Any] = principals
        if undo:
            answers = await place.contain(principals, place.apps)
            items = [one["containmentId"] for answer in answers for one in answer["became"]]
        await dies.ask("hold", where=where, undo=undo)
        await place.quiet()
        holding = asyncio.create_task(order(items[: how_many // 2], [dies]))
        await asyncio.sleep(head_start)
        others = asyncio.create_task(order(items[how_many // 2 :], live))
        (held,) = await holding
        killed = time.time()
        await dies.kill()
        place.apps.remove(dies)
        mine = held.get("principals", ())
        if len(mine) > how_many // 2:
            break
        await others  # nobody else was in its batch, or it never had the turn
        await settled_by(live[0])
        await place.start()
    else:
        raise RuntimeError("the process that was to die never had a batch with others in it")
    answers = await others
    answered = max(answer["ended"] for answer in answers)
    settled = await settled_by(live[0])
    calls = place.calls(undo=undo)
    held_ids = set(held["principals"])
    resent = next(
        (seen.at for seen in calls if seen.at.timestamp() > killed and held_ids & set(seen.named)), None
    )
    looks = [
        seen
        for seen in own_looks(place)
        if seen.at.timestamp() > killed and (resent is None or seen.at <= resent)
    ]
    after = [seen for seen in calls if seen.at.timestamp() > killed and held_ids & set(seen.changed)]
    return {
        "where": where,
        "inTheBatch": len(held_ids),
        "sentAgain": resent is not None,
        "looksBefore": len(looks),
        "confirmedByOthersSeconds": round(accepted_at(after) - killed, 2) if after else None,
        "answeredSeconds": round(answered - killed, 2),
        "settles": settled,
        "lost": len(lost(principals, calls)),
        "doublePulled": len(doubled(calls)),
    }


def own_looks(place: Place) -> list[SeenRequest]:
    """Give the readings of risk that were the app's own, not the other tool's."""
    return [
        seen
        for seen in place.requests
        if seen.method == "GET"
        and "/riskyServicePrincipals" in seen.path
        and seen.app_id == place.estate.app.app_id
        and seen.status == 200
    ]


async def settled_by(app: AppProcess) -> int:
    """Let the timer's ``settle`` run until nothing is claimed or being taken back; give how often it had to."""
    for times in range(10):
        waiting = (await app.ask("waiting"))["waiting"]
        if not waiting:
            return times
        await app.ask("settle")
    raise RuntimeError("something still waits after ten settles")


# --- the command --------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Measure one storm and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench storm", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout (it always is)")
    parser.add_argument("--undo", action="store_true", help="undo instead of confirming")
    parser.add_argument("--store", choices=("sqlite", "azurite"), default="sqlite", help="(sqlite)")
    parser.add_argument("--principals", type=int, default=100, help="(100)")
    parser.add_argument("--processes", type=int, default=3, help="(3)")
    parser.add_argument("--runs", type=int, default=1, help="of the storm; the naive way runs once (1)")
    parser.add_argument("--no-take-over", action="store_true", help="leave the killed process out")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the principals the naive way; no ratio then"
    )
    chosen = parser.parse_args(arguments)
    size = Size(chosen.principals, chosen.processes, chosen.store, chosen.undo)
    print(
        json.dumps(asyncio.run(measure(size, chosen.runs, chosen.quick, not chosen.no_take_over)), indent=2)
    )
    return 0


async def measure(size: Size, runs: int, quick: bool, take_over: bool) -> Json:
    """Measure the storm ``runs`` times, the naive way once, and the take-over at both places."""
    for name in NOT_FOR_THE_APP:
        os.environ.pop(name, None)
    load = [round(one, 2) for one in os.getloadavg()]
    over: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="agentbreaker-storm-") as folder:
        async with Place(size, Path(folder)) as place:
            if take_over:
                for where in ("before", "after"):
                    _say(f"take-over: killed {where} the request")
                    over.append(await taken_over(place, where, size.principals // 2))
                    await place.start()
            stormed = []
            for run in range(runs):
                _say(f"storm {run + 1} of {runs}")
                stormed.append(await storm(place))
                _say(json.dumps(stormed[-1]))
            _say("the naive way")
            plain = await naive(place, size.principals // _QUICK_SHARE if quick else size.principals)
    return _report(size, stormed, plain, over, quick, load)


def _report(
    size: Size, stormed: list[Json], plain: Json, over: list[Json], quick: bool, load: list[float]
) -> Json:
    seconds = statistics.median(run["lastConfirmedSeconds"] for run in stormed)
    ratio = None if quick else round(plain["lastConfirmedSeconds"] / seconds, 1)
    calls, missing, twice = (
        max(run[name] for run in stormed) for name in ("confirmCalls", "lost", "doublePulled")
    )
    missing += sum(run["lost"] for run in over)
    twice += sum(run["doublePulled"] for run in over)
    over_seconds = [run["confirmedByOthersSeconds"] or run["answeredSeconds"] for run in over]
    return {
        "principals": size.principals,
        "processes": size.processes,
        "confirmCalls": calls,
        "lastConfirmedSeconds": seconds,
        "naiveLastConfirmedSeconds": None if quick else plain["lastConfirmedSeconds"],
        "ratio": ratio,
        "lost": missing,
        "doublePulled": twice,
        "takeOverSeconds": max(over_seconds, default=None),
        "target": {
            "confirmCalls": MOST_CALLS,
            "lastConfirmedSeconds": MOST_SECONDS,
            "ratio": LEAST_RATIO,
            "takeOverSeconds": MOST_TAKE_OVER_SECONDS,
        },
        "ok": calls <= MOST_CALLS
        and seconds <= MOST_SECONDS
        and not missing
        and not twice
        and (ratio is None or ratio >= LEAST_RATIO)
        and all(one <= MOST_TAKE_OVER_SECONDS for one in over_seconds),
        "what": "dismiss" if size.undo else "confirmCompromised",
        "store": size.store,
        "quick": quick,
        "runs": stormed,
        "naive": plain,
        "takeOver": over,
        "environment": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "cpus": os.cpu_count(),
            "loadBefore": load,
        },
    }


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)
