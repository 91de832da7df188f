"""The desk: ``python -m workbench check | test | run | backtest | …``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from detections.catalog import DETECTIONS, CatalogError, Rule, load
from detections.runner import (
    AnswerError,
    DetectionRow,
    RejectedRow,
    Window,
    WindowError,
    bind_window,
    next_windows,
    parse_rows,
)
from workbench import baselines, cost, export, ledgers, pages, workbook
from workbench.backtest import command as backtest
from workbench.cases import Case, CasesError, load_cases, run_case
from workbench.engine import EngineError, LogEngine, QueryError
from workbench.gate import Desk, check_rule
from workbench.logfiles import LogFileError, load_folder, to_stderr
from workbench.parser import KqlParser, ParserMissingError
from workbench.policies import command as policies
from workbench.usage import UsageError, inventory, moment

GOOD, BAD, MISUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 when all is well, 1 when a rule is not, 2 when the command was misused."""
    parsed = _parser().parse_args(arguments)
    if not parsed.rules.is_dir():
        print(f"workbench: --rules {parsed.rules}: there is no such folder", file=sys.stderr)
        return MISUSED
    try:
        return int(parsed.command(parsed))
    except CatalogError as error:
        for fault in error.faults:
            print(f"✗ {fault}", file=sys.stderr)
        return BAD
    except (WindowError, QueryError, AnswerError) as error:
        print(f"✗ the rule's query: {error}", file=sys.stderr)
        return BAD
    except (UsageError, LogFileError, EngineError) as error:
        print(f"workbench: {error}", file=sys.stderr)
        return MISUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workbench",
        description="Write, check and try detection rules. Exit code: 0 good, 1 a rule is not good, 2 misuse.",
        epilog="How to write a rule: docs/rules.md",
    )
    parser.add_argument(
        "--rules", type=Path, default=DETECTIONS, metavar="DIR", help="folder of rule folders (detections/)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="the gate: is every rule fit to be deployed",
        description="Check every rule: Microsoft's parser against the table schemas, the local engine, the portable "
        "subset, names, ATT&CK pairs, mappings, Sentinel's limits, cases. Says all faults of all rules.",
    )
    check.set_defaults(command=_check)

    test = commands.add_parser(
        "test",
        help="run the cases of all rules, or of one",
        description="Run cases.yaml of the rules on the local engine, and show what differs.",
    )
    test.add_argument("rule", nargs="?", metavar="RULE", help="id or folder, as AG-04; all without it")
    test.set_defaults(command=_test)

    run = commands.add_parser(
        "run",
        help="run one rule over a folder of logs",
        description="Run one rule over DIR/<Table>.jsonl, .parquet or .csv and print what it finds. Without --from it judges the one "
        "window that ends at --to; with it, every window in between, one after the other, rows seen as they arrived "
        "(column _IngestedAt, else TimeGenerated).",
    )
    run.add_argument("rule", metavar="RULE", help="id or folder, as AG-04")
    run.add_argument("--logs", type=Path, required=True, metavar="DIR", help="folder of exported tables")
    run.add_argument(
        "--from", dest="since", type=_moment, metavar="TIME", help="ISO 8601, UTC if without zone"
    )
    run.add_argument(
        "--to", dest="until", type=_moment, metavar="TIME", help="end; default: the last row's time"
    )
    run.add_argument(
        "--inventory", type=Path, metavar="FILE", help="JSON list: rows of watchlist AgentInventory"
    )
    run.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    run.set_defaults(command=_run)
    backtest.add_to(commands)
    baselines.add_to(commands)
    export.add_to(commands)
    pages.add_to(commands)
    ledgers.add_to(commands)
    workbook.add_to(commands)
    cost.add_to(commands)
    policies.add_to(commands)
    return parser


def _check(parsed: argparse.Namespace) -> int:
    rules = load(parsed.rules)
    parser: KqlParser | None = None
    wrong = 0
    with ExitStack() as stack:  # an engine of JavaScript that is left open keeps the process from ending
        try:
            parser = stack.enter_context(closing(KqlParser()))
        except ParserMissingError as error:
            print(f"!! SKIPPED: Microsoft's KQL parser did not run. {error}", file=sys.stderr)
        desk = Desk(parsed.rules, stack.enter_context(closing(LogEngine())), parser)
        for rule in rules:
            faults = check_rule(rule, desk)
            print(f"{'✗' if faults else '✓'} {rule.id} {rule.name}")
            for fault in faults:
                print(f"    {fault}")
            wrong += bool(faults)
    print(f"{len(rules)} rules, {wrong} not good{'' if parser else '; not checked by the official parser'}")
    return BAD if wrong else GOOD


