"""
Fill the baseline tables of the local workspace with the very KQL that Azure's summary rules run.

A summary rule runs its query once a bin, over the rows of that bin only, some time after the bin's end, and never
again. ``summarise`` is one such run; ``backfill`` makes all the runs of a span at once, which gives the same rows
(each query groups by its own bin), except that a duplicate delivered in another bin is counted once instead of twice.
Source of how summary rules behave: azure-monitor-docs ``summary-rules.md``.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detections.baselines import Baseline, load
from workbench import schemas
from workbench.engine import INGESTED_AT, LogEngine
from workbench.logfiles import load_folder
from workbench.usage import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_DAY: Final = timedelta(days=1)
_MOST_DAYS: Final = 366
_ROWS_AT_ONCE: Final = 1_000_000  # bounds the memory of one query


@dataclass(frozen=True, slots=True)
class Filled:
    """How many rows a baseline table got, for which bins: from ``start`` until before ``end``."""

    table: str
    rows: int
    start: datetime
    end: datetime


def backfill(
    engine: LogEngine, start: datetime, end: datetime, *, baselines: Sequence[Baseline] | None = None
) -> tuple[Filled, ...]:
    """
    Write every complete bin between two moments, as many days at once as memory allows, replacing what they held before.

    A bin is visible to queries from its end plus the baseline's delay on. A bin that ends after ``end`` is not
    complete and is left out.
    Raises: QueryError when a baseline's query cannot be run.
    """
    filled = []
    for baseline in load() if baselines is None else baselines:
        first, last = baseline.floor(start), baseline.floor(end)
        _clear(engine, baseline, first, last)
        rows, at = 0, first
        held = sum(engine.count(table) for table in baseline.reads)
        whole = max((last - first) // _DAY, 1)
        days = min(max(1, _ROWS_AT_ONCE * whole // max(held, 1)), whole + 1)
        while at < last:
            until = min(at + days * _DAY, last)
            rows += _summarise(engine, baseline, at, until, visible_at=None)
            at = until
        filled.append(Filled(baseline.table, rows, first, last))
    return tuple(filled)


def summarise(engine: LogEngine, baseline: Baseline, bin_start: datetime) -> int:
    """
    Make the one run of a bin, seeing what had arrived by then. Returns the number of rows written.

    Raises: QueryError when the query cannot be run.
    """
    end = bin_start + baseline.bin
    return _summarise(engine, baseline, bin_start, end, visible_at=end + baseline.delay)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "backfill",
        help="compute the baseline tables of the first days from exported logs",
        description="Azure's summary rules fill the baseline tables from the day they are made on. This computes the days "
        "before from exported logs and writes OUT/<Table>.jsonl, ready for the backtest or for the Logs Ingestion API.",
    )
    parser.add_argument("--logs", type=Path, required=True, metavar="DIR", help="folder with <Table>.jsonl")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the baseline tables"
    )
    parser.add_argument(
        "--days",
        type=int,
        default=13,
        help=f"how many days before the last row, at most {_MOST_DAYS} (default: 13)",
    )
    parser.set_defaults(command=_backfill)


def _backfill(parsed: argparse.Namespace) -> int:
    if not 1 <= parsed.days <= _MOST_DAYS:
        raise UsageError(f"--days {parsed.days}: give a number of days from 1 to {_MOST_DAYS}")
    engine = LogEngine()
    try:
        latest = load_folder(engine, parsed.logs).latest
        if latest is None:
            print(
                f"workbench: {parsed.logs}: no row has a time, so there is nothing to summarise",
                file=sys.stderr,
            )
            return 2
        parsed.out.mkdir(parents=True, exist_ok=True)
        for filled in backfill(engine, latest - parsed.days * _DAY, latest + timedelta(microseconds=1)):
            records = engine.query(filled.table, now=latest).records()
            lines = (json.dumps(record, default=_json) + "\n" for record in records)
            (parsed.out / f"{filled.table}.jsonl").write_text("".join(lines), encoding="utf-8")
            print(
                f"{filled.table}: {filled.rows} rows, {filled.start:%Y-%m-%d %H:%M} to {filled.end:%Y-%m-%d %H:%M}"
            )
    finally:
        engine.close()
    return 0


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _summarise(
    engine: LogEngine, baseline: Baseline, start: datetime, end: datetime, *, visible_at: datetime | None
) -> int:
    found = engine.query(_over(baseline, start, end), now=end, visible_at=visible_at)
    records = found.records()
    moments = [record["BinStart"] + baseline.bin + baseline.delay for record in records]
    rows = [
        {**record, "TimeGenerated": at, INGESTED_AT: at} for record, at in zip(records, moments, strict=True)
    ]
    engine.insert(baseline.table, rows, ingested_at=moments)
    return len(rows)


def _over(baseline: Baseline, start: datetime, end: datetime) -> str:
    """Give the query over one span: the platform's own filter on TimeGenerated, which a summary rule does not write."""
    known = {name for name, _ in schemas.tables()[baseline.table]}
    if "BinStart" not in known:
        raise ValueError(f"{baseline.table} has no column BinStart")
    query = baseline.query
    for table in baseline.reads:
        # The end belongs to the next bin. A microsecond is the finest step of either engine here.
        last = end - timedelta(microseconds=1)
        bound = f"({table} | where TimeGenerated between (datetime({_utc(start)}) .. datetime({_utc(last)})))"
        query = re.sub(rf"\(\s*{table}\b", f"({bound[1:-1]}", query)
        query = re.sub(rf"(?m)^(let \w+ = ){table}\b", rf"\g<1>{bound[1:-1]}", query)
    return query


def _clear(engine: LogEngine, baseline: Baseline, start: datetime, end: datetime) -> None:
    engine.insert(baseline.table, [])
    with engine.writing() as connection:
        connection.execute(
            f'DELETE FROM raw."{baseline.table}" WHERE BinStart >= ? AND BinStart < ?',  # noqa: S608  # our own names
            [start.astimezone(UTC).replace(tzinfo=None), end.astimezone(UTC).replace(tzinfo=None)],
        )


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
