"""
The sweeps, replayed: which windows, in which order, over which rows. The clock is the replay's own.

An answer depends only on its window, so the answers of a simulated hour are asked for by two threads at once and
judged afterwards, one by one, in the order in which the sweeps would have given them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from sys import maxsize
from typing import TYPE_CHECKING, Any, Final

from detections import baselines
from detections.catalog import SweepGroup
from detections.runner import (
    AnswerError,
    DetectionRow,
    Window,
    WindowError,
    bind_window,
    next_windows,
    parse_rows,
)
from workbench.engine import INGESTED_AT, LogEngine, QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from detections.catalog import Rule
    from workbench.backtest.verdicts import Judge

HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
_THREADS: Final = 2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """What is replayed: sweeps at ``since`` + ``step``, ``since`` + 2 ``step``, … and at last at ``until``."""

    since: datetime
    until: datetime
    step: timedelta

    def steps(self) -> Iterator[datetime]:
        """Give the moments of the sweeps."""
        at = self.since
        while at < self.until:
            at = min(at + self.step, self.until)
            yield at

    @property
    def number(self) -> int:
        """How many sweeps there are."""
        return -((self.since - self.until) // self.step)

    def hour(self, at: datetime) -> int:
        """Give which hour of the replay a sweep belongs to, the first being 0."""
        return (at - self.since - timedelta(microseconds=1)) // HOUR

    def is_due(self, group: SweepGroup, at: datetime) -> bool:
        """Whether the sweep at this moment runs a group: the baseline group once an hour, and at the end."""
        if group is not SweepGroup.BASELINE or at == self.until:
            return True
        before = max(at - self.step, self.since)
        return (at - self.since) // HOUR > (before - self.since) // HOUR


class Presence:
    """
    When a table has rows at all, to the minute, and from when on they are there.

    A rule of which no table holds a row in its window can find nothing there, and need not be asked. Minutes instead of
    rows keep this small; a minute that is only partly in a window counts as in it.
    """

    def __init__(self, engine: LogEngine) -> None:
        self._minutes: dict[str, tuple[list[int], list[int]]] = {}
        self._first: dict[str, int] = {}
        with engine.writing() as connection:
            for table in engine.tables():
                found = connection.execute(
                    f"SELECT epoch_us(TimeGenerated) // 60000000 AS m, min(epoch_us({INGESTED_AT})) "  # noqa: S608
                    f'FROM raw."{table}" WHERE TimeGenerated IS NOT NULL GROUP BY m ORDER BY m'
                ).fetchall()
                if found:
                    self._minutes[table] = [int(m) for m, _ in found], [int(at) for _, at in found]
                    self._first[table] = min(self._minutes[table][1])

    @property
    def tables(self) -> frozenset[str]:
        """Tables with any row."""
        return frozenset(self._minutes)

    def holds(self, table: str, window: Window) -> bool:
        """Whether the table may have a row in the window that was there by the window's end."""
        if table not in self._minutes:
            return False
        minutes, arrived = self._minutes[table]
        first = bisect_left(minutes, (window.start - _EPOCH) // _MINUTE)
        last = bisect_right(minutes, (window.end - _EPOCH) // _MINUTE)
        limit = (window.end - _EPOCH) // timedelta(microseconds=1)
        return any(arrived[n] <= limit for n in range(first, last))

    def begun(self, table: str, at: datetime) -> bool:
        """Whether the table had any row at all by then. Without one it might as well not exist."""
        return table in self._first and self._first[table] <= (at - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class Progress:
    """How far a replay is: what has to be kept to go on with it."""

    done_until: datetime
    watermarks: dict[str, datetime] = field(default_factory=dict)
    asked: int = 0
    spared: int = 0
    rejected: int = 0
    failed: dict[str, list[Any]] = field(default_factory=dict)
    """Per rule how many windows could not be asked, and why the first could not."""

    def to_body(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {
            "done_until": self.done_until.isoformat(),
            "watermarks": {rule: at.isoformat() for rule, at in self.watermarks.items()},
            "asked": self.asked,
            "spared": self.spared,
            "rejected": self.rejected,
            "failed": self.failed,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Progress:
        """Read back what ``to_body`` wrote. Raises: KeyError, TypeError, ValueError."""
        return cls(
            done_until=datetime.fromisoformat(body["done_until"]),
            watermarks={rule: datetime.fromisoformat(at) for rule, at in body["watermarks"].items()},
            asked=int(body["asked"]),
            spared=int(body["spared"]),
            rejected=int(body["rejected"]),
            failed={rule: list(told) for rule, told in body["failed"].items()},
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    found: tuple[DetectionRow, ...] = ()
    rejected: int = 0
    failed: str = ""


def replay(
    engine: LogEngine,
    rules: Sequence[Rule],
    span: Span,
    judge: Judge,
    progress: Progress,
    *,
    after_hour: Callable[[Progress], None],
) -> None:
    """
    Run every sweep of the span that ``progress`` has not done, judging as it goes.

    ``after_hour`` is called after each simulated hour, when ``judge`` and ``progress`` are in step.
    A rule whose query fails is noted in ``progress`` and stops no other.
    """
    presence = Presence(engine)
    tables = {rule.id: event_tables(rule, engine) for rule in rules}
    todo = (at for at in span.steps() if at > progress.done_until)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="backtest") as pool:
        for _, moments in groupby(todo, key=span.hour):
            jobs: list[tuple[Window, Rule]] = []
            at = progress.done_until
            for at in moments:
                for rule in rules:
                    if not span.is_due(rule.sweep, at):
                        continue
                    watermark = progress.watermarks.get(rule.id, span.since)
                    windows = next_windows(watermark, at, rule, limit=maxsize)
                    jobs += [(window, rule) for window in windows]
                    progress.watermarks[rule.id] = at
            asked = [job for job in jobs if _may_find(job, tables, presence)]
            asked.sort(key=lambda job: (job[0].end, job[1].id))
            progress.spared += len(jobs) - len(asked)
            progress.asked += len(asked)
            for (window, rule), answer in zip(
                asked, pool.map(lambda job: _ask(engine, *job), asked), strict=True
            ):
                _take(rule, window, answer, judge, progress)
            progress.done_until = at
            judge.forget(at)
            after_hour(progress)


def event_tables(rule: Rule, engine: LogEngine) -> frozenset[str]:
    """Give the tables of events without which a rule finds nothing; of a rule that names none, all it mentions."""
    summaries = {baseline.table for baseline in baselines.load()}
    named = {*rule.required_tables, *rule.any_of_tables} - summaries
    mentioned = set(re.findall(r"\w+", rule.query)) & set(engine.tables())
    return frozenset(named or mentioned - summaries)


def _may_find(job: tuple[Window, Rule], tables: Mapping[str, frozenset[str]], presence: Presence) -> bool:
    """Whether a rule can find anything in a window: it has the tables it needs, and one of them a row in there."""
    window, rule = job
    if not all(presence.begun(table, window.end) for table in rule.required_tables):
        return False
    if rule.any_of_tables and not any(presence.begun(table, window.end) for table in rule.any_of_tables):
        return False
    events = tables[rule.id]
    return not events or any(presence.holds(table, window) for table in events)


def _ask(engine: LogEngine, window: Window, rule: Rule) -> _Answer:
    try:
        kql = bind_window(rule.query, window.start, window.end)
        result = engine.query(kql, now=window.end, visible_at=window.end)
        items = parse_rows(rule, [name for name, _ in result.columns], result.rows)
    except (QueryError, WindowError, AnswerError) as error:
        return _Answer(failed=str(error))
    found = tuple(item for item in items if isinstance(item, DetectionRow))
    return _Answer(found, rejected=len(items) - len(found))


def _take(rule: Rule, window: Window, answer: _Answer, judge: Judge, progress: Progress) -> None:
    if answer.failed:
        told = progress.failed.setdefault(rule.id, [0, answer.failed])
        told[0] += 1
    progress.rejected += answer.rejected
    # The engine promises no order of rows; the same findings must be told in the same order whenever they are asked.
    for row in sorted(
        answer.found, key=lambda row: (row.first_seen, row.principal_id, row.resource, row.reason)
    ):
        judge.take(rule, row, window)
