"""``python -m workbench backtest``: load, summarise, replay, write. Can be stopped at any time and resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb

from clients.terms import RiskLevel, Unknown
from detections import baselines, catalog
from response.decision import Verdict
from response.gathering import ACTIVE_QUERY, SIGN_IN_TABLES
from workbench.backtest.progress import Bar, bar
from workbench.backtest.replay import Presence, Progress, Span, event_tables, replay
from workbench.backtest.report import Page, render
from workbench.backtest.verdicts import Judge
from workbench.baselines import backfill
from workbench.engine import LogEngine
from workbench.logfiles import LogFileError, load_folder, log_files, to_stderr
from workbench.tenant import TenantFile, TenantFileError, load_tenant
from workbench.usage import UsageError, inventory, moment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from clients.terms import ObjectId
    from detections.catalog import Rule

_STATE_VERSION: Final = 1
_MEMORY: Final = "1500MB"  # of DuckDB; beyond it, it spills to the work directory
_BASELINE: Final = timedelta(days=14)
_STOPPED: Final = 130  # as a shell reports an interrupt


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, checked."""

    logs: Path
    tenant: TenantFile | None
    inventory: tuple[dict[str, str], ...]
    span: Span
    out: Path
    html: Path | None
    resume: bool
    fingerprint: str

    @property
    def state(self) -> Path:
        """Where the progress is kept."""
        return self.out.with_name(f"{self.out.name}.state")

    @property
    def work(self) -> Path:
        """Where the loaded logs are kept until the replay is done."""
        return self.out.with_name(f"{self.out.name}.work")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "backtest",
        help="replay all rules over exported logs",
        description="Replay the sweeps over DIR/<Table>.jsonl, .parquet or .csv (column names of Log Analytics, "
        "optional _IngestedAt) and write a JSON list of findings with what `enforce` would have done. It can be stopped "
        "at any time and taken up with --resume. How to read the result: docs/backtest.md",
    )
    parser.add_argument("--logs", type=Path, required=True, metavar="DIR", help="folder of exported tables")
    parser.add_argument(
        "--from", dest="since", required=True, metavar="T", help="ISO 8601, UTC if without zone"
    )
    parser.add_argument("--to", dest="until", required=True, metavar="T", help="end, later than --from")
    parser.add_argument(
        "--step", default="5m", metavar="SPAN", help="between sweeps, as 5m or 1h (default: 5m)"
    )
    parser.add_argument(
        "--tenant", type=Path, metavar="FILE", help="tenant.json; without it nothing is contained"
    )
    parser.add_argument("--inventory", type=Path, metavar="FILE", help="JSON list: watchlist AgentInventory")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="the findings, a JSON list")
    parser.add_argument("--html", type=Path, metavar="REPORT", help="a page to look at, one file")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Carry out the command. Returns 0; 1 when a rule could not be asked; 130 when it was interrupted."""
    rules = catalog.load(parsed.rules)
    order = _order(parsed, rules)
    for line in order.tenant.ignored if order.tenant else ():
        to_stderr(line)
    try:
        return _carry_out(order, rules)
    except KeyboardInterrupt:
        to_stderr(
            f"workbench: stopped; the same command with --resume goes on (progress is in {order.state})"
        )
        return _STOPPED
    except duckdb.Error as error:
        raise UsageError(
            f"{order.work}: the loaded logs cannot be used: {error}; run without --resume"
        ) from error


def _order(parsed: argparse.Namespace, rules: Sequence[Rule]) -> Order:
    """Check what was asked for. Raises: UsageError in one line, LogFileError for a folder without logs."""
    since, until = _moment("--from", parsed.since), _moment("--to", parsed.until)
    if since >= until:
        raise UsageError(
            f"--from {parsed.since} is not before --to {parsed.until}; give an earlier --from or a later --to"
        )
    try:
        step = catalog.duration(parsed.step)
    except ValueError:
        step = timedelta(0)
    if not timedelta(minutes=1) <= step <= timedelta(days=1):
        raise UsageError(f"--step {parsed.step} is no span from 1m to 1d; write 5m, 15m or 1h")
    if not parsed.logs.is_dir():
        raise UsageError(f"--logs {parsed.logs}: there is no such folder; name the folder of exported tables")
    files = log_files(parsed.logs)
    for option, file in (("--json", parsed.json), ("--html", parsed.html)):
        if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
            raise UsageError(
                f"{option} {file}: no file can be written there; name one in a folder that exists"
            )
    try:
        tenant = None if parsed.tenant is None else load_tenant(parsed.tenant)
    except TenantFileError as error:
        raise UsageError(str(error)) from error
    rows = [] if parsed.inventory is None else inventory(parsed.inventory)
    listed = {row.get("SearchKey", "").strip().lower() for row in rows}
    declared = tenant.inventory() if tenant else []
    rows += [row for row in declared if row["SearchKey"] not in listed]
    return Order(
        logs=parsed.logs,
        tenant=tenant,
        inventory=tuple(rows),
        span=Span(since, until, step),
        out=parsed.json,
        html=parsed.html,
        resume=parsed.resume,
        fingerprint=_fingerprint(
            [_STATE_VERSION, since, until, step, tenant, rows, *rules, *baselines.load()],
            [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        ),
    )


def _moment(option: str, text: str) -> datetime:
    try:
        return moment(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no ISO 8601 time; write it as 2026-03-03T12:00Z") from error


def _fingerprint(*parts: object) -> str:
    """Name what a run depends on, so that a resumed one cannot mix two runs."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _carry_out(order: Order, rules: Sequence[Rule]) -> int:
    state = _state_of(order)
    if state is None:
        order.state.unlink(missing_ok=True)
        shutil.rmtree(order.work, ignore_errors=True)
        order.work.mkdir()
    engine = LogEngine(str(order.work / "logs.duckdb"))
    try:
        with engine.writing() as connection:
            connection.execute(f"SET memory_limit = '{_MEMORY}'")
            connection.execute("SET temp_directory = " + _quoted(str(order.work / "spill")))
        with bar() as shown:
            if state is None:
                loaded = _load(engine, order, shown)
                progress = Progress(order.span.since)
            else:
                loaded = state["loaded"]
                progress = Progress.from_body(state["progress"])
                to_stderr(f"resumed at {progress.done_until.isoformat()}")
            engine.set_watchlist("AgentInventory", order.inventory)
            judge = Judge(
                {rule.id: rule for rule in rules}, order.tenant, _risk_of(engine), _active_of(engine)
            )
            if state is not None:
                judge.restore(state["judge"])
            _replay(engine, rules, order, judge, progress, loaded, shown)
        summary = _summary(engine, rules, order, judge, progress, loaded)
    finally:
        engine.close()
    _write(order.out, json.dumps([told.public() for told in judge.told], indent=2) + "\n")
    if order.html is not None:
        _write(
            order.html, render(Page(order.span, rules, order.tenant, judge.told, judge.contained(), summary))
        )
    for line in summary:
        print(line)
    order.state.unlink(missing_ok=True)
    shutil.rmtree(order.work, ignore_errors=True)
    return 1 if progress.failed else 0


