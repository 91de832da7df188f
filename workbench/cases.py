"""
``cases.yaml`` of a rule: log rows that must fire and log rows that must stay silent.

A case is a small world (rows, watchlists), one or more sweeps over it, and what they have to find. Rows are written
once and repeated, spread and delivered several times by the loader, so that a case of 500 rows is five lines.
``docs/rules.md`` has the whole notation.
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from detections.catalog import RESULT_COLUMNS, Fault, Rule, parse_yaml
from detections.runner import DetectionRow, RejectedRow, bind_window, parse_rows
from workbench import schemas
from workbench.engine import INGESTED_AT, LogEngine

_OFFSET = re.compile(r"([+-])((?:\d+[dhms])+)|now")
_PART = re.compile(r"(\d+)([dhms])")
_UNITS: Final[Mapping[str, str]] = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_GUIDS = uuid.UUID("6f1d2c3b-0000-4000-8000-000000000000")
_CASE_FIELDS = frozenset({"name", "rows", "watchlists", "duplicates", "expect", "sweeps"})
_ENTRY_FIELDS = frozenset({"repeat", "row", "start", "spread", "cycle"})


class CasesError(Exception):
    """``cases.yaml`` cannot be read; ``faults`` has every reason."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, faults)))


@dataclass(frozen=True, slots=True)
class Sweep:
    """One run of the rule, ``at`` a moment, and the findings it must give (each a part of the columns)."""

    at: datetime
    expect: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A small world and what the rule must say about it."""

    name: str
    rows: Mapping[str, tuple[Mapping[str, Any], ...]]
    watchlists: Mapping[str, tuple[Mapping[str, str], ...]]
    sweeps: tuple[Sweep, ...]

    @property
    def fires(self) -> bool:
        """Whether any sweep must find something."""
        return any(sweep.expect for sweep in self.sweeps)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went: ``differences`` is empty when the rule did what the case asks."""

    case: Case
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the rule did what the case asks."""
        return not self.differences


def load_cases(folder: Path) -> tuple[Case, ...]:
    """Read ``cases.yaml`` of a rule folder. Raises: CasesError with every fault."""
    file = f"{folder.name}/cases.yaml"
    try:
        document = parse_yaml((folder / "cases.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CasesError([Fault(file, "file", "it is missing", "cases, see docs/rules.md")]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CasesError([Fault(file, "file", f"no YAML: {error}", "valid YAML in UTF-8")]) from error
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise CasesError([Fault(file, "cases", "there is no list of cases", "now: and cases:")])
    if not isinstance(document.get("now"), datetime):
        raise CasesError([Fault(file, "now", "missing or no time", "a moment, as 2026-03-03T12:00:00Z")])
    now = _utc(document["now"])
    cases, faults = [], []
    for number, values in enumerate(document["cases"]):
        try:
            cases.append(_case(folder, values, now))
        except (ValueError, TypeError, KeyError, OSError) as error:
            name = values.get("name", number) if isinstance(values, dict) else number
            faults.append(
                Fault(
                    file,
                    f"cases[{name}]",
                    f"{type(error).__name__}: {error}",
                    "the notation of docs/rules.md",
                )
            )
    if faults:
        raise CasesError(faults)
    return tuple(cases)


def run_case(rule: Rule, case: Case) -> Outcome:
    """
    Run the rule over the case's world, in an engine of its own.

    A sweep sees the rows ingested by its moment, over the window the runner would give it.
    Raises: EngineError when the rows do not fit the tables or the query is refused.
    """
    engine = LogEngine()
    try:
        for table, rows in case.rows.items():
            engine.insert(table, rows)
        for alias, entries in case.watchlists.items():
            engine.set_watchlist(alias, entries)
        differences = [line for sweep in case.sweeps for line in _sweep(engine, rule, sweep)]
    finally:
        engine.close()
    return Outcome(case, tuple(differences))


def _sweep(engine: LogEngine, rule: Rule, sweep: Sweep) -> list[str]:
    start = sweep.at - rule.window - rule.late_arrival
    kql = bind_window(rule.query, start, sweep.at)
    result = engine.query(kql, now=sweep.at, visible_at=sweep.at)
    parsed = parse_rows(rule, [name for name, _ in result.columns], result.rows)
    rejected = [f"a row was rejected: {row.why}" for row in parsed if isinstance(row, RejectedRow)]
    found = [_as_columns(row) for row in parsed if isinstance(row, DetectionRow)]
    return [f"at {sweep.at:%H:%M}: {line}" for line in rejected + _compare(sweep.expect, found)]


def _as_columns(row: DetectionRow) -> dict[str, Any]:
    values = (
        row.principal_id,
        row.principal_name,
        row.app_id,
        row.first_seen,
        row.last_seen,
        row.count,
        row.reason,
        row.ip_address,
        row.resource,
        list(row.event_ids),
        str(row.confidence),
    )
    return dict(zip(RESULT_COLUMNS, values, strict=True))


def _compare(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    Say what is missing, what is too much, and what differs.

    Findings belong together by principal; of several of one principal the one that differs least, since an answer has
    no order.
    """
    differences = []
    left = list(found)
    for wanted in expected:
        candidates = [row for row in left if row["PrincipalId"] == wanted["PrincipalId"]]
        match = min(candidates, key=lambda row: len(_unfit(wanted, row)), default=None)
        if match is None:
            differences.append(f"- missing: {_shown(wanted)}")
            continue
        left.remove(match)
        differences += [
            f"- {name}: expected {_written(wanted[name])}, got {_written(match[name])}"
            for name in _unfit(wanted, match)
        ]
    return differences + [f"- not expected: {_shown(row)}" for row in left]


