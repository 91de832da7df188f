"""
``python -m workbench cost``: what the app asks of Azure in a month, counted from the rules and their schedules.

Quantities only, never prices. What is counted is the steady state without an incident; ``docs/cost.md`` carries the
table between two marks, and a test keeps it in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from detections import baselines
from detections.catalog import Rule, SweepGroup, load
from detections.runner import next_windows
from settings import SETTINGS
from simtenant.ncrontab import Schedule

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

DAYS: Final = 30
_MIDNIGHT: Final = datetime(2026, 3, 2, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_TIMERS: Final = {
    "sweep_fast": SweepGroup.FAST,
    "sweep": SweepGroup.WINDOWED,
    "sweep_baseline": SweepGroup.BASELINE,
    "sweep_dormant": None,
    "settle": None,
}
# ``flow.settle`` reads the policies again at half their age, and the announced changes at seven minutes.
_CHANGES_AGE: Final = timedelta(minutes=7)


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer: how often it runs in a day, how many rules it runs, how many queries they send in a day."""

    name: str
    schedule: str
    runs: int
    rules: int
    queries: int


def timers(rules: Sequence[Rule]) -> tuple[Timer, ...]:
    """Count runs and queries of a day, as the default schedules and the rules' own windows give them."""
    defaults = {setting.field: setting.default for setting in SETTINGS}
    found = []
    for name, group in _TIMERS.items():
        schedule = str(defaults[f"{name}_schedule"])
        moments = _moments(Schedule.parse(schedule))
        chosen = [rule for rule in rules if group is not None and rule.sweep is group]
        queries = sum(_queries(rule, moments) for rule in chosen)
        found.append(Timer(name, schedule, len(moments), len(chosen), queries))
    return tuple(found)


def readings() -> dict[str, int]:
    """Count what ``settle`` reads in a day besides: Conditional Access policies (a Graph call a page), announced changes."""
    defaults = {setting.field: setting.default for setting in SETTINGS}
    ticks = _moments(Schedule.parse(str(defaults["settle_schedule"])))
    half = timedelta(seconds=int(str(defaults["policies_max_age"]))) / 2
    return {"policies": _every(half, ticks), "changes": _every(_CHANGES_AGE, ticks)}


def table(rules: Sequence[Rule]) -> str:
    """Give the counts as a Markdown table."""
    lines = [
        "| timer | schedule | runs a day | rules | log queries a day | executions a month |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    each = timers(rules)
    lines += [
        f"| `{t.name}` | `{t.schedule}` | {t.runs:,} | {t.rules} | {t.queries:,} | {t.runs * DAYS:,} |"
        for t in each
    ]
    more = readings()
    lines.append(
        f"| all | | {sum(t.runs for t in each):,} | {sum(t.rules for t in each)} | {sum(t.queries for t in each):,} "
        f"| {sum(t.runs for t in each) * DAYS:,} |"
    )
    rest = (
        f"`settle` also sends {more['changes']:,} queries a day for announced changes and {more['policies']:,} Graph calls a "
        "day for Conditional Access policies (times their pages). "
        f"Where all sweeps meet, {sum(t.rules for t in each)} queries are sent within half a minute. "
        f"Summary rules: {len(baselines.load())}."
    )
    lines += ["", rest]
    return "\n".join(lines)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "cost",
        help="count queries, executions and readings of a month",
        description="Count what the rules and timers ask of Azure in a month, from the catalogue and the default "
        "schedules: the table in docs/cost.md. Quantities, no prices.",
    )
    parser.set_defaults(command=_command)


def _command(parsed: argparse.Namespace) -> int:
    print(table(load(parsed.rules)))
    return 0


def _moments(schedule: Schedule) -> list[datetime]:
    """Give the moments of one day."""
    found: list[datetime] = []
    at = schedule.next_after(_MIDNIGHT - timedelta(seconds=1))
    while at < _MIDNIGHT + _DAY:
        found.append(at)
        at = schedule.next_after(at)
    return found


def _queries(rule: Rule, moments: Sequence[datetime]) -> int:
    """Count the windows that a rule looks at in a day whose run before was the last of the day before."""
    watermark, sent = moments[-1] - _DAY, 0
    for moment in moments:
        windows = next_windows(watermark, moment, rule)
        sent += len(windows)
        watermark = windows[-1].end if windows else watermark
    return sent


def _every(age: timedelta, ticks: Sequence[datetime]) -> int:
    """Count the ticks of a day at which a reading is as old as that."""
    read, count = ticks[0], 0
    for tick in (*ticks[1:], ticks[0] + _DAY):
        if tick - read >= age:
            read, count = tick, count + 1
    return count