def _replay(
    engine: LogEngine,
    rules: Sequence[Rule],
    order: Order,
    judge: Judge,
    progress: Progress,
    loaded: dict[str, Any],
    shown: Bar,
) -> None:
    with engine.writing() as connection:
        # One thread a query, two queries at once: the queries are small, and each gives its rows in one order.
        connection.execute("SET threads = 1")
    hours = order.span.hour(order.span.until) + 1

    def after_hour(progress: Progress) -> None:
        """Keep what is needed to go on from here, whole, and show how far it is."""
        body = {
            "fingerprint": order.fingerprint,
            "loaded": loaded,
            "progress": progress.to_body(),
            "judge": judge.to_body(),
        }
        _write(order.state, json.dumps(body))
        done = order.span.hour(progress.done_until) + 1
        shown.at(done, hours, f"{progress.done_until:%Y-%m-%d %H:%M} {len(judge.told)} findings")

    after_hour(progress)  # loading is work as well
    replay(engine, rules, order.span, judge, progress, after_hour=after_hour)


def _load(engine: LogEngine, order: Order, shown: Bar) -> dict[str, Any]:
    """Load the logs and compute the baselines; give what the summary tells of it."""
    began = time.monotonic()
    with engine.writing() as connection:
        connection.execute("SET threads = 2")
    shown.say(f"loading {order.logs}")
    found = load_folder(
        engine,
        order.logs,
        report=shown.say,
        progress=lambda file, rows: shown.say(f"  {file.name}: {rows:,} rows in the table"),
        by_time=True,
    )
    if found.earliest is None:
        raise LogFileError(f"{order.logs}: no row with a time could be read; see the lines above")
    # A baseline that was exported with the logs is what the rules saw then; only what is missing is computed.
    missing = [b for b in baselines.load() if not engine.count(b.table)]
    start = max(found.earliest, order.span.since - _BASELINE)
    shown.say(
        f"baselines from {start:%Y-%m-%d} on: {', '.join(b.table for b in missing) or 'all were exported'}"
    )
    filled = backfill(engine, start, order.span.until, baselines=missing) if start < order.span.until else ()
    with engine.writing() as connection:
        connection.execute("CHECKPOINT")
    shown.say(f"loaded in {time.monotonic() - began:.0f} s")
    return {
        "rows": dict(found.rows),
        "skipped": found.skipped,
        "faults": [str(fault) for fault in found.faults],
        "baselines": {one.table: one.rows for one in filled},
        "earliest": found.earliest.isoformat(),
    }