def _test(parsed: argparse.Namespace) -> int:
    rules = load(parsed.rules)
    chosen = [_named(rules, parsed.rule)] if parsed.rule else rules
    started, total, failed = time.perf_counter(), 0, 0
    for rule in chosen:
        print(f"{rule.id} {rule.name}")
        try:
            cases = load_cases(parsed.rules / rule.folder)
        except CasesError as error:
            for fault in error.faults:
                print(f"  ✗ {fault}")
            failed += len(error.faults)
            continue
        for case in cases:
            differences = _tried(rule, case)
            total += 1
            failed += bool(differences)
            print(f"  {'✗' if differences else '✓'} {case.name}")
            for line in differences:
                print(f"      {line}")
    print(f"{total} cases, {failed} failed, {time.perf_counter() - started:.1f} s")
    return BAD if failed else GOOD


def _tried(rule: Rule, case: Case) -> tuple[str, ...]:
    """Run a case. Gives what differs, or why it could not be run."""
    try:
        return run_case(rule, case).differences
    except (WindowError, QueryError, AnswerError) as error:
        return (f"{rule.folder}/query.kql: {error}",)
    except EngineError as error:
        return (f"{rule.folder}/cases.yaml: {error}",)


def _run(parsed: argparse.Namespace) -> int:
    rule = _named(load(parsed.rules), parsed.rule)
    engine = LogEngine()
    try:
        loaded = load_folder(engine, parsed.logs)
        if loaded.skipped:
            to_stderr(f"skipped while loading: {loaded.skipped}")
        if parsed.inventory is not None:
            engine.set_watchlist("AgentInventory", inventory(parsed.inventory))
        # Windows end before their end: one instant later, the last row is inside.
        until = parsed.until or (loaded.latest and loaded.latest + timedelta(microseconds=1))
        if until is None:
            raise UsageError(f"{parsed.logs}: no row has a time; give --to")
        if parsed.since is not None and parsed.since >= until:
            raise UsageError(f"--from {parsed.since.isoformat()} is not before --to {until.isoformat()}")
        found = [row for window in _windows(parsed.since, until, rule) for row in _ask(engine, rule, window)]
    finally:
        engine.close()
    findings = list(
        {(row.principal_id, row.first_seen): row for row in found if isinstance(row, DetectionRow)}.values()
    )
    rejected = [row for row in found if isinstance(row, RejectedRow)]
    for row in rejected:
        print(f"✗ rejected: {row.why}", file=sys.stderr)
    if parsed.format == "json":
        print(json.dumps([asdict(row) for row in findings], indent=2, default=_json))
    else:
        _table(findings)
    return BAD if rejected else GOOD


def _windows(since: datetime | None, until: datetime, rule: Rule) -> list[Window]:
    if since is None:
        return next_windows(None, until, rule)
    return next_windows(since, until, rule, limit=sys.maxsize)


def _ask(engine: LogEngine, rule: Rule, window: Window) -> list[DetectionRow | RejectedRow]:
    kql = bind_window(rule.query, window.start, window.end)
    result = engine.query(kql, now=window.end, visible_at=window.end)
    return parse_rows(rule, [name for name, _ in result.columns], result.rows)


def _table(findings: Sequence[DetectionRow]) -> None:
    for row in findings:
        name = row.principal_name or row.app_id
        print(
            f"{row.first_seen:%Y-%m-%d %H:%M:%S}  {row.confidence:<6}  {row.principal_id}  {name}  {row.count} times"
        )
        print(f"    {row.reason}")
    print(f"{len(findings)} findings")


def _named(rules: Sequence[Rule], name: str) -> Rule:
    for rule in rules:
        if name.lower() in (rule.id.lower(), rule.folder.lower()):
            return rule
    raise UsageError(f"no rule {name}; there are {', '.join(rule.id for rule in rules)}")


def _moment(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 time, as 2026-03-03T12:00Z") from error


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


if __name__ == "__main__":
    sys.exit(main())
