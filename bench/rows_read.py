"""
How many rows one sweep reads, against what the same rules would read if each looked back 13 days in the raw tables.

Counted by DuckDB's profiler at its scans: whole row groups (122,880 rows), so that a rule which needs one row of a group
has read all of it, and baseline tables like any other. The look-back is counted in the same file: the rows of 13 days in
every raw table that the rule names, or that a baseline it names is made of.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from bench.corpus import NOW, opened
from detections import baselines
from detections.catalog import Rule, SweepGroup
from detections.runner import bind_window, newest_window
from workbench import schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bench.figures import Json
    from workbench.engine import LogEngine

TARGET_SHARE: Final = 0.02
_LOOKBACK: Final = timedelta(days=13)
_SWEEPS: Final = {
    "sweep": (SweepGroup.FAST, SweepGroup.WINDOWED),
    "withBaselineGroup": tuple(SweepGroup),
}


def measure(path: Path, rules: Sequence[Rule]) -> Json:
    """Count the rows of one sweep at the end of the corpus. The target is held against a five-minute sweep."""
    engine = opened(path)
    try:
        read = {rule.id: _read(engine, rule) for rule in rules}
        looked = {rule.id: _looked_back(engine, rule) for rule in rules}
    finally:
        engine.close()
    found = {
        name: _share([rule.id for rule in rules if rule.sweep in groups], read, looked)
        for name, groups in _SWEEPS.items()
    }
    most = sorted(read, key=lambda rule: -sum(read[rule].values()))[:5]
    return {
        "unit": "rows",
        "runs": 1,
        "target": {"share": TARGET_SHARE},
        **found,
        "most": {rule: {table: rows for table, rows in read[rule].items() if rows} for rule in most},
        "ok": found["sweep"]["share"] <= TARGET_SHARE,
    }


def _share(rules: Iterable[str], read: dict[str, dict[str, int]], looked: dict[str, int]) -> Json:
    rows = {rule: sum(read[rule].values()) for rule in rules}
    back = sum(looked[rule] for rule in rows)
    total = sum(rows.values())
    return {
        "rules": len(rows),
        "rows": total,
        "rowsOfLookback": back,
        "share": round(total / back, 4) if back else 0.0,
    }


def _read(engine: LogEngine, rule: Rule) -> dict[str, int]:
    window = newest_window(rule, NOW)
    return engine.rows_read(bind_window(rule.query, window.start, window.end), now=NOW, visible_at=NOW)


def _looked_back(engine: LogEngine, rule: Rule) -> int:
    text = re.sub(r"(^|\s)//.*", "", rule.query)
    named = {table for table in schemas.tables() if re.search(rf"\b{table}\b", text)}
    summarised = {baseline.table: baseline.reads for baseline in baselines.load()}
    raw = named - set(summarised) | {table for name in named for table in summarised.get(name, ())}
    since = (NOW - _LOOKBACK).replace(tzinfo=None)
    with engine.writing() as connection:
        counts = [
            connection.execute(
                f'SELECT count(*) FROM raw."{table}" WHERE "TimeGenerated" >= ?',  # noqa: S608  # names of schemas
                [since],
            ).fetchone()
            for table in sorted(raw)
        ]
    return sum(int(count[0]) for count in counts if count)