def _state_of(order: Order) -> dict[str, Any] | None:
    """Give the progress of an interrupted run, None to begin anew. Raises: UsageError when it is another run's."""
    if not order.resume:
        return None
    try:
        state = json.loads(order.state.read_bytes())
    except FileNotFoundError:
        to_stderr(f"workbench: nothing to resume beside {order.out}; starting from the beginning")
        return None
    except ValueError as error:
        raise UsageError(f"{order.state}: unreadable: {error}; run without --resume") from error
    if state.get("fingerprint") != order.fingerprint:
        raise UsageError(
            f"{order.state}: of a run with other logs, rules or options; give the same, or leave out --resume"
        )
    if not (order.work / "logs.duckdb").is_file():
        raise UsageError(f"{order.work}: the loaded logs are gone; run without --resume")
    return dict(state)


def _risk_of(engine: LogEngine) -> Callable[[ObjectId, datetime], RiskLevel | None]:
    """Tell what Microsoft's own detections said, as far as the exported logs show it."""
    known = engine.count("AADRiskyServicePrincipals") > 0

    def risk(principal: ObjectId, now: datetime) -> RiskLevel | None:
        if not known:
            return None
        answer = engine.query(
            f"AADRiskyServicePrincipals | where tolower(Id) == '{principal}' "
            "| summarize arg_max(TimeGenerated, RiskState, RiskLevel) by Id | project RiskState, RiskLevel",
            now=now,
            visible_at=now,
        )
        for state, level in answer.rows:
            with contextlib.suppress(ValueError):  # a level of tomorrow is one that we do not know
                return RiskLevel(str(level).lower()) if state == "atRisk" else None
        return None

    return risk


def _active_of(engine: LogEngine) -> Callable[[datetime], int | Unknown]:
    """Count the principals that signed in in the 24 hours before a moment, as the app does, once for an hour."""
    tables = [name for name in SIGN_IN_TABLES if engine.count(name)]
    counted: dict[datetime, int] = {}

    def active(now: datetime) -> int | Unknown:
        if not tables:
            return Unknown("the exported logs have no sign-ins")
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour not in counted:
            rows = engine.query(ACTIVE_QUERY, now=hour, visible_at=hour).rows
            counted[hour] = int(rows[0][0])
        return counted[hour]

    return active


def _summary(
    engine: LogEngine,
    rules: Sequence[Rule],
    order: Order,
    judge: Judge,
    progress: Progress,
    loaded: dict[str, Any],
) -> list[str]:
    """Say in sentences what came out and what it does not cover."""
    present = Presence(engine).tables
    blind = [r for r in rules if (events := event_tables(r, engine)) and not events & present]
    verdicts = Counter(told.verdict for told in judge.told)
    about = len({told.principal_id for told in judge.told})
    lines = [
        (
            f"{len(rules)} rules, {order.span.number} sweeps from {order.span.since:%Y-%m-%d %H:%M} to "
            f"{order.span.until:%Y-%m-%d %H:%M} UTC, {sum(loaded['rows'].values()):,} rows; "
            f"{progress.asked} windows asked, {progress.spared} had no rows"
        ),
        (
            f"{len(judge.told)} findings about {about} principals: {verdicts[Verdict.CONTAIN]} contain, "
            f"{verdicts[Verdict.ASK]} ask, {verdicts[Verdict.WATCH]} watch; "
            f"{len(judge.contained())} principals would have been contained"
        ),
    ]
    if order.tenant is None:
        lines.append(
            "No --tenant: whose a principal is was not known, so nothing is contained and people are asked instead. "
            "Give tenant.json to see what enforce would have done."
        )
    else:
        absent = {told.principal_id for told in judge.told} - set(order.tenant.principals)
        if absent:
            lines.append(
                f"{len(absent)} principals with findings are not in tenant.json: nothing contains these."
            )
    if not engine.count("AADRiskyServicePrincipals"):
        lines.append("No AADRiskyServicePrincipals in the logs: Microsoft's own risk was taken as none.")
    history = order.span.since - datetime.fromisoformat(loaded["earliest"])
    if history < timedelta(days=13):
        days = max(history, timedelta(0)) / timedelta(days=1)
        lines.append(
            f"The logs begin {days:.1f} days before --from; baselines want 13: more is `learning` than would be."
        )
    if blind:
        lines.append(f"Without a row in any of their tables: {', '.join(rule.id for rule in blind)}.")
    if progress.rejected:
        lines.append(f"{progress.rejected} rows of answers were no findings and were left out.")
    lines += [
        f"{rule}: {number} windows could not be asked: {why.splitlines()[0]}"
        for rule, (number, why) in sorted(progress.failed.items())
    ]
    if loaded["skipped"]:
        lines.append(f"Skipped while loading: {loaded['skipped']}.")
    return lines


def _write(file: Path, text: str) -> None:
    """Replace a file whole: whoever reads it, or stops us, never meets half of it."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)  # noqa: PTH105  # Path.replace is the same call; this one is known to be atomic


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
