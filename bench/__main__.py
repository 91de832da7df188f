"""
Measure everything in one run on this machine and print one JSON object.

    python -m bench [--runs N] [--orders N] [--calls N] [--part app|rules] [--json PATH]

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

from bench import backtest, corpus, first_incident, hot_path, rows_read, start, storm
from bench.app import NOT_FOR_THE_APP
from detections.catalog import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Json

_INCIDENTS_A_RUN: Final = 3  # incidents are quick; twenty runs measure sixty
_APP: Final = ("start", "firstIncident", "hotPath", "graphCalls", "storm")
_RULES: Final = ("corpus", "rowsRead", "backtest")
_PARTS: Final = {"app": _APP, "rules": _RULES, "all": (*_APP, *_RULES)}
_CORPUS_RUNS: Final = 5  # at most: one takes all rules over all rows
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
    "backtest": "the command itself, once, over a fortnight of the benign population exported as Parquet, inventory and"
    " tenant.json given; seconds include loading, baselines and the page. peakMegabytes is null where an earlier"
    " process of the bench was larger. A benign principal contained makes ok false too.",
    "corpus": "all rules, each over its newest window, two threads, in a process that does nothing else; peakGigabytes"
    " is its greatest resident size, cold its first round, with translation and nothing in memory. One round is not"
    " counted. A missed memory target makes ok false too.",
    "rowsRead": "counted by DuckDB's profiler at the scans, whole row groups, baseline tables included; the look-back"
    " is 13 days of every raw table that a rule names or that a baseline it names is made of.",
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
    parser.add_argument(
        "--calls", type=_calls, default=corpus.Size().calls, help="Graph calls of the corpus (10000000)"
    )
    parser.add_argument(
        "--part", choices=_PARTS, default="all", help="app: the breaker; rules: the detections (all)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the object to this file too")
    chosen = parser.parse_args()
    measured = json.dumps(
        asyncio.run(measure(chosen.runs, chosen.orders, chosen.calls, _PARTS[chosen.part])), indent=2
    )
    print(measured)
    if chosen.json:
        chosen.json.write_text(measured + "\n")
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 300:
        raise argparse.ArgumentTypeError("a whole number from 1 to 300")
    return int(text)


def _calls(text: str) -> int:
    if not text.isdigit() or not 10_000 <= int(text) <= 100_000_000:
        raise argparse.ArgumentTypeError("a whole number from 10000 to 100000000")
    return int(text)


async def measure(runs: int, orders: int, calls: int, items: Sequence[str]) -> Json:
    """Measure one after the other, never two at once: they would take each other's processor."""
    variables = dict(os.environ)
    for name in NOT_FOR_THE_APP:
        os.environ.pop(name, None)
    found: Json = {"environment": _environment()}
    with tempfile.TemporaryDirectory(prefix="agentbreaker-bench-") as folder:
        if "start" in items:
            found |= await _measure_app(runs, orders, Path(folder), variables)
        if "corpus" in items:
            found |= await _measure_rules(runs, calls, Path(folder))
    for name in items:
        found[name]["notes"] = NOTES[name]
    return found


async def _measure_app(runs: int, orders: int, directory: Path, variables: dict[str, str]) -> Json:
    _say("hotPath and graphCalls")
    times, graph_calls = await hot_path.measure(_INCIDENTS_A_RUN * runs, _made(directory / "hot"))
    _say("start, in Microsoft's runtime")
    runtime = await start.microsoft_runtime(runs, variables)
    reason = await start.why_not(variables)
    _say("firstIncident")
    first, listens = await first_incident.measure(runs, _made(directory / "first"))
    _say("storm")
    stormed = await storm.measure(runs, orders, _made(directory / "storm"))
    started: Json = {
        "unit": "s",
        "runs": runs,
        "target": {"microsoftRuntime": {"p50": start.TARGET_SECONDS}},
        "microsoftRuntime": runtime,
        **({"reason": reason} if runtime is None else {}),
        "localHost": listens,
        "ok": None if runtime is None else runtime["ok"],
    }
    return {
        "start": started,
        "firstIncident": first,
        "hotPath": times,
        "graphCalls": graph_calls,
        "storm": stormed,
    }


async def _measure_rules(runs: int, calls: int, directory: Path) -> Json:
    _say("corpus: making it")
    workspace = directory / "corpus.duckdb"
    made = await asyncio.to_thread(corpus.build, workspace, corpus.Size(calls))
    _say("corpus")
    corpora = await corpus.measure(min(runs, _CORPUS_RUNS), workspace) | {"buildSeconds": round(made, 1)}
    _say("rowsRead")
    read = await asyncio.to_thread(rows_read.measure, workspace, load())
    _say("backtest")
    replayed = await backtest.measure(_made(directory / "backtest"))
    return {"corpus": corpora, "rowsRead": read, "backtest": replayed}


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
