"""
Measure everything in one run on this machine and print one JSON object.

    python -m bench [--runs N] [--orders N] [--json PATH]

Progress goes to standard error. Exit code 0 also when a target is missed: the figures say so (``ok``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import first_incident, hot_path, start, storm
from bench.app import NOT_FOR_THE_APP

if TYPE_CHECKING:
    from bench.figures import Json

_INCIDENTS_A_RUN: Final = 3  # incidents are quick; twenty runs measure sixty
NOTES: Final = {
    "start": "worker process started until it answered with its functions; one start not counted, it compiles.",
    "firstIncident": "a new app process each run, in our local host, asked as soon as it listens; the tenant's"
    " second is real. On an empty store the policies are read first, so the confirmation waits for the next"
    " second (up to 1.05 s), which is in the figure. Timers are put to sleep.",
    "hotPath": "the app runs in a process of its own, so that the simulated tenant does not share its interpreter"
    " lock. response.turns.INTERVAL is 0 there: the turn's wait is the tenant's limit, not ours. Own time is wall"
    " time minus the union of the times the services worked on the incident's requests, as the tenant's request"
    " log has them; sockets and HTTP on both sides count as ours.",
    "graphCalls": "until the confirmation is accepted. Tokens are Entra's, incidents Sentinel's: not Graph calls."
    " notOnTheHotPath: a finding that needs a second sign and finds it at Microsoft. It may contain only after"
    " that answer, so it costs a paced call more.",
    "storm": "real second, orders by a person, policies fresh. No target is set for seconds; confirmCalls is held"
    " against the number tests/handlers/test_analyst.py asserts.",
}


def main() -> int:
    """Measure, print, and write the file that was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure; one JSON object on stdout."
    )
    parser.add_argument("--runs", type=_count, default=20, help="of each measurement (20)")
    parser.add_argument("--orders", type=_count, default=100, help="at once in the storm (100)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the object to this file too")
    chosen = parser.parse_args()
    measured = json.dumps(asyncio.run(measure(chosen.runs, chosen.orders)), indent=2)
    print(measured)
    if chosen.json:
        chosen.json.write_text(measured + "\n")
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 300:
        raise argparse.ArgumentTypeError("a whole number from 1 to 300")
    return int(text)


async def measure(runs: int, orders: int) -> Json:
    """Measure one after the other, never two at once: they would take each other's processor."""
    variables = dict(os.environ)
    for name in NOT_FOR_THE_APP:
        os.environ.pop(name, None)
    found: Json = {"environment": _environment()}
    with tempfile.TemporaryDirectory(prefix="agentbreaker-bench-") as folder:
        directory = Path(folder)
        _say("hotPath and graphCalls")
        times, calls = await hot_path.measure(_INCIDENTS_A_RUN * runs, _made(directory / "hot"))
        _say("start, in Microsoft's runtime")
        runtime = await start.microsoft_runtime(runs, variables)
        reason = await start.why_not(variables)
        _say("firstIncident")
        first, listens = await first_incident.measure(runs, _made(directory / "first"))
        _say("storm")
        stormed = await storm.measure(runs, orders, _made(directory / "storm"))
    found["start"] = {
        "unit": "s",
        "runs": runs,
        "target": {"microsoftRuntime": {"p50": start.TARGET_SECONDS}},
        "microsoftRuntime": runtime,
        **({"reason": reason} if runtime is None else {}),
        "localHost": listens,
        "ok": None if runtime is None else runtime["ok"],
    }
    found |= {"firstIncident": first, "hotPath": times, "graphCalls": calls, "storm": stormed}
    for name, note in NOTES.items():
        found[name]["notes"] = note
    return found


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _environment() -> Json:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "loadBefore": [round(load, 2) for load in os.getloadavg()],
    }


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