def _unfit(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    return [name for name, value in wanted.items() if not _fits(value, got[name])]


def _fits(wanted: object, got: object) -> bool:
    if isinstance(wanted, dict):
        return str(wanted["contains"]) in str(got)
    if isinstance(wanted, list) and isinstance(got, list):
        return sorted(map(str, wanted)) == sorted(map(str, got))
    return wanted == got


def _shown(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_written(value)}" for name, value in row.items())


def _written(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value, default=str)


def _case(folder: Path, values: Mapping[str, Any], now: datetime) -> Case:
    unknown = sorted(set(values) - _CASE_FIELDS)
    if unknown:
        raise ValueError(f"no such field: {', '.join(unknown)}")
    if ("expect" in values) == ("sweeps" in values):
        raise ValueError("a case has either expect or sweeps")
    copies = int(values.get("duplicates", 1))
    rows = {
        table: tuple(_expanded(folder, table, entries, now, copies))
        for table, entries in (values.get("rows") or {}).items()
    }
    watchlists = {
        alias: tuple(_watchlist_row(entry, now) for entry in entries)
        for alias, entries in (values.get("watchlists") or {}).items()
    }
    sweeps = values.get("sweeps", [{"at": "now", "expect": values.get("expect")}])
    return Case(str(values["name"]), rows, watchlists, tuple(_parse_sweep(sweep, now) for sweep in sweeps))


def _parse_sweep(values: Mapping[str, Any], now: datetime) -> Sweep:
    expect = []
    for wanted in values["expect"]:
        unknown = sorted(set(wanted) - set(RESULT_COLUMNS))
        if unknown or "PrincipalId" not in wanted:
            raise ValueError(
                f"expect names {unknown or 'no PrincipalId'}; use the columns every rule projects"
            )
        expect.append(
            {
                name: _moment(value, now) if name in ("FirstSeen", "LastSeen") else value
                for name, value in wanted.items()
            }
        )
    return Sweep(_moment(values["at"], now), tuple(expect))


def _watchlist_row(entry: Mapping[str, Any], now: datetime) -> dict[str, str]:
    return {
        name: _moment(value, now).isoformat() if _is_offset(value) else str(value)
        for name, value in entry.items()
    }


def _expanded(
    folder: Path, table: str, entries: Any, now: datetime, copies: int
) -> Iterator[Mapping[str, Any]]:
    kinds = dict(schemas.tables().get(table, []))
    moments = {name for name, kind in kinds.items() if kind == "datetime"} | {INGESTED_AT}
    for row in _flattened(folder, entries, now):
        timed: dict[str, Any] = {
            name: _moment(value, now) if name in moments else value for name, value in row.items()
        }
        for copy in range(copies):
            # What a second delivery changes is the envelope: the same payload, sent and taken in later.
            later = timedelta(seconds=40 * copy)
            delivered = dict(timed)
            for name in ("TimeGenerated", INGESTED_AT):
                if name in timed:
                    delivered[name] = timed[name] + later
            yield delivered


def _flattened(folder: Path, entries: Any, now: datetime) -> Iterator[Mapping[str, Any]]:
    for entry in entries:
        if isinstance(entry, list):
            yield from _flattened(folder, entry, now)
        elif "file" in entry:
            lines = (folder / str(entry["file"])).read_text(encoding="utf-8").splitlines()
            yield from (json.loads(line) for line in lines if line.strip())
        elif "row" in entry:
            yield from _generated(entry, now)
        else:
            yield _filled(entry, 0)


def _generated(entry: Mapping[str, Any], now: datetime) -> Iterator[Mapping[str, Any]]:
    """
    Repeat one row.

    ``repeat`` rows, the first at ``start``, the others evenly over ``spread``; ``cycle`` gives columns that take
    their values in turn. In texts ``{n}`` is the number of the row and ``{guid}`` a GUID of its own.
    """
    unknown = sorted(set(entry) - _ENTRY_FIELDS)
    if unknown:
        raise ValueError(f"no such field: {', '.join(unknown)}")
    number = int(entry["repeat"])
    spread = _span(str(entry.get("spread", "0s")))
    cycles = {name: itertools.cycle(values) for name, values in (entry.get("cycle") or {}).items()}
    for n in range(number):
        row = {**entry["row"], **{name: next(values) for name, values in cycles.items()}}
        if "start" in entry:
            row["TimeGenerated"] = _moment(entry["start"], now) + spread * n / max(number - 1, 1)
        yield _filled(row, n)


def _filled(value: Any, n: int) -> Any:
    if isinstance(value, dict):
        return {name: _filled(part, n) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, n) for part in value]
    if isinstance(value, str):
        return value.replace("{n}", str(n)).replace("{guid}", str(uuid.uuid5(_GUIDS, f"{value}/{n}")))
    return value


def _is_offset(value: object) -> bool:
    return isinstance(value, str) and _OFFSET.fullmatch(value) is not None


def _moment(value: Any, now: datetime) -> datetime:
    if isinstance(value, datetime):
        return _utc(value)
    found = _OFFSET.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return _utc(datetime.fromisoformat(value))
    if found[2] is None:
        return now
    span = _span(found[2])
    return now - span if found[1] == "-" else now + span


def _span(text: str) -> timedelta:
    parts = _PART.findall(text)
    if "".join(map("".join, parts)) != text or not text:
        raise ValueError(f"{text!r} is no span of time; write 20m, 1h30m or 2d")
    return sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
